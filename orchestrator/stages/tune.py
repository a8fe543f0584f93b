"""Search over variants, hacks and numbers: Ray Tune runs the trials, synchronous rungs decide which of them go on.

A search repeats: points are drawn from (seed, trial, path), decisions wait until a whole rung is scored, and trials train as
they would alone. What a killed search has scored is kept, and a trial goes on from its own checkpoint.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Interval

from orchestrator.errors import BadInput, Diverged, Interrupted, StageFailed
from orchestrator.search import (
    Asynchronous,
    Conductor,
    Evolution,
    Key,
    Outcome,
    Rules,
    Trial,
    milestones,
    planned_steps,
)
from orchestrator.search.table import Earlier, earlier, table
from orchestrator.space import Space, canonical, read_space
from orchestrator.stage import Complaint, Context, Facts, Foresight, Stage
from orchestrator.stages import _goals
from orchestrator.stages._proposals import MOST_TRIALS, OPTUNA_BATCH, Proposer, batches
from trainers.plugins import Fault, once, steady

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore

BUDGET = ("total_steps", "log_every", "sample_every", "checkpoint_every")  # of a trial: not part of what wins
COUNTED = 2000  # points of a grid that planning counts: each is checked
FREE = ("max_concurrent", "population")  # they change no result, so they are in no cache key


@dataclass(frozen=True)
class Tune(Stage):
    """Find the best configuration of a space by short trials; `train` takes the winner through its port `config`."""

    version: ClassVar[int] = 2
    inputs: ClassVar[dict[str, str]] = {"dataset": "dataset", "features": "features?", "earlier": "search?"}
    outputs: ClassVar[dict[str, str]] = {"search": "search"}
    packages: ClassVar[tuple[str, ...]] = ("torch", "numpy", "scipy", "optuna")
    ahead: ClassVar[tuple[str, ...]] = ("ray.tune",)

    space: dict[str, Any]
    "Dotted path of any value of the trial -> {choice: […]}, {loguniform: [low, high]}, …"
    trial: dict[str, Any] | None = None
    "What every trial has in common: a train configuration."
    num_trials: Annotated[int, Interval(ge=1, le=100_000)] | None = None
    "Trials; none: the whole grid, what `step_budget` pays for, or 8; no end where `time_budget_s` is all that is given."
    seeds: Annotated[int, Interval(ge=1, le=64)] = 1
    "Trainings of each trial with seeds of their own; what counts is their mean."
    searcher: Literal["random", "grid", "optuna"] = "random"
    "Who proposes points. Optuna learns (TPE, in batches of 8)."
    scheduler: Literal["asha", "median", "pbt", "none"] = "asha"
    "Which trials go on. asha: the best 1/reduction_factor; median: those not worse than it; pbt: all, the worst as copies."
    metric: Any = "frechet_distance"
    "What is searched for: a metric's name, {name: {parameter: value}}, or a list of such. Its direction is its own."
    prefer: str | None = None
    "Of several metrics the one by which the winner is taken from the Pareto front; none: the nearest to the ideal point."
    eval_samples: Annotated[int, Interval(ge=16, le=1_000_000)] | None = None
    "Samples drawn for a score; none: 2,000 points or 500 images."
    grace_steps: Annotated[int, Ge(1)] | None = None
    "Steps before the first decision; none: a quarter of the trial, of pbt a tenth."
    reduction_factor: Annotated[int, Interval(ge=2, le=16)] = 2
    "Of asha: rungs grow by it, and one of so many trials goes on."
    synchronous: bool = True
    "Of asha: a rung ends before its best go on, so that a search repeats. false: each goes on as soon as it is among the best."
    quantile: Annotated[float, Interval(gt=0, le=0.5)] = 0.25
    "Of pbt: the share that is replaced at each rung, and the share that it copies."
    resample_probability: Annotated[float, Interval(ge=0, le=1)] = 0.25
    "Of pbt: how often a copied number is drawn again, instead of multiplied by 0.8 or 1.2."
    step_budget: Annotated[int, Ge(1)] | None = None
    "Training steps of all trials together; nothing that would exceed it begins."
    time_budget_s: Annotated[float, Gt(0)] | None = None
    "Seconds after which no rung or batch begins. A search that time ends does not repeat."
    prune: bool = False
    "Stop a trial at the rung where it is found ill (exploding losses, a dead critic, collapse); it counts as pruned."
    warm_start: str | None = None
    "A run whose search is gone on from, as RUN or RUN:STAGE; within a pipeline connect the port `earlier` instead."
    max_concurrent: Annotated[int, Ge(1)] | None = None
    "Processes at once; none: as many as the cluster holds. It changes no result."
    population: Literal["auto", "off"] | Annotated[int, Interval(ge=2, le=1024)] = "auto"
    "Trials of one shape are trained together in one process. auto: where it pays; off; or so many at most."
    seed: Annotated[int, Ge(0)] | None = None
    "Of the points and of every trial's training; none: the run's."

    # --- planning ----------------------------------------------------------------------------------------------

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        from trainers import config

        dataset = inputs.get("dataset", {})
        complaints = _goals.faults(self.metric, dataset, "features" in inputs)
        complaints += self._trial_faults()
        complaints += self._contradictions("earlier" in inputs) if not complaints else []
        space, faults = self._read(dataset)
        notes: tuple[str, ...] = ()
        named: dict[tuple[str, str], None] = {}
        if space is not None and not complaints:
            examined = space.examine()
            faults, notes = list(examined.faults), examined.notes
            complaints += self._unsuited(space)
            if not faults:
                for point in examined.good:
                    named |= dict.fromkeys(config.resolve(space.apply(point), facts=dataset, checked=True).plugins())
        complaints += faults
        if complaints or space is None:
            told = [Complaint(fault.path, fault.id, fault.what, fault.why, fault.hint) for fault in complaints]
            return Foresight({"search": {}}, told, notes=notes)
        objectives = _goals.objectives(self.metric)
        facts = {"metric": objectives[0].name, "direction": objectives[0].direction}
        plugins = [*named, *(("metrics", objective.name) for objective in objectives)]
        params = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in FREE}
        params["trial"] = config.spelled(self.trial or {})
        asked = canonical([params, self.population, dict(dataset), "earlier" in inputs])
        notes = (*notes, *once(("search", asked), lambda: self._outlook(space, dataset, "earlier" in inputs)))
        return Foresight({"search": facts}, (), tuple(plugins), notes, params)

    def look_up(self, store: ArtifactStore) -> Sequence[Complaint]:
        if not self.warm_start:
            return ()
        try:
            found_in(store, self.warm_start)
        except BadInput as error:
            return [Complaint(("warm_start",), "unknown-reference", str(error.args[0]), "", error.hint)]
        return ()

    def _read(self, dataset: Facts) -> tuple[Space | None, list[Any]]:
        from trainers import config

        trial = config.stated(self.trial or {}, self.space, dataset)
        return read_space(
            self.space,
            trial,
            lambda user, path, value: config.assign(user, path, value, dataset),
            lambda user: config.check(user, dataset),
            lambda variant, role: config.plays(variant, role, dataset),
        )

    def _trial_faults(self) -> list[Fault]:
        """The budget of a trial is the same for all."""
        why, hint = "trials are compared at equal steps", "set it under `trial`"
        return [
            Fault(("space", key), "fixed", f"`{key}` cannot be searched", why, hint)
            for key in BUDGET
            if key in self.space
        ]

    def _contradictions(self, earlier: bool) -> list[Fault]:
        """Parameters that do not go together."""
        found = []
        names = [objective.name for objective in _goals.objectives(self.metric)]
        if self.prefer is not None and self.prefer not in names:
            what = f"`prefer` names '{self.prefer}', which is not searched for"
            found.append(Fault(("prefer",), "contradiction", what, "", f"one of: {', '.join(names)}"))
        if self.scheduler == "median" and len(names) > 1:
            what = "`scheduler: median` compares one metric"
            found.append(
                Fault(("scheduler",), "contradiction", what, f"there are {len(names)}", "use asha, pbt or none")
            )
        if self.scheduler == "pbt" and self.searcher == "optuna":
            why = "pbt itself changes the points of a population, all of which begin at once"
            found.append(
                Fault(("searcher",), "contradiction", "`searcher: optuna` learns nothing of pbt", why, "use random")
            )
        if not self.synchronous and self.scheduler != "asha":
            what = "`synchronous: false` is asha's"
            found.append(
                Fault(("synchronous",), "contradiction", what, f"the scheduler is {self.scheduler}", "leave it out")
            )
        if not self.synchronous and self.searcher == "optuna":
            why = "what it proposes depends on what was scored before, and could not be told again after a stop"
            what = "`searcher: optuna` needs rungs that end"
            found.append(Fault(("synchronous",), "contradiction", what, why, "use random or grid, or leave it out"))
        if (earlier or self.warm_start) and self.searcher == "grid":
            place = ("warm_start",) if self.warm_start else ("searcher",)
            found.append(Fault(place, "contradiction", "a grid takes nothing from an earlier search", "it runs whole"))
        if earlier and self.warm_start:
            what = "`warm_start` and the port `earlier` both name an earlier search"
            found.append(Fault(("warm_start",), "contradiction", what, "", "leave out one of them"))
        return found

    def _unsuited(self, space: Space) -> list[Fault]:
        """What the searcher or the scheduler cannot do with the space, or with the budget."""
        found = []
        if self.searcher == "grid":
            found += [
                Fault(("space", path), "endless", f"`{path}` has no end of values", "a grid lists them", "use choice")
                for path in space.continuous()
            ]
        if self.scheduler == "pbt" and not space.tunable():
            why = "it explores numbers of the optimizers, the variant and the hacks; the others decide shapes, and are copied"
            found.append(
                Fault(("scheduler",), "contradiction", "`scheduler: pbt` has nothing to explore", why, "use asha")
            )
        rungs = self._rungs(self._total())
        least = rungs[0] * self.seeds
        if self.step_budget is not None and self.step_budget < least:
            what = f"`step_budget` pays for no trial: the first decision comes after {least:,} steps"
            found.append(Fault(("step_budget",), "out-of-range", what))
        return found

    def _outlook(self, space: Space, dataset: Facts, earlier: bool) -> list[str]:
        """What will happen, in words."""
        rungs, count = self._rungs(self._total()), self._count(space, COUNTED)
        trials = f"{'trials' if count is None else f'{count} trials'} by {self.searcher}"
        if self.searcher == "grid" and self.num_trials is None:
            trials = "the whole grid" + ("" if count is None else f" of {count} trials")
        batch = f" in batches of {OPTUNA_BATCH}" if self.searcher == "optuna" and (count or 99) > OPTUNA_BATCH else ""
        seeds = f", each with {self.seeds} seeds" if self.seeds > 1 else ""
        scored = f"scored at step{'s' * (len(rungs) > 1)} {_listed(rungs)}"
        notes = [f"search: {trials}{batch}{seeds}, {scored}"]
        if count is not None:
            about = "" if self.scheduler in ("pbt", "none") or len(rungs) == 1 else "about "
            notes[0] += f"; {about}{self._planned(count):,} steps in all"
        if self.step_budget is not None:
            notes.append(f"budget: {self.step_budget:,} steps of all trials together")
        if self.time_budget_s is not None:
            notes.append(
                f"budget: nothing begins after {self.time_budget_s:g} s; a search that time ends does not repeat"
            )
        if not self.synchronous:
            notes.append("asynchronous: what goes on depends on the order in which trials end, so it does not repeat")
        if self.scheduler == "pbt":
            kept = [path for path in space.dimensions if path not in space.tunable()]
            copied = f"; copied with the weights: {', '.join(kept)}" if kept else ""
            notes.append(f"pbt: explores {', '.join(space.tunable())}{copied}")
        if earlier or self.warm_start:
            notes.append("warm start: the best of the earlier search are tried first, where this space holds them")
        return notes if count is None else notes + self._together(space, dataset, count)

    def _count(self, space: Space, most: int | None = None) -> int | None:
        """Trials in all; None where only time ends the search, and of a whole grid of more than `most` valid points."""
        if self.searcher == "grid":
            least = min((n for n in (most, self.num_trials) if n is not None), default=None)
            with steady():
                count = sum(1 for _ in islice(space.grid(), None if least is None else least + 1))
            return count if least is None or count <= least else self.num_trials
        if self.num_trials is not None:
            return self.num_trials
        if self.step_budget is not None:
            return max(1, affordable(self.step_budget, self._planned))
        return None if self.time_budget_s is not None else 8

    def _planned(self, count: int) -> int:
        """Training steps of a search of so many trials."""
        rungs, sizes = self._rungs(self._total()), Counter(batches(self.searcher, count))
        factor, seeds = self.reduction_factor, self.seeds
        return sum(times * planned_steps(self.scheduler, rungs, size, factor, seeds) for size, times in sizes.items())

    def _together(self, space: Space, dataset: Facts, count: int) -> list[str]:
        """Which of so many trials are trained together."""
        from orchestrator.stages._teams import outlook

        if not dataset.get("shape"):
            return []
        return [outlook(space, dataset, self.population, count, grid=self.searcher == "grid", seeds=self.seeds)]

    def _total(self) -> int:
        from trainers.config import Settings

        return int((self.trial or {}).get("total_steps") or Settings.total_steps)

    def _rungs(self, total: int) -> tuple[int, ...]:
        grace = self.grace_steps or max(1, total // (10 if self.scheduler == "pbt" else 4))
        return milestones(self.scheduler, total, grace, self.reduction_factor)

    # --- running -----------------------------------------------------------------------------------------------

    def run(self, context: Context) -> dict[str, Artifact]:
        from orchestrator import exhibits
        from orchestrator.stages import _trials

        dataset: Artifact = context.inputs["dataset"]
        seed = context.seed if self.seed is None else self.seed
        space = self._space(dataset.metadata)
        about = self._about(dataset.metadata, dataset.digest)
        earlier = self._earlier(context.store, context.inputs.get("earlier"), space, about)
        if earlier is not None:
            context.progress.say(_warm(earlier))
        task = _trials.Task(
            store=context.store,
            lineage=_trials.lineage_of(context),
            dataset=dataset,
            features=context.inputs.get("features"),
            metric=self.metric,
            eval_samples=about["eval_samples"],
            seed=seed,
            threads=max(1, int(context.scale.cpus_per_worker)),
            gpu=context.scale.gpus_per_worker > 0,
            prune=self.prune,
        )
        count = self._count(space)
        followed = exhibits.follows(None if count is None else count * self.seeds)
        ledger = _trials.Ledger(context, self._planned(count or 1), followed=followed)

        def over() -> bool:
            return self.time_budget_s is not None and ledger.elapsed_s > self.time_budget_s

        live = self._conductor(space, seed, ledger.known, earlier, over)
        _trials.run(live, task, space, context, ledger, self.max_concurrent, self.population)
        by_time = live.ended_by == "time"
        replayed = self._conductor(space, seed, ledger.known, earlier, lambda: by_time) if self.synchronous else live
        if replayed.next() is not None:  # the decisions once more, from nothing but the scores
            raise Interrupted(15)
        with steady():
            made = table(replayed, space, seed, about)
        artifact = self._keep(replayed, made, space, context)
        _trials.forget(task, len(replayed.trials))
        seconds = {trial.index: trial.seconds for trial in replayed.trials}
        exhibits.show(context, made, seconds, followed=followed)
        return {"search": artifact}

    def so_far(
        self,
        store: ArtifactStore,
        inputs: Mapping[str, Artifact],
        seed: int,
        outcomes: Iterable[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """What `trials.json` would hold of a search that is not finished.

        `outcomes` are the lines that it keeps of what is scored; `seed` is the run's.
        """
        dataset = inputs["dataset"]
        seed = seed if self.seed is None else self.seed
        space, about = self._space(dataset.metadata), self._about(dataset.metadata, dataset.digest)
        known = {(one["trial"], one.get("replicate", 0), one["until"]): Outcome(**one["outcome"]) for one in outcomes}
        found = self._earlier(store, inputs.get("earlier"), space, about)
        done = self._conductor(space, seed, known, found, lambda: False)
        done.waiting()
        done.pause()
        return table(done, space, seed, about)

    def _space(self, dataset: Facts) -> Space:
        space, faults = self._read(dataset)
        if space is None or faults:
            raise BadInput("; ".join(str(fault) for fault in faults))
        return space

    def _about(self, dataset: Facts, digest: str) -> dict[str, Any]:
        """What all trials have in common."""
        samples = self.eval_samples or (2000 if dataset["shape"]["kind"] == "points" else 500)
        metrics = [
            {"name": one.name, "direction": one.direction, "written": written, "num_generated": samples}
            for one, written in zip(_goals.objectives(self.metric), _goals.written(self.metric), strict=True)
        ]
        common = {"trial": self.trial or {}, "dataset": digest, "total_steps": self._total(), "eval_samples": samples}
        return {"metric": metrics[0], "metrics": metrics, "seeds": self.seeds, **common}

    def _earlier(
        self, store: ArtifactStore, artifact: Artifact | None, space: Space, about: Mapping[str, Any]
    ) -> Earlier | None:
        """What is known from an earlier search: the one of the port, or of the run that `warm_start` names."""
        if artifact is None and self.warm_start:
            artifact = found_in(store, self.warm_start)
        if artifact is None:
            return None
        return earlier(json.loads(store.read(artifact, "trials.json")), space, about, _goals.objectives(self.metric))

    def _conductor(
        self,
        space: Space,
        seed: int,
        known: Mapping[Key, Outcome],
        earlier: Earlier | None,
        out_of_time: Callable[[], bool],
    ) -> Conductor:
        rungs, objectives = self._rungs(self._total()), _goals.objectives(self.metric)
        proposer = Proposer(space, self.searcher, seed, self._count(space), objectives, rungs[-1], earlier)
        evolution = (
            Evolution(space, seed, self.quantile, self.resample_probability) if self.scheduler == "pbt" else None
        )
        rules = Rules(
            rungs,
            objectives,
            self.scheduler,
            self.reduction_factor,
            self.seeds,
            self.step_budget,
            self.prefer,
            evolution,
        )
        return (Conductor if self.synchronous else Asynchronous)(proposer.propose, rules, known, out_of_time)

    def _keep(self, done: Conductor, made: Mapping[str, Any], space: Space, context: Context) -> Artifact:
        failed = [trial for trial in done.trials if trial.error]
        pruned = [trial for trial in failed if trial.status == "pruned"]
        winner, first = done.winner, done.rules.objectives[0]
        if not done.trials:
            raise StageFailed("no trial began: the time budget was used up before", hint="raise `time_budget_s`")
        if winner is None:
            kind = Diverged if failed and all(trial.status == "diverged" for trial in failed) else StageFailed
            which = f"; the first: {failed[0].error}" if failed else ""
            raise kind(
                f"all {len(done.trials)} trials {'were pruned' if len(pruned) == len(failed) else 'failed'}{which}"
            )
        best = {key: value for key, value in space.apply(winner.point).items() if key not in BUDGET}
        metadata = {
            "winner": best,
            "metric": first.name,
            "direction": first.direction,
            "best": winner.score,
            "best_trial": winner.index,
            "num_trials": len(done.trials),
            "failed": len(failed) - len(pruned),
            "pruned": len(pruned),
        }
        text = json.dumps(made, indent=1, sort_keys=True, allow_nan=False) + "\n"
        artifact = context.store.put("search", {"trials.json": text.encode()}, metadata)
        context.tracker.params({f"best.{path}": canonical(value) for path, value in winner.point.items()})
        values = zip(done.rules.objectives, winner.values[winner.steps], strict=True)
        context.tracker.metrics({f"best.{one.name}": float(value) for one, value in values}, step=winner.steps)
        for line in self._said(done, winner, made, len(failed) - len(pruned), len(pruned)):
            context.progress.say(line)
        return artifact

    def _said(self, done: Conductor, winner: Trial, made: Mapping[str, Any], failed: int, pruned: int) -> Iterator[str]:
        """How the search ended, in words."""
        if done.ended_by == "time":
            yield f"the time budget of {self.time_budget_s:g} s is used up: the search ends here, and would not repeat"
        if done.ended_by == "steps":
            yield f"the step budget is used up: {done.steps:,} of {self.step_budget:,} steps"
        values = zip(done.rules.objectives, winner.values[winner.steps], strict=True)
        scores = ", ".join(f"{one.name} {value:.4g}" for one, value in values)
        low_high = made["trials"][winner.index]["interval"]
        spread = f" ± {(low_high[1] - low_high[0]) / 2:.2g} ({self.seeds} seeds)" if low_high else ""
        front = f", one of {len(done.front)} on the Pareto front" if len(done.rules.objectives) > 1 else ""
        ill = f", {pruned} pruned" if pruned else ""
        yield f"best: trial {winner.index}, {scores}{spread}{front}; {failed} of {len(done.trials)} failed{ill}"


def affordable(budget: int, cost: Callable[[int], int]) -> int:
    """The most trials that a budget of steps pays for; `cost` grows with their number."""
    low, high = 0, 1
    while cost(high) <= budget and high < MOST_TRIALS:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return low


def found_in(store: ArtifactStore, reference: str) -> Artifact:
    """The search of a run, named as RUN or RUN:STAGE. Raises BadInput where there is none."""
    from orchestrator import runs

    run_id, _, stage = reference.partition(":")
    found = [
        one for record, one in runs.read(store, run_id).artifacts("search") if stage in ("", record.stage, record.name)
    ]
    if len(found) != 1:
        what = (
            f"run {run_id} has {'no search' if not found else f'{len(found)} searches'}{f' {stage}' if stage else ''}"
        )
        raise BadInput(
            what, hint="warm_start is RUN or RUN:STAGE" if found else "name a run of which a tune stage is done"
        )
    return found[0]


def _warm(found: Earlier) -> str:
    use = "their scores count" if found.comparable else "their scores are of another kind, so only the best are tried"
    return f"warm start: {len(found.trials)} of {found.total} earlier points are in this space; {use}"


def _listed(rungs: Sequence[int]) -> str:
    shown = [str(step) for step in rungs]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "…", shown[-1]])


__all__ = ["Tune"]

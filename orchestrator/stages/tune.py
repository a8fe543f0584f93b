"""Search over variants, hacks and numbers: Ray Tune runs the trials, synchronous rungs decide which of them go on.

A search repeats: points are drawn from (seed, trial, path), decisions wait until a whole rung is scored, and trials train as
they would alone. What a killed search has scored is kept, and a trial goes on from its own checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from orchestrator.errors import BadInput, Diverged, Interrupted, StageFailed
from orchestrator.search import Conductor, Objective, Rules, Trial, milestones, planned_steps
from orchestrator.space import Point, Space, canonical, read_space
from orchestrator.stage import Complaint, Context, Facts, Foresight, Stage

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact
    from orchestrator.stages._trials import Task

BUDGET = ("total_steps", "log_every", "sample_every", "checkpoint_every")  # of a trial: not part of what wins
OPTUNA_BATCH = 4  # trials that Optuna proposes before it hears of them; fixed, so that a search repeats


@dataclass(frozen=True)
class Tune(Stage):
    """Find the best configuration of a space by short trials; `train` takes the winner through its port `config`."""

    version: ClassVar[int] = 1
    inputs: ClassVar[dict[str, str]] = {"dataset": "dataset", "features": "features?"}
    outputs: ClassVar[dict[str, str]] = {"search": "search"}
    packages: ClassVar[tuple[str, ...]] = ("torch", "numpy", "scipy", "optuna")

    space: dict[str, Any]
    "Dotted path of any value of the trial -> {choice: […]}, {loguniform: [low, high]}, …"
    trial: dict[str, Any] | None = None
    "What every trial has in common: a train configuration."
    num_trials: Annotated[int, Interval(ge=1, le=100_000)] | None = None
    "Trials; none: 8, or the whole grid."
    searcher: Literal["random", "grid", "optuna"] = "random"
    "Who proposes points. Optuna learns (TPE, in batches of 4)."
    scheduler: Literal["asha", "median", "none"] = "asha"
    "Which trials go on. asha: the best 1/reduction_factor at each rung; median: those not worse than the median."
    metric: Any = "frechet_distance"
    "What is searched for: a metric's name, or {name: {parameter: value}}. Its direction is its own."
    eval_samples: Annotated[int, Interval(ge=16, le=1_000_000)] | None = None
    "Samples drawn for a score; none: 2,000 points or 500 images."
    grace_steps: Annotated[int, Ge(1)] | None = None
    "Steps before the first decision; none: a quarter of the trial."
    reduction_factor: Annotated[int, Interval(ge=2, le=16)] = 2
    "Of asha: rungs grow by it, and one of so many trials goes on."
    max_concurrent: Annotated[int, Ge(1)] | None = None
    "Trials at once; none: as many as the cluster holds. It changes no result."
    seed: Annotated[int, Ge(0)] | None = None
    "Of the points and of every trial's training; none: the run's."

    # --- planning ----------------------------------------------------------------------------------------------

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        from trainers import config, plugins

        dataset = inputs.get("dataset", {})
        complaints = [Complaint(*fault) for fault in self._metric_faults(dataset, "features" in inputs)]
        complaints += self._trial_complaints()
        space, faults = self._read(dataset)
        notes: tuple[str, ...] = ()
        named: dict[tuple[str, str], None] = {}
        if space is not None and not complaints:
            examined = space.examine()
            faults, notes = list(examined.faults), examined.notes
            if self.searcher == "grid" and (endless := space.continuous()):
                complaints += [
                    Complaint(
                        ("space", path), "endless", f"`{path}` has no end of values", "a grid lists them", "use choice"
                    )
                    for path in endless
                ]
            if not faults:
                for point in examined.good:
                    named |= dict.fromkeys(config.resolve(space.apply(point), facts=dataset, checked=True).plugins())
        complaints += [Complaint(fault.path, fault.id, fault.what, fault.why, fault.hint) for fault in faults]
        if complaints:
            return Foresight({"search": {}}, complaints, notes=notes)
        name = _named(self.metric)[0]
        attributes = plugins.describe("metrics", name).attributes
        facts = {"metric": name, "direction": attributes["direction"]}
        params = {f.name: getattr(self, f.name) for f in fields(self)}
        params["trial"] = config.spelled(self.trial or {})
        return Foresight({"search": facts}, (), (*named, ("metrics", name)), (*notes, self._plan_note()), params)

    def _read(self, dataset: Facts) -> tuple[Space | None, list[Any]]:
        from trainers import config

        trial = dict(self.trial or {})
        if "hacks" in self.space and "hacks" not in trial:
            trial["hacks"] = config.default_hacks()  # subsets of hacks stand beside these
        return read_space(self.space, trial, config.assign, lambda user: config.check(user, dataset))

    def _trial_complaints(self) -> list[Complaint]:
        """The budget of a trial is the same for all."""
        return [
            Complaint(
                ("space", key),
                "fixed",
                f"`{key}` cannot be searched",
                "trials are compared at equal steps",
                "set it under `trial`",
            )
            for key in BUDGET
            if key in self.space
        ]

    def _metric_faults(self, dataset: Facts, features: bool) -> list[tuple[Any, ...]]:
        """Mistakes in `metric`, and what it needs and the inputs do not have."""
        from trainers import plugins

        if not (isinstance(self.metric, str) or (isinstance(self.metric, Mapping) and len(self.metric) == 1)):
            return [(("metric",), "wrong-type", "`metric` must be a name, or one name with its parameters")]
        name, params = _named(self.metric)
        path = ("metric", name) if isinstance(self.metric, Mapping) else ("metric",)
        if faults := plugins.check("metrics", name, params, path):
            return [(fault.path, fault.id, fault.what, fault.why, fault.hint) for fault in faults]
        complete = plugins.complete("metrics", name, params)
        attributes = plugins.describe("metrics", name).attributes
        needs = set(attributes.get("needs", ()))
        for need, when in attributes.get("needs_when", {}).items():
            needs |= {need} if any(complete.get(key) in values for key, values in when.items()) else set()
        offered = _offered(dataset, features)
        missing = sorted(need for need in needs if offered is not None and not offered & set(need.split("|")))
        hint = (
            "connect a features stage: `inputs: {features: …}`" if any("features" in need for need in missing) else ""
        )
        return [(path, "unmet-need", f"metric {name} needs {need.replace('|', ' or ')}", "", hint) for need in missing]

    def _plan_note(self) -> str:
        rungs = self._rungs(self._total())
        trials = f"{self.num_trials or 8} trials" if self.searcher != "grid" or self.num_trials else "the whole grid"
        return (
            f"search: {trials} by {self.searcher}, scored at step{'s' * (len(rungs) > 1)} {', '.join(map(str, rungs))}"
        )

    def _total(self) -> int:
        from trainers.config import Settings

        return int((self.trial or {}).get("total_steps") or Settings.total_steps)

    def _rungs(self, total: int) -> tuple[int, ...]:
        return milestones(self.scheduler, total, self.grace_steps or max(1, total // 4), self.reduction_factor)

    # --- running -----------------------------------------------------------------------------------------------

    def run(self, context: Context) -> dict[str, Artifact]:
        from orchestrator.stages import _trials
        from trainers import plugins

        dataset: Artifact = context.inputs["dataset"]
        space, faults = self._read(dataset.metadata)
        if space is None or faults:
            raise BadInput("; ".join(str(fault) for fault in faults))
        seed = context.seed if self.seed is None else self.seed
        name = _named(self.metric)[0]
        direction = plugins.describe("metrics", name).attributes["direction"]
        points = dataset.metadata["shape"]["kind"] == "points"
        task = _trials.Task(
            store=context.store,
            lineage=_trials.lineage_of(context),
            dataset=dataset,
            features=context.inputs.get("features"),
            metric=self.metric,
            eval_samples=self.eval_samples or (2000 if points else 500),
            seed=seed,
            threads=max(1, int(context.scale.cpus_per_worker)),
            gpu=context.scale.gpus_per_worker > 0,
        )
        rungs = self._rungs(self._total())
        count = Proposer(self, space, seed, direction).count
        ledger = _trials.Ledger(context, planned_steps(self.scheduler, rungs, count, self.reduction_factor))

        def conductor() -> Conductor:
            propose = Proposer(self, space, seed, direction).propose
            rules = Rules(rungs, (Objective(name, direction),), self.scheduler, self.reduction_factor)
            return Conductor(propose, rules, ledger.known)

        _trials.run(conductor(), task, space, context, ledger, self.max_concurrent)
        replayed = conductor()  # the decisions once more, from nothing but the scores
        if replayed.next() is not None:
            raise Interrupted(15)
        return {"search": self._keep(replayed, space, task, context, name, direction)}

    def _keep(self, done: Conductor, space: Space, task: Task, context: Context, name: str, direction: str) -> Artifact:
        from orchestrator.stages import _trials

        failed = [trial for trial in done.trials if trial.error]
        winner = done.winner
        if winner is None:
            kind = Diverged if failed and all(trial.status == "diverged" for trial in failed) else StageFailed
            first = f"; the first: {failed[0].error}" if failed else ""
            raise kind(f"all {len(done.trials)} trials failed{first}")
        best = {key: value for key, value in space.apply(winner.point).items() if key not in BUDGET}
        table = {
            "metric": {
                "name": name,
                "direction": direction,
                "written": self.metric,
                "num_generated": task.eval_samples,
            },
            "rungs": list(self._rungs(self._total())),
            "winner": winner.index,
            "trials": [described(trial, space, task.seed) for trial in done.trials],
        }
        metadata = {
            "winner": best,
            "metric": name,
            "direction": direction,
            "best": winner.score,
            "best_trial": winner.index,
            "num_trials": len(done.trials),
            "failed": len(failed),
        }
        text = json.dumps(table, indent=1, sort_keys=True, allow_nan=False) + "\n"
        artifact = context.store.put("search", {"trials.json": text.encode()}, metadata)
        context.tracker.params({f"best.{path}": canonical(value) for path, value in winner.point.items()})
        context.tracker.metrics({f"best.{name}": float(winner.score or 0.0)}, step=winner.steps)
        context.progress.say(
            f"best: trial {winner.index}, {name} {winner.score:.4g}; {len(failed)} of {len(done.trials)} failed"
        )
        _trials.forget(task, len(done.trials))
        return artifact


def described(trial: Trial, space: Space, seed: int) -> dict[str, Any]:
    """A trial as a line of trials.json."""
    return {
        "trial": trial.index,
        "status": trial.status,
        "point": trial.point,
        "config": space.apply(trial.point),
        "seed": seed,
        "steps": trial.steps,
        "score": trial.score,
        "scores": {str(step): score for step, score in sorted(trial.scores.items())},
        "error": trial.error,
    }


class Proposer:
    """Points, batch after batch: the same outcomes give the same points."""

    def __init__(self, stage: Tune, space: Space, seed: int, direction: str) -> None:
        self._space, self._seed, self._searcher = space, seed, stage.searcher
        if stage.searcher == "optuna":
            from orchestrator.stages._optuna import Learner

            self._learner = Learner(space, seed, direction)
        if stage.searcher == "grid":
            grid = list(space.grid())
            self._grid = _thinned(grid, stage.num_trials or len(grid))
            self.count = len(self._grid)
        else:
            self.count = stage.num_trials or 8

    def propose(self, told: Sequence[Trial]) -> list[Point]:
        left = self.count - len(told)
        if left <= 0:
            return []
        if self._searcher == "grid":
            return self._grid
        if self._searcher == "random":
            return self._random(left, [trial.point for trial in told]) if not told else []
        return self._optuna(min(OPTUNA_BATCH, left), told)

    def _random(self, count: int, taken: list[Point]) -> list[Point]:
        points: list[Point] = []
        for i in range(count):
            point = self._space.draw(self._seed, len(taken) + i, [*taken, *points])
            if point is None:  # a small space has been seen whole
                break
            points.append(point)
        return points

    def _optuna(self, count: int, told: Sequence[Trial]) -> list[Point]:
        points = self._learner.propose(told, count)
        if len(points) < count:
            points += self._random(count - len(points), [*(trial.point for trial in told), *points])
        return points


def _thinned(points: list[Point], count: int) -> list[Point]:
    """`count` of the points, evenly spread."""
    return points if count >= len(points) else [points[i * len(points) // count] for i in range(count)]


def _named(metric: Any) -> tuple[str, dict[str, Any] | None]:
    return (metric, None) if isinstance(metric, str) else next(iter(metric.items()))


def _offered(dataset: Facts, features: bool) -> set[str] | None:
    """What metrics may need and is there; None where the data set is not known yet."""
    shape = dataset.get("shape")
    if not shape:
        return None
    found = {shape["kind"], "inception"} | ({"features"} if features else set())
    found |= {"labels"} if shape.get("num_classes") else set()
    return found | ({"mixture"} if dataset.get("mixture") else set())


__all__ = ["Tune"]

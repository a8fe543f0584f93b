"""What a search found, read from its artifact, or from its ledger while it runs or after it was killed.

A finished search is its `trials.json`. One that is not finished has the outcomes that its stage keeps among its checkpoints
(`outcomes.json`); the stage decides once more from them which trials there are, so the same search gives the same table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.errors import BadInput
from orchestrator.seals import LOOKS, MALFORMED, unsealed

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore
    from orchestrator.runs import Run, StageRecord
    from orchestrator.steps import Step

KIND = "search"
TABLE = "trials.json"
LEDGER = "outcomes.json"
BAD = ("failed", "diverged", "pruned")
LOOK_BACK = 50  # runs, for the newest that searched


@dataclass(frozen=True)
class Goal:
    """A metric that was searched for, and which way is better."""

    name: str
    direction: str  # minimize | maximize

    @property
    def sign(self) -> int:
        """Times a value: less is better."""
        return 1 if self.direction == "minimize" else -1


@dataclass(frozen=True)
class TrialResult:
    """One trial. `point` is what was searched, by dotted path; `scores` are the first metric's, by step."""

    index: int
    status: str
    point: Mapping[str, Any]
    config: Mapping[str, Any]  # as a train stage takes it
    scores: Mapping[int, float]
    steps: int
    score: float | None = None
    interval: tuple[float, float] | None = None  # of the mean over replicates, 95 %
    replicates: tuple[float, ...] = ()  # the score of each, where there are several
    values: Mapping[str, float] = field(default_factory=dict)  # by metric, where there are several
    seconds: float | None = None  # None where the ledger is gone
    error: str = ""
    lost: Mapping[str, str] = field(default_factory=dict)  # replicate -> why it has no score
    symptoms: tuple[str, ...] = ()  # what health monitors saw
    changes: tuple[Mapping[str, Any], ...] = ()  # of PBT: {step, source, point}; `point` above is the last one

    @classmethod
    def of(cls, stored: Mapping[str, Any], seconds: float | None = None) -> TrialResult:
        """From a line of trials.json, of this version or an earlier one."""
        scores = {int(step): float(score) for step, score in stored["scores"].items() if score is not None}
        low_high = stored.get("interval")
        return cls(
            index=int(stored["trial"]),
            status=str(stored["status"]),
            point=dict(stored["point"]),
            config=dict(stored["config"]),
            scores=dict(sorted(scores.items())),
            steps=int(stored["steps"]),
            score=None if stored["score"] is None else float(stored["score"]),
            interval=(float(low_high[0]), float(low_high[1])) if low_high else None,
            replicates=tuple(float(value) for column in (stored.get("replicates") or ()) for value in column),
            values={name: float(value) for name, value in (stored.get("values") or {}).items() if value is not None},
            seconds=seconds,
            error=str(stored["error"] or ""),
            lost=dict(stored.get("lost") or {}),
            symptoms=tuple(stored.get("symptoms") or ()),
            changes=tuple(stored.get("changes") or ()),
        )

    def value(self, metric: str) -> float | None:
        """Of one metric; the score where there is only one."""
        return self.values.get(metric, self.score if not self.values else None)

    def to_json(self) -> dict[str, Any]:
        return {
            "trial": self.index,
            "status": self.status,
            "score": self.score,
            "interval": list(self.interval) if self.interval else None,
            "replicates": list(self.replicates),
            "values": dict(self.values),
            "steps": self.steps,
            "seconds": self.seconds,
            "point": dict(self.point),
            "scores": {str(step): score for step, score in self.scores.items()},
            "config": dict(self.config),
            "error": self.error,
            "lost": dict(self.lost),
            "symptoms": list(self.symptoms),
            "changes": [dict(change) for change in self.changes],
        }


@dataclass(frozen=True)
class SearchResults:
    """Every trial of a search, by index. `budget` names the keys of a trial's configuration that are no part of a winner."""

    stage: str
    goals: tuple[Goal, ...]  # the first is what trials are ranked by
    trials: tuple[TrialResult, ...]
    rungs: tuple[int, ...]
    winner: int | None
    front: tuple[int, ...] = ()  # the Pareto front, where there are several goals
    finished: bool = True

    @property
    def goal(self) -> Goal:
        return self.goals[0]

    @property
    def failed(self) -> list[TrialResult]:
        """Those without a usable result."""
        return [trial for trial in self.trials if trial.status in BAD]

    def trial(self, index: int) -> TrialResult:
        """Raises BadInput for one that there is not."""
        found = next((trial for trial in self.trials if trial.index == index), None)
        if found is None:
            last = len(self.trials) - 1
            raise BadInput(f"{self.stage} has no trial {index}", hint=f"they are 0 to {last}" if last >= 0 else "")
        return found

    def ranked(self) -> list[TrialResult]:
        """Best first: the winner, then those that went farther before those that were stopped, each by score; failed last."""

        def key(trial: TrialResult) -> tuple[Any, ...]:
            bad = trial.score is None or trial.status in BAD
            return (trial.index != self.winner, bad, -trial.steps, _signed(trial.score, self.goal.sign), trial.index)

        return sorted(self.trials, key=key)

    def varied(self) -> list[str]:
        """Paths whose values differ between trials, in the order in which they first appear; all where none does."""
        names = list(dict.fromkeys(name for trial in self.trials for name in trial.point))
        seen: dict[str, set[str]] = {name: set() for name in names}
        for trial in self.trials:
            for name in names:
                seen[name].add(repr(trial.point.get(name)))
        return [name for name in names if len(seen[name]) > 1] or names


def shortened(paths: Sequence[str]) -> list[str]:
    """As much of each path's end as tells it from the others: generator.lr and critic.lr, not lr twice; betas.0, not 0."""
    found = []
    for path in paths:
        parts = path.split(".")
        least = 2 if parts[-1].isdecimal() and len(parts) > 1 else 1
        ends = [".".join(parts[-count:]) for count in range(least, len(parts) + 1)]
        alone = (end for end in ends if sum(other == end or other.endswith(f".{end}") for other in paths) == 1)
        found.append(next(alone, path))
    return found


def _signed(value: float | None, sign: int) -> float:
    return math.inf if value is None or not math.isfinite(value) else sign * value


# --- reading ------------------------------------------------------------------------------------------------------------


def parse(table: Mapping[str, Any], stage: str, seconds: Mapping[int, float] | None = None) -> SearchResults:
    """A table as `trials.json` holds it; `seconds` by trial. Raises KeyError, TypeError or ValueError for anything else."""
    goals = _goals(table)
    trials = tuple(TrialResult.of(one, (seconds or {}).get(one["trial"])) for one in table["trials"])
    return SearchResults(
        stage=stage,
        goals=goals,
        trials=tuple(sorted(trials, key=lambda trial: trial.index)),
        rungs=tuple(int(step) for step in table.get("rungs") or ()),
        winner=table["winner"],
        front=tuple(table.get("front") or ()),
        finished=bool(table.get("finished", True)),
    )


def _goals(table: Mapping[str, Any]) -> tuple[Goal, ...]:
    told = table.get("metrics") or [table.get("metric") or {}]
    return tuple(Goal(str(one.get("name", "score")), str(one.get("direction", "minimize"))) for one in told)


def read(store: ArtifactStore, artifact: Artifact, stage: str, lineage: str = "") -> SearchResults:
    """A finished search. Raises errors.IntegrityError for a damaged one."""
    return parse(json.loads(store.read(artifact, TABLE)), stage, _seconds(_ledger(store, lineage)))


def of_run(run: Run, stage: str | None = None) -> SearchResults:
    """The search of a run, finished or not; `stage` where it has several.

    Raises BadInput where there is none, or nothing of it is known.
    """
    record, step = _searching(run, stage)
    for digest in record.outputs.values():
        known = run.store.find(digest)
        if known is not None and known.kind == KIND:
            return read(run.store, known, record.stage, record.lineage)
    return _unfinished(run, record, step)


def newest(run: Run, asked: str | None) -> Run:
    """The run itself where it was asked for by its id or has a search; else the newest of its pipeline (of all) that has."""
    from orchestrator import runs

    if asked == run.run_id or _searches(run):
        return run
    others = islice(runs.records(run.store, asked), LOOK_BACK)
    return next((other for other in others if _searches(other)), run)


def searching_stages(run: Run) -> set[str]:
    """Names of the stages of a run's spec that search."""
    return {step.name for step in _steps(run) if KIND in step.outputs.values()}


def _searches(run: Run) -> bool:
    return bool(searching_stages(run))


def _searching(run: Run, name: str | None) -> tuple[StageRecord, Step | None]:
    """The stage that searches, and its step where the run's spec can still be read here."""
    steps = {step.id: step for step in _steps(run) if KIND in step.outputs.values()}
    found = []
    for record in run.record.stages:
        made = [known for digest in record.outputs.values() if (known := run.store.peek(digest)) is not None]
        if record.stage in steps or any(known.kind == KIND for known in made):
            found.append(record)
    named = [one for one in found if name in (one.stage, one.name)] if name else found
    if len(named) == 1:
        return named[0], steps.get(named[0].stage)
    known_names = ", ".join(one.stage for one in (named or found))
    if not found:
        raise BadInput(f"run {run.run_id} has no search", hint="a stage of kind `tune` makes one")
    if not named:
        raise BadInput(f"run {run.run_id} has no search {name!r}", hint=f"it has {known_names}")
    raise BadInput(f"run {run.run_id} has several searches", hint=f"choose one by --stage: {known_names}")


def _steps(run: Run) -> list[Step]:
    """The steps of a run's spec as it was recorded; none where its plugins have changed so that it cannot be read."""
    import tempfile

    from orchestrator import spec as specs
    from orchestrator.errors import OrchestratorError
    from orchestrator.steps import expand
    from trainers import plugins

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spec.yaml"
        kept = {key: value for key, value in run.record.spec.items() if key not in ("profile", "profiles")}
        file.write_text(json.dumps(kept), encoding="utf-8")
        try:
            with plugins.steady():
                return expand(specs.load(file)).steps
        except OrchestratorError:
            return []


def _unfinished(run: Run, record: StageRecord, step: Step | None) -> SearchResults:
    lines = _ledger(run.store, record.lineage)
    if not lines:
        hint = f"its state is {record.state}" + (f": {record.error}" if record.error else "")
        raise BadInput(f"{record.stage} of run {run.run_id} has scored no trial yet", hint=hint)
    replay = getattr(step.stage if step else None, "so_far", None)
    if step is None or replay is None:
        raise BadInput(
            f"{record.stage} of run {run.run_id} is not finished, and its spec cannot be read here",
            hint="run the pipeline again: what was scored is kept",
        )
    inputs: dict[str, Artifact] = {}
    for port, sources in step.inputs.items():
        made = [run.record.stage(source.step).outputs.get(source.output, "") for source in sources]
        known = [found for digest in made if digest and (found := run.store.find(digest)) is not None]
        inputs |= {port: known[0]} if known else {}
    if missing := sorted(step.inputs.keys() - inputs.keys()):
        raise BadInput(f"what {record.stage} of run {run.run_id} was given is gone: {', '.join(missing)}")
    table = {**replay(run.store, inputs, step.seed, lines), "finished": False}
    for line in table["trials"]:  # which of those that may train are training, only their processes know
        line["status"] = "waiting" if line["status"] == "running" else line["status"]
    return parse(table, record.stage, _seconds(lines))


def _ledger(store: ArtifactStore, lineage: str) -> list[dict[str, Any]]:
    """The outcomes that a search's stage kept, in order of trial and step; none where they are gone.

    Only reads: the search may be running, and drops each file once the next is there.
    """
    stored = StoredCheckpoints(store, lineage)
    for _ in range(LOOKS if lineage else 0):
        for step in reversed(stored.steps()):
            with suppress(FileNotFoundError, *MALFORMED):
                body = unsealed(store.files.read(f"{stored.folder}/{step:010d}.json"))
                if LEDGER not in body["files"]:
                    return []
                data = store.files.read(f"{stored.folder}/{body['folder']}/{LEDGER}")
                if hashlib.sha256(data).hexdigest() == body["files"][LEDGER][0]:
                    lines: list[dict[str, Any]] = json.loads(data)
                    return lines
    return []


def _seconds(lines: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    spent: dict[int, float] = {}
    for line in lines:
        spent[line["trial"]] = spent.get(line["trial"], 0.0) + float(line["outcome"].get("seconds", 0.0))
    return spent


__all__ = ["Goal", "SearchResults", "TrialResult", "newest", "of_run", "parse", "read", "searching_stages", "shortened"]

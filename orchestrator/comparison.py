"""Two runs side by side: what was asked of them, what they made, how good it is, and what they were made with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.runs import Run, StageRecord

ABSENT = None


@dataclass(frozen=True)
class Change:
    """A value that differs; None: absent."""

    name: str
    old: Any
    new: Any


@dataclass(frozen=True)
class StagePair:
    """A stage of both runs (or of one: the other's state is "")."""

    stage: str
    old: str
    new: str
    reason: str  # why the newer run ran it, or where its result came from
    same: bool | None  # whether all outputs are equal, byte for byte; None where one run has none
    outputs: dict[str, bool] = field(default_factory=dict)  # by name
    old_s: float = 0.0
    new_s: float = 0.0


@dataclass(frozen=True)
class Score:
    """A value of the scores. `verdict`: "better" or "worse" in the newer run, "" where equal or no direction is known."""

    stage: str
    name: str
    old: float | None
    new: float | None
    verdict: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two runs, the older one first as a reader gives them."""

    old: Run
    new: Run
    spec: tuple[Change, ...]
    stages: tuple[StagePair, ...]
    config: tuple[Change, ...]  # of the models as trained: after a search, and with defaults
    scores: tuple[Score, ...]
    versions: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether both came to the same results."""
        return all(pair.same for pair in self.stages)

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [_described(run) for run in (self.old, self.new)],
            "same_results": self.same,
            "spec": [asdict(change) for change in self.spec],
            "stages": [asdict(pair) for pair in self.stages],
            "config": [asdict(change) for change in self.config],
            "scores": [asdict(score) for score in self.scores],
            "versions": [asdict(change) for change in self.versions],
            "notes": list(self.notes),
        }


def compare(old: Run, new: Run) -> Comparison:
    """Raises errors.Unavailable. What is no longer stored is told in `notes`, and left out."""
    notes: list[str] = []
    a, b = old.record, new.record
    if a.pipeline != b.pipeline:
        notes.append(f"they are of two pipelines, {a.pipeline} and {b.pipeline}")
    made = {run.run_id: dict(_artifacts(run, notes)) for run in (old, new)}
    return Comparison(
        old,
        new,
        tuple(changes(_asked(a.spec), _asked(b.spec))),
        tuple(_pairs(a.stages, b.stages)),
        tuple(_configs(made[old.run_id], made[new.run_id])),
        tuple(_scores(made[old.run_id], made[new.run_id])),
        tuple(changes({**a.versions, "host": a.host}, {**b.versions, "host": b.host})),
        tuple(notes),
    )


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Values that differ, by dotted path, in the order of `new`."""
    before, after = dict(_flat(old)), dict(_flat(new))
    for name in [*after, *(name for name in before if name not in after)]:
        if before.get(name) != after.get(name):
            yield Change(name, before.get(name), after.get(name))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value


def _asked(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec a run may be asked for: not where it is kept, and not which profiles there would be."""
    return {name: value for name, value in spec.items() if name not in ("profiles", "description", "version")}


def _pairs(old: Sequence[StageRecord], new: Sequence[StageRecord]) -> Iterator[StagePair]:
    before, after = ({stage.stage: stage for stage in stages} for stages in (old, new))
    nothing = StageRecord("", "", "", state="")
    for name in [*after, *(name for name in before if name not in after)]:
        a, b = before.get(name, nothing), after.get(name, nothing)
        outputs = {o: a.outputs.get(o) == b.outputs.get(o) for o in {**a.outputs, **b.outputs}}
        same = all(outputs.values()) if a.outputs and b.outputs else None
        yield StagePair(name, a.state, b.state, b.reason, same, outputs, a.seconds, b.seconds)


def _artifacts(run: Run, notes: list[str]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """(stage, kind) and metadata of what can still be read."""
    for stage in run.record.stages:
        for name, digest in stage.outputs.items():
            artifact = run.store.find(digest)
            if artifact is None:
                notes.append(f"{stage.stage}.{name} of {run.run_id} is no longer whole in the storage")
            else:
                yield (stage.stage, artifact.kind), artifact.metadata


Made = Mapping[tuple[str, str], Mapping[str, Any]]


def _configs(old: Made, new: Made) -> Iterator[Change]:
    for key in new:
        config, other = new[key].get("config"), old.get(key, {}).get("config")
        if isinstance(config, Mapping) and isinstance(other, Mapping):
            for change in changes(other, config):
                yield Change(f"{key[0]}: {change.name}", change.old, change.new)


def _scores(old: Made, new: Made) -> Iterator[Score]:
    for key in [*new, *(key for key in old if key not in new)]:
        before, after = _values(old.get(key, {})), _values(new.get(key, {}))
        directions = {**_directions(old.get(key, {})), **_directions(new.get(key, {}))}
        for name in [*after, *(name for name in before if name not in after)]:
            yield _scored(key[0], name, before.get(name), after.get(name), directions.get(name, ""))


def _scored(stage: str, name: str, old: float | None, new: float | None, direction: str) -> Score:
    if old is None or new is None or old == new or not direction:
        return Score(stage, name, old, new)
    return Score(stage, name, old, new, "better" if (new < old) == (direction == "minimize") else "worse")


def _values(metadata: Mapping[str, Any]) -> dict[str, float]:
    values = metadata.get("values")
    items: Iterable[tuple[str, Any]] = values.items() if isinstance(values, Mapping) else ()
    return {name: float(value) for name, value in items if isinstance(value, int | float)}


def _directions(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What is better of each value: `frechet_distance`, `mode_coverage.high_quality`."""
    found: dict[str, str] = {}
    for metric, about in (metadata.get("metrics") or {}).items():
        found[metric] = about.get("direction", "")
        found |= {f"{metric}.{value}": direction for value, direction in (about.get("directions") or {}).items()}
    return found


def _described(run: Run) -> dict[str, Any]:
    record = run.record
    took = record.ended - record.started if record.ended else None
    return {"run_id": record.run_id, "status": record.status, "seconds": took, "sets": record.sets}


__all__ = ["Change", "Comparison", "Score", "StagePair", "changes", "compare"]

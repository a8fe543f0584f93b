"""How long a plan will take and how much it will store, from earlier runs of its pipeline.

A stage's time is the median of its latest runs. Where its steps may grow in number (`Stage.extends`) it is a time for each
step, and only the steps count that no checkpoint has done already.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from orchestrator.checkpoints import KEEP, StoredCheckpoints
from orchestrator.errors import OrchestratorError, Unavailable
from orchestrator.runs import StageRecord, records
from orchestrator.units import duration
from orchestrator.units import size as bytes_text

if TYPE_CHECKING:
    from orchestrator.artifacts import ArtifactStore
    from orchestrator.planning import Plan, PlannedStep
    from orchestrator.steps import Step

RUNS = 12  # earlier runs looked at
SAMPLES = 5  # the latest of a stage that count


@dataclass(frozen=True)
class Estimate:
    """Of one step that will run. `samples` earlier runs it is drawn from; with 0 of them nothing is known."""

    stage: str
    seconds: float = 0.0
    size: int = 0  # bytes that stay: outputs and checkpoints
    samples: int = 0

    def __str__(self) -> str:
        return _told(self.seconds, self.size, self.samples)


@dataclass(frozen=True)
class Outlook:
    """Of a whole plan. `free` is what the storage's disk has left, None for a remote one."""

    steps: tuple[Estimate, ...] = ()  # of those that will run
    free: int | None = None
    unknown: tuple[str, ...] = field(default=())  # stages that nothing is known of

    @property
    def seconds(self) -> float:
        """One after the other."""
        return sum(step.seconds for step in self.steps)

    @property
    def size(self) -> int:
        return sum(step.size for step in self.steps)

    @property
    def samples(self) -> int:
        """Earlier runs of the stage that most are known of."""
        return max((step.samples for step in self.steps), default=0)

    @property
    def too_big(self) -> bool:
        return self.free is not None and self.size > self.free

    def of(self, stage: str) -> Estimate | None:
        """Of a step that will run and of which something is known."""
        return next((step for step in self.steps if step.stage == stage and step.samples), None)

    def __str__(self) -> str:
        """`about 2 min 10 s, 14 MB, from 3 earlier runs; nothing is known of search`; "" where nothing runs."""
        missing = f"nothing is known of {', '.join(self.unknown[:3])}"
        missing += f" and {len(self.unknown) - 3} more" if len(self.unknown) > 3 else ""
        if not self.samples:
            return "how long it takes is unknown: no earlier run tells" if self.steps else ""
        return "; ".join([_told(self.seconds, self.size, self.samples), *([missing] if self.unknown else [])])

    def to_json(self) -> dict[str, Any]:
        told = {"seconds": self.seconds, "bytes": self.size, "samples": self.samples, "free_bytes": self.free}
        steps = [{**asdict(step), "bytes": step.size} for step in self.steps]
        for step in steps:
            del step["size"]
        return {**told, "unknown": list(self.unknown), "steps": steps}


def _told(seconds: float, count: int, samples: int) -> str:
    earlier = f"from {samples} earlier run{'s' * (samples != 1)}"
    return f"about {duration(seconds)}, {bytes_text(count)}, {earlier}"


def of(plan: Plan) -> Outlook:
    """What the steps of a plan that are not cached will take. Reads a few records; raises errors.Unavailable."""
    todo = [planned for planned in plan.steps if planned.state != "cached"]
    if not todo:
        return Outlook(free=_free(plan.store))
    earlier = _samples(plan.store, plan.spec.name)
    found = tuple(_estimate(planned, earlier.get(planned.step.id, ()), plan.store) for planned in todo)
    unknown = tuple(planned.step.label for planned, one in zip(todo, found, strict=True) if not one.samples)
    return Outlook(found, _free(plan.store), unknown)


def told(plan: Plan) -> str:
    """In a few words; "" where nothing is known."""
    with suppress(OrchestratorError):  # an estimate is worth no failure
        outlook = of(plan)
        return str(outlook) if outlook.samples else ""
    return ""


def work(step: Step, store: ArtifactStore, lineage: str) -> float:
    """Steps that a run of the stage has before it, 0 where they are not what it takes time for (or cannot be told)."""
    total = step.params.get(step.extends) if step.extends else None
    if not isinstance(total, int | float):
        return 0.0
    at = reached(step, store, lineage)
    return 0.0 if at is None else float(total - at)


def reached(step: Step, store: ArtifactStore, lineage: str) -> int | None:
    """The step of the checkpoint that a run of the stage goes on from: 0 for none, None where it cannot be told."""
    total = step.params.get(step.extends) if step.extends else None
    if not isinstance(total, int | float) or not lineage:
        return 0
    with suppress(Unavailable):  # the run itself meets it, and tells
        return max((at for at in StoredCheckpoints(store, lineage).steps() if at <= total), default=0)
    return None


def _samples(store: ArtifactStore, pipeline: str) -> Mapping[str, list[StageRecord]]:
    """The latest computations of each stage instance, newest first."""
    found: dict[str, list[StageRecord]] = {}
    for run in islice(records(store, pipeline), RUNS):
        for stage in run.record.stages:
            if stage.state == "succeeded" and stage.run == run.run_id:
                found.setdefault(stage.stage, []).append(stage)
    return found


def _estimate(planned: PlannedStep, earlier: Iterable[StageRecord], store: ArtifactStore) -> Estimate:
    step = planned.step
    like = [stage for stage in earlier if stage.uses == step.uses][:SAMPLES]
    lineage = planned.sealed.lineage if planned.sealed else ""
    wanted = work(step, store, lineage)
    if wanted:
        like = [stage for stage in like if stage.worked > 0]
        seconds = [stage.seconds / stage.worked * wanted for stage in like]
    else:
        seconds = [stage.seconds for stage in like]
    if not like:
        return Estimate(step.id)
    kept = _checkpoints(store, like[0].lineage) if step.extends and like[0].lineage else 0
    return Estimate(step.id, _median(seconds), like[0].size + kept, len(like))


def _checkpoints(store: ArtifactStore, lineage: str) -> int:
    """Bytes of the checkpoints that such a training keeps."""
    stored = StoredCheckpoints(store, lineage)
    for step in reversed(stored.steps()):
        with suppress(OSError, ValueError, KeyError, TypeError):
            body = json.loads(store.files.read(f"{stored.folder}/{step:010d}.json"))
            return KEEP * sum(int(size) for _, size in body["files"].values())
    return 0


def _median(values: Sequence[float]) -> float:
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _free(store: ArtifactStore) -> int | None:
    local = store.files.local
    if local is None:
        return None
    there = next(folder for folder in (local, *local.parents) if folder.is_dir())
    return shutil.disk_usage(there).free


__all__ = ["Estimate", "Outlook", "of", "told", "work"]

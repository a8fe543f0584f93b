"""A trial of several workers: a group of Ray Train within a trial of Ray Tune.

A file that is no stage. The Tune trial itself holds no processor, it only leads: what the resources hold decides how many
such trials run at once.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.board import Event
from orchestrator.cluster import Cluster
from orchestrator.errors import StageFailed
from orchestrator.search import Outcome, training_seed
from orchestrator.stage import Scale
from orchestrator.stages._segments import Member, Rungs, Task, measured, origin_files, resolved

LEADER = (
    0.001  # of a node's own resource: it decides where the leader stands, and leaves every processor to the workers
)


def resources() -> Any:
    """What the leader asks for: a place on the node that Ray was started on."""
    from ray import tune

    return tune.PlacementGroupFactory([{"node:__internal_head__": LEADER}])


def attempt(
    task: Task,
    member: Member,
    scale: Scale,
    max_failures: int,
    tell: Callable[[Event], None],
    stopping: Callable[[], bool],
) -> Outcome | None:
    """Train a trial up to its rung on several workers and score it; None where it was asked to stop and is saved.

    Raises Unavailable, RayDied.
    """
    from orchestrator.workers import Ended, run_group

    one, started = member.segment, time.monotonic()
    told = {"trial": one.index, "replicate": one.replicate}

    def hear(event: Event) -> None:
        if event["event"] in ("start", "step"):
            tell({**event, **told})

    kept = task.checkpoints(one.index, one.replicate)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            outcome = run_group(
                together,
                (task, json.dumps(member.to_json())),
                cluster=Cluster(),
                scale=scale,
                scratch=Path(scratch),
                max_failures=max_failures,
                hear=hear,
                stopping=stopping,
                committed=lambda: max(kept.steps(), default=0),
            )
        except Ended as ended:
            if ended.kind == "stopped":
                return None
            outcome = Outcome(None, 0.0, "diverged" if ended.kind == "diverged" else "failed", str(ended)).to_json()
        except StageFailed as error:
            outcome = Outcome(None, 0.0, "failed", str(error.args[0])).to_json()
    return Outcome(**{**outcome, "seconds": (time.monotonic() - started) * scale.num_workers})


def together(payload: tuple[Task, str], seat: Any) -> dict[str, Any] | None:
    """One worker's part; worker 0 returns the outcome as JSON."""
    from orchestrator.workers import Ended
    from trainers import loop
    from trainers.data import Prepared
    from trainers.distributed import Workers, shared_buffers

    task, member = payload[0], Member.from_json(json.loads(payload[1]))
    one = member.segment
    config, after = resolved(task, member.user), one.origin[2] if one.origin else -1
    kept = Rungs(task.checkpoints(one.index, one.replicate), after, one.until, config.settings.total_steps)
    try:
        training = loop.open_training(
            config,
            Prepared.open(task.store.directory(task.dataset)),
            seed=training_seed(task.seed, one.replicate),
            checkpoints=kept,
            report=lambda event: seat.tell({"event": "step", **event}),
            stop=seat.stopping,
            workers=Workers(seat.rank, seat.size),
            device=seat.device,
            origin=origin_files(task, one.origin) if one.origin else None,
        )
        if seat.rank == 0:
            seat.tell({"event": "start", "step": training.step, "user": dict(member.user)})
        whole, training.total = (
            training.total,
            one.until,
        )  # the end of the segment is saved, and no worker goes beyond it
        training.run()
        training.total = whole
        training.workers.average(shared_buffers(training.game.nets).values())
    except loop.NotFinite as error:
        raise Ended("diverged", str(error), step=error.step) from error
    except loop.Stopped as error:
        raise Ended("stopped", str(error), step=error.step) from error
    return measured(task, training).to_json() if seat.rank == 0 else None


__all__ = ["attempt", "resources"]

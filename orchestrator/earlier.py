"""A plan without work is served by the run that once made or gathered exactly these results: nothing is written.

Apart from `execute`, so that a fully cached run imports nothing that only a working one needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator import events, runs
from orchestrator.errors import OrchestratorError
from orchestrator.seals import digest_json, read_whole, sealed, unsealed

if TYPE_CHECKING:
    from orchestrator.planning import Plan
    from orchestrator.runs import Run


def serve(plan: Plan, listener: events.Listener) -> Run | None:
    """The earlier run, told as one in which every stage is cached; None where the plan has work or no such run is known."""
    if plan.has_work or (run := _find(plan)) is None:
        return None
    listener.run_started(events.RunStarted(run.run_id, plan))
    for planned in plan.steps:
        assert planned.entry is not None
        listener.stage_cached(events.StageCached(planned.step.id, planned.entry.seconds, planned.entry.run))
    listener.run_finished(events.RunFinished(run))
    return run


def remember(plan: Plan, keys: Iterable[str], run_id: str) -> None:
    """Note that a run came to these results: the key of each step of the plan, in order."""
    plan.store.files.write(_path(plan, keys), sealed({"run": run_id}))


def parse_finished(data: bytes) -> str:
    """The run that such a note names. Raises one of seals.MALFORMED for altered bytes."""
    run_id = data.decode() if not data.startswith(b"{") else str(unsealed(data)["run"])
    if not runs.RUN_ID.fullmatch(run_id):
        raise ValueError("no run id")
    return run_id


def _find(plan: Plan) -> Run | None:
    try:
        path = _path(plan, [step.sealed.key if step.sealed else "" for step in plan.steps])
        run = runs.read(plan.store, read_whole(plan.store.files, path, parse_finished))
    except (FileNotFoundError, OrchestratorError):
        return None
    made = {stage.stage: stage.outputs for stage in run.record.stages}
    same = all(p.entry is not None and made.get(p.step.id) == p.entry.outputs for p in plan.steps)
    if run.status != "succeeded" or not same:  # by damage the name of another run, say
        return None
    run.cached = True
    return run


def _path(plan: Plan, keys: Iterable[str]) -> str:
    parts = [[planned.step.id, key] for planned, key in zip(plan.steps, keys, strict=True)]
    return f"{plan.log.folder}/finished/{digest_json(parts)}.json"


__all__ = ["parse_finished", "remember", "serve"]

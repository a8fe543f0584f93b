"""How a run stands now: what its record says, as long as somebody is there to keep it; and how to stop it from anywhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator import runs
from orchestrator.artifacts import ArtifactStore
from orchestrator.errors import BadInput
from orchestrator.log import Log, Owner
from orchestrator.runs import Run

WATCH_S = 5.0  # an owner on another host whose counter stands still for so long is gone, as far as one can see
POLL_S = 0.25
ENDED_WITHIN_S = 40.0  # a run saves and exits within 25 s of hearing of it, and hears within a few


def status(run: Run, *, watch_s: float = WATCH_S) -> str:
    """The recorded status; "running" only while its owner lives, else "stopped": a killed run cannot say that it ended."""
    return statuses([run], watch_s=watch_s)[0]


def statuses(found: Sequence[Run], *, watch_s: float = WATCH_S) -> list[str]:
    """As `status`, for several runs: those held on other hosts are watched together, `watch_s` seconds at most."""
    recorded = {run.run_id: run.record.status for run in found}
    lives: dict[str, bool] = {}
    logs: dict[str, Log] = {}
    elsewhere: dict[str, tuple[Log, Owner, int | None]] = {}
    for run in found:
        if run.record.status != "running":
            continue
        log = logs.setdefault(run.pipeline, Log(run.store.files, run.pipeline))
        owner = log.state().lease
        if "exit_code" in (known := log.state().runs.get(run.run_id, {})):
            # It ended, and its record is an earlier one: what a storage took late, out of a hang. The log is append-only.
            recorded[run.run_id] = str(known["status"])
        elif owner is None or owner.run != run.run_id or owner.fate != "unknown":
            lives[run.run_id] = owner is not None and owner.run == run.run_id and owner.fate != "dead"
        else:
            elsewhere[run.run_id] = (log, owner, log.beat(owner.epoch))
    end = time.monotonic() + watch_s
    while elsewhere and time.monotonic() < end:
        time.sleep(POLL_S)
        for run_id, (log, owner, count) in list(elsewhere.items()):
            seen = log.beat(owner.epoch)
            if seen is not None and seen != (count or 0):
                lives[run_id] = log.state().lease == owner
                del elsewhere[run_id]
    return [
        recorded[run.run_id]
        if recorded[run.run_id] != "running"
        else "running"
        if lives.get(run.run_id, False)
        else "stopped"
        for run in found
    ]


def cancel(store: ArtifactStore, name: str) -> str:
    """Ask a run (by id, or a pipeline's by its name) to save and stop, through the storage's log; returns its id.

    Its owner, on whatever host, hears of it within a few seconds. Raises BadInput where nothing is running.
    """
    pipeline = name.rsplit("-", 3)[0] if runs.RUN_ID.fullmatch(name) else name
    log = Log(store.files, pipeline)
    owner = log.state().lease
    run_id = name if pipeline != name or owner is None else owner.run
    if owner is None or owner.run != run_id:
        raise _not_running(store, name)
    if status(Run(store, runs.RunRecord(run_id, pipeline))) != "running":
        raise BadInput(f"run {run_id} is not running: its process is gone", hint="run the pipeline to go on with it")
    while (owner := log.state().lease) is not None and owner.run == run_id:
        if log.append("cancel", {"run": run_id}):
            return run_id
    raise _not_running(store, run_id)  # it ended before it could be asked


def ended(store: ArtifactStore, run_id: str, *, within_s: float = ENDED_WITHIN_S) -> Run | None:
    """The record of a run once it holds its pipeline no more; None where it still does after `within_s` seconds."""
    log = Log(store.files, run_id.rsplit("-", 3)[0])
    end = time.monotonic() + within_s
    while (owner := log.state().lease) is not None and owner.run == run_id and owner.fate != "dead":
        if time.monotonic() > end:
            return None
        time.sleep(POLL_S)
    return runs.read(store, run_id)


def _not_running(store: ArtifactStore, name: str) -> BadInput:
    if runs.RUN_ID.fullmatch(name):
        found = runs.read(store, name)
        return BadInput(f"run {name} is not running: it is {status(found)}")
    runs.latest(store, name)
    return BadInput(f"no run of pipeline {name} is running", hint=f"orchestrate runs {name} lists them")


__all__ = ["cancel", "ended", "status", "statuses"]

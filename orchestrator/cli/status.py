"""`orchestrate status [RUN]`: the newest runs, or the stages of one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.runs import Run

COLORS = {
    "succeeded": "green",
    "cached": "cyan",
    "failed": "red",
    "refused": "red",
    "diverged": "red",
    "running": "yellow",
}


@click.command(short_help="The newest runs, or the stages of one run.")
@click.argument("run", required=False, shell_complete=options.complete_runs)
@options.storage
@click.option("-n", "--limit", type=click.IntRange(1), default=10, show_default=True, help="How many runs to list.")
@options.as_json
def command(run: str | None, storage: str, limit: int, as_json: bool) -> None:
    """Show the newest runs of a storage, or, with RUN (a run's id, or a pipeline's name for its newest run), its stages."""
    if run is None:
        _list(storage, limit, as_json)
        return
    found = options.find_run(storage, run)
    if as_json:
        record = {**found.record.to_json(), "status": _status(found)}
        options.emit(**record, report=found.report, **options.results(found))
    else:
        options.echo(_shown(found))


def _list(storage: str, limit: int, as_json: bool) -> None:
    from orchestrator import runs
    from orchestrator.artifacts import ArtifactStore

    store = ArtifactStore(storage)
    store.format()
    found = runs.recent(store, limit=limit)
    if as_json:
        kept = ("run_id", "pipeline", "exit_code", "started", "ended")
        rows = [{**{key: getattr(one.record, key) for key in kept}, "status": _status(one)} for one in found]
        options.emit(storage=store.url, runs=rows)
    elif found:
        options.echo(options.table([_row(one) for one in found], head=("RUN", "STATUS", "STARTED", "TOOK", "STAGES")))
    else:
        options.tell(f"no run in {storage} yet; start one with: orchestrate run pipelines/dcgan.yaml")


def _row(one: Run) -> tuple[str, ...]:
    states = [stage.state for stage in one.record.stages]
    done = sum(state in ("succeeded", "cached") for state in states)
    return one.run_id, _status(one), _clock(one.record.started), _took(one), f"{done}/{len(states)}"


def _shown(one: Run) -> str:
    from orchestrator.units import duration

    status = _status(one)
    parts = [f"{click.style(one.run_id, bold=True)}  {click.style(status, fg=COLORS.get(status))}  {_took(one)}"]
    rows = []
    for stage in one.record.stages:
        took = duration(stage.seconds) if stage.seconds else ""
        rows.append((stage.stage, stage.state, took, _latest(one, stage.stage) or stage.error or stage.reason))
    parts.append(options.table(rows, head=("STAGE", "STATE", "TOOK", "")))
    found: dict[str, Any] = {"report": one.report, **options.results(one)}
    parts += [f"{name:<8} {found[name]}" for name in ("report", "samples", "model") if found[name]]
    if one.record.error:
        parts.append(f"{click.style('error', fg='red')}: {one.record.error}")
    return "\n".join(parts)


def _latest(one: Run, stage: str) -> str:
    """The last progress of a stage that is at work."""
    if one.record.status != "running" or one.record.stage(stage).state != "running":
        return ""
    seen = [e for e in one.events() if e.get("event") == "stage_progress" and e.get("stage") == stage]
    return f"{seen[-1]['done']:g}/{seen[-1]['total']:g} {seen[-1]['unit']}" if seen else ""


def _status(one: Run) -> str:
    """The recorded status; "running" only while its owner is: a killed run cannot say that it ended."""
    if one.record.status != "running":
        return one.record.status
    from orchestrator.log import Log

    owner = Log(one.store.files, one.pipeline).state().lease
    if owner is None or owner.run != one.run_id or owner.fate == "dead":
        return "stopped"
    return "running"


def _took(one: Run) -> str:
    from orchestrator.units import duration

    end = one.record.ended or (time.time() if _status(one) == "running" else None)
    return duration(end - one.record.started) if end else ""


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))

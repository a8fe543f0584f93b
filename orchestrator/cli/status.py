"""`orchestrate status [RUN]`: the stages of one run, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.runs import Run

GOOD, BAD = ("succeeded", "cached"), ("failed",)


@click.command(short_help="The stages of one run, and what came of it.")
@click.argument("run", required=False, shell_complete=options.complete_runs)
@options.storage
@options.as_json
def command(run: str | None, storage: str, as_json: bool) -> None:
    """Show the stages of RUN: a run's id, or a pipeline's name for its newest run (default: the newest run of all).

    `orchestrate runs` lists them.
    """
    from orchestrator import standing

    found = options.find_run(storage, run)
    status = standing.status(found)
    if as_json:
        record = {**found.record.to_json(), "status": status}
        options.emit(**record, report=found.report, **options.results(found))
    else:
        options.echo(_shown(found, status))


def _shown(one: Run, status: str) -> str:
    from orchestrator.cli import runs
    from orchestrator.units import duration

    parts = [f"{click.style(one.run_id, bold=True)}  {runs.colored(status)}  {runs.took(one, status)}".rstrip()]
    latest = _latest(one) if status == "running" else {}
    rows = []
    for stage in one.record.stages:
        state = "stopped" if stage.state == "running" != status else stage.state
        color = "green" if state in GOOD else "red" if state in BAD else None
        spent = duration(stage.seconds) if stage.seconds else ""
        rows.append(
            (stage.stage, click.style(state, fg=color), spent, latest.get(stage.stage) or stage.error or stage.reason)
        )
    parts.append(options.table(rows, head=("STAGE", "STATE", "TOOK", "")))
    found: dict[str, Any] = {"report": one.report, **options.results(one)}
    parts += [f"{name:<8} {found[name]}" for name in ("report", "samples", "model") if found[name]]
    if one.record.error:
        parts.append(f"{click.style('error', fg='red')}: {one.record.error}")
    if status == "stopped":
        parts.append("its process is gone; running the pipeline again goes on where it stood")
    return "\n".join(parts)


def _latest(one: Run) -> dict[str, str]:
    """The last progress of each stage that is at work."""
    found = {}
    for event in one.events():
        if event["event"] == "stage_progress" and one.record.stage(event["stage"]).state == "running":
            found[event["stage"]] = f"{event['done']:g}/{event['total']:g} {event['unit']}"
    return found

"""`orchestrate runs [PIPELINE]`: the runs of a storage, newest first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.runs import Run

STATUSES = ("running", "succeeded", "failed", "refused", "diverged", "interrupted", "cancelled", "stopped")
COLORS = {
    "succeeded": "green",
    "failed": "red",
    "refused": "red",
    "diverged": "red",
    "running": "yellow",
    "interrupted": "magenta",
    "cancelled": "magenta",
    "stopped": "magenta",
}
MOST_SCORES = 2


@click.command(short_help="The runs of a storage, newest first.")
@click.argument("pipeline", required=False)
@options.storage
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many to list.")
@click.option(
    "--status", "wanted", multiple=True, type=click.Choice(STATUSES), help="Only runs that stand so. Repeatable."
)
@options.as_json
def command(pipeline: str | None, storage: str, limit: int, wanted: tuple[str, ...], as_json: bool) -> None:
    """List the newest runs of a storage, or of one PIPELINE (its name): how they stand, and what came of them.

    A run is `running` only while its process lives. One that was killed is `stopped`: running the pipeline goes on with it.

    \b
    orchestrate runs
    orchestrate runs dcgan --status succeeded -n 5
    """
    from orchestrator import runs
    from orchestrator.artifacts import ArtifactStore

    store = ArtifactStore(storage)
    store.format()
    name = pipeline.rsplit("/", 1)[-1].removesuffix(".yaml") if pipeline else None  # its file will do
    found: list[tuple[Run, str]] = []
    batch: list[Run] = []
    for one in runs.records(store, name):  # in batches: those on other hosts are watched together
        batch.append(one)
        if len(batch) == limit:
            found, batch = found + _standing(batch, wanted), []
        if len(found) >= limit:
            break
    found = (found + _standing(batch, wanted))[:limit]
    if as_json:
        options.emit(storage=store.url, runs=[_plain(*each) for each in found])
    elif found:
        head = ("RUN", "STATUS", "STARTED", "TOOK", "SCORES")
        options.echo(options.table([row(*each) for each in found], head=head))
    else:
        which = f" of {name}" if name else ""
        which += f" that is {' or '.join(wanted)}" if wanted else ""
        options.tell(
            f"no run{which} in {storage}" + ("" if wanted else " yet; start one with: orchestrate run PIPELINE")
        )


def _standing(batch: list[Run], wanted: tuple[str, ...]) -> list[tuple[Run, str]]:
    from orchestrator import standing

    stands = zip(batch, standing.statuses(batch), strict=True)
    return [(one, status) for one, status in stands if not wanted or status in wanted]


def row(one: Run, status: str) -> tuple[str, ...]:
    """A run in a table."""
    from orchestrator.units import number

    states = [stage.state for stage in one.record.stages]
    done = sum(state in ("succeeded", "cached") for state in states)
    results = options.outcome(one)
    shown = [f"{name} {number(value)}" for name, value in results["scores"].items() if "." not in name][:MOST_SCORES]
    shown += [results["model"].removeprefix("models:/")] if results["model"] else []
    started = time.strftime("%m-%d %H:%M", time.localtime(one.record.started))  # its id has the year
    portion = f" {done}/{len(states)}" if done < len(states) else ""
    return one.run_id, colored(status) + portion, started, took(one, status), ", ".join(shown)


def took(one: Run, status: str) -> str:
    """How long a run took, or has been going on; "" for one that was killed."""
    from orchestrator.units import duration

    end = one.record.ended or (time.time() if status == "running" else None)
    return duration(max(end - one.record.started, 0.0)) if end else ""


def colored(status: str) -> str:
    return click.style(status, fg=COLORS[status]) if status in COLORS else status


def _plain(one: Run, status: str) -> dict[str, Any]:
    kept = ("run_id", "pipeline", "exit_code", "error", "started", "ended", "profile", "sets")
    results = options.outcome(one)
    return {
        **{key: getattr(one.record, key) for key in kept},
        "status": status,
        "stages": {stage.stage: stage.state for stage in one.record.stages},
        "scores": results["scores"],
        "model": results["model"],
    }

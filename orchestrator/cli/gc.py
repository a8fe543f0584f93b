"""`orchestrate gc`: remove what no kept run and no registered model needs."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli import options
from orchestrator.errors import BadInput

if TYPE_CHECKING:
    from orchestrator.collection import Findings

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float:
    """A length of time: 90s, 30m, 12h, 30d, 2w."""
    if value is None:
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", value.strip())
    if not found:
        raise click.BadParameter(f"{value!r} is no length of time; write 12h, 30d or 2w")
    return float(found[1]) * UNITS[found[2]]


@click.command(short_help="Remove what no kept run and no registered model needs.")
@options.storage
@click.option(
    "--keep-last",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    metavar="N",
    help="Runs to keep of each pipeline.",
)
@click.option(
    "--keep", multiple=True, metavar="RUN", shell_complete=options.complete_runs, help="Keep this run. Repeatable."
)
@click.option("--older-than", callback=_seconds, metavar="TIME", help="Drop only runs older than this (12h, 30d, 2w).")
@click.option(
    "--grace",
    callback=_seconds,
    default="1d",
    show_default=True,
    metavar="TIME",
    help="Leave files that no record knows of until they are so old: somebody may be about to name them.",
)
@click.option("--wait-lease", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Wait for runs to end.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would go, and how much.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.as_json
def command(
    storage: str,
    keep_last: int,
    keep: tuple[str, ...],
    older_than: float,
    grace: float,
    wait_lease: float,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove runs that are not kept, and every artifact, checkpoint and cache entry that only they need.

    Kept are the newest runs of each pipeline, its newest that succeeded, runs named with --keep, runs whose model holds an
    alias in MLflow, the model of every registered version, and what makes the next run of each pipeline cached. Logs of
    pipelines and MLflow's own files are left alone. There is no undo: look with --dry-run first.

    \b
    orchestrate gc --dry-run
    orchestrate gc --keep-last 3 --yes
    orchestrate gc --older-than 30d --keep dcgan-20261122-013000-ab12

    Exit code 6 while a run is at work in the storage: it may use anything that is stored.
    """
    from orchestrator import collection
    from orchestrator.artifacts import ArtifactStore
    from orchestrator.reach import Wish

    store = ArtifactStore(storage)
    if store.format() is None:
        raise BadInput(f"there is nothing in {storage}")
    wish = Wish(keep_last, keep, older_than, grace)
    if dry_run:
        _told(collection.survey(store, wish), as_json, removed=False)
        return 0
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise BadInput("gc removes for good, and nobody can be asked here", hint="say --yes, or --dry-run to look")
        found = collection.survey(store, wish)
        _told(found, False, removed=False)
        if not found.items or not click.confirm("Remove this for good?", err=True):
            return 0
    _told(collection.collect(store, wish, wait_s=wait_lease), as_json, removed=True)
    return 0


def _told(found: Findings, as_json: bool, *, removed: bool) -> None:
    if as_json:
        options.emit(removed=removed, **found.to_json())
        return
    from orchestrator.collection import KINDS
    from orchestrator.units import size

    verb = "removed" if removed else "would remove"
    counts = [(kind, *found.count(kind)) for kind in KINDS]
    rows = [(kind, str(count), size(those)) for kind, count, those in counts if count]
    if rows:
        options.echo(f"{verb} {size(found.size)}:")
        options.echo("\n".join(f"  {line}" for line in options.table(rows).split("\n")))
        for run in found.dropped_runs:
            options.tell(f"  {verb} run {run}")
    else:
        options.echo("nothing to remove")
    options.tell(f"kept {_several(len(found.kept_runs), 'run')}")
    if found.waiting:
        options.tell(f"{_several(found.waiting, 'file')} that no record knows of may go later: see --grace")
    for note in found.notes:
        options.tell(f"note: {note}")


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"

"""`orchestrate fsck`: read everything that a storage holds; with --repair put right what can be."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from orchestrator.cli import options
from orchestrator.errors import IntegrityError

if TYPE_CHECKING:
    from orchestrator.inspection import Finding, Inspection
    from orchestrator.mending import Mended

SHOW_EVERY_S = 0.2  # progress on a terminal
TELL_EVERY_S = 10.0  # and elsewhere


@click.command(short_help="Check every stored byte; --repair puts right what can be.")
@options.storage
@click.option("--repair", is_flag=True, help="Move damage away, drop what names nothing, make again what can be.")
@click.option("--quick", is_flag=True, help="Believe the bytes of artifacts and checkpoints: look at sizes only.")
@options.as_json
def command(storage: str, repair: bool, quick: bool, as_json: bool) -> int:
    """Check a storage: artifacts and their bytes, cache entries, logs, run records, checkpoints.

    Safe while pipelines run. Nothing is changed without --repair, and nothing whole is ever removed: damage moves to
    `quarantine/` in the storage, and the next run computes it again. Exit code 0 when all is whole, 5 when damage is left.

    \b
      orchestrate fsck                          read everything, change nothing
      orchestrate fsck --quick                  look at names and sizes only
      orchestrate fsck --repair                 then run the pipeline again
      orchestrate fsck --storage s3://bucket/gan --json
    """
    from orchestrator.artifacts import ArtifactStore
    from orchestrator.inspection import inspect
    from orchestrator.mending import mend

    store = ArtifactStore(storage)
    shown = _Shown(quiet=as_json)
    found = inspect(store, quick=quick, progress=shown)
    mended = mend(store, found, progress=shown) if repair and any(one.mend for one in found.findings) else None
    shown.end()
    now = mended.left if mended else found
    if as_json:
        options.emit(**_facts(store.url, found, mended))
    else:
        _print(store.url, found, mended)
    return IntegrityError.exit_code if now.damage else 0


class _Shown:
    """How far the inspection is, on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self.terminal = sys.stderr.isatty()
        self.quiet = quiet
        self.last = time.monotonic()
        self.drawn = False

    def __call__(self, kind: str, done: int, total: int, read: int) -> None:
        now = time.monotonic()
        if self.quiet or now - self.last < (SHOW_EVERY_S if self.terminal else TELL_EVERY_S):
            return
        from orchestrator.units import size

        self.last, line = now, f"{kind}: {done}/{total}, {size(read)} read"
        if self.terminal:
            self.drawn = True
            click.echo(f"\r\x1b[2K{line}", nl=False, err=True)
        else:
            click.echo(line, err=True)

    def end(self) -> None:
        if self.drawn:
            click.echo("\r\x1b[2K", nl=False, err=True)


def _facts(url: str, found: Inspection, mended: Mended | None) -> dict[str, object]:
    from orchestrator.inspection import LEFT, NOTE

    done = {id(one): what for one, what in mended.done} if mended else {}
    why = {id(one): what for one, what in mended.refused} if mended else {}

    def shown(one: Finding) -> dict[str, object]:
        return {**one.to_json(), "done": done.get(id(one)), "refused": why.get(id(one))}

    later = [one for one in mended.left.damage if one.path not in {f.path for f in found.damage}] if mended else []
    return {
        "storage": url,
        "clean": not (mended.left if mended else found).damage,
        "damage": [shown(one) for one in [*found.damage, *later]],
        "left_over": [shown(one) for one in found.of(LEFT)],
        "notes": [shown(one) for one in found.of(NOTE)],
        "recomputed": mended.recomputed if mended else [],
        "counts": found.counts,
        "bytes_read": found.bytes,
    }


def _print(url: str, found: Inspection, mended: Mended | None) -> None:
    from orchestrator.inspection import LEFT, NOTE
    from orchestrator.units import size

    for one in [*found.damage, *found.of(NOTE)]:
        options.echo(_line(one))
    if mended:
        for one, what in mended.done:
            options.echo(f"mended   {one.path}: {what}")
        for one, why in mended.refused:
            options.tell(f"{one.path} was not mended: {why}")
        for stage in mended.recomputed:
            options.echo(f"the next run computes {stage} again")
    if left := found.of(LEFT):
        options.echo(
            f"left over: {len(left)} things that nothing needs, as {left[0].path}; `orchestrate gc` removes them"
        )
    looked = ", ".join(f"{count} {kind}" for kind, count in found.counts.items() if count) or "nothing there"
    options.echo(f"{url}: {looked}; {size(found.bytes)} read")
    now = mended.left if mended else found
    if now.damage:
        hint = "some of it cannot be mended" if mended else "`orchestrate fsck --repair` puts it right"
        options.tell(f"{click.style('error[integrity]', fg='red')}: {_count(now)}; {hint}")
    else:
        options.echo("everything is whole")


def _count(now: Inspection) -> str:
    return f"{len(now.damage)} damaged or dangling file{'s' if len(now.damage) != 1 else ''}"


def _line(one: Finding) -> str:
    color = "red" if one.wrong else "yellow"
    return f"{click.style(one.kind, fg=color):<8} {one.path}: {one.what}"

"""`orchestrate logs RUN [STAGE]`: what a run told, in the order of time, also while it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.journal import Line


@click.command(short_help="What a run and its stages told, also while it goes on.")
@click.argument("run", required=False, shell_complete=options.complete_runs)
@click.argument("stage", required=False)
@options.storage
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the run ends. Ctrl-C leaves it running.")
@click.option("-n", "--lines", type=click.IntRange(0), metavar="LINES", help="Only the last so many.")
@options.as_json
def command(
    run: str | None, stage: str | None, storage: str, follow: bool, lines: int | None, as_json: bool
) -> int | None:
    """Show what RUN told: events and logs of its stages, with the whole trace of a failure.

    RUN is a run's id, or a pipeline's name for its newest run (default: the newest run). STAGE is a stage, one instance of
    it (train.seed-0), or `run` for what concerns the run as a whole.

    \b
    orchestrate logs
    orchestrate logs dcgan train --follow
    orchestrate logs dcgan-20261122-013000-ab12 -n 20

    With --follow --json, one JSON object a line.
    """
    from orchestrator import journal

    found = options.find_run(storage, run)
    if not follow:
        told = _last(journal.Journal(found, stage).lines(), lines)
        if as_json:
            options.emit(run=found.run_id, lines=[line.to_json() for line in told])
        else:
            _show(told)
        return None
    try:
        for number, come in enumerate(journal.follow(found, stage)):
            told = come if number else _last(come, lines)
            if as_json:
                for line in told:
                    options.echo(json.dumps({"version": options.JSON_VERSION, **line.to_json()}))
            else:
                _show(told)
    except KeyboardInterrupt:
        return 130
    return None


def _last(lines: list[Line], count: int | None) -> list[Line]:
    return lines if count is None else lines[len(lines) - count :] if count < len(lines) else lines


def _show(lines: Sequence[Line]) -> None:
    for line in lines:
        head, *rest = line.text.split("\n")
        stamp = click.style(time.strftime("%m-%d %H:%M:%S", time.localtime(line.time)), dim=True)
        color = "red" if head.startswith("failed") else None
        options.echo(f"{stamp}  {line.stage:<10}  {click.style(head, fg=color)}")
        for text in rest:
            options.echo(f"    {text}".rstrip())

"""`orchestrate sync`: send to MLflow what an outage left in the spool."""

from __future__ import annotations

from dataclasses import asdict

import click

from orchestrator.cli import options
from orchestrator.errors import Unavailable


@click.command(short_help="Send to MLflow what an outage left behind.")
@options.storage
@click.option("--tracking", metavar="URI", help="Send there instead of where each record was meant to go.")
@options.as_json
def command(storage: str, tracking: str | None, as_json: bool) -> int:
    """Send the records that could not be sent while runs of this storage were going on.

    The next run does so too. What arrived is not sent twice, and two of these at once do no harm. A second run or
    version that MLflow made of one, by a request long given up, is removed.

    \b
    orchestrate sync
    orchestrate sync --storage s3://bucket/runs --tracking https://mlflow.example

    \b
    Exit codes: 0 nothing is left, 2 bad input, 4 MLflow was not reached.
    """
    import sys

    from orchestrator.tracking import sync

    def show(name: str, sent: int, total: int) -> None:
        if sys.stderr.isatty():
            options.tell(f"{name}: {sent}/{total}")

    done = sync(storage, tracking, progress=show)
    if as_json:
        options.emit(**asdict(done))
    else:
        options.echo(f"{done.sent} records sent, {done.left} left")
        if done.removed:
            options.tell(f"{done.removed} runs or versions removed that MLflow had made twice")
        for line in done.notes:
            options.tell(line)
        if done.busy:
            options.tell(
                f"{done.busy} spool{'s are' if done.busy > 1 else ' is'} held by a run or a sync that is going on; "
                "it sends them"
            )
        for line in done.refused:
            options.tell(f"refused by MLflow: {line}")
        for line in done.errors:
            options.tell(f"error[unavailable]: {line}")
    return Unavailable.exit_code if done.left or done.errors else 0

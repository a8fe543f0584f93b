"""`orchestrate cancel RUN`: ask a run, wherever it is, to save and stop."""

from __future__ import annotations

import click

from orchestrator.cli import options
from orchestrator.errors import Busy


@click.command(short_help="Ask a run, on whatever host, to save and stop.")
@click.argument("run", shell_complete=options.complete_runs)
@options.storage
@click.option("--wait", is_flag=True, help="Come back when it has stopped.")
@options.as_json
def command(run: str, storage: str, wait: bool, as_json: bool) -> int:
    """Ask RUN (a run's id, or a pipeline's name for the run that holds it) to save a checkpoint and stop.

    It hears of it through the storage within a few seconds, and ends as after SIGTERM: exit code 143, status `cancelled`.
    Running the pipeline again goes on from there. Exit code 2 where nothing is running.

    \b
    orchestrate cancel dcgan --wait
    orchestrate cancel dcgan-20261122-013000-ab12 --storage s3://bucket/runs
    """
    from orchestrator import standing
    from orchestrator.artifacts import ArtifactStore

    store = ArtifactStore(storage)
    store.format()
    run_id = standing.cancel(store, run)
    status = "cancelling"
    if wait:
        if not as_json:
            options.tell(f"{run_id} was asked to stop; waiting for it")
        ended = standing.ended(store, run_id)
        if ended is None:
            hint = f"orchestrate logs {run_id} --follow"
            raise Busy(f"run {run_id} was asked to stop and has not within {standing.ENDED_WITHIN_S:g} s", hint=hint)
        status = standing.status(ended)
    if as_json:
        options.emit(run=run_id, status=status)
    else:
        options.echo(f"{run_id} {status}")
    return 0

"""`orchestrate report [RUN]`: where a run's page is; makes it again where asked or missing."""

from __future__ import annotations

import click

from orchestrator.cli import options


@click.command(short_help="The HTML report of a run: where it is, open it, make it again.")
@click.argument("run", required=False, shell_complete=options.complete_runs)
@options.storage
@click.option("--rebuild", is_flag=True, help="Make it again from the stored artifacts.")
@click.option("--open", "open_", is_flag=True, help="Show it in the browser.")
@options.as_json
def command(run: str | None, storage: str, rebuild: bool, open_: bool, as_json: bool) -> None:
    """Print where the report of RUN is: a run's id, or a pipeline's name for its newest run (default: the newest run)."""
    from orchestrator import report

    found = options.find_run(storage, run)
    path = None if rebuild else found.report
    path = path or report.build(found.store, found.run_id)
    if as_json:
        options.emit(run=found.run_id, report=path)
    else:
        options.echo(path)
    if open_:
        click.launch(path)

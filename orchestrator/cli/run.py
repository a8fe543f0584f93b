"""`orchestrate run PIPELINE`: from raw data to a registered model; the same command goes on, or finds all cached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.artifacts import ArtifactStore
    from orchestrator.runs import Run


STOPPED = (129, 130, 143)  # by SIGHUP, SIGINT, SIGTERM


@click.command(short_help="Run a pipeline, or go on with it.")
@options.pipeline
@options.overrides
@options.which_stages
@click.option(
    "--address", metavar="ADDRESS", help="A Ray cluster to join (ray://head:10001, auto); else Ray starts here."
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Stages at once, where they can."
)
@click.option(
    "--wait-lease", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Wait for another run to end."
)
@click.option(
    "--wait-nodes",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Wait for a cluster to have room: at first (else 13 s), and once nodes are lost (else 300 s).",
)
@click.option(
    "--verdict",
    metavar="JOB",
    default="",
    help="Store how it ended for this job; where that is final already, exit so at once.",
)
@click.option("-q", "--quiet", is_flag=True, help="Only the result.")
@click.option("-v", "--verbose", is_flag=True, help="Progress more often.")
@options.as_json
def command(
    pipeline: str,
    address: str | None,
    jobs: int,
    wait_lease: float,
    wait_nodes: float | None,
    verdict: str,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **asked: Any,
) -> int:
    """Run PIPELINE: a YAML file from raw data to a registered, evaluated model.

    There is no resume: the same command goes on where it stood, and runs only what changed.

    \b
    orchestrate run pipelines/dcgan.yaml
    orchestrate run pipelines/dcgan.yaml --set stages.train.with.total_steps=4000
    orchestrate run pipelines/dcgan.yaml --profile gpu --address ray://head:10001

    \b
    Exit codes: 0 ok, 1 a stage failed, 2 bad input, 3 a gate refused or training diverged, 4 storage or cluster
    unavailable, 5 damaged storage, 6 another run holds the pipeline, 130 and 143 interrupted after saving.
    """
    from functools import partial

    waits = {"wait_lease_s": wait_lease, "wait_nodes_s": wait_nodes}
    given = {"address": address, "jobs": jobs, **waits, "verdict": verdict, **asked}
    work = partial(_work, pipeline, given, quiet=quiet, verbose=verbose, as_json=as_json)
    if not verdict:
        return work()
    from orchestrator import verdicts

    store = _store(pipeline, asked)
    return verdicts.attempt(store, verdict, work, options.tell) if store is not None else work()


def _work(pipeline: str, given: dict[str, Any], *, quiet: bool, verbose: bool, as_json: bool) -> int:
    """Run it, and print what came of it."""
    import orchestrator
    from orchestrator import display, signals

    listener = display.listener(quiet=quiet, verbose=verbose)
    try:
        run = orchestrator.run(pipeline, listener=listener, **given)
    finally:
        if isinstance(listener, display.Table):
            listener.close()
    if as_json:
        options.emit(**_plain(run), next=_next(run, pipeline, options.results(run)["model"]))
        if run.exit_code in STOPPED:
            options.tell(signals.goes_on())
    else:
        options.echo(_summary(run, pipeline))
    if run.exit_code and run.record.error:
        options.tell(_failure(run))
    if given["verdict"]:
        from orchestrator import verdicts

        options.tell(str(verdicts.of_run(given["verdict"], run.record)))
    return run.exit_code


def _store(pipeline: str, asked: dict[str, Any]) -> ArtifactStore | None:
    """Where the verdict is kept, also where the spec has mistakes; None where not even that can be read."""
    from orchestrator.artifacts import ArtifactStore
    from orchestrator.errors import Problem, SpecError
    from orchestrator.spec import load, reveal

    problems: list[Problem] = []
    try:
        spec = load(pipeline, sets=asked["sets"], profile=asked["profile"], storage=asked["storage"], problems=problems)
    except SpecError:  # no YAML mapping at all: `run` tells of it
        return ArtifactStore(asked["storage"]) if asked["storage"] else None
    return ArtifactStore(spec.storage, reveal(spec.storage_options))


def _plain(run: Run) -> dict[str, Any]:
    record = run.record.to_json()
    kept = (
        "run_id",
        "pipeline",
        "status",
        "exit_code",
        "error",
        "started",
        "ended",
        "tracking_uri",
        "mlflow_run",
        "stages",
    )
    return {**{key: record[key] for key in kept}, "cached": run.cached, "report": run.report, **options.results(run)}


def _summary(run: Run, pipeline: str) -> str:
    """What came of it, where it is, and what to do next."""
    from orchestrator.units import duration, number

    record, found = run.record, options.results(run)
    took = "everything cached" if run.cached else f"in {duration((record.ended or record.started) - record.started)}"
    good = record.status == "succeeded"
    head = click.style(f"{record.pipeline} {record.status}", fg="green" if good else "red", bold=True)
    rows = [(name, number(value)) for name, value in found["scores"].items() if "." not in name]
    rows += [("report", run.report or "")]
    rows += [("samples", found["samples"] or "")]
    rows += [("model", found["model"] or ""), ("tracking", record.tracking_uri if found["model"] else "")]
    width = max(len(name) for name, _ in rows)
    lines = [f"{head} {took} ({run.run_id})", *(f"  {name:<{width}}  {value}" for name, value in rows if value)]
    lines += ["next:", *(f"  {text}" for text in _next(run, pipeline, found["model"]))]
    return "\n".join(lines)


def _next(run: Run, pipeline: str, model: str | None) -> list[str]:
    from orchestrator import signals

    if run.status != "succeeded":
        again = signals.command() or f"orchestrate run {pipeline}"  # with every option that was given
        return [f"orchestrate status {run.run_id}", f"{again}   # goes on where it stood"]
    where = "" if run.store.url == "runs" else f" --storage {run.store.url}"
    commands = [
        f"orchestrate sample {run.run_id}{where} -n 64 -o samples.png",
        f"orchestrate report {run.run_id}{where} --open",
    ]
    if model and run.record.tracking_uri.startswith("sqlite:"):
        commands.append(f"mlflow ui --backend-store-uri {run.record.tracking_uri}")
    return commands


def _failure(run: Run) -> str:
    """The cause and where its whole story is."""
    failed = [stage for stage in run.record.stages if stage.state == "failed"]
    kind = failed[0].kind if failed and failed[0].kind else run.status
    text = click.style(f"error[{kind}]", fg="red") + f": {failed[0].stage + ': ' if failed else ''}{run.record.error}"
    if failed and run.log(failed[0].stage):
        from orchestrator.runs import place

        text += f"\n  its log: {place(run.store, f'{run.folder}/logs/{failed[0].stage}.log')}"
    return text

"""`orchestrate reproduce MODEL`: make a registered model again, and say how near it comes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.reproduction import Reproduction


@click.command(short_help="Make a registered model again, and compare.")
@click.argument("model", metavar="MODEL")
@click.option("--tracking", metavar="URI", help="The MLflow that holds it; else the database in ./runs.")
@click.option("--storage", metavar="URL", help="Where to make it; else a new directory, removed afterwards.")
@click.option("--keep", is_flag=True, help="Keep that new directory.")
@options.as_json
def command(model: str, tracking: str | None, storage: str | None, keep: bool, as_json: bool) -> int:
    """Make MODEL (models:/NAME@ALIAS or models:/NAME/VERSION) again from what the registry holds of it.

    The run that registered it is repeated up to its scores, with a search's winner in place of the search, and nothing is
    registered. Then the weights are compared, byte for byte. Where they differ (another kind of CPU, other versions) the
    scores are: each registered one must lie in the 95 % interval of the rebuilt model's own, scored with five other seeds
    of samples. That interval knows how samples vary, not how trainings do.

    \b
    orchestrate reproduce models:/dcgan@champion
    orchestrate reproduce models:/dcgan/3 --tracking http://127.0.0.1:5000 --storage rebuilt

    \b
    Exit codes: 0 bit-equal or within the intervals (it says which), 1 different, 2 no such model or its data is gone,
    4 MLflow or storage unavailable, 5 the recipe was altered; those of `run` where the run fails.
    """
    import os
    import shutil
    import tempfile

    from orchestrator import display, reproduction

    given = tracking or os.environ.get("MLFLOW_TRACKING_URI") or None
    where = storage or tempfile.mkdtemp(prefix="orchestrate-reproduce-")
    done: Reproduction | None = None
    listener = display.listener(quiet=as_json, verbose=False)
    try:
        done = reproduction.reproduce(
            model, where, tracking=given, listener=listener, say=lambda line: options.tell(f"differs: {line}")
        )
    finally:
        if isinstance(listener, display.Table):
            listener.close()
        failed = done is not None and done.verdict == "failed"
        if storage is None and not keep and not failed:
            shutil.rmtree(where, ignore_errors=True)
    if as_json:
        comparisons = [{**asdict(one), "within": one.within} for one in done.comparisons]
        options.emit(**{**asdict(done), "comparisons": comparisons})
    else:
        options.echo(_summary(done, kept=storage is not None or keep or failed))
    if done.error:
        options.tell(f"error: {done.error}")
    return done.exit_code


def _summary(done: Reproduction, *, kept: bool) -> str:
    texts = {
        "bit-equal": "bit-equal: the rebuilt weights are the registered ones, byte for byte",
        "within": "not bit-equal; every score lies within its interval",
        "different": "different: neither the weights nor all scores are those registered",
        "failed": "it could not be made again: the run failed",
    }
    lines = [f"{done.uri} (version {done.version}): {texts[done.verdict]}"]
    lines += [f"  {one}" for one in done.comparisons]
    if done.verdict == "different" and not done.comparisons:
        lines.append("  no scores were registered with it")
    if done.verdict != "bit-equal":
        lines += [f"  differs: {line}" for line in done.differences]
        lines += [f"  weights {done.weights[:12]} instead of {done.expected[:12]}"] if done.weights else []
    if kept:
        lines.append(f"  run {done.run_id} in {done.storage}")
    return "\n".join(lines)

"""`orchestrate why PIPELINE STAGE`: why one stage would run, or where its result comes from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.planning import PlannedStep


def _either_order(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[str, str]:
    """PIPELINE and STAGE in any order: a stage's name has no dot and no slash."""
    files = [word for word in value if word.endswith((".yaml", ".yml")) or "/" in word]
    names = [word for word in value if word not in files]
    if not files and len(names) == 1 and len(options.pipelines()) == 1:
        files = options.pipelines()
    if len(files) != 1 or len(names) != 1:
        raise click.UsageError("give a pipeline's file and a stage's name: orchestrate why pipelines/dcgan.yaml train")
    return files[0], names[0]


@click.command(short_help="Why a stage would run, or where its result comes from.")
@click.argument("words", nargs=-1, required=True, metavar="PIPELINE STAGE", callback=_either_order)
@options.overrides
@options.verify
@options.as_json
def command(words: tuple[str, str], as_json: bool, **asked: Any) -> None:
    """Explain one STAGE of a PIPELINE: what its cache key is made of, and what changed since it last ran."""
    pipeline, stage = words
    options.check_file(pipeline)
    import orchestrator

    plan = orchestrator.plan(pipeline, **asked)
    step = plan.step(stage)
    ingredients = step.sealed.ingredients if step.sealed else None
    if as_json:
        options.emit(**step.to_json(), ingredients=ingredients)
        return
    options.echo(f"{step.step.label}: {step.state}, {step.reason}")
    options.echo(options.table(_rows(step, ingredients, plan.spec.name)))


def _rows(step: PlannedStep, ingredients: dict[str, Any] | None, pipeline: str) -> list[tuple[str, str]]:
    rows = [("uses", step.step.uses), ("seed", str(step.step.seed))]
    for port, sources in step.step.inputs.items():
        rows.append((f"input {port}", ", ".join(f"{source.step}.{source.output}" for source in sources)))
    rows += [(f"with {name}", options.one_line(value)) for name, value in step.step.params.items()]
    if step.sealed:
        rows.append(("key", step.sealed.key))
    if ingredients:
        rows += [
            (f"source {name}", str(digest)[:12]) for name, digest in sorted((ingredients.get("source") or {}).items())
        ]
        rows += [
            (f"package {name}", str(version)) for name, version in sorted((ingredients.get("packages") or {}).items())
        ]
    if step.entry:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(step.entry.started))
        made = step.entry.pipeline, step.entry.stage
        place = "" if made == (pipeline, step.step.id) else f", pipeline {made[0]}, stage {made[1]}"
        rows += [("made by run", f"{step.entry.run} on {when}{place}")]
        rows += [("because", str(step.entry.extra["reason"]))] if step.entry.extra.get("reason") else []
        rows += [("took", f"{step.entry.seconds:.1f} s")]
    rows += [(f"output {name}", artifact.digest) for name, artifact in step.outputs.items()]
    rows += [("note", note) for note in step.notes]
    return rows

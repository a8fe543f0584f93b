"""`orchestrate validate PIPELINE`: every mistake of a spec, each where it stands."""

from __future__ import annotations

from dataclasses import asdict

import click

from orchestrator.cli import options


@click.command(short_help="Check a pipeline's YAML; every mistake in one pass.")
@options.pipeline
@options.overrides
@click.option("-q", "--quiet", is_flag=True, help="Print nothing where all is well.")
@options.as_json
def command(
    pipeline: str, sets: tuple[str, ...], profile: str | None, storage: str | None, quiet: bool, as_json: bool
) -> int:
    """Check PIPELINE without running it or contacting its storage.

    Exit code 0 when it can run as written, 2 otherwise.
    """
    from orchestrator.errors import SpecError

    try:
        stages = _check(pipeline, sets, profile, storage)
    except SpecError as error:
        if not as_json:
            raise
        options.emit(ok=False, problems=[asdict(problem) for problem in error.problems])
        return error.exit_code
    if as_json:
        options.emit(ok=True, problems=[], stages=stages)
    elif not quiet:
        options.echo(f"{pipeline} is valid: {', '.join(stages)}; next: orchestrate plan {pipeline}")
    return 0


def _check(pipeline: str, sets: tuple[str, ...], profile: str | None, storage: str | None) -> list[str]:
    from orchestrator.errors import Problem
    from orchestrator.spec import load
    from orchestrator.steps import expand

    problems: list[Problem] = []
    spec = load(pipeline, sets=sets, profile=profile, storage=storage, problems=problems)
    return [step.label for step in expand(spec, problems).steps]

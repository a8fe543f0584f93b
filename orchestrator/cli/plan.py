"""`orchestrate plan PIPELINE`: what a run would do, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.units import size

if TYPE_CHECKING:
    from orchestrator.estimates import Outlook
    from orchestrator.planning import Plan, PlannedStep

WORK = 10
COLORS = {"run": "yellow", "cached": "cyan", "unknown": "magenta"}


@click.command(short_help="What a run would do: each stage, run or cached, and why.")
@options.pipeline
@options.overrides
@options.which_stages
@click.option("--detailed-exitcode", is_flag=True, help="Exit 10 when there is work, 0 when all is cached.")
@click.option("-v", "--verbose", is_flag=True, help="With keys and outputs.")
@options.as_json
def command(pipeline: str, detailed_exitcode: bool, verbose: bool, as_json: bool, **asked: Any) -> int:
    """Show what `orchestrate run PIPELINE` would do. Reads the storage, changes nothing.

    \b
    run      it would work; the reason says what changed
    cached   its result is there
    unknown  depends on a search that has to run first

    Time and disk are estimated from earlier runs of the pipeline: the median of a stage's latest ones, for a training the
    time of a step times the steps that no checkpoint has done yet, one stage after the other.
    """
    import orchestrator
    from orchestrator import estimates

    found = orchestrator.plan(pipeline, **asked)
    outlook = estimates.of(found)
    if as_json:
        options.emit(**found.to_json(), estimate=outlook.to_json())
    else:
        options.echo(_shown(found, outlook, verbose))
        if outlook.too_big and outlook.free is not None:
            free = f"only {size(outlook.free)} free in {found.store.url}"
            options.tell(f"warning: this will not fit: {size(outlook.size)} to be stored, {free}; see `orchestrate gc`")
        options.tell(f"next: orchestrate run {pipeline}" if found.has_work else "everything is cached")
    return WORK if detailed_exitcode and found.has_work else 0


def _shown(found: Plan, outlook: Outlook, verbose: bool) -> str:
    width = max((len(step.step.label) for step in found.steps), default=0)
    lines = []
    for step in found.steps:
        state = click.style(f"{step.state:<7}", fg=COLORS[step.state])
        estimate = outlook.of(step.step.id)
        lines.append(f"{step.step.label:<{width}}  {state}  {step.reason}")
        if estimate:
            lines.append(click.style(f"{'':<{width}}           {estimate}", dim=True))
        lines += [f"{'':<{width}}           note: {note}" for note in step.notes]
        if verbose:
            lines += [f"{'':<{width}}           {text}" for text in _details(step)]
    if outlook.steps:
        free = f"; {size(outlook.free)} free" if outlook.free is not None else ""
        lines.append(f"in all {outlook}{free}" if outlook.samples else f"{outlook}{free}")
    return "\n".join(lines)


def _details(step: PlannedStep) -> list[str]:
    lines = [f"uses {step.step.uses}, seed {step.step.seed}"]
    if step.sealed:
        lines.append(f"key {step.sealed.key[:16]}")
    lines += [f"{name} {artifact.digest[:16]}" for name, artifact in step.outputs.items()]
    return lines

"""`orchestrate diff RUN RUN`: what two runs have in common, and what not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.comparison import Change, Comparison, Score, StagePair

SAME = {True: "same", False: "differs", None: ""}


@click.command(short_help="What differs between two runs: spec, artifacts, scores.")
@click.argument("old", metavar="RUN", shell_complete=options.complete_runs)
@click.argument("new", metavar="RUN", shell_complete=options.complete_runs)
@options.storage
@options.as_json
def command(old: str, new: str, storage: str, as_json: bool) -> None:
    """Compare two runs, the second with the first: what was asked, what was made, how good it is.

    RUN is a run's id, or a pipeline's name for its newest run. `same` results are equal byte for byte.

    \b
    orchestrate diff dcgan-20261122-013000-ab12 dcgan
    """
    from orchestrator import comparison

    found = comparison.compare(options.find_run(storage, old), options.find_run(storage, new))
    if as_json:
        options.emit(**found.to_json())
    else:
        options.echo(_shown(found))
        for note in found.notes:
            options.tell(f"note: {note}")


def _shown(found: Comparison) -> str:
    from orchestrator.cli.runs import colored, took

    runs = [(sign, one.run_id, colored(one.status), took(one, one.status), " ".join(one.record.sets))
            for sign, one in (("-", found.old), ("+", found.new))]  # fmt: skip
    parts = [options.table(runs)]
    parts += _section("what was asked", [_change(change) for change in found.spec])
    parts += _section("stages", [_pair(pair) for pair in found.stages], ("STAGE", "RESULT", "-", "+", "TOOK", ""))
    asked = {change.name.rsplit(".", 1)[-1] for change in found.spec}
    config = [change for change in found.config if change.name.rsplit(" ", 1)[-1] not in asked]
    parts += _section("models as trained", [_change(change) for change in config])
    shown = [_score(score) for score in found.scores]
    parts += _section("scores", shown, ("STAGE", "SCORE", "-", "+", "CHANGE", ""))
    parts += _section("made with", [_change(change) for change in found.versions])
    return "\n".join(parts)


def _section(title: str, rows: Sequence[tuple[str, ...]], head: Sequence[str] = ()) -> list[str]:
    if not rows:
        return []
    return ["", click.style(title, bold=True), options.table(rows, head)]


def _change(change: Change) -> tuple[str, str]:
    return change.name, f"{_value(change.old)} -> {_value(change.new)}"


def _value(value: Any) -> str:
    return "unset" if value is None else value if isinstance(value, str) else options.one_line(value)


def _pair(pair: StagePair) -> tuple[str, ...]:
    from orchestrator.units import duration

    spent = " -> ".join(duration(seconds) if seconds else "?" for seconds in (pair.old_s, pair.new_s))
    result = click.style(SAME[pair.same], fg="yellow") if pair.same is False else SAME[pair.same]
    return pair.stage, result, pair.old, pair.new, "" if spent == "? -> ?" else spent, pair.reason


def _score(score: Score) -> tuple[str, ...]:
    from orchestrator.units import number

    old, new = (number(value) if value is not None else "" for value in (score.old, score.new))
    change = ""
    if score.old is not None and score.new is not None:
        change = "=" if score.old == score.new else f"{score.new - score.old:+.3g}"
    color = {"better": "green", "worse": "red"}.get(score.verdict)
    return score.stage, score.name, old, new, change, click.style(score.verdict, fg=color) if color else ""

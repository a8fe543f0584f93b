"""`orchestrate trials [RUN]`: what a search found, best first; and a spec in which its winner is fixed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.importance import Importances
    from orchestrator.outcomes import SearchResults, TrialResult
    from orchestrator.runs import Run

TOP = 20
REASONS = 10  # of failed trials that are told
COLORS = {"finished": "green", "failed": "red", "diverged": "red", "pruned": "yellow", "running": "yellow"}
LEAST_ROOM = 12  # for the searched values, where they share a column


@click.command(short_help="The trials of a search, best first; fix the winner in a spec.")
@click.argument("run", required=False, shell_complete=options.complete_runs)
@options.storage
@click.option("--stage", metavar="NAME", help="The search, where a run has several.")
@click.option(
    "--sort", metavar="KEY", help="score, steps, seconds, trial, a metric, or a searched path; - before it: descending."
)
@click.option("--status", multiple=True, metavar="NAME", help="Only these: finished, stopped, failed, … Repeatable.")
@click.option(
    "--top", type=click.IntRange(min=0), metavar="N", help=f"Only the first N (0: all)  [default: {TOP}; all as JSON]"
)
@click.option("--importances", is_flag=True, help="How much each searched value mattered, by fANOVA.")
@click.option(
    "--write-spec", metavar="FILE", help="Write the run's spec with the winner fixed and the search taken out."
)
@click.option("--trial", type=click.IntRange(min=0), metavar="K", help="Fix this trial instead of the winner.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@options.as_json
def command(
    run: str | None,
    storage: str,
    stage: str | None,
    sort: str | None,
    status: tuple[str, ...],
    top: int | None,
    importances: bool,
    write_spec: str | None,
    trial: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """List the trials of RUN's search: a run's id, or a pipeline's name (default: the newest run that searched).

    A search that runs, or was killed, is shown as far as it has come. Exits with 2 where there is no search, no such
    trial, or FILE is there already.

    \b
    orchestrate trials
    orchestrate trials dcgan --sort seconds --top 5
    orchestrate trials dcgan --sort optimizers.generator.lr --status finished
    orchestrate trials dcgan --write-spec pipelines/dcgan_fixed.yaml
    """
    from orchestrator import outcomes

    if trial is not None and write_spec is None:
        raise click.UsageError("--trial needs --write-spec FILE")
    found = outcomes.newest(options.find_run(storage, run), run)
    search = outcomes.of_run(found, stage)
    if write_spec is not None:
        _write(found, search, trial, write_spec, force, as_json)
        return
    chosen = _chosen(search, sort, status)
    shown = chosen[: (len(chosen) if as_json else TOP) if top is None else top or len(chosen)]
    weighed = _weighed(search) if importances else None
    if as_json:
        _emit(found, search, shown, weighed)
        return
    options.echo(_head(found, search))
    if shown:
        options.echo(_table(search, shown))
    if len(shown) < len(chosen):
        options.tell(f"{len(chosen) - len(shown)} more; --top 0 shows all")
    options.echo(_foot(search)) if _foot(search) else None
    if weighed is not None:
        options.echo(_importances(weighed))


def _chosen(search: SearchResults, sort: str | None, status: Sequence[str]) -> list[TrialResult]:
    from orchestrator.errors import BadInput
    from trainers.plugins import suggest

    known = sorted({trial.status for trial in search.trials})
    for name in status:
        if name not in known:
            raise BadInput(f"no trial is {name!r}", hint=suggest(name, known) or f"they are {', '.join(known)}")
    trials = [trial for trial in search.ranked() if not status or trial.status in status]
    return sorted_by(trials, search, sort) if sort else trials


def sorted_by(trials: Sequence[TrialResult], search: SearchResults, key: str) -> list[TrialResult]:
    """Trials by one value: a metric with the best first, anything else ascending; "-steps" descending; without it last.

    Raises BadInput for a key that no trial has.
    """
    from orchestrator.errors import BadInput
    from orchestrator.outcomes import shortened
    from trainers.plugins import suggest

    paths = search.varied()
    down = key.startswith("-")
    name = dict(zip(shortened(paths), paths, strict=True)).get(key.removeprefix("-"), key.removeprefix("-"))
    goals = {goal.name: goal for goal in search.goals}
    known = ["score", "steps", "seconds", "trial", "status", *goals, *paths]
    if name not in known and not any(name in trial.point for trial in trials):
        raise BadInput(
            f"trials have no {name!r} to sort by", hint=suggest(name, known) or f"they have {', '.join(known)}"
        )
    sign = goals[name].sign if name in goals else search.goal.sign if name == "score" else 1

    def value(trial: TrialResult) -> Any:
        match name:
            case "score":
                return trial.score
            case "trial":
                return trial.index
            case "steps" | "seconds" | "status":
                return getattr(trial, name)
        return trial.value(name) if name in goals else trial.point.get(name)

    def order(trial: TrialResult) -> tuple[Any, ...]:
        found = value(trial)
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        return (not number, sign * found if number else 0.0, "" if number else str(found))

    there = sorted((trial for trial in trials if value(trial) is not None), key=order, reverse=down)
    return [*there, *(trial for trial in trials if value(trial) is None)]


# --- text ---------------------------------------------------------------------------------------------------------------


def _head(run: Run, search: SearchResults) -> str:
    from collections import Counter

    from orchestrator import standing

    counts = Counter(trial.status for trial in search.trials)
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    goals = ", ".join(f"{goal.direction} {goal.name}" for goal in search.goals)
    parts = [f"{click.style(run.run_id, bold=True)}  {search.stage}: {len(search.trials)} trials ({told}); {goals}"]
    if not search.finished:
        state = standing.status(run)
        more = "" if state in ("running", "diverged") else "; running the pipeline again goes on from them"
        parts.append(
            f"the search is not finished (the run is {state}): these are the scores that it has kept so far{more}"
        )
    return "\n".join(parts)


def _table(search: SearchResults, trials: Sequence[TrialResult]) -> str:
    """One column a searched value where the terminal is wide enough, else one for all of them."""
    from orchestrator.outcomes import shortened
    from orchestrator.units import number

    more = [goal.name for goal in search.goals[1:]]
    head = ["TRIAL", "STATUS", search.goal.name.upper() if len(search.goals) > 1 else "SCORE", *map(str.upper, more)]
    head += ["STEPS", "SECONDS"]
    fixed = []
    for trial in trials:
        mark = "*" if trial.index == search.winner or trial.index in search.front else ""
        line = [f"{trial.index}{mark}", click.style(trial.status, fg=COLORS.get(trial.status)), _score(trial)]
        line += [number(value) if (value := trial.value(name)) is not None else "" for name in more]
        line += [str(trial.steps), "" if trial.seconds is None else f"{trial.seconds:.1f}"]
        fixed.append(line)
    names = search.varied()
    short = shortened(names)
    wide = [
        [*line, *(_text(trial.point.get(name)) for name in names)] for line, trial in zip(fixed, trials, strict=True)
    ]
    whole = options.table(wide, head=[*head, *short])
    if not sys.stdout.isatty() or _widest(wide, [*head, *short]) <= shutil.get_terminal_size().columns:
        return whole
    values = [
        ", ".join(
            f"{label} {_text(trial.point[name])}"
            for name, label in zip(names, short, strict=True)
            if name in trial.point
        )
        for trial in trials
    ]
    left_out = _fitting(fixed, head)
    rows = [[*(line[i] for i in left_out), text] for line, text in zip(fixed, values, strict=True)]
    return options.table(rows, head=[*(head[i] for i in left_out), "VALUES"])


def _fitting(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[int]:
    """Columns that leave room for the values on this terminal: seconds and steps go first."""
    kept = list(range(len(head)))
    for name in ("SECONDS", "STEPS"):
        if _widest([[line[i] for i in kept] for line in rows], [head[i] for i in kept]) + LEAST_ROOM <= _columns():
            break
        kept.remove(head.index(name))
    return kept


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _widest(rows: Sequence[Sequence[str]], head: Sequence[str]) -> int:
    lines = [head, *rows]
    return sum(max(len(click.unstyle(line[i])) for line in lines) + 2 for i in range(len(head))) - 2


def _score(trial: TrialResult) -> str:
    from orchestrator.units import number

    if trial.score is None:
        return ""
    text = number(trial.score)
    return f"{text} [{number(trial.interval[0])}, {number(trial.interval[1])}]" if trial.interval else text


def _text(value: Any) -> str:
    """A searched value in a few characters."""
    from orchestrator.manuscript import in_line
    from orchestrator.units import number

    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict) and len(value) == 1 and not next(iter(value.values())):
        return str(next(iter(value)))
    if isinstance(value, list):
        return " + ".join(_text(item) for item in value) or "none"
    return "" if value is None else in_line(value)


def _foot(search: SearchResults) -> str:
    parts = []
    if search.winner is not None and search.finished:
        parts.append(
            f"* the winner{' and the Pareto front' if len(search.goals) > 1 else ''}; --write-spec FILE fixes it in a spec"
        )
    bad = [trial for trial in search.failed if trial.error]
    parts += [f"trial {trial.index} {trial.status}: {trial.error}" for trial in bad[:REASONS]]
    if len(bad) > REASONS:
        parts.append(f"and {len(bad) - REASONS} more; --status {bad[0].status} --json has every reason")
    return "\n".join(parts)


def _weighed(search: SearchResults) -> Importances:
    from orchestrator.importance import weigh

    return weigh(search)


def _importances(weighed: Importances) -> str:
    parts = ["", weighed.note]
    if weighed.shares:
        rows = [(name, f"{share:.0%}", "█" * round(30 * share)) for name, share in weighed.shares]
        parts.append(options.table(rows, head=("VALUE", "SHARE", "")))
    return "\n".join(parts)


# --- programs and files ---------------------------------------------------------------------------------------------------


def _emit(run: Run, search: SearchResults, trials: Sequence[TrialResult], weighed: Importances | None) -> None:
    options.emit(
        run=run.run_id,
        stage=search.stage,
        finished=search.finished,
        goals=[{"name": goal.name, "direction": goal.direction} for goal in search.goals],
        rungs=list(search.rungs),
        winner=search.winner,
        front=list(search.front),
        num_trials=len(search.trials),
        trials=[trial.to_json() for trial in trials],
        **({"importances": weighed.to_json()} if weighed else {}),
    )


def _write(run: Run, search: SearchResults, trial: int | None, path: str, force: bool, as_json: bool) -> None:
    import orchestrator
    from orchestrator import fixed
    from orchestrator.errors import BadInput

    index = search.winner if trial is None else trial
    if index is None:
        raise BadInput(f"{search.stage} has no winner yet", hint="--trial K chooses one")
    fixed.refuse(path, force=force)
    made = fixed.fixed(run, search, index)
    with fixed.draft(made.text) as file:
        orchestrator.plan(file, storage=run.store.url)
    fixed.write(path, made.text, force=force)
    notes = made.notes if search.finished else [*made.notes, "the search is not finished: a later trial may be better"]
    if as_json:
        options.emit(run=run.run_id, stage=search.stage, trial=index, file=path, notes=notes)
        return
    for note in notes:
        options.tell(note)
    options.echo(f"{path} fixes trial {index} of {search.stage}; `orchestrate run {path}` trains it")

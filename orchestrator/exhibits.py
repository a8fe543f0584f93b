"""What MLflow shows of a search: its table, a page with its charts, and its trials as nested runs.

A nested run costs MLflow about a tenth of a second. Up to FOLLOWED trainings each has its own, and is followed step by step; of
a larger search the best and the first that failed get one when it ends, and the table holds all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator import outcomes
from orchestrator.failures import one_line
from orchestrator.space import flat

if TYPE_CHECKING:
    from orchestrator.outcomes import SearchResults, TrialResult
    from orchestrator.stage import Context, StageTracker

FOLLOWED = 32  # trainings (trials times seeds)
BEST = 20  # of a larger search
FAILED = 5
FOLDER = "search"


def follows(count: int | None) -> bool:
    """Whether each of so many trainings has a nested run of its own; None: nobody knows how many there will be."""
    return count is not None and count <= FOLLOWED


def show(context: Context, table: Mapping[str, Any], seconds: Mapping[int, float], *, followed: bool) -> None:
    """Tell of a finished search; `table` is what trials.json holds, `seconds` how long each trial took.

    What cannot be shown is told: the search stands.
    """
    tracker = context.tracker
    search = outcomes.parse(table, context.stage, seconds)
    tracker.artifact(f"{FOLDER}/trials.json", (json.dumps(table, indent=1, sort_keys=True) + "\n").encode())
    tracker.artifact(f"{FOLDER}/trials.csv", listed(search).encode())
    try:
        tracker.artifact(f"{FOLDER}/search.html", page(search).encode())
    except Exception as error:  # noqa: BLE001
        context.progress.say(f"no page of the search for MLflow: {one_line(error)}")
    if not followed:
        ranked = [trial for trial in search.ranked() if trial.score is not None and trial.status not in outcomes.BAD]
        for trial in [*ranked[:BEST], *search.failed[:FAILED]]:
            _child(tracker, trial, search)


def _child(tracker: StageTracker, trial: TrialResult, search: SearchResults) -> None:
    child = tracker.child(f"trial-{trial.index:03d}")
    child.params(flat(trial.config))
    child.tags({"status": trial.status} | ({"error": trial.error} if trial.error else {}))
    for step, score in trial.scores.items():
        child.metrics({search.goal.name: score, "score": score}, step=step)
    if trial.values or trial.seconds is not None:
        spent = {} if trial.seconds is None else {"seconds": trial.seconds}
        child.metrics({**trial.values, **spent}, step=trial.steps)
    child.end("FAILED" if trial.status in outcomes.BAD else "FINISHED")


def listed(search: SearchResults) -> str:
    """The trials as CSV, best first, one column a searched value."""
    names = list(dict.fromkeys(name for trial in search.trials for name in trial.point))
    goals = [goal.name for goal in search.goals]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "status", *goals, "low", "high", "steps", "seconds", *names, "error"])
    for trial in search.ranked():
        low, high = trial.interval or (None, None)
        values = [_text(trial.point.get(name)) for name in names]
        scores = [trial.value(name) for name in goals]
        spent = None if trial.seconds is None else round(trial.seconds, 3)
        writer.writerow([trial.index, trial.status, *scores, low, high, trial.steps, spent, *values, trial.error])
    return out.getvalue()


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def page(search: SearchResults) -> str:
    """The report's section of a search as a page of its own, which loads nothing."""
    from orchestrator import report
    from orchestrator.report.search import of

    section = of(search)
    section.anchor = "search"
    return report.render(report.Page(search.stage, "", "", "", sections=[section]))


__all__ = ["follows", "listed", "page", "show"]

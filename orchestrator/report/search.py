"""What the report shows of a search: the best trials, what mattered, how trials went, and how they fared.

However many trials there were, the page stays small: DRAWN of them are drawn and LISTED are listed, and it says so.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator import importance, outcomes
from orchestrator.report import search_charts as charts
from orchestrator.report.sections import Block, Cell, Section, cell, marked_safe, numeric
from orchestrator.units import number

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore
    from orchestrator.outcomes import SearchResults, TrialResult

DRAWN = 300  # trials in a chart
MANY = 100  # lines that hide each other unless they are thin
BEST_DRAWN = 100  # of them the best; the others are spread evenly
BEST = 10  # rows of the first table
LISTED = 200  # rows of the table of trials
REASONS = 8  # of failed trials
AXES = 8  # searched values against the score, those that matter most
GOALS = 3  # metrics drawn against the first


def section(stage: str, artifact: Artifact, store: ArtifactStore) -> Section:
    """The section of a `search` artifact."""
    search = outcomes.read(store, artifact, stage)
    made = of(search)
    winner = artifact.metadata.get("winner")
    if winner:
        text = json.dumps(winner, indent=2, sort_keys=True)
        made.blocks.append({"kind": "source", "summary": "The winner's train configuration", "text": text})
    return made


def of(search: SearchResults) -> Section:
    """A search as a section of a page."""
    goals = ", ".join(f"{goal.direction} {goal.name}" for goal in search.goals)
    count = len(search.trials)
    made = Section(search.stage, f"Search: {search.stage}", f"{count:,} trials, {len(search.failed):,} failed; {goals}")
    ranked = search.ranked()
    names = search.varied()
    weighed = importance.weigh(search)
    made.blocks.append({"title": "Best trials", **_table(search, ranked[:BEST], names)})
    made.blocks.append(_drawn(search, ranked, names, weighed))
    if reasons := _reasons(search):
        made.blocks.append({"title": "Why trials failed", **reasons})
    if count > BEST:
        summary = f"All {count} trials" if count <= LISTED else f"The best {LISTED} of {count:,} trials"
        rows = {**_table(search, ranked[:LISTED], names), "summary": summary}
        rows["note"] = f"`orchestrate trials --top 0` lists all {count:,}." if count > LISTED else ""
        made.blocks.append(rows)
    return made


# --- charts -------------------------------------------------------------------------------------------------------------


def _drawn(
    search: SearchResults, ranked: Sequence[TrialResult], names: Sequence[str], weighed: importance.Importances
) -> Block:
    """Every chart, with what the script shows of a trial."""
    trials = _sampled(search, ranked)
    goal, winner = search.goal, search.winner
    figures: list[dict[str, Any]] = [
        {
            "title": f"{goal.name} of each trial",
            "svg": charts.history(trials, goal, winner),
            "legend": _history_legend(trials),
        },
        {
            "title": f"{goal.name} over steps, by rung",
            "svg": charts.curves(trials, search.rungs, goal, winner),
            "legend": _curve_legend(search, trials),
        },
    ]
    for other in search.goals[1 : 1 + GOALS]:
        figures.append(
            {
                "title": f"{other.name} against {goal.name}",
                "svg": charts.pareto(trials, (goal, other), search.front, winner),
                "legend": [("dot c0", "the Pareto front"), ("dot best", "the winner"), ("dot c7", "other trials")],
            }
        )
    figures.append(
        {
            "title": "Importance of the searched values",
            "svg": charts.bars(weighed.shares) if weighed.shares else "",
            "note": weighed.note,
            "legend": [],
        }
    )
    axes = _axes(names, weighed)
    left_out = f", the {len(axes)} of {len(names)} that matter most" if len(axes) < len(names) else ""
    wide = charts.parallel(trials, axes, goal, winner)
    return {
        "kind": "search",
        "charts": [{**one, "svg": marked_safe(one["svg"])} for one in figures if one["svg"] or one.get("note")],
        "wide": marked_safe(wide),
        "many": len(trials) > MANY,
        "wide_title": f"Searched values against {goal.name}{left_out}",
        "tips": json.dumps({str(trial.index): _tip(trial, search) for trial in trials}),
        "note": ""
        if len(trials) == len(search.trials)
        else (
            f"Charts draw {len(trials)} of {len(search.trials):,} trials: the best {BEST_DRAWN}, the Pareto front, "
            "and others that were scored, spread evenly over the search."
        ),
    }


def _sampled(search: SearchResults, ranked: Sequence[TrialResult]) -> list[TrialResult]:
    """At most DRAWN trials (and the front), by index."""
    if len(ranked) <= DRAWN:
        return list(search.trials)
    chosen = {trial.index for trial in ranked[:BEST_DRAWN]} | set(search.front)
    rest = [trial for trial in search.trials if trial.index not in chosen and trial.scores]
    wanted = min(max(DRAWN - len(chosen), 0), len(rest))
    chosen |= {rest[i * len(rest) // wanted].index for i in range(wanted)}
    return [trial for trial in search.trials if trial.index in chosen]


def _axes(names: Sequence[str], weighed: importance.Importances) -> list[str]:
    """At most AXES of the searched values, in the order in which they were written."""
    shares: Counter[str] = Counter()
    for name, share in weighed.shares:
        shares[name.split(": ")[0]] += share  # type: ignore[assignment]
    kept = sorted(names, key=lambda name: -shares[name])[:AXES]
    return [name for name in names if name in kept]


def _history_legend(trials: Sequence[TrialResult]) -> list[tuple[str, str]]:
    """Only of what there is."""
    steps = [trial.steps for trial in trials if trial.score is not None]
    whole = steps.count(max(steps, default=0))
    found = [("dot best", "the winner")]
    found += [("dot c0", "went to the end"), ("rule bound", "best so far")] if whole > 1 else []
    return found + ([("dot c7", "did not go to the end")] if whole < len(steps) else [])


def _curve_legend(search: SearchResults, trials: Sequence[TrialResult]) -> list[tuple[str, str]]:
    counts = Counter(trial.status for trial in search.trials)
    found = [("ring stopped", f"{counts['stopped']:,} stopped at a rung")] if counts["stopped"] else []
    found += [("ring pruned", f"{counts['pruned']:,} pruned")] if counts["pruned"] else []
    copies = sum(len(trial.changes) for trial in search.trials)
    found += [("ring copied", f"{copies:,} times a copy of a better trial (PBT)")] if copies else []
    bad = counts["failed"] + counts["diverged"]
    early = sum(not trial.scores for trial in search.trials if trial.status in outcomes.BAD)
    note = f"{bad:,} failed" + (f", {early:,} before their first score" if early else "")
    return found + ([("ring failed", note)] if bad else [])


def _tip(trial: TrialResult, search: SearchResults) -> str:
    values = ", ".join(f"{name} {charts.label_of(value)}" for name, value in trial.point.items())
    score = "no score" if trial.score is None else f"{search.goal.name} {number(trial.score)}"
    more = "".join(f", {name} {number(value)}" for name, value in trial.values.items() if name != search.goal.name)
    return f"trial {trial.index}: {score}{more} at step {trial.steps}, {trial.status}; {values}"


# --- tables -------------------------------------------------------------------------------------------------------------


def _table(search: SearchResults, trials: Sequence[TrialResult], names: Sequence[str]) -> Block:
    goals = [goal.name for goal in search.goals]
    columns: list[dict[str, Any]] = [{"name": name, "numeric": True} for name in ("trial", *goals)]
    for name, short in zip(names, outcomes.shortened(names), strict=True):
        numbers = numeric(trial.point.get(name) for trial in trials)
        columns.append({"name": short, "numeric": numbers, "title": name if short != name else ""})
    columns += [{"name": "steps", "numeric": True}, {"name": "status", "numeric": False}]
    rows = []
    for trial in trials:
        cells = [cell(trial.index), _score(trial), *(cell(trial.value(name)) for name in goals[1:])]
        cells += [_value(trial.point.get(name)) for name in names]
        cells += [cell(trial.steps), cell(f"{trial.status}: {trial.error}" if trial.error else trial.status)]
        rows.append({"marked": trial.index == search.winner, "cells": cells})
    return {"kind": "table", "sortable": True, "columns": columns, "rows": rows}


def _score(trial: TrialResult) -> Cell:
    if trial.score is None or trial.interval is None:
        return cell(trial.score)
    low, high = trial.interval
    return Cell(f"{number(trial.score)} [{number(low)}, {number(high)}]", str(trial.score))


def _value(value: Any) -> Cell:
    return (
        cell(value)
        if value is None or isinstance(value, (int, float))
        else Cell(charts.label_of(value), charts.label_of(value))
    )


def _reasons(search: SearchResults) -> Mapping[str, Any] | None:
    """Why trials failed, alike ones counted together."""
    groups: dict[tuple[str, str], list[TrialResult]] = {}
    for trial in search.failed:
        groups.setdefault((trial.status, re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", trial.error)), []).append(trial)
    if not groups:
        return None
    ordered = sorted(groups.items(), key=lambda one: -len(one[1]))
    columns = [{"name": name, "numeric": name == "trials"} for name in ("trials", "status", "the first", "reason")]
    rows = [
        {"marked": False, "cells": [cell(len(same)), cell(status), cell(f"trial {same[0].index}"), cell(same[0].error)]}
        for (status, _), same in ordered[:REASONS]
    ]
    left = len(ordered) - REASONS
    note = f"and {left} more kinds; `orchestrate trials --json` has every reason" if left > 0 else ""
    return {"kind": "table", "sortable": False, "columns": columns, "rows": rows, "note": note}


__all__ = ["of", "section"]

"""Charts of a search as inline SVG: trials in their order, by rung, against their values, against each other, importances.

Every mark of a trial carries `data-t`, so that the page's script can show one trial in all of them. Colours are CSS classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from orchestrator.outcomes import shortened
from orchestrator.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, short, svg
from orchestrator.units import number

if TYPE_CHECKING:
    from orchestrator.outcomes import Goal, TrialResult

LOG_FROM = 9.0  # values that spread by more are spaced by their logarithm
CROWDED = 0.15
CLASSES = 5  # of trials by rank: q0 (the best fifth) … q4
FEW = 6  # labels of numbers
MOST_LABELS = 12  # of one axis
ENDS = {"stopped": "stopped", "pruned": "pruned", "failed": "failed", "diverged": "failed"}


@dataclass(frozen=True)
class Scale:
    """A value's place on an axis; `ticks` are (label, place)."""

    axis: Axis
    places: Mapping[str, float]  # of texts
    ticks: Sequence[tuple[str, float]]

    def __call__(self, value: Any) -> float:
        return self.places[label_of(value)] if self.places else self.axis(float(value))


def scale(values: Sequence[Any], start: float, end: float, *, share: float = 0.0) -> Scale:
    """An axis for numbers (by logarithm where they spread, or crowd at the low end) or for anything else as texts.

    `share` of the numbers is cut off on each side.
    """
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        ordered = sorted(float(v) for v in values)
        cut = int(len(ordered) * share)
        low, high = ordered[cut], ordered[-1 - cut]
        crowded = ordered[len(ordered) // 2] - low < CROWDED * (high - low)  # outliers would take all the room
        log = low > 0 and (high / low > LOG_FROM or (crowded and high / low > 2))
        axis = Axis(low, high, start, end, log=log)
        if low == high:
            return Scale(Axis(low - 1, high + 1, start, end), {}, [(number(low), (start + end) / 2)])
        distinct = sorted({value for value in ordered if low <= value <= high})
        ticks = distinct if len(distinct) <= FEW else _log_ticks(low, high) if axis.log else axis.ticks()
        ticks = [tick for tick in ticks if low <= tick <= high]
        ticks = ticks if len(ticks) > 1 else [low, high]
        return Scale(axis, {}, [(number(tick), axis(tick)) for tick in ticks])
    texts = sorted({label_of(v) for v in values}, key=lambda text: (len(text) > 0, text))
    gap = (end - start) / max(len(texts) - 1, 1)
    places = {t: start + gap * i if len(texts) > 1 else (start + end) / 2 for i, t in enumerate(texts)}
    every = math.ceil(len(texts) / MOST_LABELS)
    return Scale(Axis(0, 1, start, end), places, [(t, places[t]) for t in texts[::every]])


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … over a range; powers of ten only over a long one."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    within = [
        [m * 10.0**p for p in powers for m in steps if low <= m * 10.0**p <= high]
        for steps in ((1, 2, 5), (1, 3), (1,))
    ]
    found = next((ticks for ticks in within if len(ticks) <= FEW), within[-1])
    return found[:: math.ceil(len(found) / FEW)] if found else []


def label_of(value: Any) -> str:
    """A searched value as a tick: a plugin with its parameters, a set of hacks joined by +."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} {label_of(item)}".strip() if item not in (None, {}) else str(name) for name, item in value.items()
        )
    if isinstance(value, (list, tuple)):
        return " + ".join(map(label_of, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return number(value) if isinstance(value, float) else str(value)


# --- one chart each -----------------------------------------------------------------------------------------------------


def history(trials: Sequence[TrialResult], goal: Goal, winner: int | None) -> str:
    """Score by trial, in the order in which they were proposed, and the best of the farthest so far."""
    scored = [trial for trial in trials if trial.score is not None]
    if not scored:
        return ""
    x = Axis(scored[0].index, max(scored[-1].index, scored[0].index + 1), LEFT + 6, WIDTH - RIGHT - 6)
    y = scale([trial.score for trial in scored], HEIGHT - BOTTOM - 4, TOP + 4)
    body = [_frame(y, _ticks(x))]
    last = max(trial.steps for trial in scored)
    whole = [trial for trial in scored if trial.steps == last]
    bests = accumulate((goal.sign * (trial.score or 0.0) for trial in whole), min)
    steps = [(x(trial.index), y(goal.sign * best)) for trial, best in zip(whole, bests, strict=True)]
    if len(steps) > 1:
        corners = [steps[0]]
        for (_, before), (here, best) in pairwise(steps):
            corners += [(here, before), (here, best)]
        body.append(f'<polyline points="{_points(corners)}" class="line bound"/>')
    for trial in scored:
        kind = "best" if trial.index == winner else "c0" if trial.steps == last else "c7"
        body.append(_dot(x(trial.index), y(trial.score), trial, kind, goal, 6 if kind == "best" else 3.5))
    return svg(body, f"{goal.name} of each trial")


def curves(trials: Sequence[TrialResult], rungs: Sequence[int], goal: Goal, winner: int | None) -> str:
    """Score over steps, one line a trial, by rung; how a trial that did not finish ended stands at its end.

    Where PBT made a trial a copy of another, the point from which it goes on as that is marked.
    """
    drawn = [trial for trial in trials if trial.scores]
    steps = sorted({step for trial in drawn for step in trial.scores})
    if len(steps) < 2:
        return ""
    x = Axis(steps[0], steps[-1], LEFT + 6, WIDTH - RIGHT - 6, log=steps[-1] / max(steps[0], 1) >= 4)
    y = scale([score for trial in drawn for score in trial.scores.values()], HEIGHT - BOTTOM - 4, TOP + 4, share=0.01)
    low, high = sorted((y.axis.low, y.axis.high))
    marked = steps if len(steps) <= 6 else steps[:: math.ceil(len(steps) / 6)]
    body = [_frame(y, [(f"{step:,}", x(step)) for step in marked])]
    ends = []
    for trial in sorted(drawn, key=lambda one: (one.index == winner, one.steps)):
        points = [(x(step), y(min(max(score, low), high))) for step, score in trial.scores.items()]
        kind = "best" if trial.index == winner else "whole" if trial.steps == steps[-1] else "faint"
        if len(points) > 1:
            body.append(f'<polyline points="{_points(points)}" class="line {kind}" data-t="{trial.index}"/>')
        for step in (change["step"] for change in trial.changes if change["step"] in trial.scores):
            place = f'cx="{x(step):.1f}" cy="{y(min(max(trial.scores[step], low), high)):.1f}" r="2.5"'
            ends.append(f'<circle {place} class="end-mark copied" data-t="{trial.index}"/>')
        if trial.status in ENDS:
            ends.append(_end(*points[-1], trial))
    return svg([*body, *ends], f"{goal.name} over steps")


def _end(x: float, y: float, trial: TrialResult) -> str:
    """How a trial ended: a ring (stopped), a diamond (pruned), a cross (failed)."""
    kind = ENDS[trial.status]
    tip = f"<title>{escape(f'trial {trial.index} {trial.status}')}</title>"
    if kind == "stopped":
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" class="end-mark stopped" data-t="{trial.index}">{tip}</circle>'
        )
    r = 4
    path = f"M{x - r:.1f},{y - r:.1f}l{2 * r},{2 * r}m0,{-2 * r}l{-2 * r},{2 * r}"
    if kind == "pruned":
        path = f"M{x:.1f},{y - r:.1f}l{r},{r}l{-r},{r}l{-r},{-r}z"
    return f'<path d="{path}" class="end-mark {kind}" data-t="{trial.index}">{tip}</path>'


def pareto(trials: Sequence[TrialResult], goals: tuple[Goal, Goal], front: Sequence[int], winner: int | None) -> str:
    """Two metrics of every trial that has both; the front is joined where there are only these two."""
    across, up = goals
    found = [
        (t, a, b) for t in trials if (a := t.value(across.name)) is not None and (b := t.value(up.name)) is not None
    ]
    if len(found) < 2:
        return ""
    x = scale([a for _, a, _ in found], LEFT + 6, WIDTH - RIGHT - 6)
    y = scale([b for _, _, b in found], HEIGHT - BOTTOM - 18, TOP + 4)
    body = [_frame(y, x.ticks, bottom=HEIGHT - BOTTOM + 3)]
    better = {1: "← better", -1: "better →"}[across.sign]
    body.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 5}" class="tick middle">{escape(across.name)} {better}</text>'
    )
    best = sorted((one for one in found if one[0].index in front), key=lambda one: one[1])
    body.append(f'<polyline points="{_points([(x(a), y(b)) for _, a, b in best])}" class="line bound"/>')
    for trial, a, b in sorted(found, key=lambda one: one[0].index in front):
        kind = "best" if trial.index == winner else "c0" if trial.index in front else "c7"
        tip = f"trial {trial.index}: {across.name} {number(a)}, {up.name} {number(b)}"
        r = 6 if kind == "best" else 4.5 if kind == "c0" else 3
        body.append(
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="{r}" class="dot {kind}" data-t="{trial.index}">'
            f"<title>{escape(tip)}</title></circle>"
        )
    return svg(body, f"{across.name} against {up.name}")


def bars(shares: Sequence[tuple[str, float]]) -> str:
    """Named shares in [0, 1] as horizontal bars."""
    row, left = 24, 190
    height = row * len(shares) + 8
    axis = Axis(0.0, max(0.01, *(share for _, share in shares)), left, WIDTH - 50)
    body = []
    for i, (name, share) in enumerate(shares):
        y, end = i * row + 4, axis(share)
        body.append(f'<text x="{left - 8}" y="{y + 13}" class="tick end">{escape(_end_of(name, 30))}</text>')
        body.append(
            f'<rect x="{left}" y="{y + 1}" width="{max(end - left, 1.5):.1f}" height="{row - 9}" rx="3" class="bar succeeded"/>'
        )
        body.append(f'<text x="{max(end, left + 1.5) + 6:.1f}" y="{y + 13}" class="tick">{share:.0%}</text>')
    return svg(body, "importances", WIDTH, height)


def parallel(trials: Sequence[TrialResult], names: Sequence[str], goal: Goal, winner: int | None) -> str:
    """Parallel coordinates: one vertical axis a searched value and the score last; one line a trial, best on top.

    A value that a trial does not have (of a variant or hack that it did not choose) is a notch below its axis. The script
    lets a reader choose a range on an axis.
    """
    scored = [trial for trial in trials if trial.score is not None]
    names = [name for name in names if any(trial.point.get(name) is not None for trial in scored)]
    if len(scored) < 2 or not names:
        return ""
    top, bottom, height = 40, 262, 300
    columns = [[trial.point.get(name) for trial in scored] for name in names] + [[trial.score for trial in scored]]
    heads = [*shortened(names), goal.name]
    gap = max(104.0, 860.0 / len(heads))
    body, lines = [], []
    tracks: list[list[float]] = []
    for i, (head, values) in enumerate(zip(heads, columns, strict=True)):
        x = 30 + i * gap
        present = [value for value in values if value is not None]
        # Better is up on the last axis.
        ends = (top, bottom) if i == len(names) and goal.sign > 0 else (bottom, top)
        found = scale(present, *ends)
        tracks.append([bottom + 20 if value is None else found(value) for value in values])
        body.append(_axis(i, x, head, found, top, bottom, gap, notch=len(present) < len(values)))
    order = sorted(range(len(scored)), key=lambda k: goal.sign * (scored[k].score or 0.0))
    for rank in reversed(range(len(order))):
        trial = scored[order[rank]]
        kind = "best" if trial.index == winner else f"q{rank * CLASSES // len(order)}"
        points = _points([(30 + i * gap, track[order[rank]]) for i, track in enumerate(tracks)])
        lines.append(f'<polyline points="{points}" class="line {kind}" data-t="{trial.index}"/>')
    lines.sort(key=lambda line: 'class="line best"' in line)  # the winner is on top although another may score better
    width = 30 + (len(heads) - 1) * gap + 8 + max(60.0, min(6.6 * len(goal.name), 150.0))
    return svg([*lines, *body], "searched values of each trial", width, height)


def _axis(i: int, x: float, head: str, found: Scale, top: float, bottom: float, gap: float, *, notch: bool) -> str:
    room = int(gap / 6.6)
    place = f'x="{x - 6:.1f}" y="{16 if i % 2 == 0 else 30}" class="tick strong"'
    parts = [f'<g class="axis-of" data-axis="{i}">', _text(place, head, _end_of(head, int(room * 1.7)))]
    parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" class="axis"/>')
    for text, y in found.ticks:
        parts.append(_text(f'x="{x + 5:.1f}" y="{y + 4:.1f}" class="tick halo"', text, short(text, room - 1)))
    if notch:
        parts.append(f'<text x="{x + 5:.1f}" y="{bottom + 24}" class="tick halo">not there</text>')
    parts.append(f'<rect x="{x - 12:.1f}" y="{top - 6}" width="24" height="{bottom - top + 34}" class="brush"/></g>')
    return "".join(parts)


def _text(place: str, whole: str, shown: str) -> str:
    """A label, and all of it as its tooltip where it is cut."""
    title = "" if shown == whole else f"<title>{escape(whole)}</title>"
    return f"<text {place}>{title}{escape(shown)}</text>"


# --- parts --------------------------------------------------------------------------------------------------------------


def _dot(x: float, y: float, trial: TrialResult, kind: str, goal: Goal, radius: float) -> str:
    tip = escape(f"trial {trial.index}: {goal.name} {number(trial.score or 0.0)}, {trial.steps} steps")
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    return f'<circle {place} class="dot {kind}" data-t="{trial.index}"><title>{tip}</title></circle>'


def _frame(y: Scale, across: Sequence[tuple[str, float]], bottom: float = HEIGHT - 8) -> str:
    """Grid lines with the labels of both axes."""
    parts = []
    for text, place in y.ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{place + 4:.1f}" class="tick end">{escape(text)}</text>')
    for text, place in across:
        parts.append(f'<text x="{place:.1f}" y="{bottom}" class="tick middle">{escape(text)}</text>')
    return "".join(parts)


def _ticks(axis: Axis) -> list[tuple[str, float]]:
    """Whole numbers only: trials are counted."""
    return [(number(tick), axis(tick)) for tick in axis.ticks() if tick == int(tick)]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _end_of(text: str, limit: int) -> str:
    """The end of a dotted path says more than its beginning."""
    return text if len(text) <= limit else "…" + text[1 - limit :]


__all__ = ["bars", "curves", "history", "label_of", "parallel", "pareto"]

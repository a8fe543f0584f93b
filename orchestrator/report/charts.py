"""Charts as inline SVG text: no script, no image library, readable in light and dark (colours are CSS classes)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from orchestrator.units import duration, number

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 10, 26
MAX_POINTS = 300
COLORS = 8  # classes c0 .. c7 of the style sheet


@dataclass(frozen=True)
class Series:
    """A named line: `x` ascending, `y` finite or not (a gap)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """Maps values of [low, high] to pixels of [start, end], linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """A few round values inside the range."""
        if self.log and self.high / self.low >= 10:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**p for p in powers][:: max(1, len(powers) // 5)]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        raw = span / 4
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, first + 7) if i * step <= self.high + span * 1e-9]


def lines(series: Sequence[Series], *, label: str = "", marked: int | None = None) -> str:
    """A line chart. Values are averaged over at most MAX_POINTS buckets; the outer 1 % on each side is clipped.

    With `marked` one line stands out (none: -1) and the others are faint.
    """
    drawn = [thinned for thinned in (_thin(s) for s in series) if len(thinned.x)]
    if not drawn:
        return ""
    x_axis = Axis(min(s.x[0] for s in drawn), max(s.x[-1] for s in drawn), LEFT, WIDTH - RIGHT)
    low, high = _range([value for s in drawn for value in s.y])
    y_axis = Axis(low, high, HEIGHT - BOTTOM, TOP)
    body = [_grid(x_axis, y_axis)]
    for index, one in enumerate(drawn):
        kind = f"c{index % COLORS}" if marked is None else "best" if index == marked else "faint"
        points = [(x_axis(x), y_axis(min(max(y, low), high))) for x, y in zip(one.x, one.y, strict=True)]
        if len(points) == 1:
            body.append(f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3" class="dot {kind}"/>')
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        title = f"{one.name}: last {number(one.y[-1])}"
        body.append(f'<polyline points="{path}" class="line {kind}"><title>{escape(title)}</title></polyline>')
    return _svg(body, label or "line chart")


def scatter(points: Sequence[tuple[float, float, str, bool]], *, label: str) -> str:
    """Points (x, y, tooltip, marked)."""
    finite = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    if not finite:
        return ""
    x_axis = Axis(min(p[0] for p in finite), max(p[0] for p in finite), LEFT + 6, WIDTH - RIGHT - 6)
    low, high = _range([p[1] for p in finite], share=0.0)
    y_axis = Axis(low, high, HEIGHT - BOTTOM, TOP)
    body = [_grid(x_axis, y_axis)]
    for x, y, tip, marked in finite:
        kind = "dot best" if marked else "dot c0"
        body.append(
            f'<circle cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="{6 if marked else 4}" class="{kind}">'
            f"<title>{escape(tip)}</title></circle>"
        )
    return _svg(body, label)


def parallel(rows: Sequence[Mapping[str, Any]], names: Sequence[str], best: int | None, *, label: str) -> str:
    """Parallel coordinates: one vertical axis a column of `names`, one line a row; the row `best` stands out."""
    complete = [(i, row) for i, row in enumerate(rows) if all(row.get(name) is not None for name in names)]
    if len(complete) < 2 or len(names) < 2:
        return ""
    width, height, top, bottom = max(2 * WIDTH, 150 * len(names)), 260, 36, 18
    gap = (width - 2 * 70) / (len(names) - 1)
    body, axes = [], []
    for position, name in enumerate(names):
        x = 70 + position * gap
        axis, ticks = _column([row[name] for _, row in complete], height - bottom, top)
        axes.append((x, axis))
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}" class="axis"/>')
        body.append(f'<text x="{x:.1f}" y="16" class="tick middle strong">{escape(_short(name, 24))}</text>')
        body += [
            f'<text x="{x + 5:.1f}" y="{y + 4:.1f}" class="tick">{escape(_short(text, 18))}</text>' for text, y in ticks
        ]
    ordered = sorted(complete, key=lambda pair: pair[0] == best)  # the best is drawn last, on top
    drawn = []
    for index, row in ordered:
        path = " ".join(f"{x:.1f},{axis(row[name]):.1f}" for name, (x, axis) in zip(names, axes, strict=True))
        kind = "best" if index == best else "faint"
        drawn.append(f'<polyline points="{path}" class="line {kind}"><title>trial {index}</title></polyline>')
    return _svg([*drawn, *body], label, width, height)


@dataclass(frozen=True)
class Bar:
    """One stage in time: seconds since the run began; `state` names its CSS class."""

    name: str
    start: float
    end: float
    state: str


def gantt(bars: Sequence[Bar]) -> str:
    """Stages as bars over the seconds of the run."""
    if not bars or max(bar.end for bar in bars) <= 0:
        return ""
    width, row, left = 920, 24, 150
    height = row * len(bars) + 28
    axis = Axis(0.0, max(bar.end for bar in bars), left, width - 60)
    body = []
    for tick in _clock_ticks(axis.high):
        x = axis(tick)
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 22}" class="grid"/>')
        body.append(f'<text x="{x:.1f}" y="{height - 6}" class="tick middle">{escape(duration(tick))}</text>')
    for index, bar in enumerate(bars):
        y, x = index * row + 4, axis(bar.start)
        length = max(axis(bar.end) - x, 3)
        took = duration(bar.end - bar.start)
        body.append(f'<text x="{left - 8}" y="{y + 13}" class="tick end">{escape(_short(bar.name, 22))}</text>')
        body.append(
            f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{row - 8}" rx="3" class="bar {escape(bar.state)}">'
            f"<title>{escape(f'{bar.name}: {took}, {bar.state}')}</title></rect>"
        )
        body.append(f'<text x="{x + length + 5:.1f}" y="{y + 13}" class="tick">{escape(took)}</text>')
    return _svg(body, "stages over time", width, height)


def _clock_ticks(seconds: float) -> list[float]:
    """Times that a clock would name, at most seven."""
    steps = (0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)
    step = next((step for step in steps if seconds / step <= 6), seconds / 6)
    return [i * step for i in range(int(seconds / step) + 1)]


def _thin(series: Series) -> Series:
    """Finite points only, averaged into at most MAX_POINTS buckets."""
    pairs = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]
    size = math.ceil(len(pairs) / MAX_POINTS) or 1
    buckets = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return Series(
        series.name,
        [bucket[-1][0] for bucket in buckets],
        [sum(y for _, y in bucket) / len(bucket) for bucket in buckets],
    )


def _range(values: Sequence[float], share: float = 0.01) -> tuple[float, float]:
    """What the y axis shows: the values without the outer `share` on each side, with a margin."""
    ordered = sorted(values)
    cut = int(len(ordered) * share)
    low, high = ordered[cut], ordered[len(ordered) - 1 - cut]
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _column(values: Sequence[Any], bottom: float, top: float) -> tuple[Any, list[tuple[str, float]]]:
    """A parallel coordinate: value -> y, and its ticks. Numbers over two decades or more are spaced by logarithm."""
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        low, high = min(values), max(values)
        if low == high:
            return (lambda _: (top + bottom) / 2), [(number(low), (top + bottom) / 2)]
        axis = Axis(low, high, bottom, top, log=low > 0 and high / low > 9)
        return axis, [(number(low), bottom), (number(high), top)]
    texts = sorted({str(v) for v in values})
    places = {
        t: (bottom + (top - bottom) * i / (len(texts) - 1)) if len(texts) > 1 else (top + bottom) / 2
        for i, t in enumerate(texts)
    }
    return (lambda value: places[str(value)]), list(places.items())


def _grid(x_axis: Axis, y_axis: Axis) -> str:
    parts = []
    for tick in y_axis.ticks():
        y = y_axis(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="tick end">{escape(number(tick))}</text>')
    for tick in x_axis.ticks():
        x = x_axis(tick)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" class="tick middle">{escape(number(tick))}</text>')
    return "".join(parts)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _svg(body: Sequence[str], label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )

"""Charts as inline SVG text: no script, no image library, readable in light and dark (colours are CSS classes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

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


def lines(series: Sequence[Series], *, label: str = "") -> str:
    """A line chart. Values are averaged over at most MAX_POINTS buckets; the outer 1 % on each side is clipped."""
    drawn = [thinned for thinned in (_thin(s) for s in series) if len(thinned.x)]
    if not drawn:
        return ""
    x_axis = Axis(min(s.x[0] for s in drawn), max(s.x[-1] for s in drawn), LEFT, WIDTH - RIGHT)
    low, high = _range([value for s in drawn for value in s.y])
    y_axis = Axis(low, high, HEIGHT - BOTTOM, TOP)
    body = [_grid(x_axis, y_axis)]
    for index, one in enumerate(drawn):
        kind = f"c{index % COLORS}"
        points = [(x_axis(x), y_axis(min(max(y, low), high))) for x, y in zip(one.x, one.y, strict=True)]
        if len(points) == 1:
            body.append(f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3" class="dot {kind}"/>')
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        title = f"{one.name}: last {number(one.y[-1])}"
        body.append(f'<polyline points="{path}" class="line {kind}"><title>{escape(title)}</title></polyline>')
    return svg(body, label or "line chart")


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
        body.append(f'<text x="{left - 8}" y="{y + 13}" class="tick end">{escape(short(bar.name, 22))}</text>')
        body.append(
            f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{row - 8}" rx="3" class="bar {escape(bar.state)}">'
            f"<title>{escape(f'{bar.name}: {took}, {bar.state}')}</title></rect>"
        )
        body.append(f'<text x="{x + length + 5:.1f}" y="{y + 13}" class="tick">{escape(took)}</text>')
    return svg(body, "stages over time", width, height)


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


def short(text: str, limit: int) -> str:
    """The beginning of a text."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def svg(body: Sequence[str], label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """A whole chart from its parts."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(body)
        + "</svg>"
    )

"""Numbers, durations and sizes as a reader wants them."""

from __future__ import annotations

import math

BYTES = ("B", "kB", "MB", "GB", "TB")


def number(value: float) -> str:
    """A short text for a tick or a table: 1.5k, 0.002, 2e-04."""
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf" if value < 0 else "nan"
    size = abs(value)
    if not size:
        return "0"  # never "-0"
    if size >= 1e6 or size < 1e-3:
        return f"{value:.3g}"
    if size >= 10000:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """0.3 s, 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds % 1 else f"{seconds:.0f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes: 930 B, 1.2 MB."""
    for unit in BYTES:
        if count < 1000 or unit == BYTES[-1]:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")

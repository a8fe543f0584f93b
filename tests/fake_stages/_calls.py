"""What the fake stages did in this process, in order."""

from __future__ import annotations

CALLS: list[str] = []

"""The command line: one command a file, loaded only when it is called."""

from __future__ import annotations


def main() -> None:
    raise SystemExit(70)

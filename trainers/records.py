"""What a training has told so far, as files of a checkpoint: logged losses and pictures of samples.

history.jsonl         one line for each logged step: {"step": 50, "critic/real": 0.69, …}
samples.safetensors   every picture so far, PNG, under its name: one file, however many there are
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from trainers.checkpoint import Mismatch

HISTORY, SAMPLES = "history.jsonl", "samples.safetensors"


class History:
    """Logged losses, kept as the lines of their file, so that a checkpoint does not encode them again and again."""

    def __init__(self, lines: bytes = b"") -> None:
        self._lines = bytearray(lines)
        self._last: dict[str, Any] = json.loads(lines.splitlines()[-1]) if lines else {}

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line, unless this step has its line. A number that is not finite becomes null: JSON has no name for it."""
        if self._last.get("step") == step:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._last = {"step": step, **finite}
        self._lines += json.dumps(self._last, sort_keys=True, allow_nan=False).encode() + b"\n"

    def encoded(self) -> bytes:
        """The whole file."""
        return bytes(self._lines)

    def rows(self) -> list[dict[str, Any]]:
        """Every line: {"step": 50, "critic/real": 0.69, …}; None for what was not finite."""
        return [json.loads(line) for line in self._lines.splitlines()]

    def last(self) -> dict[str, float]:
        """The finite losses that were logged last."""
        return {name: value for name, value in self._last.items() if name != "step" and value is not None}


def files(history: bytes, grids: Mapping[str, bytes]) -> dict[str, bytes]:
    """As files of a checkpoint."""
    return {HISTORY: history, SAMPLES: save({name: np.frombuffer(png, np.uint8) for name, png in grids.items()})}


def summary(history: bytes, grids: Mapping[str, bytes]) -> dict[str, Any]:
    """What `state.json` says of them, so that nothing goes missing."""
    return {"lines": history.count(b"\n"), "pictures": sorted(grids)}


def restore(stored: Mapping[str, Path], told: Mapping[str, Any]) -> tuple[History, dict[str, bytes]]:
    """History and pictures of a checkpoint whose `summary` is `told`. Raises Mismatch where something is missing."""
    for name in (HISTORY, SAMPLES):
        if name not in stored:
            raise Mismatch(f"the checkpoint lacks {name}")
    lines = stored[HISTORY].read_bytes()
    try:
        history, pictures = History(lines), load_file(stored[SAMPLES])
    except (ValueError, SafetensorError) as error:
        raise Mismatch(f"the checkpoint's records cannot be read: {error}") from error
    grids = {name: picture.tobytes() for name, picture in pictures.items()}
    if (found := summary(lines, grids)) != told:
        raise Mismatch(f"the checkpoint's records are {found}, not {dict(told)}")
    return history, grids

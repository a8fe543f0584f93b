"""What a search is made of: a piece of training, how it ended, and the trial that it belongs to. Pure values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.space import Point

Direction = Literal["minimize", "maximize"]
Key = tuple[int, int, int]  # trial, replicate, step: where a segment ends


@dataclass(frozen=True)
class Segment:
    """Train `replicate` of trial `index` until step `until`.

    `origin` is None, and it goes on from its own last checkpoint (or begins), or (trial, replicate, step): it starts from the
    checkpoint of that one at that step, with its own configuration (PBT's exploit). Every checkpoint of its own up to that step
    is then void; one of a later step is this segment's, saved when it was interrupted, and goes on.
    """

    index: int
    until: int
    replicate: int = 0
    origin: Key | None = None

    @property
    def key(self) -> Key:
        """What its outcome is known by."""
        return self.index, self.replicate, self.until


@dataclass(frozen=True)
class Outcome:
    """How a segment ended: a finite `score`, or why there is none (`status` failed, diverged or pruned; `error` in one line).

    `values` holds every metric by its name, where there are several; `score` is the first. `symptom` names what a health
    monitor saw: of a pruned one, or a warning.
    """

    score: float | None
    seconds: float = 0.0
    status: str = "ok"
    error: str = ""
    symptom: str = ""
    values: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"values": dict(self.values)}


@dataclass
class Trial:
    """One configuration and how it fares: `scores` by step."""

    index: int
    point: Point
    scores: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    status: str = "waiting"  # then running, and at the end: finished, stopped (not promoted), failed, diverged
    error: str = ""

    @property
    def steps(self) -> int:
        return max(self.scores, default=0)

    @property
    def score(self) -> float | None:
        """At the last rung that it reached."""
        return self.scores.get(self.steps)


def training_seed(seed: int, replicate: int) -> int:
    """The seed that a replicate trains with, in [0, 2**31): the search's own for the first."""
    if replicate == 0:
        return seed
    digest = hashlib.blake2b(repr((seed, "replicate", replicate)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31


__all__ = ["Direction", "Key", "Outcome", "Segment", "Trial", "training_seed"]

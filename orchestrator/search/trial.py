"""What a search is made of: a piece of training, how it ended, and the trial that it belongs to. Pure values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev
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
        return {**vars(self), "values": dict(self.values)}


@dataclass(frozen=True)
class Change:
    """From `step` on a trial goes on as a copy of another one, `source`, at another point (population based training)."""

    step: int
    source: int
    point: Point


@dataclass
class Trial:
    """One configuration and how it fares: the mean of its replicates' `values`, one for each objective, by step.

    A replicate that has no score is `lost`: it goes no further and is left out of the mean, and the trial ranks behind every
    one that lost fewer. A trial that lost all of them has failed: its `status` is theirs where they agree, else failed.
    """

    index: int
    point: Point  # in force now
    values: dict[int, tuple[float, ...]] = field(default_factory=dict)
    status: str = "waiting"  # then running, and at the end: finished, stopped (not promoted), pruned, failed, diverged
    error: str = ""
    outcomes: dict[int, dict[int, Outcome]] = field(default_factory=dict)  # by step, then replicate
    lost: dict[int, Outcome] = field(default_factory=dict)  # replicate -> why
    changes: list[Change] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How far it was scored."""
        return max(self.values, default=0)

    @property
    def scores(self) -> dict[int, float]:
        """Of the first objective, by step."""
        return {step: values[0] for step, values in self.values.items()}

    @property
    def score(self) -> float | None:
        """At the last rung that it reached."""
        return self.scores.get(self.steps)

    @property
    def seconds(self) -> float:
        """Of all its segments; the same in whatever order they ended."""
        return sum(
            self.outcomes[step][one].seconds for step in sorted(self.outcomes) for one in sorted(self.outcomes[step])
        )

    @property
    def symptoms(self) -> list[str]:
        """What health monitors saw, each once."""
        ended = [self.outcomes[step][one] for step in sorted(self.outcomes) for one in sorted(self.outcomes[step])]
        return list(dict.fromkeys(outcome.symptom for outcome in ended if outcome.symptom))


def interval(values: Sequence[float], level: float = 0.95) -> float | None:
    """Half the width of Student's t interval of the mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, (1 + level) / 2)) * stdev(values) / math.sqrt(len(values))


def training_seed(seed: int, replicate: int) -> int:
    """The seed that a replicate trains with, in [0, 2**31): the search's own for the first."""
    if replicate == 0:
        return seed
    digest = hashlib.blake2b(repr((seed, "replicate", replicate)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31


__all__ = ["Change", "Direction", "Key", "Outcome", "Segment", "Trial", "interval", "training_seed"]

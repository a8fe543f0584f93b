"""Population based training (Jaderberg et al., arXiv 1711.09846), in synchronous rungs, so that it repeats.

At each rung the worst `quantile` of the population, and every trial that diverged, was pruned or failed, becomes a copy of one
of the best `quantile`, drawn evenly: its weights, its optimizer's state, and its point. Then the numbers of the copied point are
explored as Ray Tune's PBT does: each is drawn again with probability `resample`, else multiplied by 0.8 or 1.2 (a listed one
moves to a neighbour). Unlike Ray's, a number stays within its range, and an integer moves by at least 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.search.trial import Change, Trial
from orchestrator.space import Draw, Point, Space

FACTORS = (0.8, 1.2)
TRIES = 50  # explored points that the configuration refuses, before the copy keeps the point it copied


@dataclass(frozen=True)
class Evolution:
    """How a population of a space changes at a rung. Every draw is keyed by (seed, trial, rung)."""

    space: Space
    seed: int
    quantile: float = 0.25
    resample: float = 0.25

    def changes(self, order: Sequence[Trial], dead: Sequence[Trial], step: int, rung: int) -> dict[int, Change]:
        """Which trials (by index) become a copy of which, and at what point. `order`: those alive, best first."""
        count = min(math.ceil(len(order) * self.quantile), len(order) // 2)
        if not order or not (count or dead):
            return {}
        best = order[: max(count, 1)]
        losers = sorted([*(order[-count:] if count else ()), *dead], key=lambda trial: trial.index)
        found = {}
        for loser in losers:
            source = best[Draw(self.seed, (loser.index, rung)).category("pbt exploit", len(best))]
            found[loser.index] = Change(step, source.index, self.explored(source.point, loser.index, rung))
        return found

    def explored(self, point: Point, index: int, rung: int) -> Point:
        """A point near another one: what can change in training has changed, what cannot is kept."""
        for attempt in range(TRIES):
            draw = Draw(self.seed, (index, rung, attempt))
            new = dict(point)
            for path in self.space.tunable():
                if (domain := self.space.domain(path, point)) is None or path not in point:
                    continue
                if draw.real(f"pbt resample {path}", 0.0, 1.0) < self.resample:
                    new[path] = domain.pick(draw, f"pbt draw {path}")
                else:
                    new[path] = domain.moved(point[path], FACTORS[draw.category(f"pbt factor {path}", 2)])
            if self.space.valid(new):
                return new
        return dict(point)


__all__ = ["Evolution"]

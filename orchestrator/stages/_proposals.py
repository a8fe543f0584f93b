"""Which points a search tries, batch after batch: the same outcomes give the same points. A file that is no stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from orchestrator.search import Objective, Trial
from orchestrator.search.table import Earlier
from orchestrator.space import Point, Space, canonical
from trainers import plugins

Searcher = Literal["random", "grid", "optuna"]

OPTUNA_BATCH = 8  # trials that Optuna proposes before it hears of them; fixed, so that a search repeats
ENDLESS_BATCH = 16  # trials of a batch of a random search that only time ends
MOST_TRIALS = 100_000


class Proposer:
    """Points for a `Conductor`. `count`: trials in all; None for a search that a budget ends. `last`: the step of a whole trial.

    Random and grid propose all at once; Optuna, and a search without a count, in batches. What an earlier search found best is
    tried first: its best point alone where Optuna knows its scores, else as many as a quarter of the trials.
    """

    def __init__(
        self,
        space: Space,
        searcher: Searcher,
        seed: int,
        count: int | None,
        objectives: Sequence[Objective] = (Objective("score"),),
        last: int = 1,
        earlier: Earlier | None = None,
    ) -> None:
        self._space, self._seed, self._searcher = space, seed, searcher
        self._grid: list[Point] = []
        if searcher == "grid":
            with plugins.steady():
                grid = list(space.grid())
            self._grid = thinned(grid, len(grid) if count is None else count)
            count = len(self._grid)
        self.count = count
        self._first: tuple[Point, ...] = ()
        if earlier is not None:
            learns = searcher == "optuna" and earlier.comparable
            self._first = earlier.points[: 1 if learns else max(1, (count or ENDLESS_BATCH) // 4)]
        if searcher == "optuna":
            from orchestrator.stages._optuna import Learner

            self._learner = Learner(space, seed, objectives, last)
            if earlier is not None and earlier.comparable:
                self._learner.learn(earlier.trials)

    def propose(self, told: Sequence[Trial]) -> list[Point]:
        """The next batch; nothing once all were tried, or where the space has no more."""
        with plugins.steady():
            return self._propose(told)

    def _propose(self, told: Sequence[Trial]) -> list[Point]:
        left = (MOST_TRIALS if self.count is None else self.count) - len(told)
        if left <= 0:
            return []
        if self._searcher == "grid":
            return self._grid if not told else []
        if self._searcher == "random" and told and self.count is not None:
            return []
        size = batch(self._searcher, left, self.count is None)
        taken = [trial.point for trial in told]
        first = [] if told else list(self._first)
        if self._searcher == "random":
            points = first[:size]
            return points + self._drawn(size - len(points), [*taken, *points])
        points = self._learner.propose(told, size, first)
        return points + self._drawn(size - len(points), [*taken, *points])

    def _drawn(self, count: int, taken: list[Point]) -> list[Point]:
        points: list[Point] = []
        known = {canonical(point) for point in taken}
        for i in range(count):
            point = self._space.draw(self._seed, len(taken) + i, known)
            if point is None:  # a small space has been seen whole
                break
            known.add(canonical(point))
            points.append(point)
        return points


def batch(searcher: Searcher, left: int, endless: bool = False) -> int:
    """How many of the trials that are left begin at once."""
    if searcher == "optuna":
        return min(OPTUNA_BATCH, left)
    return min(ENDLESS_BATCH, left) if endless else left


def batches(searcher: Searcher, count: int) -> list[int]:
    """How many trials each batch of a search has."""
    sizes: list[int] = []
    while count > 0:
        sizes.append(batch(searcher, count))
        count -= sizes[-1]
    return sizes


def thinned(points: list[Point], count: int) -> list[Point]:
    """`count` of the points, evenly spread."""
    return points if count >= len(points) else [points[i * len(points) // count] for i in range(count)]


__all__ = ["MOST_TRIALS", "OPTUNA_BATCH", "Proposer", "Searcher", "batch", "batches", "thinned"]

"""Hands out what is to be trained, and decides from what came of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from orchestrator.search.schedulers import Scheduler, promoted
from orchestrator.search.trial import Direction, Key, Outcome, Segment, Trial
from orchestrator.space import Point


class Conductor:
    """Hands out segments and hears of their outcomes.

    `propose(told)` gives the points of the next batch, knowing every trial so far; an empty batch ends the search. `known` are
    outcomes from before, by (trial, replicate, step).
    """

    def __init__(
        self,
        propose: Callable[[Sequence[Trial]], Sequence[Point]],
        rungs: Sequence[int],
        scheduler: Scheduler,
        direction: Direction,
        factor: int = 2,
        known: Mapping[Key, Outcome] | None = None,
    ) -> None:
        self.trials: list[Trial] = []
        self._propose = propose
        self._rungs = tuple(rungs)
        self._scheduler: Scheduler = scheduler
        self._direction: Direction = direction
        self._factor = factor
        self._known = dict(known or {})
        self._batch: list[Trial] = []
        self._rung = 0
        self._queue: deque[Segment] = deque()
        self._running: set[Segment] = set()
        self.ended = False

    def waiting(self) -> list[Segment]:
        """Every segment that may run now, marked running; empty while the running ones must end, or when it has `ended`."""
        found = []
        while (segment := self.next()) is not None:
            found.append(segment)
        return found

    def point(self, segment: Segment) -> Point:
        """The point in force for a segment; apply it to the space for the configuration that it trains with."""
        return self.trials[segment.index].point

    def next(self) -> Segment | None:
        """A segment to run now; None while the running ones must end first, or when the search has `ended`."""
        while not self.ended:
            while self._queue:
                segment = self._queue.popleft()
                self._running.add(segment)
                known = self._known.get(segment.key)
                if known is None:
                    self.trials[segment.index].status = "running"
                    return segment
                self.tell(segment, known)
            if self._running:
                return None
            self._advance()
        return None

    def tell(self, segment: Segment, outcome: Outcome) -> None:
        """Hear how a segment ended."""
        self._running.discard(segment)
        trial = self.trials[segment.index]
        trial.seconds += outcome.seconds
        if outcome.score is not None and math.isfinite(outcome.score):
            trial.scores[segment.until] = outcome.score
        else:
            trial.status = outcome.status if outcome.status != "ok" else "failed"
            trial.error = outcome.error or "its score is not finite"

    def _advance(self) -> None:
        """Nothing runs and nothing waits: promote, or begin the next batch."""
        alive = [trial for trial in self._batch if not trial.error]
        if alive and self._rung + 1 < len(self._rungs):
            on = promoted(self._scheduler, alive, self._direction, self._factor)
            for trial in alive:
                trial.status = "waiting" if trial in on else "stopped"
            self._enter(on, self._rung + 1)
            return
        for trial in alive:
            trial.status = "finished"
        first = len(self.trials)
        batch = [Trial(first + i, dict(point)) for i, point in enumerate(self._propose(self.trials))]
        self.trials += batch
        self.ended = not batch
        self._enter(batch, 0)

    def _enter(self, batch: list[Trial], rung: int) -> None:
        self._batch, self._rung = sorted(batch, key=lambda trial: trial.index), rung
        self._queue.extend(Segment(trial.index, self._rungs[rung]) for trial in self._batch)

    @property
    def winner(self) -> Trial | None:
        """The best of the trials that went farthest."""
        scored = [trial for trial in self.trials if trial.score is not None and not trial.error]
        if not scored:
            return None
        last = max(trial.steps for trial in scored)
        return promoted("none", [trial for trial in scored if trial.steps == last], self._direction, 1)[0]


__all__ = ["Conductor"]

"""Which trials a search runs, how far, and which of them go on. Pure: the same scores give the same decisions.

Trials are run in segments: trial 3 up to step 50. Rungs are synchronous: what goes on is decided when every trial of a
batch has been scored at a rung, so the order in which segments end, and how many run at once, change nothing. A segment
whose outcome is already known (from before a crash) is not run again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any, Literal

from orchestrator.space import Point

Direction = Literal["minimize", "maximize"]
Scheduler = Literal["asha", "median", "none"]


@dataclass(frozen=True)
class Segment:
    """Train trial `index` until step `until`."""

    index: int
    until: int


@dataclass(frozen=True)
class Outcome:
    """How a segment ended: a finite `score`, or why there is none (`status` failed or diverged, `error` in one line)."""

    score: float | None
    seconds: float = 0.0
    status: str = "ok"
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"score": self.score, "seconds": self.seconds, "status": self.status, "error": self.error}


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


def milestones(scheduler: Scheduler, total: int, grace: int, factor: int) -> tuple[int, ...]:
    """The steps at which trials are scored, ascending; the last is `total`.

    ASHA's grow by `factor` from `grace`; those of the median rule are `grace` apart; without a scheduler there is only the last.
    """
    if scheduler == "none":
        return (total,)
    found = [min(grace, total)]
    while found[-1] < total:
        following = found[-1] * factor if scheduler == "asha" else found[-1] + grace
        found.append(total if following * 1.2 > total else following)  # no rung just before the end
    return tuple(found)


def promoted(scheduler: Scheduler, trials: Sequence[Trial], direction: Direction, factor: int) -> list[Trial]:
    """Those of the trials scored at a rung that go on, best first."""
    sign = 1 if direction == "minimize" else -1
    ranked = sorted(trials, key=lambda trial: (sign * (trial.score or 0.0), trial.index))
    if scheduler == "asha":
        return ranked[: max(1, math.ceil(len(ranked) / factor))]
    if scheduler == "median":  # a trial's best so far against the median of the others' running means (Vizier's rule)
        running = {trial.index: mean(sign * score for score in trial.scores.values()) for trial in trials}
        middle = median(running.values())
        return [trial for trial in ranked if min(sign * score for score in trial.scores.values()) <= middle]
    return ranked


class Conductor:
    """Hands out segments and hears of their outcomes.

    `propose(told)` gives the points of the next batch, knowing every trial so far; an empty batch ends the search. `known` are
    outcomes from before, by (trial, step).
    """

    def __init__(
        self,
        propose: Callable[[Sequence[Trial]], Sequence[Point]],
        rungs: Sequence[int],
        scheduler: Scheduler,
        direction: Direction,
        factor: int = 2,
        known: Mapping[tuple[int, int], Outcome] | None = None,
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

    def next(self) -> Segment | None:
        """A segment to run now; None while the running ones must end first, or when the search has `ended`."""
        while not self.ended:
            while self._queue:
                segment = self._queue.popleft()
                self._running.add(segment)
                known = self._known.get((segment.index, segment.until))
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


def planned_steps(scheduler: Scheduler, rungs: Sequence[int], num_trials: int, factor: int) -> int:
    """Steps of a whole search, roughly where the scheduler depends on scores."""
    total, alive, before = 0, num_trials, 0
    for rung in rungs:
        total += alive * (rung - before)
        before = rung
        alive = max(1, math.ceil(alive / (factor if scheduler == "asha" else 2))) if scheduler != "none" else alive
    return total


__all__ = ["Conductor", "Outcome", "Segment", "Trial", "milestones", "planned_steps", "promoted"]

"""Where trials are scored, and which of them go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median
from typing import Literal

from orchestrator.search.trial import Direction, Trial

Scheduler = Literal["asha", "median", "none"]


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


def planned_steps(scheduler: Scheduler, rungs: Sequence[int], num_trials: int, factor: int) -> int:
    """Steps of a whole search, roughly where the scheduler depends on scores."""
    total, alive, before = 0, num_trials, 0
    for rung in rungs:
        total += alive * (rung - before)
        before = rung
        alive = max(1, math.ceil(alive / (factor if scheduler == "asha" else 2))) if scheduler != "none" else alive
    return total


__all__ = ["Scheduler", "milestones", "planned_steps", "promoted"]

"""Where trials are scored, and which of them go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median
from typing import Literal

from orchestrator.search.objectives import Objective, ranked
from orchestrator.search.trial import Trial

Scheduler = Literal["asha", "median", "pbt", "none"]


def milestones(scheduler: Scheduler, total: int, grace: int, factor: int) -> tuple[int, ...]:
    """The steps at which trials are scored, ascending; the last is `total`.

    ASHA's grow by `factor` from `grace`; those of the median rule and of PBT are `grace` apart; without a scheduler there is
    only the last.
    """
    if scheduler == "none":
        return (total,)
    found = [min(grace, total)]
    while found[-1] < total:
        following = found[-1] * factor if scheduler == "asha" else found[-1] + grace
        found.append(total if following * 1.2 > total else following)  # no rung just before the end
    return tuple(found)


def promoted(
    scheduler: Scheduler, trials: Sequence[Trial], objectives: Sequence[Objective], factor: int
) -> list[Trial]:
    """Those of the trials scored at a rung that go on, best first."""
    order = ranked(trials, objectives)
    if scheduler == "asha":
        return order[: survivors(len(order), factor)]
    if scheduler == "median":  # a trial's best so far against the median of the others' running means (Vizier's rule)
        cost = objectives[0].cost
        middle = median(mean(map(cost, trial.scores.values())) for trial in trials)
        return [trial for trial in order if min(map(cost, trial.scores.values())) <= middle]
    return order


def survivors(count: int, factor: int) -> int:
    """Of so many trials at one of ASHA's rungs those that go on."""
    return max(1, math.ceil(count / factor))


def planned_steps(scheduler: Scheduler, rungs: Sequence[int], num_trials: int, factor: int, replicates: int = 1) -> int:
    """Steps of one batch of trials, roughly where the scheduler depends on scores."""
    total, alive, before = 0, num_trials, 0
    for rung in rungs:
        total += alive * (rung - before)
        before = rung
        if scheduler in ("asha", "median"):
            alive = survivors(alive, factor if scheduler == "asha" else 2)
    return total * replicates


__all__ = ["Scheduler", "milestones", "planned_steps", "promoted", "survivors"]

"""What is searched for: one metric, or several of which none is given up for another (a Pareto front).

Trials are put in order by the replicates that they lost, then by fronts of values that no other trial beats in everything, then,
within a front, the loneliest first (NSGA-II's crowding distance, doi 10.1109/4235.996017). Of one metric this is its plain order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.search.trial import Direction, Outcome, Trial

Costs = tuple[float, ...]  # one for each objective; less is better


@dataclass(frozen=True)
class Objective:
    """A metric by name, and which way it is better."""

    name: str
    direction: Direction = "minimize"

    def cost(self, value: float) -> float:
        return value if self.direction == "minimize" else -value


def measured(outcome: Outcome, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """An outcome's value of each objective; None where one is missing or not finite."""
    if outcome.status != "ok":
        return None
    found = [outcome.values.get(objective.name) for objective in objectives]
    if len(objectives) == 1 and found[0] is None:
        found = [outcome.score]
    values = tuple(value for value in found if value is not None and math.isfinite(value))
    return values if len(values) == len(objectives) else None


def spread(trial: Trial, step: int, objectives: Sequence[Objective]) -> list[tuple[float, ...]]:
    """For each objective the values of the replicates that have one at a step, in their order."""
    ended = trial.outcomes.get(step, {})
    rows = [values for one in sorted(ended) if (values := measured(ended[one], objectives)) is not None]
    return [tuple(column) for column in zip(*rows, strict=True)]


def costs(trial: Trial, objectives: Sequence[Objective], step: int | None = None) -> Costs:
    """Of a trial that has been scored, at a step or the last one."""
    values = trial.values[trial.steps if step is None else step]
    return tuple(objective.cost(value) for objective, value in zip(objectives, values, strict=True))


def dominates(a: Costs, b: Costs) -> bool:
    """Whether `a` is nowhere worse than `b`, and somewhere better."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def fronts(points: Sequence[Costs]) -> list[list[int]]:
    """Positions by front: those that nothing dominates, then those that only the first dominate, and so on.

    In lexicographic order a point can be dominated only by one before it, and what dominates it in one front has a dominator in
    every front before: the first front without any is found by bisection (ENS-BS, doi 10.1109/TEVC.2014.2308305).
    """
    found: list[list[int]] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i], i)):
        low, high = 0, len(found)
        while low < high:
            middle = (low + high) // 2
            if any(dominates(points[j], points[i]) for j in reversed(found[middle])):
                low = middle + 1
            else:
                high = middle
        if low == len(found):
            found.append([])
        found[low].append(i)
    return [sorted(front) for front in found]


def crowding(points: Sequence[Costs]) -> list[float]:
    """How far a front's points are from their neighbours, summed over objectives scaled to the front; infinite at its ends."""
    distances = [0.0] * len(points)
    for k in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: (points[i][k], i))
        low, high = points[order[0]][k], points[order[-1]][k]
        if high == low:
            continue
        distances[order[0]] = distances[order[-1]] = math.inf
        for (before, here), (_, after) in pairwise(pairwise(order)):
            distances[here] += (points[after][k] - points[before][k]) / (high - low)
    return distances


def ranked(trials: Sequence[Trial], objectives: Sequence[Objective], step: int | None = None) -> list[Trial]:
    """Trials that were scored (at `step`, or where they went last), best first; ties go to the lower index."""
    found: list[Trial] = []
    for lost in sorted({len(trial.lost) for trial in trials}):
        peers = [trial for trial in trials if len(trial.lost) == lost]
        if len(objectives) == 1:
            found += sorted(peers, key=lambda trial: (costs(trial, objectives, step), trial.index))
            continue
        points = [costs(trial, objectives, step) for trial in peers]
        for front in fronts(points):
            lonely = dict(zip(front, crowding([points[i] for i in front]), strict=True))
            found += [peers[i] for i in sorted(front, key=lambda i: (-lonely[i], peers[i].index))]
    return found


def farthest(trials: Sequence[Trial]) -> list[Trial]:
    """Of the trials with a score those that went farthest, and of these those that lost the fewest replicates."""
    scored = [trial for trial in trials if trial.values and not trial.error]
    last = max((trial.steps for trial in scored), default=0)
    there = [trial for trial in scored if trial.steps == last]
    fewest = min((len(trial.lost) for trial in there), default=0)
    return [trial for trial in there if len(trial.lost) == fewest]


def pareto(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Of the trials that went farthest those that no other one dominates, in the order of the first objective."""
    there = farthest(trials)
    if not there:
        return []
    front = [there[i] for i in fronts([costs(trial, objectives) for trial in there])[0]]
    return sorted(front, key=lambda trial: (costs(trial, objectives), trial.index))


def chosen(trials: Sequence[Trial], objectives: Sequence[Objective], prefer: str | None = None) -> Trial | None:
    """The winner: of the front, the best by the metric `prefer`, else the nearest to the ideal point.

    The ideal point has the best value of every objective; each is scaled to [0, 1] over the front, so that units do not matter.
    """
    front = pareto(trials, objectives)
    if not front:
        return None
    points = [costs(trial, objectives) for trial in front]
    if prefer is not None:
        k = [objective.name for objective in objectives].index(prefer)
        return min(zip(points, front, strict=True), key=lambda one: (one[0][k], one[0], one[1].index))[1]
    lows, highs = [min(column) for column in zip(*points, strict=True)], [max(c) for c in zip(*points, strict=True)]

    def distance(point: Costs) -> float:
        spans = zip(point, lows, highs, strict=True)
        return math.hypot(*((value - low) / (high - low) if high > low else 0.0 for value, low, high in spans))

    return min(zip(points, front, strict=True), key=lambda one: (distance(one[0]), one[0], one[1].index))[1]


__all__ = [
    "Objective",
    "chosen",
    "costs",
    "crowding",
    "dominates",
    "farthest",
    "fronts",
    "measured",
    "pareto",
    "ranked",
    "spread",
]

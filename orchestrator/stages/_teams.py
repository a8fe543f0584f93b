"""Which trials of a rung are trained together as a population, so that all processes end at about the same time.

A file that is no stage. Pure, without torch: `plan` says the same as what a search does. Who is grouped with whom changes
no result beyond rounding; which process trains a group changes nothing at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from orchestrator.space import Point, Space, canonical
from orchestrator.stage import Facts
from orchestrator.stages._proposals import thinned

if TYPE_CHECKING:
    from trainers.config import TrainConfig

Population = Literal["auto", "off"] | Annotated[int, Interval(ge=2, le=1024)]
SHARED, EACH = (
    0.6,
    0.16,
)  # what a population's step costs, and each member's, in steps of a single training: benchmarks/population.py
LOOKED_AT = 2000  # points of a space, when planning
OFF = "`population: off`"


@dataclass(frozen=True)
class Teams:
    """Positions of configurations that are trained together, the longest work first; `alone` says why the others are not."""

    teams: tuple[tuple[int, ...], ...]
    alone: Mapping[int, str]


def teams(
    configs: Sequence[TrainConfig], until: Sequence[int], processes: int, population: Population = "auto"
) -> Teams:
    """Put the trainings of one shape that go to the same step together, in pieces that keep `processes` equally busy.

    No piece of what can be grouped has fewer than two members: a result then depends on no number of processes.
    """
    together, alone = _shapes(configs, until, population)
    largest = _largest(population)
    pieces = [(members, -(-len(members) // largest)) for members in together]
    work = [(i,) for i in alone]
    found = _split(pieces, work, until, processes)
    ordered = sorted(found, key=lambda team: (-cost(team, until), team))
    return Teams(tuple(ordered), alone)


def cost(team: Sequence[int], until: Sequence[int]) -> float:
    """How long a team takes, in steps of a single training."""
    length = max(until[i] for i in team)
    return length * (1.0 if len(team) == 1 else SHARED + EACH * len(team))


def _largest(population: Population) -> int:
    from trainers import grouping

    return population if isinstance(population, int) else grouping.LARGEST


def _shapes(
    configs: Sequence[TrainConfig], until: Sequence[int], population: Population
) -> tuple[list[tuple[int, ...]], dict[int, str]]:
    """All that could be trained together, and for the others why not."""
    from trainers import grouping

    if population == "off":
        return [], dict.fromkeys(range(len(configs)), OFF)
    together: list[tuple[int, ...]] = []
    alone: dict[int, str] = {}
    for step in sorted(set(until)):
        here = [i for i, end in enumerate(until) if end == step]
        grouped = grouping.groups([configs[i] for i in here], max(len(here), 2))
        together += [tuple(here[k] for k in members) for members in grouped.together]
        alone |= {here[k]: why for k, why in grouped.alone.items()}
    return together, dict(sorted(alone.items()))


def _split(
    shapes: Sequence[tuple[tuple[int, ...], int]],
    singles: Sequence[tuple[int, ...]],
    until: Sequence[int],
    processes: int,
) -> list[tuple[int, ...]]:
    """Cut the shape whose pieces are longest once more, as long as the whole ends earlier for it."""
    counts = [count for _, count in shapes]

    def cut(wanted: Sequence[int]) -> list[tuple[int, ...]]:
        return [
            *singles,
            *(piece for (members, _), n in zip(shapes, wanted, strict=True) for piece in _pieces(members, n)),
        ]

    best = cut(counts)
    ends = _ends(best, until, processes)
    while True:
        further = [
            [*counts[:k], count + 1, *counts[k + 1 :]]
            for k, count in enumerate(counts)
            if (count + 1) * 2 <= len(shapes[k][0])
        ]
        tried = min(((_ends(cut(one), until, processes), one) for one in further), default=None)
        if tried is None or tried[0] >= ends:
            return best
        ends, counts = tried
        best = cut(counts)


def _pieces(members: Sequence[int], count: int) -> list[tuple[int, ...]]:
    bounds = [round(i * len(members) / count) for i in range(count + 1)]
    return [tuple(members[a:b]) for a, b in pairwise(bounds)]


def _ends(found: Sequence[tuple[int, ...]], until: Sequence[int], processes: int) -> float:
    """When the last process is done, each taking the longest that is left."""
    busy = [0.0] * max(processes, 1)
    for one in sorted((cost(team, until) for team in found), reverse=True):
        busy[busy.index(min(busy))] += one
    return max(busy)


# --- in words -----------------------------------------------------------------------------------------------------------


def outlook(
    space: Space, dataset: Facts, population: Population, trials: int, *, grid: bool = False, seeds: int = 1
) -> str:
    """What `told` says of a search, by its points or, of many, by a sample of them."""
    from trainers import config

    listed = list(islice(space.grid(), LOOKED_AT + 1)) if grid else []
    whole = bool(listed) and len(listed) <= LOOKED_AT
    points = thinned(listed, trials) if whole else _drawn(space, min(trials, LOOKED_AT // 2))
    configs = [config.resolve(space.apply(point), facts=dataset, checked=True) for point in points]
    return told([one for one in configs for _ in range(seeds)], population, trials * seeds)


def _drawn(space: Space, count: int) -> list[Point]:
    """So many points by chance, each once; fewer where the space has no more."""
    points: dict[str, Point] = {}
    while len(points) < count and (point := space.draw(0, len(points), points)) is not None:
        points[canonical(point)] = point
    return list(points.values())


def told(configs: Sequence[TrainConfig], population: Population, trials: int) -> str:
    """A line of the plan: how many trials are trained together, and why the others are not.

    `configs` are those of the trials, or a sample of them, whose shares are told then.
    """
    if population == "off":
        return "population: off, every trial is trained by itself"
    shapes, alone = _shapes(configs, [1] * len(configs), population)
    reasons = [(_of(n, configs, trials), why) for why, n in Counter(alone.values()).most_common()]
    if not shapes:
        whys = reasons[0][1] if len(reasons) == 1 else "; ".join(f"{n}: {why}" for n, why in reasons)
        return f"population: every trial is trained by itself: {whys}"
    together = _of(sum(map(len, shapes)), configs, trials)
    kinds = f"{len(shapes)} shape{'s' * (len(shapes) > 1)}, at most {_largest(population)} at once"
    line = f"population: {together} of {trials} trainings together, of {kinds}"
    return "; ".join([line, *(f"{n} alone: {why}" for n, why in reasons)])


def _of(count: int, sample: Sequence[TrainConfig], trials: int) -> str:
    """So many of the sample, as a number of trials."""
    if count == len(sample):
        return "all"
    exact = len(sample) == trials
    return f"{count}" if exact else f"about {max(1, round(count * trials / len(sample)))}"


__all__ = ["Population", "Teams", "cost", "outlook", "teams", "told"]

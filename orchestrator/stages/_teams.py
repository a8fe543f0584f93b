"""Which trials of a rung are trained together as a population, so that all processes end at about the same time.

A file that is no stage. Pure, without torch: `plan` says the same as what a search does. Who is grouped with whom changes
no result beyond rounding; which process trains a group changes nothing at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

if TYPE_CHECKING:
    from trainers.config import TrainConfig

Population = Literal["auto", "off"] | Annotated[int, Interval(ge=2, le=1024)]
SHARED, EACH = (
    0.6,
    0.16,
)  # what a population's step costs, and each member's, in steps of a single training: benchmarks/population.py
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


def told(found: Teams, count: int, *, about: bool = False) -> str:
    """A line of the plan: how many trials are trained together, and why the others are not. `about`: a sample was looked at."""
    if all(why == OFF for why in found.alone.values()) and len(found.alone) == count:
        return "population: off, every trial is trained by itself"
    sizes = [len(team) for team in found.teams if len(team) > 1]
    around = "about " if about else ""
    reasons = Counter(found.alone.values())
    beside = "; ".join(f"{n} alone: {why}" for why, n in reasons.most_common())
    if not sizes:
        return f"population: none of {around}{count} trials; {beside}"
    groups = f"{len(sizes)} group{'s' * (len(sizes) > 1)} of {_span(sizes)}"
    return f"population: {around}{sum(sizes)} of {count} trials are trained together, in {groups}" + (
        f"; {beside}" if beside else ""
    )


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low}" if low == high else f"{low} to {high}"


__all__ = ["Population", "Teams", "cost", "teams", "told"]

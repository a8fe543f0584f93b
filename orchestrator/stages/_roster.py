"""Which team goes next, and what came of it: between the conductor, who decides, and the processes that train.

A file that is no stage. Outcomes are in the ledger before anything is decided from them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.search import Conductor, Key, Outcome, Segment
from orchestrator.space import Space
from orchestrator.stages._ledger import Ledger
from orchestrator.stages._segments import Member, Task
from orchestrator.stages._teams import Population, teams
from trainers import plugins

if TYPE_CHECKING:
    from trainers.config import TrainConfig

DEATHS = 2  # of its process, before a trial counts as failed


class Roster:
    """Hands out teams; at most `processes` of them are trained at once. For one thread."""

    def __init__(
        self, conductor: Conductor, space: Space, task: Task, ledger: Ledger, processes: int, population: Population
    ) -> None:
        self.conductor = conductor
        self.stopped = False  # a team was asked to stop
        self._space, self._task, self._ledger = space, task, ledger
        self._processes, self._population = processes, population
        self._queue: deque[list[Member]] = deque()
        self._reached: dict[tuple[int, int], int] = {}
        self._deaths: dict[Key, int] = {}

    def next(self) -> list[Member] | None:
        """A team to train now; None while others must end first, or when the search has `ended`."""
        if self.stopped:
            return None
        if not self._queue or self.conductor.eager:
            self._gather()
        return self._queue.popleft() if self._queue else None

    @property
    def ended(self) -> bool:
        return not self._queue and (self.stopped or self.conductor.ended)

    def _gather(self) -> None:
        waiting = self.conductor.waiting()
        if not waiting:
            return
        with plugins.steady():
            members = [self._member(segment) for segment in waiting]
            found = teams(
                [self._config(member) for member in members],
                [segment.until for segment in waiting],
                self._processes,
                self._population,
            )
        made = [[members[i] for i in team] for team in found.teams]
        if self.conductor.eager and self._queue:  # what goes on is worth more than what begins
            self._queue.extendleft(reversed(made))
        else:
            self._queue.extend(made)

    def _member(self, segment: Segment) -> Member:
        user = self._space.apply(self.conductor.point(segment))
        return Member(segment, user, self._reached.get((segment.index, segment.replicate), 0))

    def _config(self, member: Member) -> TrainConfig:
        from trainers import config

        return config.resolve(member.user, facts=self._task.dataset.metadata)

    def heard(self, team: Sequence[Member], outcomes: Sequence[Outcome | None]) -> None:
        """What came of a team's members; None for one that was asked to stop."""
        told = {one.segment: outcome for one, outcome in zip(team, outcomes, strict=True) if outcome is not None}
        self.stopped = self.stopped or len(told) < len(team)
        self._ledger.record(told)
        for segment, outcome in told.items():
            self._reached[segment.index, segment.replicate] = segment.until
            self.conductor.tell(segment, outcome)

    def died(self, team: Sequence[Member]) -> None:
        """A team's process is gone: it is tried once more as it is, then one by one, so that only the culprit fails."""
        for member in team:
            self._deaths[member.segment.key] = self._deaths.get(member.segment.key, 0) + 1
        if all(self._deaths[member.segment.key] == 1 for member in team):
            self._queue.append(list(team))
            return
        failed = [member for member in team if self._deaths[member.segment.key] > DEATHS]
        self._queue.extend([member] for member in team if member not in failed)
        why = Outcome(None, 0.0, "failed", f"its worker died {DEATHS + 1} times")
        self.heard(failed, [why] * len(failed))


__all__ = ["DEATHS", "Roster"]

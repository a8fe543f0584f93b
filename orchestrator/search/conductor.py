"""Hands out what is to be trained, and decides from what came of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.search.evolution import Evolution
from orchestrator.search.objectives import Objective, chosen, measured, pareto, ranked
from orchestrator.search.schedulers import Scheduler, promoted
from orchestrator.search.trial import Change, Key, Outcome, Segment, Trial
from orchestrator.space import Point


@dataclass(frozen=True)
class Rules:
    """How a search decides. `rungs`: the steps at which trials are scored. `step_budget`: of all trials together.

    `evolution` is PBT's, for that scheduler only. `prefer`: of several objectives the one by which the winner is chosen.
    """

    rungs: tuple[int, ...]
    objectives: tuple[Objective, ...]
    scheduler: Scheduler = "asha"
    factor: int = 2
    replicates: int = 1
    step_budget: int | None = None
    prefer: str | None = None
    evolution: Evolution | None = None


class Conductor:
    """Hands out segments and hears of their outcomes.

    `propose(told)` gives the points of the next batch, knowing every trial so far; an empty batch ends the search. `known` are
    outcomes from before, by (trial, replicate, step). `out_of_time()` is asked before a rung or a batch begins: True ends the
    search there, unless that rung had been begun before. `ended_by` says what ended it: "" (all is done), "steps" or "time".
    """

    eager = False  # whether what may run is asked for again although some of it waits

    def __init__(
        self,
        propose: Callable[[Sequence[Trial]], Sequence[Point]],
        rules: Rules,
        known: Mapping[Key, Outcome] | None = None,
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> None:
        self.trials: list[Trial] = []
        self.rules = rules
        self.steps = 0  # handed out so far, of all trials together
        self.ended = False
        self.ended_by = ""
        self._propose = propose
        self._known = dict(known or {})
        self._out_of_time = out_of_time
        self._batch: list[Trial] = []
        self._rung = 0
        self._queue: deque[Segment] = deque()
        self._running: set[Segment] = set()

    def waiting(self) -> list[Segment]:
        """Every segment that may run now, marked running; empty while the running ones must end, or when it has `ended`."""
        found = []
        while (segment := self.next()) is not None:
            found.append(segment)
        return found

    def pause(self) -> None:
        """Settle the rung as it stands, with some segments not run: for looking at a search that goes on elsewhere."""
        step = self.rules.rungs[self._rung]
        for trial in self._batch:
            if trial.outcomes.get(step):
                settle(trial, step, self.rules.objectives)

    def point(self, segment: Segment) -> Point:
        """The point in force for a segment; apply it to the space for the configuration that it trains with."""
        return self.trials[segment.index].point

    def next(self) -> Segment | None:
        """A segment to run now; None while the running ones must end first, or when the search has `ended`."""
        while not self.ended:
            if (segment := self._from_queue()) is not None:
                return segment
            if self._running:
                return None
            self._advance()
        return None

    def _from_queue(self) -> Segment | None:
        """The first that waits and whose outcome is not known; the known ones before it are told."""
        while self._queue:
            segment = self._queue.popleft()
            self._running.add(segment)
            known = self._known.get(segment.key)
            if known is None:
                self.trials[segment.index].status = "running"
                return segment
            self.tell(segment, known)
        return None

    def tell(self, segment: Segment, outcome: Outcome) -> None:
        """Hear how a segment ended."""
        self._running.discard(segment)
        self.trials[segment.index].outcomes.setdefault(segment.until, {})[segment.replicate] = outcome

    # --- when nothing runs and nothing waits ------------------------------------------------------------------------

    def _advance(self) -> None:
        """Settle the rung; then promote, or begin the next batch, or end."""
        step = self.rules.rungs[self._rung]
        for trial in self._batch:
            settle(trial, step, self.rules.objectives)
        alive = [trial for trial in self._batch if not trial.error]
        if self._rung + 1 < len(self.rules.rungs) and alive:
            self._promote(alive, step)
            return
        for trial in alive:
            trial.status = "finished"
        first = len(self.trials)
        proposed = self._propose(self.trials)
        batch = [Trial(first + i, dict(point)) for i, point in enumerate(proposed)]
        begun = self._begin(batch, 0, {})
        self.trials += begun
        self.ended = not begun

    def _promote(self, alive: list[Trial], step: int) -> None:
        """The next rung of the batch."""
        rules = self.rules
        changes: dict[int, Change] = {}
        on = promoted(rules.scheduler, alive, rules.objectives, rules.factor)
        if rules.evolution is not None:
            dead = [trial for trial in self._batch if trial.error]
            changes = rules.evolution.changes(ranked(alive, rules.objectives), dead, step, self._rung)
            on = [trial for trial in self._batch if not trial.error or trial.index in changes]
        begun = {trial.index for trial in self._begin(on, self._rung + 1, changes)}
        for trial in alive:
            if trial.index not in begun:
                trial.status = "stopped"
        self.ended = not begun

    def _begin(self, trials: Sequence[Trial], rung: int, changes: Mapping[int, Change]) -> list[Trial]:
        """Queue a rung of those trials, best first, that the budgets allow; returns them. `changes`: what they copy before."""
        rules = self.rules
        step, until = (rules.rungs[rung - 1] if rung else 0), rules.rungs[rung]
        begun: list[Trial] = []
        queued: list[Segment] = []
        for trial in trials:
            change = changes.get(trial.index)
            left = [one for one in range(rules.replicates) if change or one not in trial.lost]
            steps = self.steps + (len(queued) + len(left)) * (until - step)
            if rules.step_budget is not None and steps > rules.step_budget:
                self.ended_by = "steps"
                break
            begun.append(trial)
            source = self.trials[change.source] if change else None
            queued += [Segment(trial.index, until, one, _origin(source, one, step)) for one in left]
        if rules.evolution is not None and len(begun) < len(trials):  # a population goes on whole
            return []
        if queued and not any(segment.key in self._known for segment in queued) and self._out_of_time():
            self.ended_by = "time"
            return []
        self.steps += len(queued) * (until - step)
        for trial in begun:
            trial.status = "waiting"
            if change := changes.get(trial.index):
                trial.changes.append(change)
                trial.point, trial.error, trial.lost = dict(change.point), "", {}
        self._rung = rung
        self._batch = sorted(begun, key=lambda trial: trial.index)
        self._queue.extend(sorted(queued, key=lambda segment: segment.key))
        return begun

    # --- what came of it ----------------------------------------------------------------------------------------------

    @property
    def winner(self) -> Trial | None:
        """The best of the trials that went farthest; of several objectives see `objectives.chosen`."""
        return chosen(self.trials, self.rules.objectives, self.rules.prefer)

    @property
    def front(self) -> list[Trial]:
        """Of the trials that went farthest those that no other one beats in everything."""
        return pareto(self.trials, self.rules.objectives)


def settle(trial: Trial, step: int, objectives: Sequence[Objective]) -> None:
    """Put what came of a trial's replicates at a rung together."""
    ended = trial.outcomes.get(step, {})
    scored: list[tuple[float, ...]] = []
    for replicate in sorted(ended):
        outcome = ended[replicate]
        if (values := measured(outcome, objectives)) is not None:
            scored.append(values)
            continue
        status = "failed" if outcome.status == "ok" else outcome.status
        error = outcome.error or (f"pruned: {outcome.symptom}" if outcome.symptom else "its score is not finite")
        trial.lost[replicate] = Outcome(None, outcome.seconds, status, error, outcome.symptom)
    if scored:
        trial.values[step] = tuple(fmean(column) for column in zip(*scored, strict=True))
        return
    statuses = Counter(outcome.status for outcome in trial.lost.values())
    trial.status = next(iter(statuses)) if len(statuses) == 1 else "failed"
    first = trial.lost[min(trial.lost)]
    trial.error = first.error if len(trial.lost) == 1 else f"all {len(trial.lost)} replicates; the first: {first.error}"


def _origin(source: Trial | None, replicate: int, step: int) -> Key | None:
    """The same replicate of the trial that is copied, or its first that is left."""
    if source is None:
        return None
    left = [one for one in source.outcomes[step] if one not in source.lost]
    return source.index, replicate if replicate in left else min(left), step


__all__ = ["Conductor", "Rules", "settle"]

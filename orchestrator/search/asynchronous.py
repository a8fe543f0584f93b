"""Asynchronous successive halving (Li et al., arXiv:1810.05934): no trial waits for the others of its rung."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.search.conductor import Conductor, settle
from orchestrator.search.objectives import ranked
from orchestrator.search.schedulers import survivors
from orchestrator.search.trial import Outcome, Segment, Trial


class Asynchronous(Conductor):
    """A conductor that lets a trial go on as soon as it is among the best 1/factor of those scored at its rung so far.

    What goes on depends on the order in which segments end, so a search does not repeat: its table is this conductor's own, not
    that of another one which hears the same outcomes. Of `known` outcomes every one counts: a trial that went on before goes on
    again. At the end each rung is filled up to what a synchronous search would let go on.
    """

    eager = True

    def __init__(self, *given: Any, **more: Any) -> None:
        """Takes what `Conductor` takes."""
        super().__init__(*given, **more)
        self._over = False  # no new trial begins
        self._sent: dict[int, int] = {}  # trial -> the rung that it was sent to last

    def next(self) -> Segment | None:
        """A segment to run now; None while the running ones must end first, or when the search has `ended`."""
        while not self.ended:
            if (segment := self._from_queue()) is not None:
                return segment
            if self._go_on(filling=False) or self._propose_more():
                continue
            if self._running:
                return None
            self.ended = not self._go_on(filling=True)
        return None

    def tell(self, segment: Segment, outcome: Outcome) -> None:
        """Hear how a segment ended; a trial whose replicates are all there is settled at once."""
        super().tell(segment, outcome)
        trial = self.trials[segment.index]
        if any(one.index == trial.index for one in (*self._running, *self._queue)):
            return
        settle(trial, segment.until, self.rules.objectives)
        if not trial.error:
            trial.status = "finished" if segment.until == self.rules.rungs[-1] else "stopped"

    def pause(self) -> None:
        """Settle what is scored in part."""
        for trial in self.trials:
            for step in trial.outcomes.keys() - trial.values.keys():
                settle(trial, step, self.rules.objectives)

    # --- what begins ------------------------------------------------------------------------------------------------

    def _propose_more(self) -> bool:
        """Begin the next batch of new trials, if there is one, once the last one's have been scored for the first time."""
        if self._over or any(segment.until == self.rules.rungs[0] for segment in self._running):
            return False
        first = len(self.trials)
        batch = [Trial(first + i, dict(point)) for i, point in enumerate(self._propose(self.trials))]
        begun = self._begin(batch, 0, {})
        self.trials += begun
        self._sent |= dict.fromkeys((trial.index for trial in begun), 0)
        self._over = not begun
        return bool(begun)

    def _go_on(self, *, filling: bool) -> bool:
        """Send the best one on that went farthest of those that may; whether there was one."""
        for rung in reversed(range(len(self.rules.rungs) - 1)):
            for trial in self._promotable(rung, filling):
                if self._begin([trial], rung + 1, {}):
                    self._sent[trial.index] = rung + 1
                    return True
        return False

    def _promotable(self, rung: int, filling: bool) -> Iterator[Trial]:
        """Those that were scored at a rung, went no further, and are among the best, or had gone on before."""
        step, rules = self.rules.rungs[rung], self.rules
        scored = [trial for trial in self.trials if step in trial.values]
        order = ranked([trial for trial in scored if not trial.error], rules.objectives, step)
        count = survivors(len(scored), rules.factor) if filling else len(scored) // rules.factor
        went = {index for index, _, until in self._known if until == rules.rungs[rung + 1]}
        for place, trial in enumerate(order):
            if self._sent[trial.index] == rung and (place < count or trial.index in went):
                yield trial


__all__ = ["Asynchronous"]

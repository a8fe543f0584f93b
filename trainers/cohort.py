"""Trainings of one shape, run together to the end or to a rung, each with its own logs, pictures, checkpoints and end.

What a training tells and keeps is what it would have told and kept alone (`loop.Training`), in the same form: a member
whose checkpoint is taken out goes on alone, and one that was alone goes on with others. A member that diverges or is asked
to stop leaves; nobody else notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainers.loop import FINITE_EVERY, STOP_EVERY, NotFinite, Stopped, Training, not_finite
from trainers.population import Population
from trainers.stream import Stream


class Cohort:
    """Trainings of one data set, at one step, that are run as a population.

    `trainings` are those still in it. Raises ValueError where they stand at different steps, stacked.Unstackable where
    they are not of one shape.
    """

    def __init__(self, trainings: Sequence[Training], *, pictures: bool = True) -> None:
        if len({training.step for training in trainings}) != 1:
            raise ValueError("trainings that are run together must stand at one step")
        self.trainings = list(trainings)
        self.pictures = pictures
        self.step = trainings[0].step
        self.population = Population([training.game for training in trainings])
        self._stream = Stream(self.population, trainings[0].data)
        self._unchecked: list[tuple[int, dict[str, Tensor]]] = []
        self._clock = (time.monotonic(), self.step)

    @property
    def total(self) -> int:
        return self.trainings[0].total

    def run(
        self, until: int | None = None, left: Callable[[Training, Exception], None] = lambda training, error: None
    ) -> list[Training]:
        """Train up to step `until`, or to the end; returns the trainings that got there.

        `left` is called for each that did not, with its NotFinite, or Stopped once its state is saved. What every
        training has at `until` is saved.
        """
        until = self.total if until is None else min(until, self.total)
        while self.trainings and self.step < until:
            self._enter()
            told = self.population.step(self.step, self._stream)
            self._unchecked.append((self.step, told))
            self.step += 1
            for training in self.trainings:
                training.step = self.step
            self._after(told, self.step == until, left)
        return list(self.trainings)

    def drop(self, trainings: Sequence[Training]) -> None:
        """Go on without these; each keeps its state and may go on alone."""
        leaving = {id(training) for training in trainings}
        staying = [i for i, training in enumerate(self.trainings) if id(training) not in leaving]
        if len(staying) == len(self.trainings):
            return
        self.trainings = [self.trainings[i] for i in staying]
        self.population.keep(staying)
        self._unchecked = [
            (step, {name: value[staying] for name, value in told.items()}) for step, told in self._unchecked
        ]

    # --- one step -----------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """What happens where an act begins."""
        game = self.trainings[0].game
        act = game.act(self.step)
        if (self.step == 0 or game.act(self.step - 1) != act) and (enter := self.population.acts[act].enter):
            enter(self.population.stack.nets)

    def _after(self, told: dict[str, Tensor], last: bool, left: Callable[[Training, Exception], None]) -> None:
        first = self.trainings[0]
        saving = last or self.step % first.checkpoint_every == 0
        logging = self.step == self.total or self.step % first.game.config.settings.log_every == 0
        drawing = self.pictures and (self.step == self.total or self.step % first.sample_every == 0)
        stopping = self._stopping() if self.step % STOP_EVERY == 0 or last else []
        if saving or logging or stopping or len(self._unchecked) >= FINITE_EVERY:
            told = self._check_finite(told, left)
            stopping = [one for one in stopping if any(one is training for training in self.trainings)]
        if logging and self.trainings:
            self._log(told)
        for training in self.trainings if drawing else ():
            training.draw()
        for training in self.trainings if saving else stopping:
            self._save(training)
        if stopping and not last:
            self.drop(stopping)
            for training in stopping:
                left(training, Stopped(self.step))

    def _stopping(self) -> list[Training]:
        return [training for training in self.trainings if training.stop()]

    def _check_finite(self, told: dict[str, Tensor], left: Callable[[Training, Exception], None]) -> dict[str, Tensor]:
        """Part with members of which something is not finite, before anything of it is saved; returns what is left of
        `told`."""
        unchecked, self._unchecked = self._unchecked, []
        losses = torch.stack([value for _, values in unchecked for value in values.values()])
        fine = [a and b for a, b in zip(losses.isfinite().all(0).tolist(), self.population.finite(), strict=True)]
        if all(fine):
            return told
        bad = [(i, training) for i, training in enumerate(self.trainings) if not fine[i]]
        self.drop([training for _, training in bad])
        for i, training in bad:
            mine = [(step, {name: value[i] for name, value in values.items()}) for step, values in unchecked]
            step, terms = not_finite(training.game, mine) or (self.step - 1, ["state"])
            left(training, NotFinite(step, terms, training.kept))
        kept = [i for i, good in enumerate(fine) if good]
        return {name: value[kept] for name, value in told.items()}

    def _log(self, told: dict[str, Tensor]) -> None:
        now, (then, before) = time.monotonic(), self._clock
        self._clock = (now, self.step)
        speed = (self.step - before) / max(now - then, 1e-9)
        rows = torch.stack(list(told.values()), 1).tolist()
        for training, row in zip(self.trainings, rows, strict=True):
            training.record(dict(zip(told, row, strict=True)), speed)

    def _save(self, training: Training) -> None:
        if training.checkpoints is not None:
            training.checkpoints.save(self.step, training.state()())
            training.kept = self.step

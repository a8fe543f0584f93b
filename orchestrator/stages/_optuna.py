"""Optuna's TPE as a proposer of points. Asked and told in whole batches, in the order of the trials, so that it repeats."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.search import Trial
from orchestrator.space import Point, Space, canonical

if TYPE_CHECKING:
    import optuna

TRIES = 50  # proposals for one trial that are invalid or taken, before chance takes over
STARTUP = 8  # random trials before the model is used


class Asking:
    """A `domains.Chooser` that asks an Optuna trial: the space is defined by running it."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def category(self, name: str, count: int) -> int:
        return int(self._trial.suggest_categorical(name, list(range(count))))

    def integer(self, name: str, low: int, high: int) -> int:
        return int(self._trial.suggest_int(name, low, high))

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._trial.suggest_float(name, low, high, log=log))


class Learner:
    """A study over a space."""

    def __init__(self, space: Space, seed: int, direction: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed % 2**32, multivariate=True, group=True, n_startup_trials=STARTUP, constant_liar=True
            )
        self._study = optuna.create_study(direction=direction, sampler=sampler)
        self._space = space
        self._asked: dict[str, Any] = {}  # canonical point -> Optuna's trial, until it is told

    def propose(self, told: Sequence[Trial], count: int) -> list[Point]:
        """Up to `count` new valid points, knowing the trials so far."""
        import optuna

        taken = {canonical(trial.point) for trial in told}
        for trial in told:
            if asked := self._asked.pop(canonical(trial.point), None):
                self._tell(asked, trial)
        points: list[Point] = []
        for _ in range(TRIES * count):
            if len(points) == count:
                break
            asked = self._study.ask()
            point = self._space.point(Asking(asked))
            if (key := canonical(point)) in taken or not self._space.valid(point):
                self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
                continue
            taken.add(key)
            self._asked[key] = asked
            points.append(point)
        return points

    def _tell(self, asked: optuna.Trial, trial: Trial) -> None:
        import optuna

        if trial.error or trial.score is None:
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(asked, trial.score)

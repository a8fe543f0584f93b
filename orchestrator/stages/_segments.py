"""What one process does of a search: train a team of trials up to their rung, together where there are several, and score each.

A file that is no stage. Whatever a trial does costs that trial only: one that diverges leaves the others, and where a whole
team fails at once, its members are trained one by one, so that only the culprit fails.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.board import Event
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.errors import Unavailable
from orchestrator.search import Key, Outcome, Segment, training_seed
from trainers import plugins

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore
    from trainers.config import TrainConfig
    from trainers.data import Prepared
    from trainers.loop import Training
    from trainers.metric import Reference

CLASSIFIER = "classifier.safetensors"
LOGS = 20  # of a trial, at most, where the search does not say `log_every`
KEPT = 4  # checkpoints of a trial: another one may start from its last rung's, whatever was interrupted since


@dataclass(frozen=True)
class Task:
    """What every team needs; it travels to the processes, the bytes travel through the store.

    `metric` is one as written, or a list of several, of which the first is the score.
    """

    store: ArtifactStore
    lineage: str
    dataset: Artifact
    features: Artifact | None
    metric: Any
    eval_samples: int
    seed: int
    threads: int
    gpu: bool
    prune: bool = False  # whether an ill training ends at its rung

    @property
    def metrics(self) -> list[Any]:
        return list(self.metric) if isinstance(self.metric, list | tuple) else [self.metric]

    def checkpoints(self, index: int, replicate: int = 0) -> StoredCheckpoints:
        """Those of one training."""
        name = f"{self.lineage}.trial-{index}" + (f".{replicate}" if replicate else "")
        return StoredCheckpoints(self.store, name, keep=KEPT)


@dataclass(frozen=True)
class Member:
    """One trial of a team: its segment, its configuration as the user would write it, and at which step it was scored last."""

    segment: Segment
    user: Mapping[str, Any]
    start: int = 0

    def to_json(self) -> dict[str, Any]:
        one = self.segment
        origin = list(one.origin) if one.origin else None
        where = {"index": one.index, "until": one.until, "replicate": one.replicate, "origin": origin}
        return {**where, "user": dict(self.user), "start": self.start}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Member:
        origin: Key | None = tuple(told["origin"]) if told["origin"] else None
        segment = Segment(told["index"], told["until"], told["replicate"], origin)
        return cls(segment, told["user"], told["start"])


@dataclass(frozen=True)
class Rungs:
    """A training's checkpoints as one segment sees them: later than `after` (they are void), and not beyond its end.

    None is kept at `total`, where nothing follows but the score.
    """

    kept: StoredCheckpoints
    after: int
    until: int
    total: int

    def save(self, step: int, files: Mapping[str, bytes | Path]) -> None:
        if step < self.total:
            self.kept.save(step, files)

    def latest(self, *, at_most: int | None = None) -> tuple[int, dict[str, Path]] | None:
        found = self.kept.latest(at_most=self.until if at_most is None else min(self.until, at_most))
        return found if found is not None and found[0] > self.after else None


# --- a team ---------------------------------------------------------------------------------------------------------------

_held: dict[tuple[str, int, int], Training] = {}  # what this process trained last, to go on from memory


def attempt(
    task: Task, team: Sequence[Member], tell: Callable[[Event], None], stopping: Callable[[], bool]
) -> list[Outcome | None]:
    """Train a team and score its members; None for those that were asked to stop, whose state is saved.

    Raises Unavailable, which is not the trials' fault.
    """
    return _Team(task, team, tell, stopping).run()


def release() -> None:
    """Forget what this process trained last."""
    _held.clear()


@dataclass
class _Team:
    task: Task
    members: Sequence[Member]
    tell: Callable[[Event], None]
    stopping: Callable[[], bool]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    trainings: dict[int, Training] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    _answered: tuple[int, bool] = (-1, False)  # a step, and whether to stop there

    def run(self) -> list[Outcome | None]:
        import torch

        torch.set_num_threads(self.task.threads)
        self.seconds = dict.fromkeys(range(len(self.members)), 0.0)
        held = dict(_held)
        _held.clear()
        with plugins.steady():
            for i in range(len(self.members)):
                self._guarded(i, self._open, held)
        held.clear()
        for group in self._groups():
            self._train(group)
        for i in self.trainings:
            if i not in self.outcomes and i not in self.stopped:
                self._guarded(i, self._score)
        self._hold()
        done = {i: replace(outcome, seconds=self.seconds[i]) for i, outcome in self.outcomes.items()}
        return [done.get(i) for i in range(len(self.members))]

    def _guarded(self, i: int, act: Callable[..., None], *arguments: Any) -> None:
        """Do something for one member; its failure is its outcome."""
        from trainers import loop

        started = time.monotonic()
        try:
            act(i, *arguments)
        except loop.Stopped:
            self.stopped.add(i)
        except (loop.NotFinite, FloatingPointError) as error:
            self.outcomes[i] = Outcome(None, 0.0, "diverged", str(error))
        except Unavailable:
            raise  # not the trial's fault
        except Exception as error:  # noqa: BLE001 - whatever a trial does costs that trial only, and is recorded
            self.outcomes[i] = Outcome(None, 0.0, "failed", _in_a_line(error))
        self.seconds[i] += time.monotonic() - started

    def _hold(self) -> None:
        """Keep in memory what may go on from here."""
        for i, training in self.trainings.items():
            if i in self.outcomes and self.outcomes[i].score is not None and training.step < training.total:
                one = self.members[i].segment
                _held[self.task.lineage, one.index, one.replicate] = training

    # --- beginning ----------------------------------------------------------------------------------------------

    def _open(self, i: int, held: dict[tuple[str, int, int], Training]) -> None:
        member, task = self.members[i], self.task
        one = member.segment
        config = resolved(task, member.user)
        known = held.pop((task.lineage, one.index, one.replicate), None)
        if known is None or one.origin or known.step != member.start or known.game.config != config:
            known = self._from_store(member, config)
        known.report, known.stop = self._reporter(one), self._stopper(known, one.until)
        self.trainings[i] = known
        told = {"event": "start", "trial": one.index, "replicate": one.replicate, "step": known.step}
        self.tell({**told, "user": dict(member.user)})

    def _from_store(self, member: Member, config: TrainConfig) -> Training:
        from trainers import loop

        one, task = member.segment, self.task
        after = one.origin[2] if one.origin else -1
        return loop.open_training(
            config,
            _prepared(str(task.store.directory(task.dataset))),
            seed=training_seed(task.seed, one.replicate),
            checkpoints=Rungs(
                task.checkpoints(one.index, one.replicate), after, one.until, config.settings.total_steps
            ),
            device="cuda" if task.gpu else "cpu",
            origin=origin_files(task, one.origin) if one.origin else None,
        )

    def _reporter(self, one: Segment) -> Callable[[dict[str, Any]], None]:
        def report(event: dict[str, Any]) -> None:
            told = {"event": "step", "trial": one.index, "replicate": one.replicate}
            self.tell({**told, "step": event["step"], "metrics": event["metrics"]})

        return report

    def _stopper(self, training: Training, until: int) -> Callable[[], bool]:
        """Whether to stop: at the end of the segment, or when asked. All members of a team get one answer at one step."""
        return lambda: training.step >= until or self._asked(training.step)

    def _asked(self, step: int) -> bool:
        if self._answered[0] != step:
            self._answered = (step, self.stopping())
        return self._answered[1]

    # --- training -----------------------------------------------------------------------------------------------

    def _groups(self) -> list[list[int]]:
        """Members that stand at one step and go to one step; those that are there already are left out."""
        found: dict[tuple[int, int], list[int]] = {}
        for i, training in self.trainings.items():
            until = self.members[i].segment.until
            if training.step < until:
                found.setdefault((training.step, until), []).append(i)
        return list(found.values())

    def _train(self, group: list[int]) -> None:
        if len(group) > 1:
            try:
                self._together(group)
                return
            except Unavailable:
                raise
            except Exception:  # noqa: BLE001 - some member's fault: by itself, it fails alone and says why
                group = [i for i in group if i not in self.outcomes and i not in self.stopped]
                for i in group:
                    self._guarded(i, self._open, {})
        for i in group:
            if i not in self.outcomes:
                self._guarded(i, self._alone)

    def _alone(self, i: int) -> None:
        from trainers import loop

        training, until = self.trainings[i], self.members[i].segment.until
        if training.step >= until:
            return
        try:
            training.run()
        except loop.Stopped:
            if training.step < until:
                raise

    def _together(self, group: list[int]) -> None:
        from trainers import loop
        from trainers.cohort import Cohort

        who = {id(self.trainings[i]): i for i in group}

        def left(training: Training, error: Exception) -> None:
            if isinstance(error, loop.Stopped):
                self.stopped.add(who[id(training)])
            else:
                self.outcomes[who[id(training)]] = Outcome(None, 0.0, "diverged", str(error))

        started = time.monotonic()
        try:
            cohort = Cohort([self.trainings[i] for i in group], pictures=False)
            cohort.run(until=self.members[group[0]].segment.until, left=left)
        finally:
            for i in group:
                self.seconds[i] += (time.monotonic() - started) / len(group)

    # --- scoring ------------------------------------------------------------------------------------------------

    def _score(self, i: int) -> None:
        self.outcomes[i] = measured(self.task, self.trainings[i])


def measured(task: Task, training: Training) -> Outcome:
    """What came of a training that reached its rung."""
    from trainers import health

    ill = health.symptom(training) if task.prune and training.step < training.total else None
    if ill is not None:
        return Outcome(None, 0.0, "pruned", ill, ill.partition(":")[0])
    values = score(task, training)
    if not all(math.isfinite(value) for value in values.values()):
        return Outcome(None, 0.0, "diverged", "its score is not finite")
    return Outcome(next(iter(values.values())), values=values if len(values) > 1 else {})


def origin_files(task: Task, key: Key) -> Mapping[str, Path]:
    """The files of another training's checkpoint."""
    index, replicate, step = key
    found = task.checkpoints(index, replicate).latest(at_most=step)
    if found is None or found[0] != step:
        raise RuntimeError(f"the checkpoint of trial {index} at step {step} is gone")
    return found[1]


def resolved(task: Task, user: Mapping[str, Any]) -> TrainConfig:
    """A trial's configuration: what the search does not say is as quiet as it can be."""
    from trainers import config

    made = config.resolve(user, facts=task.dataset.metadata)
    total = made.settings.total_steps
    quiet: dict[str, Any] = {"sample_every": total, "checkpoint_every": total, "log_every": max(50, total // LOGS)}
    return replace(made, settings=replace(made.settings, **{k: v for k, v in quiet.items() if k not in user}))


def score(task: Task, training: Training) -> dict[str, float]:
    """Every metric of the search of a training as it stands, in order."""
    from trainers import evaluation
    from trainers.generator import Generator

    generator = Generator.of(training.game)
    reference = _reference(task, generator.given == "images", training.game.device.type)
    results = evaluation.score(generator, task.metrics, reference, task.eval_samples, seed=task.seed)
    return {name: float(result["value"]) for name, result in results.items()}


def _reference(task: Task, other: bool, device: str) -> Reference:
    features = task.store.open(task.features, CLASSIFIER) if task.features else None
    return _opened(str(task.store.directory(task.dataset)), str(features or ""), task.dataset.digest, other, device)


@lru_cache(maxsize=2)
def _prepared(directory: str) -> Prepared:
    """The data, once a process: nobody changes them."""
    from trainers.data import Prepared

    return Prepared.open(Path(directory))


@lru_cache(maxsize=2)
def _opened(directory: str, classifier: str, identity: str, other: bool, device: str) -> Reference:
    """The real samples and their features, once a process."""
    from trainers.metric import Reference

    data = _prepared(directory)
    return Reference(
        data, other=other, classifier=Path(classifier) if classifier else None, identity=identity, device=device
    )


def _in_a_line(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f" ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def packed(team: Sequence[Member]) -> str:
    """A team as one line, which is what travels."""
    return json.dumps([member.to_json() for member in team])


def unpacked(line: str) -> list[Member]:
    return [Member.from_json(told) for told in json.loads(line)]


__all__ = [
    "Member",
    "Rungs",
    "Task",
    "attempt",
    "measured",
    "origin_files",
    "packed",
    "release",
    "resolved",
    "score",
    "unpacked",
]

"""Training from the first step to the last, with checkpoints, logs and pictures. Knows no Ray and no tracker."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from trainers import checkpoint, pictures, records
from trainers.config import TrainConfig
from trainers.distributed import Workers, shared_buffers
from trainers.generator import Generator, as_float
from trainers.records import History
from trainers.saver import Checkpoints, Saver
from trainers.step import Game
from trainers.stream import Stream

if TYPE_CHECKING:
    from trainers.data import Prepared

Report = Callable[[dict[str, Any]], None]
FINITE_EVERY = 25  # steps between checks that the losses are finite
STOP_EVERY = 5  # steps between agreements of several workers on stopping
GRID = 64  # samples in a picture
CLOUD = 2000  # points in a picture
TOLD = 6  # names in a message
SLACK = 4  # training goes on for up to one in so many of an interval's steps while a checkpoint is being written


class NotFinite(Exception):
    """A loss or weight became NaN or Inf. `terms` names them, `step` the step, `kept` the last finite checkpoint's step."""

    def __init__(self, step: int, terms: list[str], kept: int | None) -> None:
        more = f" and {len(terms) - TOLD} more" if len(terms) > TOLD else ""
        super().__init__(f"{', '.join(terms[:TOLD])}{more} not finite at step {step}")
        self.step, self.terms, self.kept = step, terms, kept


class Stopped(Exception):
    """Asked to stop; the state after `step` steps is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


@dataclass(frozen=True)
class Fitted:
    """A finished training: the files and metadata of a model artifact, and the last logged losses."""

    step: int
    files: Mapping[str, bytes]
    metadata: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass
class Training:
    """A training under way. `kept` is the step of the newest checkpoint in the store, None before the first."""

    game: Game
    data: Prepared
    checkpoints: Checkpoints | None = None
    report: Report = lambda event: None
    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda line: None
    step: int = 0
    history: History = field(default_factory=History)
    grids: dict[str, bytes] = field(default_factory=dict)
    kept: int | None = None

    def __post_init__(self) -> None:
        settings = self.game.config.settings
        self.total = settings.total_steps
        self.sample_every = settings.sample_every or max(self.total // 10, 1)
        self.checkpoint_every = settings.checkpoint_every or min(max(self.total // 10, 100), 2000)
        self.stream = Stream(self.game, self.data)
        self._saver: Saver | None = None
        if self.checkpoints is not None and self.workers.rank == 0:
            self._saver = Saver(self.checkpoints, self.checkpoint_every // SLACK)
        self._unchecked: list[tuple[int, dict[str, Tensor]]] = []
        self._clock = (time.monotonic(), 0)
        self._entered = -1  # the act that has begun

    @property
    def workers(self) -> Workers:
        return self.game.workers

    # --- resume -------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on from the newest checkpoint that is not beyond the end; every worker from the same."""
        if self.checkpoints is None:
            return
        mine = self.checkpoints.latest(at_most=self.total) if self.workers.rank == 0 else None
        agreed = self.workers.told(mine[0] if mine else -1, self.game.device)
        if agreed < 0:
            return
        found = mine or self.checkpoints.latest(at_most=agreed)
        if found is None or found[0] != agreed:
            raise RuntimeError(f"worker {self.workers.rank} cannot read the checkpoint of step {agreed}")
        self._restore(found[1])

    def _restore(self, files: Mapping[str, Path]) -> None:
        say = self.say if self.workers.rank == 0 else lambda line: None
        self.kept = checkpoint.restore(self.game, files, say)
        self._go_on(self.kept, files)

    def adopt(self, files: Mapping[str, Path]) -> None:
        """Start from another training's checkpoint: its state, step, history and pictures; see `checkpoint.adopt`."""
        step = checkpoint.adopt(self.game, files)
        if step > self.total:
            raise checkpoint.Mismatch(f"the checkpoint is of step {step}, beyond this training's {self.total}")
        self._go_on(step, files)

    def _go_on(self, step: int, files: Mapping[str, Path]) -> None:
        self.history, self.grids = records.restore(files, checkpoint.read_about(files)["beside"])
        self.step = step
        self._clock = (time.monotonic(), step)
        self._entered = self.game.act(step - 1) if step else -1

    def start(self, init: Mapping[str, Path] | None) -> None:
        """What happens once before the first step: weights from another model, and every hack's `prepare`."""
        if init is not None:
            take_over(self.game, load_file(init["model.safetensors"]))
        rows = self.workers.rows(self.game.config.settings.batch_size)
        batch = self.stream(0, rows)
        phases = self.game.acts[0].phases
        with torch.no_grad():
            for hack in self.game.hacks:
                hack.prepare(self.game.nets, batch, self.game.play(0, None, phases, 0, rows))

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end. Whatever ends it, nothing is being written any more afterwards."""
        try:
            while self.step < self.total:
                self.advance()
        except BaseException as error:
            self._settle_after(error)
            raise

    def advance(self) -> None:
        """One step, and what is due after it."""
        if (act := self.game.act(self.step)) != self._entered:
            self._entered = act
            if enter := self.game.acts[act].enter:
                enter(self.game.nets)
        told = self.game.step(self.step, self.stream)
        self._unchecked.append((self.step, told))
        self.step += 1
        self._after(told)

    def _after(self, told: dict[str, Tensor]) -> None:
        last = self.step == self.total
        stopping = self._asked_to_stop()
        saving = last or stopping or self.step % self.checkpoint_every == 0
        logging = last or self.step % self.game.config.settings.log_every == 0
        self._follow(logging)
        if saving or logging or len(self._unchecked) >= FINITE_EVERY:
            self._check_finite()
        if logging:
            self._log(told)
        if last or self.step % self.sample_every == 0:
            self.draw()
        if saving:
            self._save()
        if last or stopping:
            self._follow(True)
        if stopping and not last:
            raise Stopped(self.step)

    def _asked_to_stop(self) -> bool:
        if self.workers.size == 1:
            return self.stop()
        return self.step % STOP_EVERY == 0 and self.workers.any(self.stop(), self.game.device)

    def _check_finite(self) -> None:
        """Raises NotFinite, on every worker alike, before anything of a bad step is saved."""
        unchecked, self._unchecked = self._unchecked, []
        bad = not_finite(self.game, unchecked)
        if not self.workers.any(bad is not None, self.game.device):
            return
        found = [one for one in self.workers.gather(bad) if one is not None]
        step, terms = min(found, key=lambda one: one[0])
        error = NotFinite(step, terms, None)
        self._settle_after(error)
        kept = self.workers.told(-1 if self.kept is None else self.kept, self.game.device)
        error.kept = None if kept < 0 else kept
        raise error

    def _log(self, told: dict[str, Tensor]) -> None:
        values = {name: value.detach().clone() for name, value in told.items()}
        self.workers.average(values.values())
        now, (then, before) = time.monotonic(), self._clock
        self._clock = (now, self.step)
        speed = (self.step - before) / max(now - then, 1e-9)
        self.record({name: float(value.mean()) for name, value in values.items()}, speed)

    def record(self, metrics: Mapping[str, float], speed: float) -> None:
        """Log the losses of this step, and report them with the steps a second."""
        self.history.add(self.step, metrics)
        if self.workers.rank == 0:
            told = {**metrics, "steps_per_s": speed}
            self.report({"step": self.step, "total_steps": self.total, "metrics": told})

    def draw(self) -> None:
        """Keep a picture of what is generated now."""
        if self.workers.rank == 0:
            self.grids[f"samples/step_{self.step:08d}.png"] = picture(Generator.of(self.game), self.data)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Copy the state, here; make it into files and write them, in the background of worker 0."""
        if self.checkpoints is not None:
            files = self.state()
            if self._saver is not None:
                self._saver.begin(self.step, files)

    def state(self) -> Callable[[], dict[str, bytes]]:
        """Copy the state, here; called, perhaps in another thread, the copy becomes the files of a checkpoint.

        Every worker calls it.
        """
        captured, told = checkpoint.capture(self.game, self.step), (self.history.encoded(), dict(self.grids))
        return lambda: {**captured.files(records.summary(*told)), **records.files(*told)}

    def _follow(self, wait: bool) -> None:
        """Raise what went wrong in the background; wait for it to end, or only where training is too far ahead."""
        if self._saver is not None:
            if wait:
                self._saver.settle()
            else:
                self._saver.advance(self.step)
            self.kept = self._saver.committed or self.kept

    def _settle_after(self, error: BaseException) -> None:
        """The training has failed: let what is being written come to its end first."""
        try:
            self._follow(True)
        except Exception as second:  # noqa: BLE001 - the first failure is the one to tell
            error.add_note(f"and the last checkpoint could not be written: {type(second).__name__}: {second}")

    def finish(self) -> Fitted:
        """The model's files. Every worker calls it."""
        self.workers.average(shared_buffers(self.game.nets).values())
        config = self.game.config.to_json()
        about = {"config": config, "shape": self.game.shape.to_json(), "seed": self.game.seed, "step": self.step}
        files = {
            "model.safetensors": save(checkpoint.networks(self.game)),
            "config.json": json.dumps(about, sort_keys=True).encode(),
            "history.jsonl": self.history.encoded(),
            **self.grids,
        }
        kept = ("dataset", "classes", "mixture")
        metadata = {**about, **{key: self.data.metadata[key] for key in kept if key in self.data.metadata}}
        metadata["given"] = self.game.variant.given
        return Fitted(self.step, files, metadata, self.history.last())

    def fit(self) -> Fitted:
        """Train to the end and make the model."""
        self.run()
        return self.finish()


def open_training(
    config: TrainConfig,
    data: Prepared,
    *,
    seed: int,
    checkpoints: Checkpoints | None = None,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda line: None,
    workers: Workers | None = None,
    device: torch.device | str = "cpu",
    init: Mapping[str, Path] | None = None,
    origin: Mapping[str, Path] | None = None,
) -> Training:
    """A training to `config.settings.total_steps`, ready to run: gone on from the newest checkpoint, or freshly started.

    `report` gets {"step", "total_steps", "metrics": {"phase/term": mean loss, "steps_per_s": …}} on worker 0, `say` a line
    worth telling. `init` are the files of a model whose fitting networks are taken over before the first step; `origin` are
    the files of another training's checkpoint, from whose state and step this one starts unless it has checkpoints of its
    own (population based training: the numbers and the draws are its own from there on). Running it raises Stopped once
    `stop()` is true and the state is saved, NotFinite on NaN or Inf. Raises ValueError where the workers cannot share the
    batch, checkpoint.Mismatch for the checkpoint of another training, or an `origin` that is not of its shape.
    """
    game = Game(config, data.shape, seed, device=device, workers=workers)
    training = Training(game, data, checkpoints, report, stop, say)
    training.resume()
    if training.step == 0 and origin is not None:
        training.adopt(origin)
    if training.step == 0:
        training.start(init)
    return training


P = ParamSpec("P")


def _to_the_end(opened: Callable[P, Training]) -> Callable[P, Fitted]:
    """`open_training` with its own parameters, run to the end."""

    def fit(*args: P.args, **kwargs: P.kwargs) -> Fitted:
        return opened(*args, **kwargs).fit()

    return fit


fit = _to_the_end(open_training)


def not_finite(game: Game, told: Sequence[tuple[int, Mapping[str, Tensor]]]) -> tuple[int, list[str]] | None:
    """The first step of `told` (step, losses) with NaN or Inf and their names; or what is wrong in the state now.

    The state is every weight, averaged copy and buffer, and what optimizers hold (a square that overflowed would stop its
    weight from ever moving again).
    """
    losses = [value for _, values in told for value in values.values()]
    if losses and not bool(torch.isfinite(torch.stack(losses)).all()):
        for step, values in told:
            if names := [name for name, value in values.items() if not bool(torch.isfinite(value))]:
                return step, names
    state = {name: value for name, value in _state(game) if value.is_floating_point() and value.numel()}
    sizes = torch.stack(torch._foreach_norm(list(state.values()), math.inf)) if state else torch.zeros(0)
    if bool(torch.isfinite(sizes).all()):
        return None
    return told[-1][0] if told else -1, [name for name, size in zip(state, sizes, strict=True) if not size.isfinite()]


def _state(game: Game) -> Iterator[tuple[str, Tensor]]:
    yield from game.nets.state_dict().items()
    for name, value in checkpoint.optimizer_state(game):
        yield f"optimizer of {name}", value


def take_over(game: Game, weights: Mapping[str, Tensor]) -> list[str]:
    """Copy every tensor that a network has by the same name and shape; returns their names.

    Raises ValueError where nothing fits: the model is of another kind.
    """
    own = game.nets.state_dict()
    fitting = [name for name, value in weights.items() if name in own and own[name].shape == value.shape]
    if not fitting:
        raise ValueError("no network of the `init` model fits this configuration")
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(weights[name])
    return fitting


def picture(generator: Generator, data: Prepared) -> bytes:
    """A PNG of samples of seed 0: a grid of images (sources beside their translations), or a cloud of points."""
    split = data.split("train")
    if generator.shape.kind == "points":
        real = split.raw(torch.arange(min(CLOUD, len(split))))
        if generator.given == "images":
            moved = generator.sample(len(real), source=torch.as_tensor(real))
            return pictures.png(pictures.scatter(moved.numpy(), real))
        return pictures.png(pictures.scatter(generator.sample(CLOUD).numpy(), real))
    factor = max(1, 64 // generator.shape.resolution)
    if generator.given == "images":
        sources = split.raw(torch.arange(min(GRID // 2, len(split))))
        made = generator.images(len(sources), source=as_float(sources))
        pairs = np.stack([image for pair in zip(sources, made, strict=True) for image in pair])
        return pictures.png(pictures.enlarge(pictures.grid(pairs, 8), factor))
    labels = None
    if generator.num_labels:
        labels = torch.arange(GRID) // 8 % generator.num_labels
    return pictures.png(pictures.enlarge(pictures.grid(generator.images(GRID, labels=labels), 8), factor))

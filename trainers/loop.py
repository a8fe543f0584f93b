"""Training from the first step to the last, with checkpoints, logs and pictures. Knows no Ray and no tracker."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from trainers import checkpoint, pictures
from trainers.config import TrainConfig
from trainers.core import Batch
from trainers.distributed import Workers, shared_buffers
from trainers.generator import Generator, as_float
from trainers.step import Game

if TYPE_CHECKING:
    from trainers.data import Prepared

Report = Callable[[dict[str, Any]], None]
FINITE_EVERY = 25  # steps between checks that the losses are finite
STOP_EVERY = 5  # steps between agreements of several workers on stopping
GRID = 64  # samples in a picture
CLOUD = 2000  # points in a picture


class Checkpoints(Protocol):
    """Where committed checkpoints live."""

    def save(self, step: int, files: Mapping[str, bytes | Path]) -> None: ...
    def latest(self, *, at_most: int | None = None) -> tuple[int, dict[str, Path]] | None: ...


class NotFinite(Exception):
    """A loss became NaN or Inf. `terms` names the losses, `step` the step, `kept` the last finite checkpoint's step."""

    def __init__(self, step: int, terms: list[str], kept: int | None) -> None:
        super().__init__(f"{', '.join(terms)} not finite at step {step}")
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
class Stream:
    """Batches of the training split: an endless sequence of shuffled epochs, each position a function of the seed.

    A second domain is shuffled on its own, so that nothing is ever paired.
    """

    game: Game
    data: Prepared

    def __post_init__(self) -> None:
        self.split = self.data.split("train")
        self.augment: Mapping[str, Any] = self.data.metadata.get("augment") or {}
        self._orders: dict[tuple[str, int], Tensor] = {}

    def _order(self, domain: str, epoch: int, n: int) -> Tensor:
        key = (domain, epoch)
        if key not in self._orders:
            for old in [old for old in self._orders if old[0] == domain and old[1] < epoch - 1]:
                del self._orders[old]
            self._orders[key] = self.game.draws.permutation(("epoch", domain, epoch), n)
        return self._orders[key]

    def indices(self, position: int, rows: range, n: int, domain: str = "x") -> Tensor:
        """Indices into the `n` samples of a domain of some rows of the batch at a position of the stream."""
        first = position * self.game.config.settings.batch_size
        places = torch.arange(first + rows.start, first + rows.stop)
        epochs, within = places // n, places % n
        picked = torch.empty(len(rows), dtype=torch.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            picked[here] = self._order(domain, epoch, n)[within[here]]
        return picked

    def __call__(self, position: int, rows: range) -> Batch:
        draws, flip, crop = self.game.draws, None, None
        if self.augment.get("flip"):
            flip = draws.uniform(("flip", position), rows, ()) < 0.5
        if padding := int(self.augment.get("crop") or 0):
            crop = draws.integers(("crop", position), rows, 2 * padding + 1, (2,))
        game, other = self.game, None
        if self.split.other is not None:
            other = self.indices(position, rows, len(self.split.other), "other")
        indices = self.indices(position, rows, len(self.split))
        return self.split.batch(indices, device=game.device, dtype=game.dtype, flip=flip, crop=crop, other=other)


@dataclass
class Training:
    """A training under way."""

    game: Game
    data: Prepared
    checkpoints: Checkpoints | None
    report: Report
    stop: Callable[[], bool]
    history: list[dict[str, float]] = field(default_factory=list)
    grids: dict[str, bytes] = field(default_factory=dict)
    step: int = 0
    kept: int | None = None

    def __post_init__(self) -> None:
        settings = self.game.config.settings
        self.total = settings.total_steps
        self.sample_every = settings.sample_every or max(self.total // 10, 1)
        self.checkpoint_every = settings.checkpoint_every or min(max(self.total // 10, 100), 2000)
        self.stream = Stream(self.game, self.data)
        self._unchecked: list[tuple[int, dict[str, Tensor]]] = []
        self._clock = (time.monotonic(), 0)

    @property
    def workers(self) -> Workers:
        return self.game.workers

    # --- resume -------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on from the newest checkpoint that is not beyond the end; every worker from the same."""
        if self.checkpoints is None:
            return
        mine = self.checkpoints.latest(at_most=self.total) if self.workers.rank == 0 else None
        agreed = torch.tensor(mine[0] if mine else -1)
        self.workers.broadcast([agreed])
        if int(agreed) < 0:
            return
        found = mine or self.checkpoints.latest(at_most=int(agreed))
        if found is None or found[0] != int(agreed):
            raise RuntimeError(f"worker {self.workers.rank} cannot read the checkpoint of step {int(agreed)}")
        self._restore(found[1])

    def _restore(self, files: Mapping[str, Path]) -> None:
        self.step = self.kept = checkpoint.restore(self.game, files)
        self.history = [json.loads(line) for line in files["history.jsonl"].read_text().splitlines()]
        self.grids = {name: path.read_bytes() for name, path in files.items() if name.startswith("samples/")}
        self._clock = (time.monotonic(), self.step)

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
        entered = self.game.act(self.step - 1) if self.step else -1
        while self.step < self.total:
            if (act := self.game.act(self.step)) != entered:
                entered = act
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
        if saving or len(self._unchecked) >= FINITE_EVERY or self.step % self.game.config.settings.log_every == 0:
            self._check_finite()
        if last or self.step % self.game.config.settings.log_every == 0:
            self._log(told)
        if last or self.step % self.sample_every == 0:
            self._draw()
        if saving:
            self._save()
        if stopping and not last:
            raise Stopped(self.step)

    def _asked_to_stop(self) -> bool:
        if self.workers.size == 1:
            return self.stop()
        return self.step % STOP_EVERY == 0 and self.workers.any(self.stop(), self.game.device)

    def _check_finite(self) -> None:
        """Raises NotFinite, on every worker alike, before anything of a bad step is saved."""
        unchecked, self._unchecked = self._unchecked, []
        bad: tuple[int, list[str]] | None = None
        for step, told in unchecked:
            if told and not bool(torch.isfinite(torch.stack([v.sum() for v in told.values()]).sum())):
                bad = (step, [name for name, v in told.items() if not bool(torch.isfinite(v).all())] or list(told))
                break
        if bad is None and not all(bool(torch.isfinite(p).all()) for p in self.game.nets.parameters()):
            bad = (self.step - 1, ["a weight"])
        if self.workers.any(bad is not None, self.game.device):
            step, terms = bad or (self.step - 1, ["another worker's losses"])
            raise NotFinite(step, terms, self.kept)

    def _log(self, told: dict[str, Tensor]) -> None:
        values = {name: value.detach().clone() for name, value in told.items()}
        self.workers.average(values.values())
        metrics = {name: float(value.mean()) for name, value in values.items()}
        if not self.history or self.history[-1]["step"] != self.step:
            self.history.append({"step": self.step, **metrics})
        now, (then, before) = time.monotonic(), self._clock
        self._clock = (now, self.step)
        speed = (self.step - before) / max(now - then, 1e-9)
        if self.workers.rank == 0:
            told_metrics = {**metrics, "steps_per_s": speed}
            self.report({"step": self.step, "total_steps": self.total, "metrics": told_metrics})

    def _draw(self) -> None:
        if self.workers.rank == 0:
            self.grids[f"samples/step_{self.step:08d}.png"] = picture(Generator.of(self.game), self.data)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        files = checkpoint.capture(self.game, self.step)
        if self.workers.rank == 0:
            self.checkpoints.save(self.step, {**files, "history.jsonl": self._history(), **self.grids})
        self.kept = self.step

    def _history(self) -> bytes:
        return "".join(json.dumps(line, sort_keys=True) + "\n" for line in self.history).encode()

    def finish(self) -> Fitted:
        """The model's files. Every worker calls it."""
        self.workers.average(shared_buffers(self.game.nets).values())
        config = self.game.config.to_json()
        about = {"config": config, "shape": self.game.shape.to_json(), "seed": self.game.seed, "step": self.step}
        files = {
            "model.safetensors": save(checkpoint.networks(self.game)),
            "config.json": json.dumps(about, sort_keys=True).encode(),
            "history.jsonl": self._history(),
            **self.grids,
        }
        kept = ("dataset", "classes", "mixture")
        metadata = {**about, **{key: self.data.metadata[key] for key in kept if key in self.data.metadata}}
        metadata["given"] = self.game.variant.given
        last = {k: v for k, v in self.history[-1].items() if k != "step" and math.isfinite(v)} if self.history else {}
        return Fitted(self.step, files, metadata, last)


def fit(
    config: TrainConfig,
    data: Prepared,
    *,
    seed: int,
    checkpoints: Checkpoints | None = None,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    workers: Workers | None = None,
    device: torch.device | str = "cpu",
    init: Mapping[str, Path] | None = None,
) -> Fitted:
    """Train to `config.settings.total_steps`, going on from the newest checkpoint.

    `report` gets {"step", "total_steps", "metrics": {"phase/term": mean loss, "steps_per_s": …}} on worker 0. `init` are the
    files of a model whose fitting networks are taken over before the first step. Raises Stopped once `stop()` is true and
    the state is saved, NotFinite on NaN or Inf, ValueError where the workers cannot share the batch.
    """
    training = open_training(config, data, seed=seed, checkpoints=checkpoints, report=report, stop=stop,
                             workers=workers, device=device, init=init)  # fmt: skip
    training.run()
    return training.finish()


def open_training(
    config: TrainConfig,
    data: Prepared,
    *,
    seed: int,
    checkpoints: Checkpoints | None = None,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    workers: Workers | None = None,
    device: torch.device | str = "cpu",
    init: Mapping[str, Path] | None = None,
) -> Training:
    """A training ready to run: resumed, or freshly started."""
    game = Game(config, data.shape, seed, device=device, workers=workers)
    training = Training(game, data, checkpoints, report, stop)
    training.resume()
    if training.step == 0:
        training.start(init)
    return training


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

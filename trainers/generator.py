"""A trained model to sample from: no data set, no optimizer, no tracker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from trainers import config as configuration
from trainers.core import Batch, DataShape, Hack, Variant
from trainers.draws import Draws
from trainers.pictures import to_uint8
from trainers.play import Play
from trainers.step import Game


@dataclass(frozen=True)
class Draw:
    """One named draw that sampling makes: `kind` is normal, uniform or integers (below `high`); `shape` of one row."""

    name: str
    kind: str
    shape: tuple[int, ...]
    high: int = 0


class Generator:
    """Samples from the networks of a variant.

    `shape` is what comes out: the second domain's for a translator. Samples are a function of (seed, index): the batch
    size, or which process makes which rows, changes nothing but rounding.
    """

    def __init__(
        self,
        variant: Variant,
        nets: nn.ModuleDict,
        shape: DataShape,
        *,
        hacks: Sequence[Hack] = (),
        config: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.variant, self.nets, self.data_shape = variant, nets, shape
        self.shape = shape.other if variant.given == "images" and shape.other else shape
        self.hacks, self.config = tuple(hacks), dict(config or {})
        self.device, self.dtype = torch.device(device), dtype

    @classmethod
    def of(cls, game: Game) -> Generator:
        """The generator of a game being trained: averaged copies where it has them."""
        return cls(
            game.variant,
            game.sampling(),
            game.shape,
            hacks=game.hacks,
            config=game.config.to_json(),
            device=game.device,
            dtype=game.dtype,
        )

    @property
    def given(self) -> str:
        """What `sample` may be told: "nothing", "labels" or "images" (source images, which it needs)."""
        return self.variant.given

    @property
    def num_labels(self) -> int:
        """How many labels there are for a variant that takes them."""
        return self.variant.num_labels(self.data_shape) if self.given == "labels" else 0

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        labels: Sequence[int] | Tensor | None = None,
        source: Tensor | None = None,
        truncation: float | None = None,
        batch_size: int = 256,
    ) -> Tensor:
        """Samples number `first` to `first + n` of `seed`: (n, *size) in the data's range, on the CPU.

        `labels` (n,) for a conditional variant (drawn when not given); `source` (n, *size) for a translator.
        `truncation` in (0, 1] scales normal latents. Raises ValueError for what this model cannot take.
        """
        self._check(n, labels, source, truncation)
        made = []
        with evaluating(self.nets):
            for start in range(0, n, batch_size):
                stop = min(start + batch_size, n)
                play = self._play(seed, range(first + start, first + stop), truncation)
                given = self._given(slice(start, stop), stop - start, labels, source)
                made.append(self.variant.sample(self.nets, stop - start, play, given=given).float().cpu())
        return torch.cat(made) if made else torch.empty(0, *self.shape.size)

    def images(self, n: int, **options: Any) -> NDArray[Any]:
        """Like `sample`: uint8 (n, H, W, C) for images, float32 (n, D) for points."""
        samples = self.sample(n, **options).numpy()
        return to_uint8(samples) if self.shape.kind == "image" else samples

    def _check(self, n: int, labels: Any, source: Tensor | None, truncation: float | None) -> None:
        if n < 0:
            raise ValueError(f"n must not be negative, not {n}")
        if labels is not None and not self.num_labels:
            raise ValueError("this model is not conditional: it takes no labels")
        if labels is not None and len(labels) != n:
            raise ValueError(f"{n} samples need {n} labels")
        if labels is not None:
            known, told = self.num_labels, torch.as_tensor(labels)
            if len(told) and not 0 <= int(told.min()) <= int(told.max()) < known:
                raise ValueError(f"labels must be from 0 to {known - 1}")
        if (source is not None) != (self.given == "images"):
            word = "needs" if self.given == "images" else "takes no"
            raise ValueError(f"this model {word} source images")
        if source is not None and len(source) != n:
            raise ValueError(f"{n} samples need {n} source images")
        if truncation is not None and not 0 < truncation <= 1:
            raise ValueError(f"truncation must be above 0 and at most 1, not {truncation}")

    def _play(self, seed: int, rows: range, truncation: float | None = None) -> Play:
        play = SamplingPlay(
            self.nets,
            Draws(seed, self.dtype),
            shape=self.data_shape,
            rows=rows,
            hacks=self.hacks,
            device=self.device,
            dtype=self.dtype,
        )
        play.truncation = truncation
        return play

    def _given(self, rows: slice, n: int, labels: Any, source: Tensor | None) -> Batch | None:
        if labels is None and source is None:
            return None
        x = torch.empty(n, 0) if source is None else source[rows].to(self.device, self.dtype)
        told = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)[rows].to(self.device)
        return Batch(x, told, torch.arange(n))

    def program(self) -> tuple[Program, list[Draw], str]:
        """Sampling as a pure function, for export: (module, draws, inputs).

        `module(*draws, [labels or source images])` gives float samples (n, *size); `inputs` is "count" (draws only),
        "classes" (labels int64 (n,) come last) or "images" (sources (n, *size) come last).
        """
        recorder = Recorder(
            self.nets, Draws(0, self.dtype), shape=self.data_shape, rows=range(2), hacks=self.hacks, dtype=self.dtype
        )
        inputs = {"nothing": "count", "labels": "classes", "images": "images"}[self.given]
        labels = torch.zeros(2, dtype=torch.int64) if inputs == "classes" else None
        source = torch.zeros(2, *self.data_shape.size, dtype=self.dtype) if inputs == "images" else None
        with torch.no_grad(), evaluating(self.nets):
            self.variant.sample(self.nets, 2, recorder, given=self._given(slice(0, 2), 2, labels, source))
        return Program(self, recorder.made, inputs).eval(), recorder.made, inputs


class SamplingPlay(Play):
    """Draws for sampling; normal ones may be scaled down (truncation)."""

    truncation: float | None = None

    def normal(self, name: str, *shape: int) -> Tensor:
        drawn = super().normal(name, *shape)
        return drawn if self.truncation is None else drawn * self.truncation


class Recorder(Play):
    """Notes each draw as it is made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made: list[Draw] = []

    def normal(self, name: str, *shape: int) -> Tensor:
        self.made.append(Draw(name, "normal", shape))
        return super().normal(name, *shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        self.made.append(Draw(name, "uniform", shape))
        return super().uniform(name, *shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        self.made.append(Draw(name, "integers", shape, high))
        return super().integers(name, high, *shape)


class Replay(Play):
    """Answers every draw with a tensor that was handed in."""

    given: Mapping[str, Tensor]

    def normal(self, name: str, *shape: int) -> Tensor:
        return self.given[name]

    def uniform(self, name: str, *shape: int) -> Tensor:
        return self.given[name]

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        return self.given[name]


class Program(nn.Module):
    """A generator as a module of its draws."""

    def __init__(self, generator: Generator, draws: Sequence[Draw], inputs: str) -> None:
        super().__init__()
        self.nets = generator.nets
        self._generator, self._draws, self._inputs = generator, tuple(draws), inputs

    def forward(self, *args: Tensor) -> Tensor:
        generator = self._generator
        n = args[0].shape[0]
        play = Replay(
            self.nets, Draws(0), shape=generator.data_shape, rows=range(1), hacks=generator.hacks, dtype=generator.dtype
        )
        play.given = {draw.name: arg for draw, arg in zip(self._draws, args, strict=False)}
        given = None
        if self._inputs == "classes":
            given = Batch(args[0], args[-1], args[-1])
        elif self._inputs == "images":
            given = Batch(args[-1], None, args[-1])
        return generator.variant.sample(self.nets, n, play, given=given)


@contextmanager
def evaluating(nets: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode restored after."""
    modes = [(module, module.training) for module in nets.modules()]
    nets.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def load_generator(files: Mapping[str, Path] | Path, *, device: torch.device | str = "cpu") -> Generator:
    """The generator of a stored model: `config.json` and `model.safetensors`, by name or in a directory.

    Raises ValueError where the weights do not belong to the configuration.
    """
    if isinstance(files, Path):
        files = {name: files / name for name in ("config.json", "model.safetensors")}
    stored = json.loads(files["config.json"].read_text())
    shape = DataShape.from_json(stored["shape"])
    facts = {"shape": stored["shape"]}
    game = Game(configuration.resolve(stored["config"], facts=facts), shape, stored["seed"], device=device)
    missing, unexpected = game.nets.load_state_dict(
        load_file(files["model.safetensors"], device=str(device)), strict=False
    )
    if missing or unexpected:
        raise ValueError(
            f"the weights do not fit their configuration: {len(missing)} missing, {len(unexpected)} unknown"
        )
    return Generator.of(game)


def as_float(images: NDArray[np.uint8]) -> Tensor:
    """uint8 NHWC -> float NCHW in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1

"""Exponential moving average of the generator's weights (https://arxiv.org/abs/1806.04498)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from trainers.core import DataShape, Hack, Part
from trainers.layers import aligned
from trainers.play import Play


@dataclass(frozen=True)
class EMA(Hack):
    """Exponential moving average of the generator's weights (https://arxiv.org/abs/1806.04498).

    After each update of a generator: copy <- beta copy + (1 - beta) weights, with beta = 0.5^(batch / half-life) and the
    half-life at most `rampup` of the images seen so far (https://arxiv.org/abs/2006.06676). Buffers are copied. The copy is
    what is sampled and registered.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"generator|decoder"})
    vectorizes: ClassVar[bool] = True
    varies: ClassVar[frozenset[str]] = frozenset({"half_life", "rampup"})
    order: ClassVar[int] = 95

    half_life: Annotated[float, Gt(0)] = 10_000.0
    "Images after which a weight's contribution has halved."
    rampup: Annotated[float, Interval(gt=0, le=1)] | None = 0.05
    "Half-life at most this share of the images seen; null: full from the start."
    start_step: Annotated[int, Ge(0)] = 0
    "Until then the copy equals the weights."

    def networks(self, parts: dict[str, Part], shape: DataShape) -> dict[str, Part]:
        copies = {
            f"{name}_ema": Part(copy.deepcopy(part.module), part.role, part.sees, stands_for=name)
            for name, part in parts.items()
            if part.role == "generator" and part.stands_for is None
        }
        return {**parts, **copies}

    def beta(self, step: int, batch_size: int) -> float | Tensor:
        """The decay of a step (0-based); (N, 1) where the members of a population differ in it."""
        if step < self.start_step:
            return 0.0
        half_life: float | Tensor = self.half_life
        if self.rampup is not None:
            half_life = _least(half_life, (step + 1) * batch_size * self.rampup)
        beta: float | Tensor = 0.5 ** (batch_size / half_life)
        return beta

    def stepped(self, play: Play) -> None:
        if play.phase is None:
            return
        beta = self.beta(play.step, play.batch_size)
        for name in play.phase.updates:
            if f"{name}_ema" in play.nets:
                average, source = play.nets[f"{name}_ema"], play.nets[name]
                self._move(list(average.parameters()), list(source.parameters()), 1 - beta)
                for mine, theirs in zip(average.buffers(), source.buffers(), strict=True):
                    mine.copy_(theirs)

    @staticmethod
    def _move(averages: list[Tensor], sources: list[Tensor], share: float | Tensor) -> None:
        if isinstance(share, Tensor):
            for average, source in zip(averages, sources, strict=True):
                average.lerp_(source, aligned(share, source))
        else:
            torch._foreach_lerp_(averages, sources, share)


def _least(a: float | Tensor, b: float | Tensor) -> float | Tensor:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.minimum(torch.as_tensor(a), torch.as_tensor(b))
    return min(a, b)

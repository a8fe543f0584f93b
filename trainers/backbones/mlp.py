"""Multilayer perceptrons, for points and for small images (https://arxiv.org/abs/1406.2661)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from torch import nn

from trainers.core import Backbone, DataShape
from trainers.layers import Critic, Flatten, Unflatten, bound

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class MLP(Backbone):
    """Multilayer perceptrons for data of any shape (https://arxiv.org/abs/1406.2661).

    `depth` hidden layers of `width` units. Images are flattened.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"weights", "features"})
    offers_when: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {"batch_norm": {"norm": ("batch",)}}
    sizes: ClassVar[dict[str, tuple[int, int, int] | None]] = {"points": None, "image": None}
    vectorizes: ClassVar[bool] = True

    width: Annotated[int, Interval(ge=1, le=16384)] = 128
    "Units in each hidden layer."
    depth: Annotated[int, Interval(ge=1, le=64)] = 3
    "Hidden layers."
    activation: Literal["relu", "leaky_relu", "tanh", "silu"] = "leaky_relu"
    norm: Literal["none", "batch", "layer"] = "none"
    "Normalisation before each activation."

    def _hidden(self, inputs: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for _ in range(self.depth):
            # batch normalisation takes every bias before it away again: its gradient is rounding alone, which Adam enlarges
            layers.append(nn.Linear(inputs, self.width, bias=self.norm != "batch"))
            if self.norm == "batch":
                layers.append(nn.BatchNorm1d(self.width))
            elif self.norm == "layer":
                layers.append(nn.LayerNorm(self.width))
            layers.append(ACTIVATIONS[self.activation]())
            inputs = self.width
        return layers

    def generator(self, latent_dim: int, out: DataShape) -> nn.Module:
        last = nn.Linear(self.width, out.numel)
        return nn.Sequential(*self._hidden(latent_dim), last, Unflatten(out.size), bound(out))

    def critic(self, of: DataShape, outputs: int = 1) -> nn.Module:
        return Critic(nn.Sequential(Flatten(of), *self._hidden(of.numel)), self.width, outputs)

    def encoder(self, of: DataShape, dim: int) -> nn.Module:
        return nn.Sequential(Flatten(of), *self._hidden(of.numel), nn.Linear(self.width, dim))

    def translator(self, a: DataShape, b: DataShape) -> nn.Module:
        return nn.Sequential(Flatten(a), self.generator(a.numel, b))

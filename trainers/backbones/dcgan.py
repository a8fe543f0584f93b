"""DCGAN's convolutional networks (https://arxiv.org/abs/1511.06434)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from torch import nn

from trainers.core import Backbone, DataShape
from trainers.layers import Critic, Flatten, Unflatten, bound, halvings, norm_2d, normal_init


@dataclass(frozen=True)
class DCGAN(Backbone):
    """DCGAN's strided and transposed convolutions (https://arxiv.org/abs/1511.06434).

    Generator: linear to the smallest map, then 4x4 transposed convolutions, ReLU, tanh. Critic: 4x4 strided convolutions,
    LeakyReLU(0.2). Channels halve (double) with each doubling (halving) of the resolution, at most `max_width`.
    Deviation: the head is linear on the flattened last map, for any resolution that is a multiple of 8.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"weights", "features"})
    offers_when: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {"batch_norm": {"norm": ("batch",)}}
    sizes: ClassVar[dict[str, tuple[int, int, int] | None]] = {"image": (8, 256, 8)}
    alone: ClassVar[str] = "convolutions are bound by arithmetic, which a population does not help"

    width: Annotated[int, Interval(ge=1, le=1024)] = 64
    "Channels next to the image."
    max_width: Annotated[int, Interval(ge=1, le=4096)] = 512
    "Most channels anywhere."
    norm: Literal["batch", "layer", "instance", "none"] = "batch"
    "Normalisation; none next to the image and in the critic's first layer."

    def _channels(self, levels: int) -> list[int]:
        """Channels from the image inwards."""
        return [min(self.width * 2**i, self.max_width) for i in range(levels)]

    def _ups(self, channels: list[int], out: DataShape) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for inner, outer in zip(channels[::-1], channels[-2::-1], strict=False):
            layers += [nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=self.norm == "none")]
            layers += [norm_2d(self.norm, outer), nn.ReLU()]
        return [*layers, nn.ConvTranspose2d(channels[0], out.channels, 4, 2, 1), bound(out)]

    def _downs(self, channels: list[int], of: DataShape) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Conv2d(of.channels, channels[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for outer, inner in pairwise(channels):
            layers += [nn.Conv2d(outer, inner, 4, 2, 1, bias=self.norm == "none")]
            layers += [norm_2d(self.norm, inner), nn.LeakyReLU(0.2)]
        return layers

    def generator(self, latent_dim: int, out: DataShape) -> nn.Module:
        levels, base = halvings(out.resolution)
        channels = self._channels(levels)
        stem = nn.Linear(latent_dim, channels[-1] * base * base, bias=self.norm == "none")
        first = [Unflatten((channels[-1], base, base)), norm_2d(self.norm, channels[-1]), nn.ReLU()]
        return normal_init(nn.Sequential(stem, *first, *self._ups(channels, out)))

    def _trunk(self, of: DataShape) -> tuple[nn.Module, int]:
        levels, base = halvings(of.resolution)
        channels = self._channels(levels)
        last = of.with_channels(channels[-1]).at(base)
        return nn.Sequential(*self._downs(channels, of), Flatten(last)), last.numel

    def critic(self, of: DataShape, outputs: int = 1) -> nn.Module:
        return normal_init(Critic(*self._trunk(of), outputs))

    def encoder(self, of: DataShape, dim: int) -> nn.Module:
        trunk, num_features = self._trunk(of)
        return normal_init(nn.Sequential(trunk, nn.Linear(num_features, dim)))

    def translator(self, a: DataShape, b: DataShape) -> nn.Module:
        channels = self._channels(min(2, halvings(a.resolution)[0]))
        return normal_init(nn.Sequential(*self._downs(channels, a), *self._ups(channels, b)))

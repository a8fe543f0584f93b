"""Residual networks (https://arxiv.org/abs/1704.00028, https://arxiv.org/abs/1802.05957, https://arxiv.org/abs/1703.10593)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from torch import Tensor, nn

from trainers.core import Backbone, DataShape
from trainers.layers import Critic, Unflatten, bound, halvings, norm_2d, normal_init


@dataclass(frozen=True)
class ResNet(Backbone):
    """Residual networks for images (https://arxiv.org/abs/1704.00028, appendix C; https://arxiv.org/abs/1802.05957).

    Generator: linear to the smallest map, a residual block for each doubling, norm, ReLU, 3x3, tanh. Critic: a residual
    block for each halving, one more, ReLU, spatial mean. Channels halve (double) with each doubling (halving).
    Translator (https://arxiv.org/abs/1703.10593, there with instance normalisation): 7x7, two strided convolutions,
    residual blocks, and back. Deviation: the branches of generators and critics start 1 / sqrt(number of blocks) as large,
    so that depth does not change the scale at the start.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"weights", "features"})
    offers_when: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        "critic.batch_norm": {"norm": ("batch",)},
        "generator.batch_norm": {"generator_norm": ("batch",)},
    }
    sizes: ClassVar[dict[str, tuple[int, int, int] | None]] = {"image": (8, 256, 8)}
    alone: ClassVar[str] = "convolutions are bound by arithmetic, which a population does not help"

    width: Annotated[int, Interval(ge=1, le=1024)] = 64
    "Channels next to the image."
    max_width: Annotated[int, Interval(ge=1, le=4096)] = 512
    "Most channels anywhere."
    norm: Literal["none", "batch", "layer", "instance"] = "none"
    "Normalisation in critics and encoders."
    generator_norm: Literal["none", "batch", "layer", "instance"] = "batch"
    "Normalisation in generators and translators."
    num_blocks: Annotated[int, Interval(ge=1, le=32)] = 6
    "Residual blocks in the middle of a translator (CycleGAN: 6 up to 128x128, 9 above)."

    def _channels(self, levels: int) -> list[int]:
        """Channels from the image inwards."""
        return [min(self.width * 2**i, self.max_width) for i in range(levels)]

    def generator(self, latent_dim: int, out: DataShape) -> nn.Module:
        levels, base = halvings(out.resolution)
        channels = self._channels(levels + 1)
        stem = nn.Sequential(nn.Linear(latent_dim, channels[-1] * base * base), Unflatten((channels[-1], base, base)))
        ups = [_up(a, b, self.generator_norm) for a, b in pairwise(channels[::-1])]
        last = nn.Conv2d(channels[0], out.channels, 3, 1, 1)
        net = _scaled_init(
            nn.Sequential(stem, *ups, norm_2d(self.generator_norm, channels[0]), nn.ReLU(), last, bound(out))
        )
        nn.init.normal_(
            last.weight, 0.0, 1 / math.sqrt(last.weight[0].numel())
        )  # half of He's variance: tanh stays open
        return net

    def _trunk(self, of: DataShape) -> tuple[nn.Module, int]:
        levels, _ = halvings(of.resolution)
        channels = self._channels(levels)
        downs = [_down(of.channels, channels[0], self.norm, first=True)]
        downs += [_down(a, b, self.norm) for a, b in pairwise(channels)]
        end = [_level(channels[-1], self.norm), norm_2d(self.norm, channels[-1]), nn.ReLU(), _SpatialMean()]
        return _scaled_init(nn.Sequential(*downs, *end)), channels[-1]

    def critic(self, of: DataShape, outputs: int = 1) -> nn.Module:
        return Critic(*self._trunk(of), outputs)

    def encoder(self, of: DataShape, dim: int) -> nn.Module:
        trunk, num_features = self._trunk(of)
        return nn.Sequential(trunk, nn.Linear(num_features, dim))

    def translator(self, a: DataShape, b: DataShape) -> nn.Module:
        norm = self.generator_norm
        channels = self._channels(min(2, halvings(a.resolution)[0]) + 1)
        layers = [_seven(a.channels, channels[0], norm), norm_2d(norm, channels[0]), nn.ReLU()]
        for outer, inner in pairwise(channels):
            layers += [nn.Conv2d(outer, inner, 3, 2, 1, bias=norm == "none"), norm_2d(norm, inner), nn.ReLU()]
        layers += [_middle(channels[-1], norm) for _ in range(self.num_blocks)]
        for inner, outer in pairwise(channels[::-1]):
            layers += [nn.ConvTranspose2d(inner, outer, 3, 2, 1, output_padding=1, bias=norm == "none")]
            layers += [norm_2d(norm, outer), nn.ReLU()]
        net = nn.Sequential(*layers, _seven(channels[0], b.channels, "none"), bound(b))
        return _scaled_init(net) if norm == "none" else normal_init(net)


class Residual(nn.Module):
    """shortcut(x) + branch(x)."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut if shortcut is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)  # type: ignore[no-any-return]


class _SpatialMean(nn.Module):
    """(B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-1, -2))


def _three(inputs: int, outputs: int, norm: str) -> nn.Conv2d:
    """3x3; without a bias where a normalisation follows that would take it away."""
    return nn.Conv2d(inputs, outputs, 3, 1, 1, bias=norm == "none")


def _up(inner: int, outer: int, norm: str) -> Residual:
    """Twice the size."""
    branch = [norm_2d(norm, inner), nn.ReLU(), nn.Upsample(scale_factor=2), _three(inner, outer, norm)]
    branch += [norm_2d(norm, outer), nn.ReLU(), nn.Conv2d(outer, outer, 3, 1, 1)]
    return Residual(nn.Sequential(*branch), nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inner, outer, 1)))


def _down(outer: int, inner: int, norm: str, *, first: bool = False) -> Residual:
    """Half the size. The first block sees the image itself: nothing is done to it before its first convolution."""
    branch = [] if first else [norm_2d(norm, outer), nn.ReLU()]
    branch += [
        _three(outer, inner, norm),
        norm_2d(norm, inner),
        nn.ReLU(),
        nn.Conv2d(inner, inner, 3, 1, 1),
        nn.AvgPool2d(2),
    ]
    return Residual(nn.Sequential(*branch), nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(outer, inner, 1)))


def _level(channels: int, norm: str) -> Residual:
    """The same size."""
    branch = [norm_2d(norm, channels), nn.ReLU(), _three(channels, channels, norm)]
    branch += [norm_2d(norm, channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1)]
    return Residual(nn.Sequential(*branch))


def _seven(inputs: int, outputs: int, norm: str) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 7, 1, 3, padding_mode="reflect", bias=norm == "none")


def _middle(channels: int, norm: str) -> Residual:
    """A translator's residual block: 3x3, norm, ReLU, 3x3, norm."""
    threes = [nn.Conv2d(channels, channels, 3, 1, 1, padding_mode="reflect", bias=norm == "none") for _ in range(2)]
    return Residual(nn.Sequential(threes[0], norm_2d(norm, channels), nn.ReLU(), threes[1], norm_2d(norm, channels)))


def _scaled_init(net: nn.Module) -> nn.Module:
    """He's initialisation (arXiv 1502.01852) after a ReLU, variance-keeping elsewhere; branches shrunk by their number."""
    blocks = [module for module in net.modules() if isinstance(module, Residual)]
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            gain = math.sqrt(2) if not isinstance(module, nn.Linear) and module.kernel_size[0] > 1 else 1.0
            nn.init.normal_(module.weight, 0.0, gain / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for block in blocks:
        last = next(layer for layer in reversed(block.branch) if isinstance(layer, nn.Conv2d))
        nn.init.normal_(last.weight, 0.0, math.sqrt(2 / last.weight[0].numel() / len(blocks)))
    return net

"""Laplacian pyramid of GANs (https://arxiv.org/abs/1506.05751)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.core import Act, Backbones, Batch, DataShape, Entry, Losses, Networks, Part, Phase, Variant
from trainers.games import cross_entropy
from trainers.play import Play


@dataclass(frozen=True)
class LAPGAN(Variant):
    """Laplacian pyramid of GANs (https://arxiv.org/abs/1506.05751): a conditional GAN for each band of frequencies.

    With d (2x2 means) and u (bilinear doubling), l = u(d(I)) is the low-pass image and h = I - l the band, unbounded. The
    coarsest level is a GAN from noise; every finer one makes h from l and a plane of noise, and its critic sees l + h.
    The levels are independent games, trained side by side on real low-pass images; sampling runs from the coarsest up.
    Levels halve while both sides of a level stay even and at least `coarsest`; an 8x8 image has one level, a plain GAN.
    Deviations: d and u; normal noise by default; the coarsest networks are the backbone's, not fully connected.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"generator", "critic", "latent", "real_entry", "targets", "logits"})
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    vectorizes: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {"backbone": "dcgan"}

    coarsest: Annotated[int, Interval(ge=8, le=256)] = 8
    "Smallest height and width of a level."
    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 100
    "Dimensions of the coarsest level's z; a finer level draws one plane of noise."
    latent: Literal["normal", "uniform"] = "normal"
    "Prior of all noise: standard normal, or uniform on [-1, 1]."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 1
    "Discriminator updates for each generator update, at each level."

    def levels(self, shape: DataShape) -> tuple[DataShape, ...]:
        """The image shape of each level, coarsest first."""
        found = [shape]
        while all(side % 4 == 0 and side // 2 >= self.coarsest for side in found[0].size[1:]):
            found.insert(0, replace(shape, size=(shape.channels, *(side // 2 for side in found[0].size[1:]))))
        return tuple(found)

    def networks(self, shape: DataShape, backbones: Backbones) -> dict[str, Part]:
        parts = {}
        for i, level in enumerate(self.levels(shape)):
            if i == 0:
                generator = backbones.generator(self.latent_dim, level)
            else:
                generator = _Band(
                    backbones.translator(level.with_channels(level.channels + 1), replace(level, bounded=False))
                )
            parts[f"generator_{_name(level)}"] = Part(generator, "generator")
            parts[f"discriminator_{_name(level)}"] = Part(backbones.critic(level), "critic")
        return parts

    def acts(self, shape: DataShape) -> tuple[Act, ...]:
        phases = []
        for level in self.levels(shape):
            g, d = f"generator_{_name(level)}", f"discriminator_{_name(level)}"
            phases += [
                Phase(d, "critic", (d,), partial(self._critic_phase, level), repeats=self.n_critic),
                Phase(g, "generator", (g,), partial(self._generator_phase, level)),
            ]
        return (Act("train", 1.0, tuple(phases)),)

    def sample(self, nets: Networks, n: int, play: Play, *, given: Batch | None = None) -> Tensor:
        coarsest, *finer = self.levels(play.shape)
        image = self._coarse(nets, coarsest, play)
        for level in finer:
            low = doubled(image)
            image = low + self._band(nets, level, low, play)
        return image.clamp(-1, 1) if play.shape.bounded else image

    def _coarse(self, nets: Networks, level: DataShape, play: Play) -> Tensor:
        z = play.latent(f"z_{_name(level)}", self.latent_dim, self.latent)
        return nets[f"generator_{_name(level)}"](z)  # type: ignore[no-any-return]

    def _band(self, nets: Networks, level: DataShape, low: Tensor, play: Play) -> Tensor:
        """h for a low-pass image (..., B, C, H, W) of this level."""
        height, width = level.size[1:]
        z = play.latent(f"z_{_name(level)}", height * width, self.latent)
        return nets[f"generator_{_name(level)}"](low, z.unflatten(-1, (1, height, width)))  # type: ignore[no-any-return]

    def real_entry(self, critic: str, batch: Batch, play: Play) -> Entry:
        level = next(level for level in self.levels(play.shape) if critic == f"discriminator_{_name(level)}")
        return Entry((_reduced(batch.x, level),))

    def _fake(self, nets: Networks, level: DataShape, batch: Batch, play: Play) -> Tensor:
        if level == self.levels(play.shape)[0]:
            return self._coarse(nets, level, play)
        low = doubled(halved(_reduced(batch.x, level)))
        return low + self._band(nets, level, low, play)

    def _critic_phase(self, level: DataShape, nets: Networks, batch: Batch, play: Play) -> Losses:
        critic = f"discriminator_{_name(level)}"
        fake = self._fake(nets, level, batch, play)
        real_score = play.judge(critic, self.real_entry(critic, batch, play), real=True)
        return cross_entropy(real_score, play.judge(critic, Entry((fake,)), real=False), play)

    def _generator_phase(self, level: DataShape, nets: Networks, batch: Batch, play: Play) -> Losses:
        fake = Entry((self._fake(nets, level, batch, play),))
        score = play.judge(f"discriminator_{_name(level)}", fake, real=False)
        return {"adversarial": play.objective(score.logits, 1.0, real=False)}


class _Band(nn.Module):
    """A translator from a low-pass image and a plane of noise to the band that the image lacks."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, low: Tensor, noise: Tensor) -> Tensor:
        """(..., B, C, H, W), (..., B, 1, H, W) -> (..., B, C, H, W)."""
        return self.net(torch.cat([low, noise], -3))  # type: ignore[no-any-return]


def _name(level: DataShape) -> str:
    height, width = level.size[1:]
    return str(width) if height == width else f"{height}x{width}"


def halved(x: Tensor) -> Tensor:
    """d: means of 2x2, (..., C, H, W) -> (..., C, H / 2, W / 2)."""
    height, width = x.shape[-2:]
    squares = x.reshape(*x.shape[:-2], height // 2, 2, width // 2, 2)
    return squares.mean((-1, -3))


def doubled(x: Tensor) -> Tensor:
    """u: bilinear, (..., C, H, W) -> (..., C, 2 H, 2 W)."""
    flat = F.interpolate(x.reshape(-1, *x.shape[-3:]), scale_factor=2, mode="bilinear", align_corners=False)
    return flat.reshape(*x.shape[:-3], *flat.shape[-3:])


def _reduced(x: Tensor, level: DataShape) -> Tensor:
    """The image at a level of the pyramid."""
    while x.shape[-1] > level.size[-1]:
        x = halved(x)
    return x

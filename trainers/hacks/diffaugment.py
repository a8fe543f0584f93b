"""Differentiable augmentation (https://arxiv.org/abs/2006.10738)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Interval
from torch import Tensor
from torch.nn import functional as F

from trainers.core import Entry, Hack
from trainers.play import Play


@dataclass(frozen=True)
class DiffAugment(Hack):
    """Differentiable augmentation of everything a critic sees, real and generated (https://arxiv.org/abs/2006.10738).

    Each image is shifted by up to `translation` of its size (zeros move in), loses one square of `cutout` of its size, and its
    brightness and contrast change. The critic never sees a plain image, so it overfits small data later; the generator learns
    plain ones, since gradients pass through. Strengths of 0 leave a transformation out.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic", "image"})
    forbids: ClassVar[frozenset[str]] = frozenset({"latent_critic"})
    vectorizes: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any] | None] = {"translation": 0.0, "cutout": 0.0, "brightness": 0.0, "contrast": 0.0}
    order: ClassVar[int] = 40

    translation: Annotated[float, Interval(ge=0, le=0.5)] = 0.125
    "Largest shift, as a share of the image's size."
    cutout: Annotated[float, Interval(ge=0, le=0.9)] = 0.0
    "Side of the square that is blanked, as a share of the image's size (the paper's policy: 0.5)."
    brightness: Annotated[float, Ge(0)] = 0.0
    "Brightness moves by up to this in either direction (the paper's policy: 0.5)."
    contrast: Annotated[float, Interval(ge=0, le=1)] = 0.0
    "Contrast is multiplied by up to 1 plus or minus this (the paper's policy: 0.5)."

    def entry(self, entry: Entry, play: Play, *, critic: str, real: bool) -> Entry:
        side = f"diffaugment/{critic}/{'real' if real else 'fake'}"
        return entry._replace(inputs=tuple(self._image(x, play, f"{side}/{i}") for i, x in enumerate(entry.inputs)))

    def _image(self, x: Tensor, play: Play, name: str) -> Tensor:
        """An image (..., B, C, H, W); what is no image stays."""
        if x.dim() != 4 + play.draws.leading:
            return x
        before, x = x.shape[:-3], x.flatten(0, -4)
        if self.brightness:
            x = x + self.brightness * (2 * play.uniform(f"{name}/brightness", 1, 1, 1).flatten(0, -4) - 1)
        if self.contrast:
            mean = x.mean((1, 2, 3), keepdim=True)
            change = 2 * play.uniform(f"{name}/contrast", 1, 1, 1).flatten(0, -4) - 1
            x = mean + (x - mean) * (1 + self.contrast * change)
        if most := round(self.translation * x.shape[-1]):
            shift = play.integers(f"{name}/translation", 2 * most + 1, 2).flatten(0, -2) - most
            x = translated(x, shift, most)
        if side := round(self.cutout * x.shape[-1]):
            x = x * kept(x, play.integers(f"{name}/cutout", x.shape[-1], 2).flatten(0, -2), side)
        return x.reshape(*before, *x.shape[1:])


def translated(x: Tensor, shift: Tensor, most: int) -> Tensor:
    """Images (B, C, H, W) moved by `shift` (B, 2) rows and columns, at most `most`; the border is zero."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (most, most, most, most))
    rows = torch.arange(height, device=x.device) + most - shift[:, :1]
    columns = torch.arange(width, device=x.device) + most - shift[:, 1:]
    rows = rows[:, None, :, None].expand(-1, x.shape[1], -1, padded.shape[-1])
    moved = padded.gather(2, rows)
    return moved.gather(3, columns[:, None, None, :].expand(-1, x.shape[1], height, -1))


def kept(x: Tensor, center: Tensor, side: int) -> Tensor:
    """1 outside of a square of `side` pixels around `center` (B, 2), 0 inside: (B, 1, H, W)."""
    rows = torch.arange(x.shape[-2], device=x.device) - center[:, :1] + side // 2
    columns = torch.arange(x.shape[-1], device=x.device) - center[:, 1:] + side // 2
    inside = ((rows >= 0) & (rows < side))[:, None, :, None] & ((columns >= 0) & (columns < side))[:, None, None, :]
    return (~inside).to(x.dtype)

"""Spectral normalisation (https://arxiv.org/abs/1802.05957)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval
from torch import nn
from torch.nn.utils import parametrizations

from trainers.core import DataShape, Hack, Part

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Embedding)


@dataclass(frozen=True)
class SpectralNorm(Hack):
    """Spectral normalisation (https://arxiv.org/abs/1802.05957).

    Each weight of the chosen side is divided by its largest singular value, estimated by power iterations in training.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic.weights", "critic"})
    alone: ClassVar[str] = "torch's power iteration has no stacked form"
    order: ClassVar[int] = 20

    side: Literal["critic", "generator", "both"] = "critic"
    iterations: Annotated[int, Interval(ge=1, le=100)] = 1
    "Power iterations for each forward pass in training."

    def networks(self, parts: dict[str, Part], shape: DataShape) -> dict[str, Part]:
        for part in parts.values():
            if self.side in ("both", part.role):
                for module in part.module.modules():
                    if isinstance(module, LAYERS):
                        parametrizations.spectral_norm(module, n_power_iterations=self.iterations)
        return parts

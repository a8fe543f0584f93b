"""A mixture of Gaussians as the prior (DeLiGAN, https://arxiv.org/abs/1706.02071)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt, Interval
from torch import Tensor, nn

from trainers.core import DataShape, Hack, Part


@dataclass(frozen=True)
class MixtureLatent(Hack):
    """A mixture of Gaussians as the prior, for diverse and limited data (DeLiGAN, https://arxiv.org/abs/1706.02071).

    The generator sees mu_k + sigma_k z with learned mu and sigma and a uniform component k, so that data in separate clusters
    need no bridges between them. Deviations: k is read off z's first coordinate (its quantile), so that a sample stays a
    function of z; sigma starts at `sigma` without the paper's regulariser.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"plain_latent"})
    vectorizes: ClassVar[bool] = True
    order: ClassVar[int] = 5

    components: Annotated[int, Interval(ge=2, le=4096)] = 50
    "Gaussians in the mixture."
    sigma: Annotated[float, Gt(0)] = 0.5
    "Standard deviation of each component at the start; the means start standard normal."

    def networks(self, parts: dict[str, Part], shape: DataShape) -> dict[str, Part]:
        return {
            name: part._replace(module=Mixture(part.module, self.components, self.sigma))
            if part.role == "generator"
            else part
            for name, part in parts.items()
        }


class Mixture(nn.Module):
    """A generator behind a learned mixture: z (..., B, latent_dim), standard normal, picks its component and moves there."""

    stackable = True

    def __init__(self, generator: nn.Module, components: int, sigma: float) -> None:
        super().__init__()
        self.generator = generator
        dim = next(module.in_features for module in generator.modules() if isinstance(module, nn.Linear))
        self.mean = nn.Parameter(torch.randn(components, dim))
        self.sigma = nn.Parameter(torch.full((components, dim), sigma))

    def forward(self, z: Tensor) -> Tensor:
        k = self.component(z).unsqueeze(-1)
        mean, sigma = (value.take_along_dim(k, -2) for value in (self.mean, self.sigma))
        return self.generator(mean + sigma * z)  # type: ignore[no-any-return]

    def component(self, z: Tensor) -> Tensor:
        """The component of each latent, uniform for a standard normal first coordinate: int64 (..., B)."""
        count = self.mean.shape[-2]
        k: Tensor = torch.special.ndtr(z[..., 0]) * count
        return k.long().clamp(0, count - 1)

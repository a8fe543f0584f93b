"""Eight Gaussians on a ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from trainers.dataset import Dataset, Mixture, Opened


@dataclass(frozen=True)
class Ring8(Dataset):
    """Ring of 8 Gaussians: PacGAN's set-up by default (https://arxiv.org/abs/1712.04086).

    `{ring8: {radius: 2, sigma: 0.02}}` is the ring of Unrolled GAN (https://arxiv.org/abs/1611.02163).
    """

    kind: ClassVar[Literal["image", "points"]] = "points"
    channels: ClassVar[int] = 2
    num_classes: ClassVar[int | None] = 8
    components: ClassVar[int] = 8

    radius: Annotated[float, Gt(0)] = 1.0
    """Distance of every centre from the origin."""
    sigma: Annotated[float, Gt(0)] = 0.01
    """Standard deviation of every component."""
    num_points: Annotated[int, Ge(8)] = 100_000
    """Points drawn, over all splits."""

    def open(self, seed: int) -> Opened:
        import numpy as np

        angle = np.arange(8) * (2 * np.pi / 8)
        centers = self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        mixture = Mixture(centers, self.sigma)
        return Opened({"all": mixture.draw(self.num_points, seed)}, mixture=mixture)

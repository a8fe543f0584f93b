"""Twenty-five Gaussians on a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from trainers.dataset import Dataset, Mixture, Opened


@dataclass(frozen=True)
class Grid25(Dataset):
    """Grid of 5x5 Gaussians on {-4, -2, 0, 2, 4}^2, as in PacGAN (https://arxiv.org/abs/1712.04086)."""

    kind: ClassVar[Literal["image", "points"]] = "points"
    channels: ClassVar[int] = 2
    num_classes: ClassVar[int | None] = 25
    components: ClassVar[int] = 25

    step: Annotated[float, Gt(0)] = 2.0
    """Distance between neighbouring centres."""
    sigma: Annotated[float, Gt(0)] = 0.05
    """Standard deviation of every component."""
    num_points: Annotated[int, Ge(25)] = 100_000
    """Points drawn, over all splits."""

    def open(self, seed: int) -> Opened:
        import numpy as np

        line = self.step * np.arange(-2.0, 3.0)
        centers = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(25, 2)
        mixture = Mixture(centers, self.sigma)
        return Opened({"all": mixture.draw(self.num_points, seed)}, mixture=mixture)

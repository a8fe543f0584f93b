"""Four Gaussians at the corners of a square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from trainers.dataset import Dataset, Mixture, Opened


@dataclass(frozen=True)
class Gauss4(Dataset):
    """Four Gaussians at the corners (+-1, +-1) of a square: the smallest set on which modes can be lost."""

    kind: ClassVar[Literal["image", "points"]] = "points"
    channels: ClassVar[int] = 2
    num_classes: ClassVar[int | None] = 4
    components: ClassVar[int] = 4

    half_side: Annotated[float, Gt(0)] = 1.0
    """Absolute value of both coordinates of every centre."""
    sigma: Annotated[float, Gt(0)] = 0.1
    """Standard deviation of every component."""
    num_points: Annotated[int, Ge(4)] = 20_000
    """Points drawn, over all splits."""

    def open(self, seed: int) -> Opened:
        import numpy as np

        centers = self.half_side * np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
        mixture = Mixture(centers, self.sigma)
        return Opened({"all": mixture.draw(self.num_points, seed)}, mixture=mixture)

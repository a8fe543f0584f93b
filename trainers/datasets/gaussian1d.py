"""One normal distribution on a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from trainers.dataset import Arrays, Dataset, Mixture, Opened


@dataclass(frozen=True)
class Gaussian1D(Dataset):
    """One normal distribution on a line, N(4, 1.25^2) by default: the smallest data set a GAN can learn."""

    kind: ClassVar[Literal["image", "points"]] = "points"
    channels: ClassVar[int] = 1
    num_classes: ClassVar[int | None] = None
    components: ClassVar[int] = 1

    mean: float = 4.0
    """Centre of the distribution."""
    sigma: Annotated[float, Gt(0)] = 1.25
    """Standard deviation."""
    num_points: Annotated[int, Ge(2)] = 20_000
    """Points drawn, over all splits."""

    def open(self, seed: int) -> Opened:
        import numpy as np

        mixture = Mixture(np.array([[self.mean]]), self.sigma)
        return Opened({"all": Arrays(mixture.draw(self.num_points, seed).x)}, mixture=mixture)

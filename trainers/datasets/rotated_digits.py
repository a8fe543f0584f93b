"""Two unpaired domains: upright digits, and other digits lying on their side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from trainers.dataset import Arrays, Dataset, Opened


@dataclass(frozen=True)
class RotatedDigits(Dataset):
    """Two unpaired domains of scikit-learn's digits: one half upright, the other half rotated; no network."""

    kind: ClassVar[Literal["image", "points"]] = "image"
    channels: ClassVar[int] = 1
    num_classes: ClassVar[int | None] = 10
    domains: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    quarter_turns: Annotated[int, Interval(ge=1, le=3)] = 1
    """How far the second domain is rotated, counter-clockwise, in quarters of a turn (exact: no interpolation)."""

    def open(self, seed: int) -> Opened:
        import numpy as np
        from sklearn.datasets import load_digits

        bunch = load_digits()  # values 0..16
        x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        label = bunch.target.astype(np.int64)
        rotated = np.rot90(x[1::2], self.quarter_turns, axes=(1, 2))
        return Opened(
            {"all": Arrays(x[0::2], label[0::2])},
            other={"all": Arrays(np.ascontiguousarray(rotated), label[1::2])},
            classes=tuple("0123456789"),
        )

"""Scanned handwritten digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from trainers.dataset import Arrays, Dataset, Opened


@dataclass(frozen=True)
class Digits(Dataset):
    """1,797 scanned digits, 8x8 grey, from scikit-learn; no network (UCI, https://doi.org/10.24432/C50P49)."""

    kind: ClassVar[Literal["image", "points"]] = "image"
    channels: ClassVar[int] = 1
    num_classes: ClassVar[int | None] = 10
    packages: ClassVar[tuple[str, ...]] = ("scikit-learn",)

    def open(self, seed: int) -> Opened:
        import numpy as np
        from sklearn.datasets import load_digits

        bunch = load_digits()  # values 0..16
        x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        return Opened({"all": Arrays(x, bunch.target.astype(np.int64))}, classes=tuple("0123456789"))

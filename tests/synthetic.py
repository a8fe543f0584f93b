"""Small data that tests make up: a `Prepared` in memory, and batches of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.core import Batch, DataShape

GREY = DataShape("image", (1, 16, 16), 4)
POINTS = DataShape("points", (2,), 4, bounded=False)


@dataclass
class SyntheticSplit:
    """Examples that are smooth functions of their index, so that there is something to learn."""

    shape: DataShape
    n: int = 96

    def __len__(self) -> int:
        return self.n

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        return np.arange(self.n) % (self.shape.num_classes or 1)

    def x(self, indices: Tensor) -> Tensor:
        phase = indices.double()[:, None] * torch.linspace(0.1, 1.7, self.shape.numel, dtype=torch.float64)
        return torch.sin(phase).reshape(-1, *self.shape.size)

    @property
    def other(self) -> SyntheticSplit | None:
        return SyntheticSplit(self.shape.other, self.n) if self.shape.other else None

    def batch(
        self,
        indices: Tensor,
        *,
        device: Any,
        dtype: torch.dtype,
        flip: Any = None,
        crop: Any = None,
        other: Tensor | None = None,
    ) -> Batch:
        label = indices % self.shape.num_classes if self.shape.num_classes else None
        second = None
        if self.other is not None:
            shifted = (indices * 7 + 3) % self.n if other is None else other
            second = Batch((self.other.x(shifted) * 0.5).to(device, dtype), None, shifted)
        return Batch(self.x(indices).to(device, dtype), label, indices, second)

    def raw(self, indices: Tensor) -> np.ndarray[Any, Any]:
        x = self.x(torch.as_tensor(indices)).float().numpy()
        if self.shape.kind == "points":
            return x
        return np.rint((x + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)


@dataclass
class SyntheticData:
    """Stands in for `trainers.data.Prepared`."""

    shape: DataShape
    metadata: Mapping[str, Any] = field(default_factory=dict)
    n: int = 96

    def split(self, name: str) -> SyntheticSplit:
        return SyntheticSplit(self.shape, self.n)

"""Minibatch discrimination (https://arxiv.org/abs/1606.03498, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor, nn

from trainers.core import DataShape, Hack, Part
from trainers.layers import Critic


@dataclass(frozen=True)
class MinibatchDiscrimination(Hack):
    """Minibatch discrimination (https://arxiv.org/abs/1606.03498, section 3.2).

    M_i = f(x_i) T in R^{kernels x dims}; c_b(x_i, x_j) = exp(-|M_ib - M_jb|_1); o(x_i)_b = sum over j of c_b; the critic's head
    sees [f(x_i), o(x_i)]. Deviation: the sum leaves out j = i, which would add a constant 1. Couples the batch.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic.features", "critic"})
    coupled: ClassVar[bool] = True
    vectorizes: ClassVar[bool] = True
    order: ClassVar[int] = 10

    kernels: Annotated[int, Interval(ge=1, le=1024)] = 32
    "Similarity features added (B in the paper)."
    dims: Annotated[int, Interval(ge=1, le=256)] = 8
    "Dimensions of each kernel (C in the paper)."

    def networks(self, parts: dict[str, Part], shape: DataShape) -> dict[str, Part]:
        for part in parts.values():
            if part.role == "critic":
                for module in part.module.modules():
                    if isinstance(module, Critic):
                        module.head = Head(module.num_features, module.outputs, self.kernels, self.dims)
        return parts


class Head(nn.Module):
    """A critic's head that also sees how near each sample is to the others."""

    def __init__(self, num_features: int, outputs: int, kernels: int, dims: int) -> None:
        super().__init__()
        self.kernels, self.dims = kernels, dims
        self.project = nn.Linear(num_features, kernels * dims, bias=False)
        self.linear = nn.Linear(num_features + kernels, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(..., B, F) -> (..., B, outputs)."""
        return self.linear(torch.cat([features, self.similarity(features)], -1))  # type: ignore[no-any-return]

    def similarity(self, features: Tensor) -> Tensor:
        """o(x_i): (..., B, F) -> (..., B, kernels)."""
        m = self.project(features).unflatten(-1, (self.kernels, self.dims)).transpose(-2, -3)  # (..., kernels, B, dims)
        distance = torch.cdist(m, m, p=1.0)  # (..., kernels, B, B), without one tensor of all differences
        return (torch.exp(-distance).sum(-1) - 1).transpose(-1, -2)

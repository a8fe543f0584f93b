"""Batches of the training split, by their place in an endless stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainers.core import Batch
from trainers.step import Game

if TYPE_CHECKING:
    from trainers.data import Prepared


@dataclass
class Stream:
    """Batches of the training split: an endless sequence of shuffled epochs, each position a function of the seed.

    A second domain is shuffled on its own, so that nothing is ever paired.
    """

    game: Game
    data: Prepared

    def __post_init__(self) -> None:
        self.split = self.data.split("train")
        self.augment: Mapping[str, Any] = self.data.metadata.get("augment") or {}
        self._orders: dict[tuple[str, int], Tensor] = {}

    def _order(self, domain: str, epoch: int, n: int) -> Tensor:
        key = (domain, epoch)
        if key not in self._orders:
            for old in [old for old in self._orders if old[0] == domain and old[1] < epoch - 1]:
                del self._orders[old]
            self._orders[key] = self.game.draws.permutation(("epoch", domain, epoch), n)
        return self._orders[key]

    def indices(self, position: int, rows: range, n: int, domain: str = "x") -> Tensor:
        """Indices into the `n` samples of a domain of some rows of the batch at a position of the stream."""
        first = position * self.game.config.settings.batch_size
        places = torch.arange(first + rows.start, first + rows.stop)
        epochs, within = places // n, places % n
        picked = torch.empty(len(rows), dtype=torch.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            picked[here] = self._order(domain, epoch, n)[within[here]]
        return picked

    def __call__(self, position: int, rows: range) -> Batch:
        draws, flip, crop = self.game.draws, None, None
        if self.augment.get("flip"):
            flip = draws.uniform(("flip", position), rows, ()) < 0.5
        if padding := int(self.augment.get("crop") or 0):
            crop = draws.integers(("crop", position), rows, 2 * padding + 1, (2,))
        game, other = self.game, None
        if self.split.other is not None:
            other = self.indices(position, rows, len(self.split.other), "other")
        indices = self.indices(position, rows, len(self.split))
        return self.split.batch(indices, device=game.device, dtype=game.dtype, flip=flip, crop=crop, other=other)

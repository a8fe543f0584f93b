"""Batches of the training split, by their place in an endless stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from trainers.core import Batch
from trainers.draws import Draws

if TYPE_CHECKING:
    from trainers.data import Prepared


class Reader(Protocol):
    """Whose batches they are: a game, or a population, whose draws are those of all its members."""

    draws: Draws
    device: torch.device
    dtype: torch.dtype

    @property
    def batch_size(self) -> int: ...


class Stream:
    """Batches of the training split: an endless sequence of shuffled epochs, each position a function of the seed.

    A second domain is shuffled on its own, so that nothing is ever paired. Of a population, every tensor has a first
    dimension N, and each member its own order.
    """

    def __init__(self, reader: Reader, data: Prepared) -> None:
        self.reader = reader
        self.split = data.split("train")
        self.augment: Mapping[str, Any] = data.metadata.get("augment") or {}
        self._draws = reader.draws
        self._orders: dict[tuple[str, int], Tensor] = {}
        self._last: tuple[tuple[int, range], Batch] | None = None

    def _order(self, domain: str, epoch: int, n: int) -> Tensor:
        """(..., n): a permutation of an epoch."""
        key = (domain, epoch)
        if key not in self._orders:
            for old in [old for old in self._orders if old[0] == domain and old[1] < epoch - 1]:
                del self._orders[old]
            self._orders[key] = self._draws.permutation(("epoch", domain, epoch), n)
        return self._orders[key]

    def indices(self, position: int, rows: range, n: int, domain: str = "x") -> Tensor:
        """Indices into the `n` samples of a domain of some rows of the batch at a position of the stream: (..., rows)."""
        at, left, pieces = position * self.reader.batch_size + rows.start, len(rows), []
        while left:
            epoch, within = divmod(at, n)
            count = min(left, n - within)
            pieces.append(self._order(domain, epoch, n)[..., within : within + count])
            at, left = at + count, left - count
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)

    def __call__(self, position: int, rows: range | None = None) -> Batch:
        """The batch at a position, or some rows of it."""
        rows = range(self.reader.batch_size) if rows is None else rows
        if self._draws is not self.reader.draws:  # other members now
            self._draws, self._orders, self._last = self.reader.draws, {}, None
        if self._last is None or self._last[0] != (position, rows):  # the phases of a step see the same batch
            self._last = ((position, rows), self._batch(position, rows))
        return self._last[1]

    def _batch(self, position: int, rows: range) -> Batch:
        draws, reader, flip, crop, other = self._draws, self.reader, None, None, None
        if self.augment.get("flip"):
            flip = draws.uniform(("flip", position), rows, ()) < 0.5
        if padding := int(self.augment.get("crop") or 0):
            crop = draws.integers(("crop", position), rows, 2 * padding + 1, (2,))
        if self.split.other is not None:
            other = self.indices(position, rows, len(self.split.other), "other")
        indices = self.indices(position, rows, len(self.split))
        return self.split.batch(indices, device=reader.device, dtype=reader.dtype, flip=flip, crop=crop, other=other)

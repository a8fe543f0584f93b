"""Named random draws.

Every random tensor is keyed by (seed, step, phase, repeat, name) and by the row's global place in the batch. Rows are made
in blocks, each with its own generator, so a worker that holds rows 32..63 makes only those and gets what one process
would have got. No generator state exists between draws, so none needs a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BLOCK = 32


def derive(seed: int, *key: Any) -> int:
    """A 63-bit seed from a seed and any key of ints and strings; stable across processes and machines."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Draws:
    """Stateless draws of one seed. Made on the CPU, so that one seed means one result on every device."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.seed = seed
        self.dtype = dtype
        self._generator = torch.Generator()

    def _rows(self, key: tuple[Any, ...], rows: range, make: Callable[[], Tensor]) -> Tensor:
        first, last = rows.start // BLOCK, (rows.stop - 1) // BLOCK
        blocks = []
        for block in range(first, last + 1):
            self._generator.manual_seed(derive(self.seed, *key, block))
            blocks.append(make())
        whole = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        start = rows.start - first * BLOCK
        return whole[start : start + len(rows)]

    def normal(self, key: tuple[Any, ...], rows: range, shape: tuple[int, ...]) -> Tensor:
        """Standard normal (len(rows), *shape)."""
        return self._rows(key, rows, lambda: torch.randn(BLOCK, *shape, generator=self._generator, dtype=self.dtype))

    def uniform(self, key: tuple[Any, ...], rows: range, shape: tuple[int, ...]) -> Tensor:
        """Uniform on [0, 1), (len(rows), *shape)."""
        return self._rows(key, rows, lambda: torch.rand(BLOCK, *shape, generator=self._generator, dtype=self.dtype))

    def integers(self, key: tuple[Any, ...], rows: range, high: int, shape: tuple[int, ...]) -> Tensor:
        """Uniform integers in [0, high), int64 (len(rows), *shape)."""
        return self._rows(key, rows, lambda: torch.randint(high, (BLOCK, *shape), generator=self._generator))

    def permutation(self, key: tuple[Any, ...], n: int) -> Tensor:
        """A permutation of range(n), int64 (n,)."""
        self._generator.manual_seed(derive(self.seed, *key))
        return torch.randperm(n, generator=self._generator)

"""Named random draws.

Every random tensor is keyed by (seed, step, phase, repeat, name) and by the row's global place in the batch. Rows are made
in blocks, each with its own generator, so a worker that holds rows 32..63 makes only those and gets what one process
would have got. No generator state exists between draws, so none needs a checkpoint.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

BLOCK = 32
_alone = threading.RLock()


@contextmanager
def own_generator() -> Iterator[None]:
    """torch's global generator, from which modules draw their first weights: seed it inside, it is put back afterwards.

    One thread at a time: stages that run side by side in one process would draw from each other's.
    """
    with _alone, torch.random.fork_rng(devices=[]):
        yield


def derive(seed: int, *key: Any) -> int:
    """A 63-bit seed from a seed and any key of ints and strings; stable across processes and machines."""
    return _digest(f"({', '.join(map(repr, (seed, *key)))}{',' if not key else ''})")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Draws:
    """Stateless draws of one seed, or of one for each member of a population: then every tensor has a first dimension N.

    Made on the CPU, so that one seed means one result on every device. `leading` dimensions stand before the batch.
    """

    def __init__(self, seed: int | Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        self.seeds = (seed,) if isinstance(seed, int) else tuple(seed)
        self.leading = 0 if isinstance(seed, int) else 1
        self.dtype = dtype
        self._generator = torch.Generator()

    def _rows(
        self,
        key: tuple[Any, ...],
        rows: range,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        fill: Callable[[Tensor], Tensor],
    ) -> Tensor:
        first, last = rows.start // BLOCK, (rows.stop - 1) // BLOCK
        count, middle, generator = last + 1 - first, ", ".join(map(repr, key)), self._generator
        whole = torch.empty(len(self.seeds) * count, BLOCK, *shape, dtype=dtype)
        blocks = iter(whole.unbind())
        for seed in self.seeds:
            for block in range(first, last + 1):
                generator.manual_seed(_digest(f"({seed}, {middle}, {block})"))
                fill(next(blocks))
        start = rows.start - first * BLOCK
        if not self.leading:
            return whole.flatten(0, 1)[start : start + len(rows)]
        return whole.view(len(self.seeds), count * BLOCK, *shape)[:, start : start + len(rows)]

    def normal(self, key: tuple[Any, ...], rows: range, shape: tuple[int, ...]) -> Tensor:
        """Standard normal (len(rows), *shape)."""
        return self._rows(key, rows, shape, self.dtype, lambda block: block.normal_(generator=self._generator))

    def uniform(self, key: tuple[Any, ...], rows: range, shape: tuple[int, ...]) -> Tensor:
        """Uniform on [0, 1), (len(rows), *shape)."""
        return self._rows(key, rows, shape, self.dtype, lambda block: block.uniform_(generator=self._generator))

    def integers(self, key: tuple[Any, ...], rows: range, high: int, shape: tuple[int, ...]) -> Tensor:
        """Uniform integers in [0, high), int64 (len(rows), *shape)."""
        return self._rows(
            key, rows, shape, torch.int64, lambda block: block.random_(0, high, generator=self._generator)
        )

    def permutation(self, key: tuple[Any, ...], n: int) -> Tensor:
        """A permutation of range(n), int64 (n,); (N, n) of a population."""
        made = []
        for seed in self.seeds:
            self._generator.manual_seed(derive(seed, *key))
            made.append(torch.randperm(n, generator=self._generator))
        return torch.stack(made) if self.leading else made[0]

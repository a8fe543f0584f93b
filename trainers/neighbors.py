"""Exact nearest neighbours of feature vectors, in float64, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trainers.metric import Array

ROWS = 512  # of the distance matrix held at once


def distances(a: Array, b: Array) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Euclidean distances of rows of `a` (n, D) to all rows of `b` (m, D), as (slice of rows, (rows, m)) blocks.

    By |a|^2 + |b|^2 - 2ab after centring. The rounding, about 1e-8 of the features' size, is what separates two equal rows.
    """
    centre = b.mean(axis=0, dtype=np.float64)
    x, y = a.astype(np.float64) - centre, b.astype(np.float64) - centre
    squares = (y * y).sum(1)
    for start in range(0, len(x), ROWS):
        rows = slice(start, min(start + ROWS, len(x)))
        part = x[rows]
        squared = (part * part).sum(1)[:, None] + squares - 2 * (part @ y.T)
        yield rows, np.sqrt(squared.clip(min=0))


def nearest(a: Array, b: Array, k: int = 1) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distances (n, k), ascending, and positions (n, k) of the k rows of `b` nearest to each row of `a`.

    The chosen pairs' distances are computed again from their differences, so equal rows are at 0 exactly. Raises ValueError
    for fewer than k rows.
    """
    if len(b) < k:
        raise ValueError(f"{k} neighbours asked for among {len(b)} samples")
    positions = np.empty((len(a), k), dtype=np.int64)
    for rows, block in distances(a, b):
        positions[rows] = np.argpartition(block, k - 1, axis=1)[:, :k] if k < len(b) else np.arange(k)
    exact = np.empty((len(a), k))
    for i in range(k):
        difference = a.astype(np.float64) - b[positions[:, i]]
        exact[:, i] = np.sqrt((difference * difference).sum(1))
    order = np.argsort(exact, axis=1, kind="stable")
    return np.take_along_axis(exact, order, 1), np.take_along_axis(positions, order, 1)


def radii(a: Array, k: int) -> NDArray[np.float64]:
    """Distance (n,) of each row of `a` to its k-th nearest other row. Raises ValueError for k rows or fewer."""
    if len(a) <= k:
        raise ValueError(f"the {k}-th neighbour of {len(a)} samples does not exist")
    found = np.empty(len(a))
    for rows, block in distances(a, a):
        found[rows] = np.partition(block, k, axis=1)[:, k]  # the nearest row is the row itself
    return found

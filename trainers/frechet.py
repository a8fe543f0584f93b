"""The Frechet distance between the Gaussians of two feature sets (https://arxiv.org/abs/1706.08500), in float64.

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

The last trace is the sum of the square roots of the eigenvalues of L' S2 L, where S1 = L L' is the pivoted Cholesky
factor of the side of lower rank. Against scipy's sqrtm this is faster (the matrix is rank x rank, and symmetric), and it
keeps its digits where covariances are singular: fewer samples than dimensions, dead features, collapsed generators.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Array = NDArray[np.float64]


class Moments(NamedTuple):
    """`mean` (D,) and unbiased `covariance` (D, D) of features, float64."""

    mean: Array
    covariance: Array


def moments(features: Floats) -> Moments:
    """Mean and covariance of features (n, D), n >= 2. Raises ValueError for fewer, or for values that are not finite."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"a covariance needs features (n >= 2, D), not {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("features hold NaN or infinity")
    mean = x.mean(axis=0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1))


def factor(covariance: Array) -> Array:
    """L (D, rank) with L L' = covariance, by Cholesky with pivoting (LAPACK dpstrf)."""
    from scipy.linalg.lapack import dpstrf

    packed, pivots, rank, info = dpstrf(covariance, lower=1)
    if info < 0:
        raise ValueError(f"dpstrf: argument {-info} is illegal")
    lower = np.empty((len(covariance), rank))
    lower[pivots - 1] = np.tril(packed)[:, :rank]
    return lower


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians, >= 0 (what the literature reports as FID)."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared")
    left, right = factor(a.covariance), factor(b.covariance)
    lower, other = (left, b.covariance) if left.shape[1] <= right.shape[1] else (right, a.covariance)
    eigenvalues = np.linalg.eigvalsh(lower.T @ other @ lower)
    cross = np.sqrt(eigenvalues.clip(min=0)).sum()
    difference = a.mean - b.mean
    distance = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return max(float(distance), 0.0)

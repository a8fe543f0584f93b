"""The Frechet distance between the Gaussians of two feature sets (https://arxiv.org/abs/1706.08500), in float64.

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

Each covariance is kept as a root R (rank x D) with R' R = S: by pivoted Cholesky, or, for fewer samples than dimensions,
straight from the centred samples, so that nothing D x D is ever made. The last trace is the sum of the singular values of
R1 R2'. Against scipy's sqrtm this is faster, and it keeps its digits where covariances are singular: few samples, dead
features, collapsed generators.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Array = NDArray[np.float64]


SMALL = 512  # up to here singular values are computed as such; above, as roots of eigenvalues, twice as fast


class Moments(NamedTuple):
    """`mean` (D,) and a root (rank, D) of the unbiased covariance, root' root, of features, float64."""

    mean: Array
    root: Array

    @property
    def variance(self) -> float:
        """Trace of the covariance."""
        return float((self.root * self.root).sum())


def moments(features: Floats) -> Moments:
    """Mean and covariance of features (n, D), n >= 2. Raises ValueError for fewer, or for values that are not finite."""
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"a covariance needs features (n >= 2, D), not {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("features hold NaN or infinity")
    mean = x.mean(axis=0)
    centred = (x - mean) / np.sqrt(len(x) - 1)
    return Moments(mean, _reflected(centred) if len(x) <= x.shape[1] else root(centred.T @ centred))


def root(covariance: Array) -> Array:
    """R (rank, D) with R' R = covariance, by Cholesky with pivoting (LAPACK dpstrf)."""
    from scipy.linalg.lapack import dpstrf

    packed, pivots, rank, info = dpstrf(covariance, lower=1)
    if info < 0:
        raise ValueError(f"dpstrf: argument {-info} is illegal")
    found = np.empty((rank, len(covariance)))
    found[:, pivots - 1] = np.tril(packed)[:, :rank].T
    return found


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians, >= 0 (what the literature reports as FID)."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} dimensions cannot be compared")
    difference = a.mean - b.mean
    distance = difference @ difference + a.variance + b.variance - 2 * _nuclear_norm(a.root @ b.root.T)
    return max(float(distance), 0.0)


def _reflected(centred: Array) -> Array:
    """Rows (n - 1, D) with the covariance of centred rows (n, D).

    Householder's reflection of (1, …, 1) to the first axis leaves nothing in the first row: their sum is 0.
    """
    n = len(centred)
    normal = np.full(n, 1 / np.sqrt(n))
    normal[0] -= 1
    normal /= np.linalg.norm(normal)
    return np.asarray(centred - 2 * np.outer(normal, normal @ centred))[1:]


def _nuclear_norm(matrix: Array) -> float:
    """Sum of the singular values."""
    if min(matrix.shape, default=0) == 0:
        return 0.0
    if min(matrix.shape) <= SMALL:
        return float(np.linalg.svd(matrix, compute_uv=False).sum())
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return float(np.sqrt(np.linalg.eigvalsh(gram).clip(min=0)).sum())

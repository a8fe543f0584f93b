"""Coverage of a mixture of Gaussians (VEEGAN, https://arxiv.org/abs/1705.07761; PacGAN, https://arxiv.org/abs/1712.04086)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from trainers.metric import Metric, State, spread

Floats = NDArray[np.float64]


class Mixture(NamedTuple):
    """Equally likely round Gaussians: `centers` (K, D) and their standard deviations `sigmas` (K,)."""

    centers: Floats
    sigmas: Floats

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Mixture:
        """From a data set's metadata, {"centers": …, "sigma": number or one for each}. Raises ValueError for nonsense."""
        centers = np.asarray(facts["centers"], dtype=np.float64)
        centers = centers.reshape(len(centers), -1)
        sigmas = np.broadcast_to(np.asarray(facts["sigma"], dtype=np.float64), (len(centers),))
        if not len(centers) or not (sigmas > 0).all():
            raise ValueError("a mixture needs centers, and a sigma above 0")
        return cls(centers, sigmas)


@dataclass(frozen=True)
class ModeCoverage(Metric):
    """Coverage of a mixture of Gaussians (VEEGAN, https://arxiv.org/abs/1705.07761; PacGAN, https://arxiv.org/abs/1712.04086).

    A sample belongs to its nearest mode, and is of high quality within 3 sigma of it.
    `modes_captured`: modes with a high-quality sample (the literature's). `modes_strict`: modes with at least
    `strict_share` of the high-quality samples a perfect sampler gives them. `high_quality`: share of all samples; in 2-D a
    perfect sampler has 98.89 % (`high_quality_ceiling`), not 100 %, and a collapsed one more. `reverse_kl`: KL(generated || real)
    over the modes, all samples counted; a perfect sampler has (K - 1) / 2n. `sigma_ratio/i`: spread of mode i's high-quality
    samples around their mean over that of a perfect sampler's: 1 is right, near 0 has collapsed, 0 is for fewer than two
    samples; also the smallest and largest.
    `sliced_w1`: 1-Wasserstein distance of projections, exact, averaged over 64 directions spread evenly (2-D) or fixed (above;
    in 1-D it is W1 itself). `w1`: exact W1 between 1,000 generated and 1,000 real samples by optimal assignment, which for
    finite samples is above 0 even for a perfect sampler (`w1_real`: of 1,000 real samples against 1,000 others, where
    there are so many).
    """

    direction: ClassVar[Literal["minimize", "maximize"]] = "maximize"
    primary: ClassVar[str] = "modes_strict"
    directions: ClassVar[dict[str, str]] = {
        "modes_captured": "maximize",
        "high_quality": "maximize",
        "reverse_kl": "minimize",
        "sigma_ratio_min": "maximize",
        "sliced_w1": "minimize",
        "w1": "minimize",
    }
    needs: ClassVar[frozenset[str]] = frozenset({"points", "mixture"})

    strict_share: Annotated[float, Interval(gt=0, le=1)] = 0.2
    "Part of its perfect share that a mode must have to count strictly."

    def compute(self, state: State) -> dict[str, float]:
        mixture = Mixture.of(state.real.metadata["mixture"])
        points = state.gather("samples").astype(np.float64)
        real = state.real.samples().astype(np.float64)
        return {**self._modes(points, mixture), **transport(points, real)}

    def _modes(self, points: Floats, mixture: Mixture) -> dict[str, float]:
        num_modes, dimensions = mixture.centers.shape
        mode, distance = assign(points, mixture)
        good = distance <= 3
        ceiling = _chi_square(9, dimensions)
        counts, held = np.bincount(mode, minlength=num_modes), np.bincount(mode[good], minlength=num_modes)
        ratios = [sigma_ratio(points[good & (mode == i)], mixture.sigmas[i]) for i in range(num_modes)]
        return {
            "modes_strict": float((held >= self.strict_share * ceiling * len(points) / num_modes).sum()),
            "modes_captured": float((held > 0).sum()),
            "modes": float(num_modes),
            "high_quality": float(good.mean()),
            "high_quality_ceiling": ceiling,
            "reverse_kl": reverse_kl(counts),
            "sigma_ratio_min": min(ratios),
            "sigma_ratio_max": max(ratios),
            **{f"sigma_ratio/{i}": ratio for i, ratio in enumerate(ratios)},
        }

    def settings(self) -> dict[str, Any]:
        return {"strict_share": self.strict_share}


def assign(points: Floats, mixture: Mixture) -> tuple[NDArray[np.int64], Floats]:
    """The nearest mode (n,) of points (n, D), and the distance to its centre in its sigmas (n,)."""
    mode = np.empty(len(points), dtype=np.int64)
    distance = np.empty(len(points))
    for start in range(0, len(points), 4096):
        rows = slice(start, start + 4096)
        far = np.linalg.norm(points[rows, None] - mixture.centers, axis=2)
        mode[rows] = far.argmin(axis=1)
        distance[rows] = far.min(axis=1)
    return mode, distance / mixture.sigmas[mode]


def reverse_kl(counts: NDArray[np.int64]) -> float:
    """KL(counts / n || uniform) in nats."""
    shares = counts[counts > 0] / counts.sum()
    return max(0.0, float((shares * np.log(shares * len(counts))).sum()))


def sigma_ratio(points: Floats, sigma: float) -> float:
    """Spread of points (n, D) within 3 sigma of a centre, over that of a Gaussian cut off there; 0 for n < 2.

    A Gaussian cut off at radius 3 sigma has the variance D sigma^2 F(9; D + 2) / F(9; D), F the chi-square distribution.
    """
    n, dimensions = points.shape
    if n < 2:
        return 0.0
    expected = dimensions * sigma**2 * _chi_square(9, dimensions + 2) / _chi_square(9, dimensions)
    return float(np.sqrt(points.var(axis=0, ddof=1).sum() / expected))


def transport(points: Floats, real: Floats, assigned: int = 1000) -> dict[str, float]:
    """`sliced_w1`, `w1` and `w1_real` (see the class) between points (n, D) and real (m, D)."""
    values = {"sliced_w1": sliced_w1(points, real)}
    n = min(assigned, len(points), len(real))
    values["w1"] = assignment_w1(spread(points, n), spread(real, n))
    half = min(assigned, len(real) // 2)
    if half == n:
        values["w1_real"] = assignment_w1(spread(real[::2], n), spread(real[1::2], n))
    return values


def sliced_w1(a: Floats, b: Floats, directions: int = 64) -> float:
    """1-Wasserstein distance of one-dimensional projections, averaged over fixed directions."""
    from scipy.stats import wasserstein_distance

    dimensions = a.shape[1]
    if dimensions == 1:
        axes = np.ones((1, 1))
    elif dimensions == 2:
        angles = np.arange(directions) * np.pi / directions
        axes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        axes = np.random.default_rng(0).standard_normal((directions, dimensions))
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return float(np.mean([wasserstein_distance(a @ axis, b @ axis) for axis in axes]))


def assignment_w1(a: Floats, b: Floats) -> float:
    """Exact 1-Wasserstein distance of two sets of n points: the mean length of the optimal assignment."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    lengths = cdist(a, b)
    return float(lengths[linear_sum_assignment(lengths)].mean())


def _chi_square(x: float, degrees: int) -> float:
    from scipy.special import gammainc

    return float(gammainc(degrees / 2, x / 2))

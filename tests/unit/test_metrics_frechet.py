"""The Frechet distance against closed forms and an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from trainers.frechet import Moments, factor, frechet_distance, moments


def gaussian(mean: list[float], covariance: NDArray[np.float64]) -> Moments:
    return Moments(np.array(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64))


def by_square_root(a: Moments, b: Moments) -> float:
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root))


def test_one_dimension_is_the_difference_of_means_and_deviations() -> None:
    a, b = gaussian([1.0], np.array([[4.0]])), gaussian([4.0], np.array([[25.0]]))
    assert frechet_distance(a, b) == pytest.approx((1 - 4) ** 2 + (2 - 5) ** 2, rel=1e-14)


def test_commuting_covariances_add_up_by_axis() -> None:
    turn = scipy.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    s, t = np.arange(1.0, 7), np.arange(3.0, 9)
    a = gaussian([0.0] * 6, turn @ np.diag(s**2) @ turn.T)
    b = gaussian([2.0] * 6, turn @ np.diag(t**2) @ turn.T)
    assert frechet_distance(a, b) == pytest.approx(4 * 6 + ((s - t) ** 2).sum(), rel=1e-13)


def test_it_agrees_with_the_matrix_square_root() -> None:
    rng = np.random.default_rng(1)
    a, b = moments(rng.normal(size=(500, 40)) @ rng.normal(size=(40, 40))), moments(rng.normal(1, 2, size=(300, 40)))
    assert frechet_distance(a, b) == pytest.approx(by_square_root(a, b), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_features_against_themselves_are_at_zero() -> None:
    features = moments(np.random.default_rng(2).normal(size=(400, 32)))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_low_rank_keeps_its_digits(rank: int) -> None:
    """Two Gaussians in a subspace: the distance is that of their coordinates in it, to 12 digits."""
    rng = np.random.default_rng(3)
    basis = scipy.linalg.qr(rng.normal(size=(64, 64)))[0][:, :rank]
    x, y = rng.normal(size=(200, rank)), rng.normal(0.5, 3, size=(300, rank))
    inside = frechet_distance(moments(x), moments(y))
    assert frechet_distance(moments(x @ basis.T), moments(y @ basis.T)) == pytest.approx(inside, rel=1e-12)


def test_a_collapsed_generator_is_at_the_closed_form() -> None:
    """All samples equal: |m1 - m2|^2 + tr S."""
    real = moments(np.random.default_rng(4).normal(size=(300, 20)))
    collapsed = moments(np.ones((50, 20)))
    expected = ((real.mean - 1) ** 2).sum() + np.trace(real.covariance)
    assert frechet_distance(collapsed, real) == pytest.approx(expected, rel=1e-14)


def test_fewer_samples_than_dimensions() -> None:
    rng = np.random.default_rng(5)
    a, b = moments(rng.normal(size=(20, 100))), moments(rng.normal(size=(500, 100)))
    x = rng.normal(size=(20, 100))
    assert factor(moments(x).covariance).shape == (100, 19)
    assert frechet_distance(a, b) == pytest.approx(by_square_root(a, b), rel=1e-5)


def test_the_factor_gives_the_covariance_back() -> None:
    covariance = moments(np.random.default_rng(6).normal(size=(30, 50))).covariance
    lower = factor(covariance)
    np.testing.assert_allclose(lower @ lower.T, covariance, atol=1e-12)


def test_moments_are_the_unbiased_ones_in_float64() -> None:
    features = np.random.default_rng(7).normal(1e3, 1e-2, size=(1000, 3)).astype(np.float32)
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9)


@pytest.mark.parametrize("features", [np.zeros((1, 3)), np.zeros(3), np.array([[1.0], [np.nan]])])
def test_what_has_no_covariance_is_refused(features: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"covariance|NaN"):
        moments(features)


def test_different_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        frechet_distance(moments(np.eye(3)), moments(np.eye(2)))

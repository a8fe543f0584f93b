"""The Frechet distance against closed forms and an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from trainers import frechet
from trainers.frechet import Moments, frechet_distance, moments, root


def gaussian(mean: list[float], covariance: NDArray[np.float64]) -> Moments:
    return Moments(np.array(mean, dtype=np.float64), root(np.asarray(covariance, dtype=np.float64)))


def covariance(of: Moments) -> NDArray[np.float64]:
    return of.root.T @ of.root


def by_square_root(a: Moments, b: Moments) -> float:
    s, t = covariance(a), covariance(b)
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real))


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
    expected = ((real.mean - 1) ** 2).sum() + np.trace(covariance(real))
    assert frechet_distance(collapsed, real) == pytest.approx(expected, rel=1e-14)


def test_fewer_samples_than_dimensions() -> None:
    """Nothing D x D is made, and the covariance is that of numpy."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(20, 100)), rng.normal(size=(500, 100)) @ rng.normal(size=(100, 100))
    a, b = moments(x), moments(y)
    assert a.root.shape == (19, 100)
    np.testing.assert_allclose(covariance(a), np.cov(x, rowvar=False), atol=1e-12)
    by_eigenvalues = np.sqrt(np.linalg.eigvalsh(a.root @ np.cov(y, rowvar=False) @ a.root.T)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.cov(x.T).trace() + np.cov(y.T).trace() - 2 * by_eigenvalues
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a, moments(x)) == pytest.approx(0, abs=1e-12)


def test_large_dimensions_take_the_faster_way_to_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    a, b = moments(rng.normal(size=(300, 60))), moments(rng.normal(1, 2, size=(200, 60)))
    small = frechet_distance(a, b)
    monkeypatch.setattr(frechet, "SMALL", 10)
    assert frechet_distance(a, b) == pytest.approx(small, rel=1e-12)


def test_the_root_gives_a_singular_covariance_back() -> None:
    singular = np.cov(np.random.default_rng(6).normal(size=(30, 50)), rowvar=False)
    found = root(singular)
    assert found.shape == (29, 50)
    np.testing.assert_allclose(found.T @ found, singular, atol=1e-12)


def test_moments_are_the_unbiased_ones_in_float64() -> None:
    features = np.random.default_rng(7).normal(1e3, 1e-2, size=(1000, 3)).astype(np.float32)
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(0))
    np.testing.assert_allclose(
        covariance(found), np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-15
    )
    assert found.variance == pytest.approx(features.astype(np.float64).var(axis=0, ddof=1).sum())


@pytest.mark.parametrize("features", [np.zeros((1, 3)), np.zeros(3), np.array([[1.0], [np.nan]])])
def test_what_has_no_covariance_is_refused(features: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"covariance|NaN"):
        moments(features)


def test_different_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        frechet_distance(moments(np.eye(3)), moments(np.eye(2)))

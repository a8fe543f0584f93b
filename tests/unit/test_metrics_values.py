"""Each metric against an independent implementation, a closed form, or a perfect sampler."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.neighbors import NearestNeighbors as Neighbors

from tests.real import classifier_file, generated, images, patterns, points, ring
from trainers import evaluation, plugins
from trainers.data import Prepared
from trainers.dataset import Arrays, Mixture
from trainers.metric import NotFiniteError, Raw, Reference, as_samples
from trainers.metrics.mode_coverage import assignment_w1, reverse_kl, sigma_ratio, sliced_w1
from trainers.neighbors import nearest, radii


def values(name: str, reference: Reference, samples: NDArray[Any], **params: Any) -> dict[str, float]:
    metric = plugins.build("metrics", name, params)
    found: dict[str, float] = metric.compute(metric.update(metric.start(reference), samples, 0))
    return found


# --- mode coverage ----------------------------------------------------------------------------------------------------


def grid() -> Mixture:
    axis = np.arange(-4, 5, 2.0)
    return Mixture(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), 0.05)


def sampled(mixture: Mixture, n: int, seed: int) -> NDArray[np.float32]:
    """Independent draws: modes are not equally shared, as with a real generator."""
    rng = np.random.default_rng(seed)
    mode = rng.integers(0, len(mixture.centers), n)
    noise = rng.normal(size=(n, mixture.centers.shape[1]))
    return (mixture.centers[mode] + mixture.sigma * noise).astype(np.float32)


def covered(mixture: Mixture, samples: NDArray[Any]) -> dict[str, float]:
    data = Prepared.of({"train": mixture.draw(4000, 99)}, mixture=mixture)
    return values("mode_coverage", Reference(data), samples)


@pytest.mark.parametrize(
    ("mixture", "modes", "ceiling"),
    [
        (ring(), 8, 0.98889),
        (ring(2.0, 0.02), 8, 0.98889),
        (grid(), 25, 0.98889),
        (Mixture(np.zeros((1, 1)), 1.0), 1, 0.9973),
    ],
    ids=["ring8", "ring8_wide", "grid25", "gaussian1d"],
)
def test_a_perfect_sampler_reaches_the_ceiling_and_no_more(mixture: Mixture, modes: int, ceiling: float) -> None:
    found = covered(mixture, sampled(mixture, 10_000, 0))
    assert found["modes_captured"] == found["modes_strict"] == found["modes"] == modes
    assert found["high_quality_ceiling"] == pytest.approx(ceiling, abs=1e-5)
    assert found["high_quality"] == pytest.approx(ceiling, abs=4 * np.sqrt(ceiling * (1 - ceiling) / 10_000))
    assert found["reverse_kl"] == pytest.approx((modes - 1) / 20_000, abs=2e-3)
    assert 0.85 < found["sigma_ratio_min"] <= found["sigma_ratio_max"] < 1.15
    assert np.mean([value for key, value in found.items() if key.startswith("sigma_ratio/")]) == pytest.approx(
        1, abs=0.02
    )
    assert found["w1"] < 1.5 * found["w1_real"]


def test_a_sampler_collapsed_to_one_point_is_seen_through() -> None:
    """It beats the ceiling of quality; the other figures tell."""
    found = covered(ring(), np.tile(np.array([[1, 0]], np.float32), (1000, 1)))
    assert found["high_quality"] == 1 > found["high_quality_ceiling"]
    assert found["modes_captured"] == found["modes_strict"] == 1
    assert found["reverse_kl"] == pytest.approx(np.log(8))
    assert found["sigma_ratio/0"] == found["sigma_ratio_min"] == 0
    assert found["w1"] > 1 > 0.5 > found["w1_real"]


def test_modes_count_strictly_from_a_fifth_of_their_share() -> None:
    mixture = ring()
    share = 8000 / 8 * (1 - np.exp(-4.5))  # of high quality, from a perfect sampler
    for held, strict in ((int(0.2 * share) - 1, 7), (int(0.2 * share) + 1, 8)):
        samples = np.repeat(
            mixture.centers, [held, *[(8000 - held) // 7] * 6, 8000 - held - 6 * ((8000 - held) // 7)], 0
        )
        found = covered(mixture, samples.astype(np.float32))
        assert (found["modes_strict"], found["modes_captured"]) == (strict, 8)


def test_samples_far_from_every_mode_capture_nothing() -> None:
    found = covered(ring(), np.zeros((100, 2), np.float32))
    assert (found["modes_captured"], found["high_quality"]) == (0, 0)


def test_reverse_kl_is_the_sum_it_names() -> None:
    counts = np.array([5, 0, 3, 2])
    assert reverse_kl(counts) == pytest.approx(scipy.stats.entropy(counts / 10, np.full(4, 0.25)))
    assert reverse_kl(np.array([7, 7])) == 0


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("wide", [0.3, 1.0])
def test_sigma_ratio_is_the_spread_over_that_of_the_mode(dimensions: int, wide: float) -> None:
    x = np.random.default_rng(0).normal(size=(200_000, dimensions)) * 0.05
    x = x[np.linalg.norm(x, axis=1) <= 0.15] * wide
    assert sigma_ratio(x, 0.05) == pytest.approx(wide, rel=5e-3)


def test_transport_of_a_shift_is_the_shift() -> None:
    x = np.random.default_rng(0).normal(size=(300, 2))
    shift = np.array([3.0, 4.0])
    assert assignment_w1(x, x + shift) == pytest.approx(5)
    assert sliced_w1(x, x + shift) == pytest.approx(5 * 2 / np.pi, rel=1e-3)  # E|cos| of a direction
    assert sliced_w1(x[:, :1], x[:, :1] + 2) == pytest.approx(2)


def test_transport_on_a_line_is_the_assignment() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(200, 1)), rng.exponential(size=(200, 1))
    assert assignment_w1(a, b) == pytest.approx(sliced_w1(a, b))


# --- Frechet distance -------------------------------------------------------------------------------------------------


def test_frechet_distance_of_points_is_that_of_their_gaussians() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(0, 1, (4000, 2)), rng.normal(3, 2, (4000, 2))
    data = Prepared.of({"train": Arrays(real.astype(np.float32))})
    found = values("frechet_distance", Reference(data), fake.astype(np.float32))["frechet_distance"]
    assert found == pytest.approx(2 * 3**2 + 2 * (2 - 1) ** 2, rel=0.05)


def test_frechet_distance_names_its_space() -> None:
    samples = generated(images().shape, 300)
    with_features = Reference(images(), classifier=classifier_file())
    for space, dim in (("classifier", 16), ("raw", 256), ("auto", 16)):
        metric = plugins.build("metrics", "frechet_distance", {"space": space})
        state = metric.update(metric.start(with_features), samples, 0)
        assert state.gather("features").shape == (300, dim)
        assert metric.protocol(state)["space"] == ("classifier" if space == "auto" else space)
    with pytest.raises(ValueError, match="features stage"):
        values("frechet_distance", Reference(images()), samples)


def test_frechet_distance_orders_generators() -> None:
    reference = Reference(images(), classifier=classifier_file())
    rng = np.random.default_rng(0)
    good = patterns(400, 5).x
    worse = (good + rng.normal(0, 60, good.shape)).clip(0, 255).astype(np.uint8)
    noise = rng.integers(0, 256, good.shape).astype(np.uint8)
    scores = [values("frechet_distance", reference, one)["frechet_distance"] for one in (good, worse, noise)]
    assert scores == sorted(scores)
    assert scores[0] < 1 < scores[2]


# --- precision and recall ---------------------------------------------------------------------------------------------


def slowly(real: NDArray[Any], fake: NDArray[Any], k: int) -> dict[str, float]:
    """Every figure by its definition, one pair of samples at a time."""

    def reach(x: NDArray[Any], i: int) -> float:
        return sorted(float(np.linalg.norm(x[i] - x[j])) for j in range(len(x)) if j != i)[k - 1]

    real_reach, fake_reach = [reach(real, i) for i in range(len(real))], [reach(fake, i) for i in range(len(fake))]
    inside = [[float(np.linalg.norm(f - r)) <= real_reach[i] for i, r in enumerate(real)] for f in fake]
    back = [any(float(np.linalg.norm(r - f)) <= fake_reach[j] for j, f in enumerate(fake)) for r in real]
    precision, recall = float(np.mean([any(row) for row in inside])), float(np.mean(back))
    return {
        "f1": 2 * precision * recall / (precision + recall),
        "precision": precision,
        "recall": recall,
        "density": float(np.sum(inside) / (k * len(fake))),
        "coverage": float(np.mean(np.any(inside, axis=0))),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_is_its_definition(k: int) -> None:
    rng = np.random.default_rng(k)
    real, fake = rng.normal(size=(70, 3)).astype(np.float32), rng.normal(0.7, 1.2, size=(50, 3)).astype(np.float32)
    data = Prepared.of({"train": Arrays(real)})
    assert values("precision_recall", Reference(data), fake, k=k) == pytest.approx(slowly(real, fake, k))


def test_precision_recall_agrees_with_torch_fidelity() -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(400, 8)).astype(np.float32), rng.normal(0.4, 1, size=(300, 8)).astype(np.float32)
    theirs = prc.prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=3, prc_batch_size=10_000, verbose=False
    )
    ours = values("precision_recall", Reference(Prepared.of({"train": Arrays(real)})), fake)
    assert ours["precision"] == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours["recall"] == pytest.approx(theirs["recall"], abs=1e-6)


def test_a_half_of_the_modes_has_precision_without_recall() -> None:
    mixture = ring()
    half = Mixture(mixture.centers[:4], mixture.sigma)
    found = values("precision_recall", Reference(points()), sampled(half, 1000, 3))
    assert found["precision"] > 0.95
    assert found["recall"] < 0.55
    assert found["coverage"] < 0.55


# --- nearest neighbours -----------------------------------------------------------------------------------------------


def test_neighbours_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 1, size=(700, 12)).astype(np.float32), rng.normal(5, 1, size=(900, 12)).astype(np.float32)
    distance, position = nearest(a, b, 4)
    theirs = Neighbors(n_neighbors=4, algorithm="brute").fit(b.astype(np.float64)).kneighbors(a.astype(np.float64))
    np.testing.assert_allclose(distance, theirs[0], rtol=1e-6)
    np.testing.assert_array_equal(position, theirs[1])
    np.testing.assert_allclose(radii(b, 3), Neighbors(n_neighbors=4).fit(b).kneighbors(b)[0][:, 3], rtol=1e-5)


def test_equal_rows_are_at_zero_even_far_from_the_origin() -> None:
    b = (np.random.default_rng(0).normal(size=(50, 4)) + 1e4).astype(np.float32)
    assert (nearest(b, b)[0] == 0).all()


def test_more_neighbours_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="5 neighbours"):
        nearest(np.zeros((2, 2)), np.zeros((4, 2)), 5)
    with pytest.raises(ValueError, match="3-th"):
        radii(np.zeros((3, 2)), 3)


@pytest.mark.parametrize("space", ["raw", "classifier"])
def test_copies_are_told_from_honest_samples(space: str) -> None:
    reference = Reference(images(), classifier=classifier_file())
    training = reference.samples("train")
    honest = values("nearest_neighbors", reference, patterns(300, 5).x, space=space)
    assert honest["distance_ratio"] == pytest.approx(1, abs=0.1)
    assert honest["copying"] == pytest.approx(0.5, abs=0.06)
    assert honest["copied"] < 0.04
    copies = values("nearest_neighbors", reference, training[:300].copy(), space=space)
    assert (copies["distance_ratio"], copies["copying"], copies["copied"]) == (0, 1, 1)
    poor = values(
        "nearest_neighbors",
        reference,
        np.random.default_rng(0).integers(0, 256, (300, 16, 16, 1)).astype(np.uint8),
        space=space,
    )
    assert poor["distance_ratio"] > 1.5 > 0.1 > poor["copying"]


def test_without_a_test_split_training_samples_are_held_against_each_other() -> None:
    data = Prepared.of({"train": patterns(600, 0)})
    metric = plugins.build("metrics", "nearest_neighbors", {})
    state = metric.update(metric.start(Reference(data)), patterns(200, 5).x, 0)
    assert metric.compute(state)["distance_ratio"] == pytest.approx(1, abs=0.1)
    assert metric.protocol(state)["held_out"] == "train, each against the others"


def test_the_figure_shows_each_sample_beside_its_neighbours() -> None:
    reference = Reference(images())
    training = reference.samples("train")
    metric = plugins.build("metrics", "nearest_neighbors", {"shown": 3, "k": 2})
    state = metric.start(reference)
    for first in (0, 2, 4):  # the shown samples come from two batches
        state = metric.update(state, training[first : first + 2], first)
    sheet = np.asarray(Image.open(io.BytesIO(metric.figures(state)["nearest_neighbors.png"])))
    factor, cell = 4, 18 * 4
    for row in range(3):
        top = factor * 2 + row * cell
        sample = sheet[top : top + 64, 8 : 8 + 64]
        neighbour = sheet[top : top + 64, 8 + 2 * cell : 8 + 2 * cell + 64]
        np.testing.assert_array_equal(sample[::factor, ::factor, 0], training[row, ..., 0])
        np.testing.assert_array_equal(neighbour, sample)


# --- confidence -------------------------------------------------------------------------------------------------------


def test_confidence_is_that_of_the_classifier() -> None:
    reference = Reference(images(), classifier=classifier_file())
    only = patterns(400, 5)
    found = values("class_confidence", reference, only.x[only.label == 2])
    assert found["share/2"] > 0.95
    assert found["smallest_share"] == 0
    assert found["class_entropy"] < 0.3
    real = values("class_confidence", reference, only.x)
    assert real["confident"] == pytest.approx(real["confident_real"], abs=0.1)
    assert real["confident"] > 0.8
    assert real["class_entropy"] > 0.98
    assert sum(value for key, value in real.items() if key.startswith("share/")) == pytest.approx(1)


# --- references and samples -------------------------------------------------------------------------------------------


def test_a_limited_reference_is_spread_over_the_split() -> None:
    data = Prepared.of({"train": Arrays(np.arange(100, dtype=np.float32)[:, None])})
    reference = Reference(data, limit=10)
    np.testing.assert_array_equal(reference.samples()[:, 0], np.arange(0, 100, 10))
    assert (reference.count("test"), reference.protocol()["num_reference"]) == (0, 10)
    with pytest.raises(ValueError, match="3 features given for 10"):
        reference.put(Raw(), "train", np.zeros((3, 1), np.float32))


def test_the_second_domain_is_the_reference_of_a_translator() -> None:
    first, second = patterns(40, 0), patterns(60, 1)
    data = Prepared.of({"train": first}, other={"train": second})
    reference = Reference(data, other=True)
    assert reference.count() == 60
    np.testing.assert_array_equal(reference.samples(), second.x)
    assert "second domain" in reference.protocol()["reference_split"]


def test_samples_are_quantised_once_and_must_be_finite() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(as_samples(x)[0, 0, :, 0], [0, 0, 128, 255, 255])
    with pytest.raises(NotFiniteError, match="NaN"):
        as_samples(torch.tensor([[float("nan"), 1.0]]))


def test_flat_values_leave_details_out() -> None:
    results = {
        "mode_coverage": {
            "value": 8.0,
            "primary": "modes_strict",
            "values": {"modes_strict": 8.0, "w1": 0.5, "sigma_ratio/0": 1.0},
        }
    }
    assert evaluation.flat(results) == {"mode_coverage": 8.0, "mode_coverage.w1": 0.5}

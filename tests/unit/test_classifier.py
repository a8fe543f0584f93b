"""The classifier whose features judge samples."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.real import classifier_file, images, patterns, points
from trainers import classifier
from trainers.classifier import Classifier, Training
from trainers.core import DataShape
from trainers.data import Prepared
from trainers.dataset import Arrays


def digits() -> Prepared:
    """scikit-learn's digits at 32 x 32 (each pixel four times as wide and high), the first 80 % of a shuffle to train."""
    loaded = load_digits()
    x = np.kron(np.rint(loaded.images * 15.9375).astype(np.uint8), np.ones((1, 4, 4), np.uint8))[..., None]
    order = np.random.default_rng(0).permutation(len(x))
    cut = int(0.8 * len(x))
    parts = {"train": order[:cut], "test": order[cut:]}
    return Prepared.of({name: Arrays(x[rows], loaded.target[rows].astype(np.int64)) for name, rows in parts.items()})


@pytest.mark.slow
def test_it_learns_digits_in_seconds() -> None:
    data = digits()
    before, start = torch.get_num_threads(), time.process_time()
    torch.set_num_threads(1)
    made = classifier.train(data, classifier.of(data.shape, dim=64, width=16), Training(), seed=0)
    torch.set_num_threads(before)
    assert time.process_time() - start < 20
    assert classifier.accuracy(made, data) >= 0.97
    confident = (
        made.probabilities(made.embed(data.split("test").raw(torch.arange(len(data.split("test")))))).max(1) > 0.9
    )
    assert confident.mean() > 0.9


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    data = images()
    architecture, training = classifier.of(data.shape, dim=8, width=4), Training(max_steps=5)
    made = [classifier.train(data, architecture, training, seed=seed) for seed in (3, 3, 4)]
    for i, one in enumerate(made):
        one.save(tmp_path / f"{i}.safetensors")
    assert made[0].digest == made[1].digest != made[2].digest


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    loaded, samples = Classifier.load(classifier_file()), patterns(20, 9).x
    loaded.save(tmp_path / "again.safetensors")
    again = Classifier.load(tmp_path / "again.safetensors")
    assert again.architecture == loaded.architecture
    assert again.digest == loaded.digest
    np.testing.assert_array_equal(again.embed(samples), loaded.embed(samples))
    np.testing.assert_array_equal(
        again.probabilities(again.embed(samples)), loaded.probabilities(loaded.embed(samples))
    )


def test_features_have_unit_variance_on_average_and_lead_to_the_probabilities() -> None:
    made, data = Classifier.load(classifier_file()), images()
    samples = data.split("train").raw(torch.arange(600))
    features = made.embed(samples)
    assert features.var(axis=0).mean() == pytest.approx(1, rel=1e-3)
    with torch.inference_mode():
        logits = made.head(made.network(made.inputs(samples)))
    np.testing.assert_allclose(made.probabilities(features), logits.softmax(-1).numpy(), atol=1e-5)


def test_a_feature_depends_on_its_sample_alone() -> None:
    made, samples = Classifier.load(classifier_file()), patterns(50, 9).x
    alone = np.concatenate([made.embed(samples[i : i + 1]) for i in range(50)])
    np.testing.assert_allclose(made.embed(samples), alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.embed(samples[::-1])[::-1], made.embed(samples), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 8), (4, 24), (2, 40), (3, 64), (3, 136), (1, 256)])
def test_every_size_and_channel_count(channels: int, size: int) -> None:
    data = Prepared.of({"train": patterns(12, 0, size, channels)})
    training = Training(batch_size=6, max_steps=2)
    made = classifier.train(data, classifier.of(data.shape, dim=8, width=4), training, seed=0)
    features = made.embed(data.split("train").raw(torch.arange(12)))
    assert features.shape == (12, 8)
    assert np.isfinite(features).all()


def test_points_are_told_apart() -> None:
    data = points()
    made = classifier.train(data, classifier.of(data.shape, dim=16, width=8), Training(epochs=3), seed=0)
    assert classifier.accuracy(made, data) > 0.99


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    data = images()
    training = Training(max_steps=6, batch_size=100)
    classifier.train(
        data,
        classifier.of(data.shape, dim=8, width=4),
        training,
        seed=0,
        report=lambda step, total, _: told.append((step, total)),
    )
    assert told == [(step, 6) for step in range(1, 7)]


def test_data_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="needs labels"):
        classifier.of(DataShape("image", (1, 16, 16)), dim=8, width=4)
    data = Prepared.of({"train": Arrays(patterns(12, 0).x)})
    architecture = classifier.Architecture("image", (1, 16, 16), 4)
    with pytest.raises(ValueError, match="needs labels"):
        classifier.train(data, architecture, Training(), seed=0)


def test_another_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no classifier"):
        Classifier.load(tmp_path / "other.safetensors")

"""Real data for metrics, small and fixed: a mixture of points, and patterned images with a classifier of them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers import classifier
from trainers.core import DataShape
from trainers.data import Prepared
from trainers.dataset import Arrays, Mixture
from trainers.inception import NAME, _cache_folder
from trainers.metric import Reference

ONLINE = (_cache_folder() / NAME).is_file()  # the published Inception weights are on this machine


def ring(radius: float = 1.0, sigma: float = 0.01) -> Mixture:
    angles = np.arange(8) * np.pi / 4
    return Mixture(np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1), sigma)


def patterns(n: int, seed: int, size: int = 16, channels: int = 1) -> Arrays:
    """Images of four patterns (stripes across, stripes down, a disc, a ramp), each moved and noisy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    label = rng.integers(0, 4, n)
    phase = rng.uniform(0, 1, (n, 1, 1))
    disc = ((x - 0.5) ** 2 + (y - 0.5) ** 2)[None] < 0.08 + 0.08 * phase
    kinds = [
        np.sin(6.28 * (2 * x + phase)),
        np.sin(6.28 * (2 * y + phase)),
        disc * 2.0 - 1,
        (x + y + phase) % 1 * 2 - 1,
    ]
    image = np.choose(label[:, None, None], kinds)[..., None] * np.linspace(1, 0.6, channels)
    noisy = image * 100 + 127 + rng.normal(0, 12, (n, size, size, channels))
    return Arrays(noisy.clip(0, 255).astype(np.uint8), label.astype(np.int64))


@functools.cache
def points() -> Prepared:
    mixture = ring()
    return Prepared.of({"train": mixture.draw(4000, 0), "test": mixture.draw(1000, 1)}, mixture=mixture)


@functools.cache
def images(channels: int = 1, size: int = 16) -> Prepared:
    parts = {"train": patterns(600, 0, size, channels), "test": patterns(200, 1, size, channels)}
    return Prepared.of(parts)


@functools.cache
def classifier_file() -> Path:
    """A classifier of `images()`."""
    folder = Path(tempfile.mkdtemp(prefix="classifier-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = images()
    made = classifier.train(
        data, classifier.of(data.shape, dim=16, width=8), classifier.Training(max_steps=100), seed=0
    )
    made.save(folder / classifier.FILE)
    return folder / classifier.FILE


def data_for(attributes: Mapping[str, Any]) -> Prepared:
    needs = attributes["needs"]
    return points() if "points" in needs or "mixture" in needs else images()


def reference_for(attributes: Mapping[str, Any]) -> Reference:
    data = data_for(attributes)
    return Reference(data, classifier=classifier_file() if data is images() else None, identity="abc")


def generated(shape: DataShape, n: int) -> NDArray[Any]:
    """Samples of an honest but imperfect generator, in batches of which each sample differs."""
    if shape.kind == "image":
        return patterns(n, 7, shape.resolution, shape.channels).x
    return ring(1.0, 0.012).draw(n, 7).x

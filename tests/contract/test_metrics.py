"""What every metric keeps to, whichever metrics there are."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from tests.real import ONLINE, data_for, generated, reference_for
from trainers import plugins
from trainers.metric import BLOCK, Metric, State

NAMES = plugins.names("metrics")
NEEDS = {"image", "points", "labels", "mixture", "features", "inception"}
pytestmark = pytest.mark.parametrize("name", NAMES)
TOTAL = 2 * BLOCK + 40


@functools.cache
def whole(name: str) -> dict[str, float]:
    metric, reference, samples = ready(name)
    return metric.compute(metric.update(metric.start(reference), samples, 0))


def ready(name: str) -> tuple[Metric, Any, Any]:
    description = plugins.describe("metrics", name)
    if "inception" in description.attributes["needs"] and not ONLINE:
        pytest.skip("its weights are tested in test_metrics_fid.py")
    metric: Metric = plugins.build("metrics", name, {})
    reference = reference_for(description.attributes)
    return metric, reference, generated(reference.shape, TOTAL)


def test_the_description_is_the_class(name: str) -> None:
    description, cls = plugins.describe("metrics", name), plugins.load("metrics", name)
    assert issubclass(cls, Metric)
    for key, value in description.attributes.items():
        assert getattr(cls, key) == value, key
    assert description.attributes["direction"] in ("minimize", "maximize")
    needs = {*description.attributes["needs"], *description.attributes["needs_when"]}
    assert {part for need in needs for part in need.split("|")} <= NEEDS
    assert "arxiv.org" in description.summary


def test_the_values_have_the_primary_one_and_are_finite(name: str) -> None:
    ready(name)
    values = whole(name)
    assert plugins.load("metrics", name).primary in values
    assert all(isinstance(value, float) and np.isfinite(value) for value in values.values())
    assert set(plugins.load("metrics", name).directions) <= set(values)


def test_shards_in_any_order_give_one_answer(name: str) -> None:
    metric, reference, samples = ready(name)
    shards = []
    for first in (2 * BLOCK, 0, BLOCK):
        state = metric.update(metric.start(reference), samples[first : first + BLOCK], first)
        shards.append(pickle.loads(pickle.dumps(state)))
    left = metric.merge(metric.merge(shards[0], shards[1]), shards[2])
    right = metric.merge(shards[2], metric.merge(shards[1], shards[0]))
    for merged in (left, right):
        assert metric.compute(merged.attach(reference)) == whole(name)


def test_the_batch_size_changes_only_rounding(name: str) -> None:
    metric, reference, samples = ready(name)
    state = metric.start(reference)
    for first in range(0, TOTAL, 97):
        state = metric.update(state, samples[first : first + 97], first)
    assert metric.compute(state) == pytest.approx(whole(name), rel=1e-4, abs=1e-6)


def test_a_lost_shard_or_a_doubled_one_is_an_error(name: str) -> None:
    metric, reference, samples = ready(name)
    state = metric.update(metric.start(reference), samples[BLOCK:], BLOCK)
    with pytest.raises(ValueError, match="never given"):
        metric.compute(state)
    with pytest.raises(ValueError, match="both states"):
        metric.merge(state, state)
    with pytest.raises(ValueError, match="twice"):
        metric.update(state, samples[BLOCK:], BLOCK)
    with pytest.raises(ValueError, match="no samples"):
        metric.compute(State(reference))


def test_tensors_are_taken_as_a_generator_makes_them(name: str) -> None:
    metric, reference, samples = ready(name)
    tensor = torch.from_numpy(samples)
    if samples.dtype == np.uint8:
        tensor = tensor.permute(0, 3, 1, 2).float() / 127.5 - 1
    assert metric.compute(metric.update(metric.start(reference), tensor, 0)) == whole(name)


def test_the_protocol_says_what_was_compared(name: str) -> None:
    metric, reference, samples = ready(name)
    protocol = metric.protocol(metric.update(metric.start(reference), samples, 0))
    assert protocol["version"] == metric.version
    assert protocol["num_generated"] == TOTAL
    assert protocol["num_reference"] == reference.count()
    assert protocol["reference_split"] == "train"
    assert protocol["reference"] == data_for(plugins.describe("metrics", name).attributes).metadata["dataset"]
    if metric.spaces(reference):
        assert protocol["space"] == metric.spaces(reference)[0].name

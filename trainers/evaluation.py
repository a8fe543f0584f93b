"""Scoring a generator: which samples are drawn, and the order in which metrics see them, wherever the work is done.

    for each block of sample numbers: states = observe(...)     # anywhere, in any order
    results = conclude(metrics, merged(...), reference)         # once

`score` does it all in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers import plugins
from trainers.generator import Generator, as_float
from trainers.metric import Array, Metric, Reference, State, as_samples, blocks

Metrics = Mapping[str, Metric]
States = dict[str, State]


def entries(metrics: Sequence[Any]) -> list[tuple[str, dict[str, Any] | None]]:
    """Names and parameters of metrics as written: "fid" or {"fid": {"weights": …}}."""
    return [(one, None) if isinstance(one, str) else next(iter(one.items())) for one in metrics]


def build(metrics: Sequence[Any]) -> dict[str, Metric]:
    """Metrics by name. Raises plugins.PluginError."""
    return {name: plugins.build("metrics", name, params) for name, params in entries(metrics)}


def available(generator: Generator, reference: Reference, num_samples: int) -> int:
    """How many samples can be drawn: a translator has one for each source image of the reference's split."""
    if generator.given != "images":
        return num_samples
    return min(num_samples, len(reference.data.split(reference.split)))


def draw(generator: Generator, reference: Reference, rows: range, seed: int, batch_size: int = 256) -> Array:
    """Samples number `rows` of a seed, as a data set stores them. A translator's sources are the split's own, in order."""
    source = sources(reference, rows) if generator.given == "images" else None
    made = generator.sample(len(rows), seed=seed, first=rows.start, source=source, batch_size=batch_size)
    return as_samples(made)


def sources(reference: Reference, rows: range) -> Tensor:
    """Samples of the first domain, as a translator takes them."""
    raw = reference.data.split(reference.split).raw(torch.arange(rows.start, rows.stop))
    return as_float(raw) if raw.dtype == np.uint8 else torch.from_numpy(raw)


def observe(
    generator: Generator, metrics: Metrics, reference: Reference, rows: range, seed: int, batch_size: int = 256
) -> States:
    """States of metrics that have seen the samples `rows`, which start at a multiple of `metric.BLOCK`."""
    states = {name: metric.start(reference) for name, metric in metrics.items()}
    for part in blocks(len(rows)):
        here = range(rows.start + part.start, rows.start + part.stop)
        samples = draw(generator, reference, here, seed, batch_size)
        states = {name: metric.update(states[name], samples, here.start) for name, metric in metrics.items()}
    return states


def merged(metrics: Metrics, observed: Iterable[States], reference: Reference) -> States:
    """The states of all shards together, with a reference."""
    states = {name: metric.start(reference) for name, metric in metrics.items()}
    for shard in observed:
        states = {name: metric.merge(states[name], shard[name]) for name, metric in metrics.items()}
    return states


def conclude(metrics: Metrics, states: Mapping[str, State]) -> dict[str, dict[str, Any]]:
    """For each metric {"value", "values", "direction", "directions", "protocol"}. Raises ValueError for a value not finite."""
    results = {}
    for name, metric in metrics.items():
        values = metric.compute(states[name])
        if bad := [key for key, value in values.items() if not np.isfinite(value)]:
            raise ValueError(f"{name}: {', '.join(bad)} is not finite")
        results[name] = {
            "value": values[metric.primary],
            "values": values,
            "primary": metric.primary,
            "direction": metric.direction,
            "directions": {metric.primary: metric.direction, **metric.directions},
            "protocol": {"metric": name, **metric.protocol(states[name])},
        }
    return results


def needed(metrics: Metrics, reference: Reference) -> dict[tuple[str, str, str], tuple[str, int, str]]:
    """Features of real samples that are missing: (space, digest, split) -> (metric, number of its space, split)."""
    wanted = {}
    for name, metric in metrics.items():
        for number, space in enumerate(metric.spaces(reference)):
            for split in metric.splits(reference):
                if not reference.has(space, split):
                    wanted[space.name, space.digest, split] = (name, number, split)
    return wanted


def score(
    generator: Generator,
    metrics: Metrics | Sequence[Any],
    reference: Reference,
    num_samples: int,
    *,
    seed: int = 0,
    batch_size: int = 256,
) -> dict[str, dict[str, Any]]:
    """Draw samples and score them in this process; see `conclude` for the answer."""
    built = metrics if isinstance(metrics, Mapping) else build(metrics)
    count = available(generator, reference, num_samples)
    return conclude(built, observe(generator, built, reference, range(count), seed, batch_size))


def flat(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Every value by name: a metric's primary one under the metric's name, the others as `metric.value`, no details."""
    values = {}
    for name, result in results.items():
        values[name] = float(result["value"])
        others = result["values"].items()
        values |= {
            f"{name}.{key}": float(value) for key, value in others if key != result["primary"] and "/" not in key
        }
    return values

"""How many pods of which size a pipeline wants, from the `scale` of its stages. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.kubernetes.pods import GIB, Size


class Scale(Protocol):
    """`spec.Scale`, as far as it counts here."""

    @property
    def num_workers(self) -> int: ...
    @property
    def cpus_per_worker(self) -> float: ...
    @property
    def gpus_per_worker(self) -> float: ...
    @property
    def max_concurrent(self) -> int | None: ...


@dataclass(frozen=True)
class Workers:
    """So many pods of one size."""

    count: int
    size: Size

    def holds(self, scale: Scale) -> bool:
        """Whether a stage fits, all of its workers at once."""
        wanted, each = _all(scale), 0
        if scale.gpus_per_worker <= self.size.gpus or not scale.gpus_per_worker:
            shares = [self.size.cpus / scale.cpus_per_worker]
            if scale.gpus_per_worker:
                shares.append(self.size.gpus / scale.gpus_per_worker)
            each = int(min(shares) + 1e-9)
        return each * self.count >= wanted


def memory(cpus: int, gpus: int) -> int:
    """Bytes for a pod of which nothing else is known: torch, a copy of the data, and Ray's object store."""
    return max(4, 2 + 2 * cpus + 12 * gpus) * GIB


def workers(scales: Iterable[Scale]) -> list[Workers]:
    """Groups of pods that hold every stage: one with GPUs where a stage asks for them, one without for what is left."""
    scales = list(scales)
    groups: list[Workers] = []
    for those in ([s for s in scales if s.gpus_per_worker], [s for s in scales if not s.gpus_per_worker]):
        left = [scale for scale in those if not any(group.holds(scale) for group in groups)]
        if left:
            groups.append(_group(left))
    return groups or [Workers(1, Size(1, memory(1, 0)))]


def changed(groups: list[Workers], count: int | None, gpus: int | None, size: int | None) -> list[Workers]:
    """The groups with another number of pods, GPUs each, or bytes each, in the first one; asked for GPUs, it is the only one."""
    first = groups[0]
    if gpus is not None:
        groups = groups[:1]
        first = replace(first, size=Size(first.size.cpus, memory(first.size.cpus, gpus), gpus))
    if count is not None:
        first = replace(first, count=count)
    if size is not None:
        first = replace(first, size=replace(first.size, memory=size))
    return [first, *groups[1:]]


def _all(scale: Scale) -> int:
    return scale.num_workers * (scale.max_concurrent or 1)


def _group(scales: list[Scale]) -> Workers:
    """Pods of the size of the largest worker; small ones share a pod."""
    largest = max(scales, key=lambda s: (s.gpus_per_worker, s.cpus_per_worker))
    part = max(scale.gpus_per_worker or scale.cpus_per_worker for scale in scales)
    together = max(1, int(1 / part + 1e-9))
    gpus = math.ceil(together * largest.gpus_per_worker - 1e-9)
    cpus = max(1, math.ceil(together * max(scale.cpus_per_worker for scale in scales) - 1e-9))
    one = Workers(1, Size(cpus, memory(cpus, gpus), gpus))
    count = 1
    while not all(replace(one, count=count).holds(scale) for scale in scales):
        count += 1
    return replace(one, count=count)


__all__ = ["Workers", "changed", "memory", "workers"]

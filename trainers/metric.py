"""What a metric is: `start`, `update(state, batch, index)`, `merge`, `compute`.

Updates keep what a metric needs of each batch under the index of the batch's first sample; `compute` puts the parts in
the order of their indices and only then reduces. So shards may come in any number and any order and give one answer,
bit for bit, and a lost or doubled shard is an error, never a slightly different score.

Samples are what a data set stores: uint8 images (n, H, W, C), float32 points (n, D).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trainers.core import DataShape
from trainers.pictures import to_uint8

if TYPE_CHECKING:
    from trainers.classifier import Classifier

Array = NDArray[Any]
BLOCK = 256  # samples made, embedded and sharded together; part of what a seed means


class NotFiniteError(ValueError):
    """A generator made NaN or infinity."""


class Data(Protocol):
    """A prepared data set, such as `trainers.data.Prepared`."""

    @property
    def shape(self) -> DataShape: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...
    def split(self, name: str) -> Any:
        """With `len`, `labels` and `raw(indices)`, such as `trainers.data.Split`."""


class Space(ABC):
    """A map from samples to feature vectors. `digest` tells two maps apart (of weights; "" where there are none)."""

    name: str
    digest: str

    @abstractmethod
    def embed(self, samples: Array) -> Array:
        """Features float32 (n, D) of samples; a row depends on its sample alone."""

    def protocol(self) -> dict[str, Any]:
        """What must be equal for two scores in this space to be comparable."""
        return {"space": self.name, "weights": self.digest}


class Raw(Space):
    """The samples themselves: points as they are, images as pixels in [-1, 1], flattened."""

    name = "raw"
    digest = ""

    def embed(self, samples: Array) -> Array:
        flat = samples.reshape(len(samples), -1)
        if samples.dtype == np.uint8:
            return flat.astype(np.float32) / 127.5 - 1
        return flat.astype(np.float32)


class Reference:
    """The real samples that generated ones are held against: a split of a prepared data set, and its features.

    `limit` takes that many samples, evenly spread over the split (None: all). `other`: of the second domain, which
    translators make. `classifier` is a file written by the features stage. `identity` (a digest) says which data set this
    is. Features are computed once for each space, or given by `put` where they were computed elsewhere.
    """

    def __init__(
        self,
        data: Data,
        *,
        split: str = "train",
        limit: int | None = None,
        other: bool = False,
        classifier: Path | None = None,
        identity: str = "",
        device: str = "cpu",
    ) -> None:
        self.data = data
        self.split = split
        self.limit = limit
        self.other = other
        self.identity = identity
        self.device = device
        self._classifier_file = classifier
        self._classifier: Classifier | None = None
        self._samples: dict[str, Array] = {}
        self._features: dict[tuple[str, str, str], Array] = {}
        self._last: tuple[Array, dict[tuple[str, str], Array]] | None = None

    @property
    def shape(self) -> DataShape:
        shape = self.data.shape
        return shape.other if self.other and shape.other else shape

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.data.metadata

    @property
    def classifier(self) -> Classifier | None:
        """The classifier of the features stage, or None where there was none."""
        if self._classifier is None and self._classifier_file is not None:
            from trainers.classifier import Classifier

            self._classifier = Classifier.load(self._classifier_file).to(self.device)
        return self._classifier

    def count(self, split: str | None = None) -> int:
        """Samples in use of a split (default: the reference's own); 0 where the data set has no such split."""
        name = split or self.split
        splits = self.metadata.get("splits")
        if splits is not None and not splits.get(name):
            return 0
        size = len(self._split(name))
        return min(size, self.limit or size)

    def _split(self, name: str) -> Any:
        split = self.data.split(name)
        return split.other if self.other else split

    def positions(self, split: str | None = None) -> NDArray[np.int64]:
        """Positions in the split of the samples in use, int64 (count,)."""
        name = split or self.split
        count = self.count(name)
        size = len(self._split(name)) if count else 0
        return spread(np.arange(size, dtype=np.int64), count)

    def samples(self, split: str | None = None, rows: Array | None = None) -> Array:
        """Real samples (count, …), or those of `rows` (positions among them) alone."""
        import torch

        name = split or self.split
        if rows is not None:
            return np.asarray(self._split(name).raw(torch.from_numpy(self.positions(name)[rows])))
        if name not in self._samples:
            self._samples[name] = self.samples(name, np.arange(self.count(name)))
        return self._samples[name]

    def features(self, space: Space, split: str | None = None) -> Array:
        """Features float32 (count, D) of the real samples."""
        key = (space.name, space.digest, split or self.split)
        if key not in self._features:
            self._features[key] = embed(space, self.samples(split))
        return self._features[key]

    def has(self, space: Space, split: str | None = None) -> bool:
        """Whether the features are there already."""
        return (space.name, space.digest, split or self.split) in self._features

    def put(self, space: Space, split: str, features: Array) -> None:
        """Features computed elsewhere, of the samples in `positions(split)`, in that order."""
        if len(features) != self.count(split):
            raise ValueError(f"{len(features)} features given for {self.count(split)} samples of {split}")
        self._features[space.name, space.digest, split] = features

    def embed(self, space: Space, batch: Array) -> Array:
        """Features of generated samples. Metrics that share a space share the work on the latest batch."""
        if self._last is None or self._last[0] is not batch:
            self._last = (batch, {})
        known = self._last[1]
        key = (space.name, space.digest)
        if key not in known:
            known[key] = embed(space, batch)
        return known[key]

    def protocol(self, split: str | None = None) -> dict[str, Any]:
        name = split or self.split
        return {
            "reference": str(self.metadata.get("dataset", "")),
            "reference_digest": self.identity,
            "reference_split": f"{name}, second domain" if self.other else name,
            "num_reference": self.count(name),
        }


def embed(space: Space, samples: Array) -> Array:
    """Features of any number of samples, `BLOCK` at a time."""
    return np.concatenate([space.embed(samples[rows.start : rows.stop]) for rows in blocks(len(samples))])


def spread(rows: Array, at_most: int) -> Array:
    """All rows, or `at_most` of them, evenly spread over their order."""
    n = len(rows)
    return rows if n <= at_most else rows[np.arange(at_most, dtype=np.int64) * n // at_most]


def blocks(n: int, size: int = BLOCK) -> Iterator[range]:
    """range(n) cut into ranges of `size`, the last one shorter."""
    for first in range(0, n, size):
        yield range(first, min(first + size, n))


@dataclass
class State:
    """What a metric has seen: for each batch, by the index of its first sample, named arrays with one row a sample.

    It travels between processes without its reference: `attach` gives it one again.
    """

    reference: Reference | None
    parts: dict[int, dict[str, Array]] = field(default_factory=dict)

    def gather(self, name: str) -> Array:
        """Rows of every batch in the order of the samples. Raises ValueError where samples are missing."""
        expected = 0
        for index in sorted(self.parts):
            if index != expected:
                raise ValueError(f"samples {expected} to {index - 1} were never given to the metric")
            expected += len(self.parts[index][name])
        if not self.parts:
            raise ValueError("the metric has seen no samples")
        return np.concatenate([self.parts[index][name] for index in sorted(self.parts)])

    def __getstate__(self) -> dict[str, Any]:
        return {"reference": None, "parts": self.parts}

    def attach(self, reference: Reference) -> State:
        return State(reference, self.parts)

    @property
    def real(self) -> Reference:
        if self.reference is None:
            raise ValueError("this state came from another process: attach a reference first")
        return self.reference

    @property
    def count(self) -> int:
        return sum(len(next(iter(part.values()))) for part in self.parts.values())


class Metric(ABC):
    """A score of generated samples. A frozen dataclass; its fields are its YAML parameters.

    Class attributes are literals, read without importing the file. `direction`: what is better of `primary`, the value
    that gates and searches use. `needs`: "image", "points", "labels", "mixture", "features", "inception", or alternatives as
    in "points|features". `needs_when`: needs that follow from parameter values. A new metric defines `collect` (what it keeps
    of a batch) and `compute`.
    """

    direction: ClassVar[Literal["minimize", "maximize"]]
    primary: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    needs_when: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {}
    directions: ClassVar[dict[str, str]] = {}  # of further values, by name, where a gate may compare them
    version: ClassVar[int] = 1

    def spaces(self, reference: Reference) -> tuple[Space, ...]:
        """The feature spaces that it reads, of generated and real samples."""
        return ()

    def splits(self, reference: Reference) -> tuple[str, ...]:
        """The splits whose features it reads."""
        return (reference.split,)

    def start(self, reference: Reference) -> State:
        """A state that has seen nothing."""
        return State(reference)

    def update(self, state: State, batch: Any, index: int) -> State:
        """The state after a batch of samples, the first of which is number `index` of all. Tensors are taken, too."""
        samples = as_samples(batch)
        if index in state.parts:
            raise ValueError(f"the batch at sample {index} was given twice")
        part = self.collect(state.real, samples, index) if len(samples) else {}
        return replace(state, parts={**state.parts, index: part}) if part else state

    def merge(self, a: State, b: State) -> State:
        """The state that has seen what both have. Raises ValueError where both have seen the same batch."""
        if both := a.parts.keys() & b.parts.keys():
            raise ValueError(f"the batch at sample {min(both)} is in both states")
        return State(a.reference or b.reference, {**a.parts, **b.parts})

    def collect(self, reference: Reference, batch: Array, index: int) -> dict[str, Array]:
        """What to keep of a batch: named arrays with one row a sample. By default the samples themselves."""
        return {"samples": batch}

    @abstractmethod
    def compute(self, state: State) -> dict[str, float]:
        """The values by name, `primary` among them. A name with a slash ("sigma_ratio/3") is a detail of a score."""

    def figures(self, state: State) -> dict[str, bytes]:
        """PNG files by name that show the score."""
        return {}

    def protocol(self, state: State) -> dict[str, Any]:
        """Everything that must be equal for two scores to be comparable."""
        described: dict[str, Any] = {"version": self.version, "num_generated": state.count}
        for space in self.spaces(state.real):
            described |= space.protocol()
        return {**described, **state.real.protocol(), **self.settings()}

    def settings(self) -> dict[str, Any]:
        """Parameters that change the meaning of the score."""
        return {}


def as_samples(batch: Any) -> Array:
    """Samples as a data set stores them: float images (n, C, H, W) in [-1, 1] become uint8 (n, H, W, C), clamped.

    Raises NotFiniteError.
    """
    array: Array = batch if isinstance(batch, np.ndarray) else batch.detach().cpu().numpy()
    if array.dtype == np.uint8:
        return array
    if not np.isfinite(array).all():
        raise NotFiniteError("generated samples hold NaN or infinity")
    if array.ndim == 4:
        return to_uint8(np.asarray(array, np.float32))
    return np.asarray(array, np.float32)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

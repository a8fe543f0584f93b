"""Prepared data: memory-mapped shards, and batches of them without a line of Python per image.

A prepared directory holds `index.json` and, for each split, shards `train-00000.x.npy` (uint8 (n, H, W, C), or float32
points (n, D)) with their labels `train-00000.y.npy` (int64 (n,)). The second domain's shards are named `train-other-…`.
Images become (B, C, H, W) in [-1, 1], in memory channels_last, and they are normalised on the device that trains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.core import Batch, DataShape

if TYPE_CHECKING:
    from trainers.dataset import Arrays, Mixture

Array = npt.NDArray[Any]

INDEX = "index.json"
JOINED_BYTES = 256 << 20  # several shards of a split up to this size are copied into one: a gather then is one call
RESIDENT_BYTES = 4 << 30  # a split up to this size is copied to the GPU that trains on it, once
PAIRING_SEED = 0x0DDB


class Prepared:
    """A prepared data set. `metadata` is that of the `dataset` artifact; `shape` what one sample looks like."""

    def __init__(self, metadata: Mapping[str, Any], splits: Mapping[str, Split]) -> None:
        self.metadata = metadata
        self.shape = DataShape.from_json(metadata["shape"])
        self.splits = dict(splits)

    @classmethod
    def open(cls, directory: Path) -> Prepared:
        """Map the shards of a directory into memory. Raises FileNotFoundError, KeyError for one that is not prepared."""
        index = json.loads((directory / INDEX).read_text())
        metadata = index["metadata"]
        padding = int(metadata["augment"]["crop"])
        splits: dict[str, Split] = {}
        for name, sides in index["splits"].items():
            second = _read(directory, sides["other"], padding) if sides["other"] else None
            splits[name] = _read(directory, sides["shards"], padding, second)
        return cls(metadata, splits)

    @classmethod
    def of(
        cls,
        splits: Mapping[str, Arrays],
        *,
        other: Mapping[str, Arrays] | None = None,
        mixture: Mixture | None = None,
        flip: bool = False,
        crop: int = 0,
    ) -> Prepared:
        """Arrays in memory as if prepared: uint8 images of one size, or float32 points; `other` is a second domain."""
        other = other or {}
        second = {name: Split([arrays.x], arrays.label, padding=crop) for name, arrays in other.items()}
        first = {
            name: Split([arrays.x], arrays.label, padding=crop, other=second.get(name))
            for name, arrays in splits.items()
        }
        shape = replace(_shape(splits), other=_shape(other) if other else None)
        metadata: dict[str, Any] = {
            "dataset": "arrays",
            "shape": shape.to_json(),
            "splits": {name: len(split) for name, split in first.items()},
            "classes": None,
            "domains": 2 if other else 1,
            "mixture": mixture.to_json() if mixture else None,
            "augment": {"flip": flip, "crop": crop},
            "corrupt": [],
        }
        return cls(metadata, first)

    def split(self, name: str) -> Split:
        """Raises KeyError, with the names there are."""
        if name not in self.splits:
            raise KeyError(f"no split {name!r}; there are: {', '.join(self.splits)}")
        return self.splits[name]


class Split:
    """One split: `shards` one after another, `labels` int64 (n,) or None, `other` the second domain's split."""

    def __init__(
        self, shards: Sequence[Array], labels: Array | None = None, *, padding: int = 0, other: Split | None = None
    ) -> None:
        self.labels = labels
        self.padding = padding
        self.other = other
        if len(shards) > 1 and sum(shard.nbytes for shard in shards) <= JOINED_BYTES:
            shards = [np.concatenate(shards)]
        self.shards = [torch.from_numpy(_writable(shard)) for shard in shards]
        self._starts = torch.tensor([len(shard) for shard in self.shards]).cumsum(0)
        self._labels = None if labels is None else torch.from_numpy(_writable(labels))
        self._resident: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all samples as stored."""
        return sum(shard.numel() * shard.element_size() for shard in self.shards)

    def raw(self, indices: Tensor | Array) -> Array:
        """Samples as stored, by indices (B,): uint8 (B, H, W, C), float32 points (B, D)."""
        return self._gather(torch.as_tensor(indices, dtype=torch.int64)).numpy()

    def batch(
        self,
        indices: Tensor,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        flip: Tensor | None = None,
        crop: Tensor | None = None,
        other: Tensor | None = None,
    ) -> Batch:
        """Samples by indices, int64 (..., B) on the CPU, as the networks take them.

        `flip` (..., B) bool mirrors an image; `crop` (..., B, 2) int64 in [0, 2 padding] is where, in rows and columns, a
        window of the image's size lies in the image padded by its border pixels: (padding, padding) changes nothing.
        Points take neither. A second domain follows in `Batch.other`, at the indices `other` where given, else at those
        of a fixed shuffled pairing that wraps around (the rest of a longer second domain is reached by `other` alone).
        """
        device = torch.device(device)
        flat = indices.reshape(-1)
        x = self._on_device(flat, device)
        if x.dim() == 4:
            if flip is not None or crop is not None:
                x = _moved(x, _flat(flip, 1), _flat(crop, 2), self.padding)
            x = _normalised(x, dtype)
        else:
            x = x.to(dtype)
        second = None
        if self.other is not None:
            paired = self._pairing[indices % len(self._pairing)] if other is None else other
            second = self.other.batch(paired, device=device, dtype=dtype, flip=flip, crop=crop)
        label = None if self._labels is None else self._labels[flat].reshape(indices.shape).to(device)
        return Batch(x.reshape(*indices.shape, *x.shape[1:]) if indices.dim() != 1 else x, label, indices, second)

    @cached_property
    def _pairing(self) -> Tensor:
        """Positions of the second domain, shuffled, so that what stands at one place in both domains is no pair."""
        assert self.other is not None
        return torch.randperm(len(self.other), generator=torch.Generator().manual_seed(PAIRING_SEED))

    def _on_device(self, indices: Tensor, device: torch.device) -> Tensor:
        if device.type == "cpu":
            return self._gather(indices)
        if self.nbytes > RESIDENT_BYTES:
            return self._gather(indices).to(device)
        if device not in self._resident:
            self._resident[device] = torch.cat([shard.to(device) for shard in self.shards])
        return self._resident[device].index_select(0, indices.to(device))

    def _gather(self, indices: Tensor) -> Tensor:
        """Rows (B, ...) of the shards, as stored. Raises IndexError for an index out of range."""
        if len(self.shards) == 1:
            return self.shards[0].index_select(0, indices)
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"an index lies outside of the split's {len(self)} samples")
        ordered, order = indices.sort()
        out = torch.empty((len(indices), *self.shards[0].shape[1:]), dtype=self.shards[0].dtype)
        stops = torch.searchsorted(ordered, self._starts).tolist()
        first = start = 0
        for shard, stop, last in zip(self.shards, stops, self._starts.tolist(), strict=True):
            if stop > start:
                torch.index_select(shard, 0, ordered[start:stop] - first, out=out[start:stop])
            first, start = last, stop
        return out.index_select(0, order.argsort())


def _read(directory: Path, shards: Sequence[Mapping[str, Any]], padding: int, other: Split | None = None) -> Split:
    x = [np.load(directory / shard["x"], mmap_mode="c", allow_pickle=False) for shard in shards]
    labelled = all(shard["y"] for shard in shards)
    y = [np.load(directory / shard["y"], allow_pickle=False) for shard in shards] if labelled else None
    return Split(x, np.concatenate(y) if y else None, padding=padding, other=other)


def _writable(array: Array) -> Array:
    """torch warns of read-only arrays. Mapped shards are mapped copy-on-write, which counts as writable."""
    return np.require(array, requirements=["C", "W"])


def _flat(draws: Tensor | None, width: int) -> Tensor | None:
    return None if draws is None else draws.reshape(-1) if width == 1 else draws.reshape(-1, width)


def _normalised(x: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 (B, H, W, C) -> (B, C, H, W) in [-1, 1], in one pass: the permuted view is channels_last as it stands."""
    return torch.add(torch.tensor(-1.0, dtype=dtype), x.permute(0, 3, 1, 2), alpha=2 / 255)


def _moved(x: Tensor, flip: Tensor | None, crop: Tensor | None, padding: int) -> Tensor:
    """uint8 (B, H, W, C), each image mirrored and cropped by its own draws, in one gather."""
    batch, height, width = x.shape[:3]
    rows = torch.arange(height, device=x.device).expand(batch, height)
    columns = torch.arange(width, device=x.device).expand(batch, width)
    if crop is not None:
        shift = crop.to(x.device) - padding
        rows = (rows + shift[:, :1]).clamp(0, height - 1)
        columns = (columns + shift[:, 1:]).clamp(0, width - 1)
    if flip is not None:
        columns = torch.where(flip.to(x.device)[:, None], columns.flip(1), columns)
    images = torch.arange(batch, device=x.device)
    return x[images[:, None, None], rows[:, :, None], columns[:, None, :]]


def _shape(splits: Mapping[str, Arrays]) -> DataShape:
    """The shape of samples (H, W, C) or (D,) in memory; as many classes as the largest label asks for."""
    labels = [int(arrays.label.max()) for arrays in splits.values() if arrays.label is not None]
    classes = max(labels) + 1 if labels else None
    size = next(iter(splits.values())).x.shape[1:]
    if len(size) == 1:
        return DataShape("points", (size[0],), classes, bounded=False)
    return DataShape("image", (size[2], size[0], size[1]), classes)

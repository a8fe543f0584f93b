"""From a data set to shards: which example goes where, and making one shard.

Where an example goes depends on the data set, the seed, the subset and the split alone. A shard is a pure function of its
place, so that any number of workers makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers import pixels
from trainers.dataset import Arrays, CorruptError, DataError, Dataset, Opened, Source

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

SHARD_BYTES = 64 << 20  # at most; a shard is what a worker makes at once
SHARDS = 8  # of a split, where it is large enough to be worth it
SHARD_ROWS = 256  # at least
WHOLE = "all"
CHUNK = 4096  # rows of an array in memory that are worked on together


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the content of the shards. `fractions` None: the data set's own splits, else 80 to 20.

    `image_size` and `channels` are of the result; `subset` is a fraction (at most 1) or a count. `token` names the run:
    what a worker has opened for one run is not used for the next.
    """

    dataset: Dataset
    name: str
    seed: int
    image_size: int | None = None
    channels: int | None = None
    subset: float | None = None
    fractions: tuple[tuple[str, float], ...] | None = None
    token: str = ""


@dataclass(frozen=True)
class Place:
    """One shard: rows `start` to `stop` of a split (of its second domain where `other`)."""

    split: str
    number: int
    start: int
    stop: int
    other: bool = False

    @property
    def stem(self) -> str:
        return f"{self.split}{'-other' if self.other else ''}-{self.number:05d}"


@dataclass(frozen=True, eq=False)
class Shard:
    """`x` uint8 (n, H, W, C) or float32 (n, D); `label` int64 (n,) or None; `corrupt` names what was left out, and why."""

    x: Array
    label: Array | None
    corrupt: tuple[str, ...] = ()


def places(opened: Opened, recipe: Recipe) -> list[Place]:
    """Every shard to be made. Raises DataError where a split would be empty."""
    found = []
    for other in (False, True) if opened.other else (False,):
        for split, picked in picks(opened, recipe, other=other).items():
            rows = _rows(len(picked), _row_bytes(recipe))
            for number, start in enumerate(range(0, len(picked), rows)):
                found.append(Place(split, number, start, min(start + rows, len(picked)), other))
    return found


def picks(opened: Opened, recipe: Recipe, *, other: bool = False) -> dict[str, Array]:
    """For each split the examples it takes: positions (n,) in the data set's own splits laid end to end, shuffled."""
    sources = opened.other if other else opened.splits
    taken = _subset({name: len(source) for name, source in sources.items()}, recipe)
    rng = np.random.default_rng([recipe.seed, int(other)])
    shuffled, start = {}, 0
    for name, source in sources.items():
        shuffled[name] = start + rng.permutation(len(source))[: taken[name]]
        start += len(source)
    fractions = recipe.fractions
    if fractions is None and WHOLE in sources:
        fractions = (("train", 0.8), ("test", 0.2))
    if fractions is None:
        if "train" not in sources:
            raise DataError(f"data set {recipe.name} has no split 'train'", f"it has {', '.join(sources)}; set `split`")
        result = shuffled
    else:
        pool = rng.permutation(np.concatenate(list(shuffled.values())))
        ends = np.rint(np.cumsum([0.0, *(share for _, share in fractions)]) * len(pool)).astype(int)
        result = {name: pool[ends[i] : ends[i + 1]] for i, (name, _) in enumerate(fractions)}
    if empty := [name for name, picked in result.items() if len(picked) == 0]:
        total = sum(len(source) for source in sources.values())
        raise DataError(f"split {empty[0]} of {recipe.name} would be empty", f"it holds {total} examples in all")
    return result


def make(opened: Opened, recipe: Recipe, place: Place) -> Shard:
    """One shard: examples read, brought to one size and colour, stacked. Raises DataError where all of it is unusable."""
    wanted = picks(opened, recipe, other=place.other)[place.split][place.start : place.stop]
    sources = list((opened.other if place.other else opened.splits).values())
    starts = np.cumsum([0, *(len(source) for source in sources)])
    which = np.searchsorted(starts, wanted, side="right") - 1
    blocks: list[Array] = []
    labels: list[int | None] = []
    corrupt: list[str] = []
    for source, index in _runs(sources, which, wanted - starts[which]):
        if isinstance(source, Arrays):
            blocks.append(_fitted(source.x[index], recipe))
            labels += [None] * len(index) if source.label is None else source.label[index].tolist()
            continue
        for i in index.tolist():
            try:
                example = source[i]
            except CorruptError as error:
                corrupt.append(str(error.args[0]))
                continue
            blocks.append(_fitted(example.x[None], recipe))
            labels.append(example.label)
    x = np.concatenate(blocks) if blocks else _nothing(recipe)
    return Shard(x, _labels(labels, opened, recipe), tuple(corrupt))


def _runs(sources: list[Source], which: Array, index: Array) -> Iterator[tuple[Source, Array]]:
    """Stretches of one source in the order wanted, of at most CHUNK examples."""
    edges = np.flatnonzero(np.diff(which)) + 1
    for run in np.split(np.arange(len(which)), edges):
        for start in range(0, len(run), CHUNK):
            part = run[start : start + CHUNK]
            yield sources[which[part[0]]], index[part]


def _fitted(x: Array, recipe: Recipe) -> Array:
    """(n, H, W, C) as the recipe wants images; points (n, D) as they are. Raises DataError for anything else."""
    if recipe.image_size is None:
        if x.ndim != 2 or x.dtype != np.float32 or not np.isfinite(x).all():
            raise DataError(f"data set {recipe.name} gave {x.dtype} {x.shape[1:]}", "points are finite float32 (D,)")
        return x
    if x.ndim != 4 or x.dtype != np.uint8:
        raise DataError(f"data set {recipe.name} gave {x.dtype} {x.shape[1:]}", "images are uint8 (H, W, C)")
    x = pixels.recolour(x, recipe.channels or x.shape[-1])
    if x.shape[1:3] == (recipe.image_size, recipe.image_size):
        return x
    return np.stack([pixels.fit(image, recipe.image_size) for image in x])


def _labels(labels: list[int | None], opened: Opened, recipe: Recipe) -> Array | None:
    if all(label is None for label in labels):
        return None
    if any(label is None for label in labels):
        raise DataError(f"data set {recipe.name} labels some examples and others not")
    found = np.array(labels, dtype=np.int64)
    top = len(opened.classes) if opened.classes else type(recipe.dataset).num_classes
    if found.min() < 0 or (top is not None and top >= 0 and found.max() >= top):
        raise DataError(f"data set {recipe.name} gave a label outside of its {top} classes")
    return found


def _nothing(recipe: Recipe) -> Array:
    size = recipe.image_size
    if size is None:
        return np.empty((0, type(recipe.dataset).channels), dtype=np.float32)
    return np.empty((0, size, size, recipe.channels or 1), dtype=np.uint8)


def _subset(sizes: Mapping[str, int], recipe: Recipe) -> dict[str, int]:
    """How many of each of the data set's own splits: shares of a count add up to the count."""
    total = sum(sizes.values())
    share = 1.0 if recipe.subset is None else recipe.subset if recipe.subset <= 1 else recipe.subset / max(total, 1)
    if share > 1:
        raise DataError(f"a subset of {recipe.subset:g} of {recipe.name} is more than there is", f"it holds {total}")
    ends = np.rint(np.cumsum([0, *sizes.values()]) * share).astype(int)
    return dict(zip(sizes, np.diff(ends).tolist(), strict=True))


def _row_bytes(recipe: Recipe) -> int:
    size, channels = recipe.image_size, recipe.channels or type(recipe.dataset).channels
    return size * size * channels if size else 4 * channels


def _rows(n: int, row_bytes: int) -> int:
    """Rows of a shard; a function of the data alone."""
    return max(min(max(SHARD_ROWS, -(-n // SHARDS)), SHARD_BYTES // row_bytes), 1)

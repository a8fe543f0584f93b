"""What a data set is: a sequence of examples for each split, described by literals so that planning reads no data.

A data set is one file in `trainers/datasets/`: a frozen dataclass whose fields are its YAML parameters. Importing it must
be cheap: numpy, torch and others are imported inside its methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

UNKNOWN = -1  # num_classes: known only once the data has been read
Self = TypeVar("Self", bound="Dataset")


class DataError(Exception):
    """The data is not what its description says: missing, empty, unreadable, unsafe. `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)  # both are positional, so that it survives the way back from a worker
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.args[0]}; {self.hint}" if self.hint else str(self.args[0])


class UnreachableError(DataError):
    """A network or a storage that the data lives on cannot be reached."""


class CorruptError(DataError):
    """One example that cannot be read. Preparing leaves it out, names it and counts it."""


class Example(NamedTuple):
    """`x`: uint8 (H, W, C) of any size, or float32 (D,); `label`: the index of its class, None without labels."""

    x: Array
    label: int | None = None


class Source(Protocol):
    """A sequence of examples; `source[i]` is a pure function of i. Raises CorruptError for an example it cannot read."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...


@dataclass(frozen=True, eq=False)
class Arrays:
    """A source in memory: `x` uint8 (n, H, W, C) or float32 (n, D), `label` integers (n,) or None."""

    x: Array
    label: Array | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int, /) -> Example:
        return Example(self.x[index], None if self.label is None else int(self.label[index]))


@dataclass(frozen=True, eq=False)
class Mixture:
    """The density that points come from: an equal mixture of normals N(center, sigma^2 I), centers (k, D)."""

    centers: Array
    sigma: float

    def draw(self, num_points: int, seed: int) -> Arrays:
        """Points (num_points, D) float32, labelled with their component; each component holds an equal share (+-1)."""
        import numpy as np

        rng = np.random.default_rng(seed)
        label = rng.permutation(np.arange(num_points) % len(self.centers))
        noise = rng.standard_normal((num_points, self.centers.shape[1]))
        return Arrays((self.centers[label] + self.sigma * noise).astype(np.float32), label)

    def to_json(self) -> dict[str, Any]:
        return {"centers": self.centers.tolist(), "sigma": self.sigma}


@dataclass(frozen=True)
class Opened:
    """What a data set holds.

    `splits` is `{"all": …}`, which preparing splits, or the data set's own splits ("train", "test"). `other` is the second
    domain of a data set with two, under the same names and of any length (unpaired). `classes` are names by label.
    """

    splits: Mapping[str, Source]
    other: Mapping[str, Source] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    mixture: Mixture | None = None


class Dataset(ABC):
    """One data set. A frozen dataclass; its fields are its YAML parameters.

    Class attributes are literals, read without importing the file:
    `kind`: "image" or "points". `channels`: of an image (1, 3, …), or the dimensions of a point. `num_classes`: None without
    labels, -1 where only the data can tell. `domains`: 2 for an unpaired second domain. `components`: of the mixture that
    points come from, 0 when there is none. `image_size`: what images become unless the spec says otherwise. `packages`:
    distributions whose versions are in the cache key. `external`: whether bytes come from outside (see `fingerprint`).
    """

    kind: ClassVar[Literal["image", "points"]]
    channels: ClassVar[int]
    num_classes: ClassVar[int | None]
    domains: ClassVar[int] = 1
    components: ClassVar[int] = 0
    image_size: ClassVar[int] = 32
    packages: ClassVar[tuple[str, ...]] = ()
    external: ClassVar[bool] = False

    @abstractmethod
    def open(self, seed: int) -> Opened:
        """The data; `seed` matters only to data that is drawn. Every worker opens its own: the same arguments must give
        the same examples. Raises DataError, UnreachableError."""

    def resolve(self: Self) -> Self:
        """The same data set as another process or working directory sees it: relative paths made absolute."""
        return self

    def fingerprint(self) -> dict[str, Any]:
        """What tells one content of the outside bytes from another without reading them all: sizes, times, checksums.

        Asked for when planning, only where `external`. Raises DataError where there is nothing to read.
        """
        return {}

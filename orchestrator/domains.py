"""The values that one dimension of a search space may take.

A domain picks a value with any `Chooser` (random or a sampler that learns), lists its values where they are few, and names the
values worth checking, each with its place in the YAML. `distributions` reads them.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

Path = tuple[str | int, ...]
Places = tuple[Path, ...]

MOST_SUBSETS = 4096
Answers = dict[str, int | float]  # by the name that a chooser is asked


class Chooser(Protocol):
    """Where choices come from. The same name is asked at most once for a point."""

    def category(self, name: str, count: int) -> int:
        """An index in [0, count)."""

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer in [low, high]."""

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high], uniform or log-uniform."""


class Domain(ABC):
    """One dimension's values. `structural`: values are enumerated and each combination is checked when planning."""

    structural = False

    @abstractmethod
    def pick(self, chooser: Chooser, name: str) -> Any:
        """One value."""

    def listed(self) -> list[tuple[Any, Places]] | None:
        """Every value with its places in the YAML, or None where there is no end of them."""
        return None

    def places(self, value: Any) -> Places:
        """Where a value of a structural domain stands in the YAML."""
        return ()

    def answers(self, name: str) -> Iterator[tuple[tuple[str, int], Path]]:
        """For each listed value (item) of a structural domain: the answer by which a chooser takes it, and its place."""
        yield from ()

    def probes(self) -> list[tuple[Any, Path]]:
        """Values whose validity stands for all, with their places."""
        return []

    @abstractmethod
    def recall(self, name: str, value: Any) -> Answers | None:
        """What a chooser must have answered for `pick` to give this value; None where the domain does not hold it."""

    def moved(self, value: Any, factor: float) -> Any:
        """A value near another one, for a search that goes on training with it: its multiple, within the domain.

        A listed value moves to a neighbour, down for a factor below 1.
        """
        raise TypeError(f"{type(self).__name__} has no order")

    @property
    def is_real(self) -> bool:
        """Whether every value is a real number, so that it decides no shape."""
        return False

    @property
    def is_number(self) -> bool:
        """Whether every value is a number."""
        return False


@dataclass(frozen=True)
class Choice(Domain):
    """One of these values."""

    values: tuple[Any, ...]
    structural = True

    def pick(self, chooser: Chooser, name: str) -> Any:
        return self.values[chooser.category(name, len(self.values))]

    def listed(self) -> list[tuple[Any, Places]]:
        return [(value, (("choice", i),)) for i, value in enumerate(self.values)]

    def places(self, value: Any) -> Places:
        return (("choice", _index(self.values, value)),)

    def answers(self, name: str) -> Iterator[tuple[tuple[str, int], Path]]:
        yield from (((name, i), ("choice", i)) for i in range(len(self.values)))

    def recall(self, name: str, value: Any) -> Answers | None:
        at = _index(self.values, value)
        return None if at < 0 else {name: at}

    def moved(self, value: Any, factor: float) -> Any:
        at = self.values.index(value) + (1 if factor > 1 else -1)
        return self.values[min(max(at, 0), len(self.values) - 1)]

    @property
    def is_real(self) -> bool:
        return all(isinstance(value, float) for value in self.values)

    @property
    def is_number(self) -> bool:
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)


@dataclass(frozen=True)
class Subsets(Domain):
    """Any `least` to `most` of these items, in their order."""

    items: tuple[Any, ...]
    least: int = 0
    most: int = 64
    place: Path = ("subsets",)
    structural = True

    def pick(self, chooser: Chooser, name: str) -> Any:
        """Each item is in or out; a subset of a wrong size is brought into range from the front."""
        inside = [bool(chooser.category(f"{name}[{i}]", 2)) for i in range(len(self.items))]
        for i in range(len(inside)):
            if sum(inside) < self.least:
                inside[i] = True
            elif sum(inside) > self.most:
                inside[i] = False
        return [item for item, is_in in zip(self.items, inside, strict=True) if is_in]

    def beside(self, always: Any, chosen: Sequence[Any]) -> list[Any]:
        """A chosen subset with what is always there; an item of the set is in only where it was chosen."""
        known = names_in(self.items)
        listed = [{name: params} for name, params in always.items()] if isinstance(always, Mapping) else list(always)
        return [*(item for item in listed if not set(names_in(item)) & set(known)), *chosen]

    def listed(self) -> list[tuple[Any, Places]] | None:
        sizes = range(self.least, min(self.most, len(self.items)) + 1)
        if sum(math.comb(len(self.items), size) for size in sizes) > MOST_SUBSETS:
            return None
        chosen = (one for size in sizes for one in itertools.combinations(range(len(self.items)), size))
        return [([self.items[i] for i in one], tuple((*self.place, i) for i in one)) for one in chosen]

    def places(self, value: Any) -> Places:
        return tuple((*self.place, i) for i, item in enumerate(self.items) if item in value)

    def answers(self, name: str) -> Iterator[tuple[tuple[str, int], Path]]:
        yield from (((f"{name}[{i}]", 1), (*self.place, i)) for i in range(len(self.items)))

    def recall(self, name: str, value: Any) -> Answers | None:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            return None
        inside = [item in value for item in self.items]
        if [item for item, is_in in zip(self.items, inside, strict=True) if is_in] != value:
            return None
        return {f"{name}[{i}]": int(is_in) for i, is_in in enumerate(inside)}


@dataclass(frozen=True)
class Real(Domain):
    """A number in [low, high], uniform or log-uniform."""

    low: float
    high: float
    log: bool = False

    def pick(self, chooser: Chooser, name: str) -> float:
        return chooser.real(name, self.low, self.high, log=self.log)

    def probes(self) -> list[tuple[Any, Path]]:
        kind = "loguniform" if self.log else "uniform"
        return [(self.low, (kind, 0)), (self.high, (kind, 1))]

    def recall(self, name: str, value: Any) -> Answers | None:
        return {name: float(value)} if _is_number(value) and self.low <= value <= self.high else None

    def moved(self, value: Any, factor: float) -> float:
        return float(min(max(value * factor, self.low), self.high))

    is_real = is_number = True


@dataclass(frozen=True)
class Steps(Domain):
    """low, low + q, … up to high."""

    low: float
    high: float
    q: float

    def pick(self, chooser: Chooser, name: str) -> float:
        return self._value(chooser.integer(name, 0, self._last))

    def listed(self) -> list[tuple[Any, Places]]:
        return [(self._value(k), ()) for k in range(self._last + 1)]

    def probes(self) -> list[tuple[Any, Path]]:
        return [(self._value(0), ("quniform", 0)), (self._value(self._last), ("quniform", 1))]

    def recall(self, name: str, value: Any) -> Answers | None:
        if not _is_number(value):
            return None
        k = round((value - self.low) / self.q)
        return {name: k} if 0 <= k <= self._last and self._value(k) == value else None

    def moved(self, value: Any, factor: float) -> float:
        before = round((value - self.low) / self.q)
        after = round((value * factor - self.low) / self.q)
        least = before + (1 if factor > 1 else -1)
        after = max(after, least) if factor > 1 else min(after, least)
        return self._value(min(max(after, 0), self._last))

    is_number = True

    @property
    def is_real(self) -> bool:
        return not (isinstance(self.low, int) and isinstance(self.q, int))

    @property
    def _last(self) -> int:
        return math.floor((self.high - self.low) / self.q + 1e-9)

    def _value(self, k: int) -> float:
        if isinstance(self.low, int) and isinstance(self.q, int):
            return self.low + k * self.q  # integers stay integers: a batch size
        return float(f"{self.low + k * self.q:.12g}")  # 0.1 + 2 * 0.1 is 0.3


@dataclass(frozen=True)
class Int(Domain):
    """An integer in [low, high], both included."""

    low: int
    high: int

    def pick(self, chooser: Chooser, name: str) -> int:
        return chooser.integer(name, self.low, self.high)

    def listed(self) -> list[tuple[Any, Places]]:
        return [(value, ()) for value in range(self.low, self.high + 1)]

    def probes(self) -> list[tuple[Any, Path]]:
        return [(self.low, ("int", 0)), (self.high, ("int", 1))]

    def recall(self, name: str, value: Any) -> Answers | None:
        return (
            {name: value} if isinstance(value, int) and _is_number(value) and self.low <= value <= self.high else None
        )

    def moved(self, value: Any, factor: float) -> int:
        after = max(round(value * factor), value + 1) if factor > 1 else min(round(value * factor), value - 1)
        return int(min(max(after, self.low), self.high))

    is_number = True


@dataclass(frozen=True)
class Normal(Domain):
    """Normally distributed; a draw that the parameter's own range refuses is drawn again."""

    mean: float
    sd: float

    def pick(self, chooser: Chooser, name: str) -> float:
        return NormalDist(self.mean, self.sd).inv_cdf(chooser.real(name, 1e-6, 1 - 1e-6))

    def probes(self) -> list[tuple[Any, Path]]:
        return [(self.mean, ("normal", 0))]

    def recall(self, name: str, value: Any) -> Answers | None:
        if not _is_number(value):
            return None
        share = NormalDist(self.mean, self.sd).cdf(value)
        return {name: share} if 1e-6 <= share <= 1 - 1e-6 else None

    def moved(self, value: Any, factor: float) -> float:
        return float(value * factor)

    is_real = is_number = True


@dataclass(frozen=True)
class Conditional(Domain):
    """Another domain for each value of the dimension (or trial key) `on`; left out where no case holds."""

    on: str
    cases: Mapping[str, Domain]

    def case(self, value: Any) -> tuple[Path, Domain] | None:
        """The case that holds where `on` has this value: its name, a plugin's name, or a hack of a list."""
        held = names_in(value)
        for key, domain in self.cases.items():
            if key in held:
                return ("conditional", "cases", key), domain
        return None

    def answers(self, name: str) -> Iterator[tuple[tuple[str, int], Path]]:
        for key, domain in self.cases.items():
            for answer, place in domain.answers(f"{name}?{key}"):
                yield answer, ("conditional", "cases", key, *place)

    def pick(self, chooser: Chooser, name: str) -> Any:
        raise TypeError("a conditional is resolved before it is picked from")

    def recall(self, name: str, value: Any) -> Answers | None:
        raise TypeError("a conditional is resolved before it is recalled from")

    @property
    def is_real(self) -> bool:
        return all(domain.is_real for domain in self.cases.values())

    @property
    def is_number(self) -> bool:
        return all(domain.is_number for domain in self.cases.values())


def names_in(value: Any) -> list[str]:
    """What a case may be called: `wgan_gp`, `{wgan_gp: {…}}`, `[ema, {r1: …}]`, 64, true."""
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if isinstance(value, list | tuple):
        return [name for item in value for name in names_in(item)]
    return [{True: "true", False: "false", None: "null"}.get(value, str(value)) if _is_word(value) else str(value)]


def _index(values: Sequence[Any], value: Any) -> int:
    """Where a value stands, true and 1 told apart; -1 where it is none of them."""
    alike = (i for i, one in enumerate(values) if one == value and isinstance(one, bool) == isinstance(value, bool))
    return next(alike, -1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)


__all__ = [
    "Answers",
    "Choice",
    "Chooser",
    "Conditional",
    "Domain",
    "Int",
    "Normal",
    "Path",
    "Places",
    "Real",
    "Steps",
    "Subsets",
    "names_in",
]

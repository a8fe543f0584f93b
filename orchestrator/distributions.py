"""Reading the distributions of a search space from YAML: `{loguniform: [1.0e-4, 1.0e-3]}`. Every mistake has its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.domains import Choice, Conditional, Domain, Int, Normal, Path, Real, Steps, Subsets, names_in
from trainers.plugins import Fault, suggest

Read = tuple[Domain | None, list[Fault]]


def read_domain(value: Any, path: Path) -> Read:
    """The domain written at `path`, or what is wrong with it."""
    if not isinstance(value, Mapping) or len(value) != 1:
        what = f"`{path[-1]}` must be one distribution, like {{choice: [...]}}"
        return None, [Fault(path, "wrong-type", what, "", "a fixed value belongs under `trial`")]
    kind, body = next(iter(value.items()))
    if kind not in READERS:
        return None, [
            Fault(
                (*path, str(kind)),
                "unknown-distribution",
                f"there is no distribution '{kind}'",
                "",
                suggest(kind, READERS),
            )
        ]
    return READERS[kind](body, (*path, kind))


def _numbers(body: Any, path: Path, count: int, names: str) -> tuple[list[float], list[Fault]]:
    if not isinstance(body, list | tuple) or len(body) != count:
        return [], [Fault(path, "wrong-type", f"`{path[-1]}` must be {names}")]
    faults = [
        Fault((*path, i), "wrong-type", f"`{path[-1]}` must hold numbers, not {item!r}")
        for i, item in enumerate(body)
        if isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item)
    ]
    return ([] if faults else list(body)), faults


def _ordered(numbers: list[float], path: Path) -> list[Fault]:
    if numbers[0] <= numbers[1]:
        return []
    return [
        Fault(
            path, "out-of-range", f"`{path[-1]}` has its ends the wrong way round", f"{numbers[0]:g} > {numbers[1]:g}"
        )
    ]


def _read_choice(body: Any, path: Path) -> Read:
    if not isinstance(body, list | tuple) or not body:
        return None, [Fault(path, "wrong-type", "`choice` must be a list of at least one value")]
    if twice := [i for i, item in enumerate(body) if item in body[:i]]:
        return None, [Fault((*path, twice[0]), "duplicate", f"`choice` lists {body[twice[0]]!r} twice")]
    return Choice(tuple(body)), []


def _read_subsets(body: Any, path: Path) -> Read:
    place: Path = ("subsets",)
    sizes = {"min": 0, "max": 64}
    items = body
    if isinstance(body, Mapping):
        place = ("subsets", "of")
        items = body.get("of")
        faults = [
            Fault(
                (*path, str(key)),
                "unknown-key",
                f"`subsets` has no key '{key}'",
                "",
                suggest(key, ("of", "min", "max")),
            )
            for key in body
            if key not in ("of", "min", "max")
        ]
        for key, usual in sizes.items():
            given = body.get(key, usual)
            if isinstance(given, bool) or not isinstance(given, int) or given < 0:
                what = f"`{key}` must be an integer of at least 0, not {given!r}"
                faults.append(Fault((*path, key), "wrong-type", what))
        sizes |= {key: body[key] for key in sizes if key in body}
        if faults:
            return None, faults
    if not isinstance(items, list | tuple) or not items:
        return None, [Fault(path, "wrong-type", "`subsets` must be a list of at least one item")]
    if sizes["min"] > min(sizes["max"], len(items)):
        return None, [Fault(path, "out-of-range", "`subsets` has no subset between `min` and `max`")]
    if twice := [i for i, item in enumerate(items) if names_in(item)[:1] in [names_in(one)[:1] for one in items[:i]]]:
        return None, [Fault((*path, *place[1:], twice[0]), "duplicate", f"`subsets` lists {items[twice[0]]!r} twice")]
    return Subsets(tuple(items), sizes["min"], sizes["max"], place), []


def _read_real(log: bool) -> Callable[[Any, Path], Read]:
    def read(body: Any, path: Path) -> Read:
        numbers, faults = _numbers(body, path, 2, "[low, high]")
        faults = faults or _ordered(numbers, path)
        if log and not faults and numbers[0] <= 0:
            faults = [Fault((*path, 0), "out-of-range", f"`loguniform` must be greater than 0, not {numbers[0]:g}")]
        return (None, faults) if faults else (Real(float(numbers[0]), float(numbers[1]), log), [])

    return read


def _read_steps(body: Any, path: Path) -> Read:
    numbers, faults = _numbers(body, path, 3, "[low, high, step]")
    faults = faults or _ordered(numbers, path)
    if not faults and numbers[2] <= 0:
        faults = [
            Fault((*path, 2), "out-of-range", f"the step of `quniform` must be greater than 0, not {numbers[2]:g}")
        ]
    return (None, faults) if faults else (Steps(*numbers), [])


def _read_int(body: Any, path: Path) -> Read:
    numbers, faults = _numbers(body, path, 2, "[low, high]")
    faults = faults or [
        Fault((*path, i), "wrong-type", f"`int` must hold integers, not {n!r}")
        for i, n in enumerate(numbers)
        if not isinstance(n, int)
    ]
    faults = faults or _ordered(numbers, path)
    return (None, faults) if faults else (Int(int(numbers[0]), int(numbers[1])), [])


def _read_normal(body: Any, path: Path) -> Read:
    numbers, faults = _numbers(body, path, 2, "[mean, standard deviation]")
    if not faults and numbers[1] <= 0:
        faults = [Fault((*path, 1), "out-of-range", f"a standard deviation must be greater than 0, not {numbers[1]:g}")]
    return (None, faults) if faults else (Normal(numbers[0], numbers[1]), [])


def _read_conditional(body: Any, path: Path) -> Read:
    keys = ("on", "cases")
    if not isinstance(body, Mapping):
        return None, [Fault(path, "wrong-type", "`conditional` must be {on: path, cases: {value: distribution}}")]
    faults = [
        Fault((*path, str(key)), "unknown-key", f"`conditional` has no key '{key}'", "", suggest(key, keys))
        for key in body
        if key not in keys
    ]
    on, cases = body.get("on"), body.get("cases")
    if not isinstance(on, str):
        faults.append(Fault(path, "missing-key", "`conditional` needs `on`: the path of what it depends on"))
    if not isinstance(cases, Mapping) or not cases:
        faults.append(Fault(path, "missing-key", "`conditional` needs `cases`: a distribution for each value"))
        return None, faults
    read: dict[str, Domain] = {}
    for key, value in cases.items():
        name = names_in(key)[0]
        domain, wrong = read_domain(value, (*path, "cases", key))
        if isinstance(domain, Conditional):
            wrong = [Fault((*path, "cases", key), "wrong-type", "a conditional cannot hold another one")]
        faults += wrong
        if domain is not None:
            read[name] = domain
    return (None, faults) if faults else (Conditional(str(on), read), [])


READERS: Mapping[str, Callable[[Any, Path], Read]] = {
    "choice": _read_choice,
    "subsets": _read_subsets,
    "uniform": _read_real(log=False),
    "loguniform": _read_real(log=True),
    "quniform": _read_steps,
    "int": _read_int,
    "normal": _read_normal,
    "conditional": _read_conditional,
}

__all__ = ["read_domain"]

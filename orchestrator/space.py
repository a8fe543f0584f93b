"""Search spaces: what stands under `space` of a tune stage. Pure: no torch, no ray; one seed gives one list of trials.

    variant: {choice: [dcgan, wgan_gp]}
    hacks: {subsets: [spectral_norm, {r1: {gamma: 1}}]}        every subset, beside the trial's hacks; {of: [...], max: 2}
    optimizers.generator.lr: {loguniform: [1.0e-4, 1.0e-3]}    also uniform, quniform, int, normal
    variant.wgan_gp.n_critic: {conditional: {on: hacks, cases: {r1: {int: [1, 2]}}}}

A dimension is the dotted path of any value of the trial. A point of the space leaves out what would do nothing: a
parameter of a hack or variant that is not chosen, a conditional none of whose cases holds. Every draw is keyed by (seed,
trial, path), so neither the order of the keys nor another dimension changes it.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from statistics import NormalDist
from typing import Any

from orchestrator.distributions import read_domain
from orchestrator.domains import Answers, Chooser, Conditional, Domain, Normal, Path, Places, Subsets, names_in
from trainers.plugins import Fault, suggest

Point = dict[str, Any]  # dotted path -> value
User = dict[str, Any]  # a train configuration as the user writes it
Assign = Callable[[Mapping[str, Any], str, Any], User]
Check = Callable[[Mapping[str, Any]], Sequence[Fault]]
Plays = Callable[[Any, str], bool]
Placed = tuple[Point, tuple[tuple[str, Path], ...]]  # a point, and where in the space its values stand
Checked = tuple[Point, tuple[tuple[str, Path], ...], tuple[Fault, ...]]  # and what is wrong with it

MOST_COMBINATIONS = 256  # checked one by one when planning; of more, as many are drawn
FORCED = 32  # more that are drawn with a listed value which none of those drawn makes valid
MOST_TRIES = 1000  # draws for one trial, before the space counts as exhausted
MOST_OUTSIDE = 0.95  # of a normal distribution, that the parameter refuses and that is drawn again
FARTHEST_SD = 4.75  # standard deviations beyond which nothing is drawn
PLUGIN_KEYS = ("variant", "hacks", "backbone")
SIDES = ("generator", "critic")


@dataclass(frozen=True)
class Draw:
    """Random choices keyed by (seed, key, name): a `Chooser` without state."""

    seed: int
    key: tuple[int, ...]

    def _random(self, name: str) -> random.Random:
        digest = hashlib.blake2b(repr((self.seed, *self.key, name)).encode(), digest_size=8).digest()
        return random.Random(int.from_bytes(digest, "little"))

    def category(self, name: str, count: int) -> int:
        return self._random(name).randrange(count)

    def integer(self, name: str, low: int, high: int) -> int:
        return self._random(name).randint(low, high)

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        share = self._random(name).random()
        return float(low * (high / low) ** share) if log else low + (high - low) * share


@dataclass(frozen=True)
class Bent:
    """A `Chooser` that gives one category away and leaves the rest to another one."""

    chooser: Draw
    name: str
    index: int

    def category(self, name: str, count: int) -> int:
        return self.index if name == self.name else self.chooser.category(name, count)

    def integer(self, name: str, low: int, high: int) -> int:
        return self.chooser.integer(name, low, high)

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self.chooser.real(name, low, high, log=log)


@dataclass(frozen=True)
class Examination:
    """What planning found: mistakes (paths under `with`), and the size of the space in words."""

    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    good: tuple[Point, ...] = ()  # valid combinations of listed values (those drawn, where there are too many)


@dataclass(frozen=True)
class Space:
    """The dimensions in the order in which they are chosen, over the trial's fixed values.

    `assign(user, path, value)`, `check(user)` and `plays(variant, role)` are those of the train configuration.
    """

    trial: User
    dimensions: Mapping[str, Domain]
    assign: Assign = field(repr=False)
    check: Check = field(repr=False)
    plays: Plays = field(repr=False, default=lambda variant, role: True)
    _judged: dict[str, bool] = field(default_factory=dict, init=False, repr=False, compare=False)
    _played: dict[tuple[str, str], bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def apply(self, point: Mapping[str, Any]) -> User:
        """The trial's configuration at a point, as the user would write it."""
        user = dict(self.trial)
        for path in sorted(point, key=_order):
            user = self.assign(user, path, self._value(path, point))
        return user

    # --- points ------------------------------------------------------------------------------------------------

    def point(self, chooser: Chooser) -> Point:
        """One point, valid or not, by anyone's choices."""
        point: Point = {}
        for path in self.dimensions:
            if found := self._domain(path, point):
                point[path] = found[1].pick(chooser, _asked(path, found[0]))
        return point

    def recall(self, point: Mapping[str, Any]) -> Answers | None:
        """What a chooser must have answered for a point; None where it is none of this space."""
        answers: Answers = {}
        so_far: Point = {}
        for path in self.dimensions:
            if (found := self._domain(path, so_far)) is None:
                continue
            if path not in point or (told := found[1].recall(_asked(path, found[0]), point[path])) is None:
                return None
            answers |= told
            so_far[path] = point[path]
        return answers if len(so_far) == len(point) else None

    def domain(self, path: str, point: Mapping[str, Any]) -> Domain | None:
        """The domain that holds for a dimension beside a point's values; None where it would do nothing."""
        found = self._domain(path, point)
        return found[1] if found else None

    def tunable(self) -> tuple[str, ...]:
        """Dimensions that may change while a trial trains: numbers that decide neither a shape nor what else is in the space.

        Those of the optimizers, and the real numbers of the variant and of hacks.
        """
        decide = {domain.on for domain in self.dimensions.values() if isinstance(domain, Conditional)}
        found = []
        for path, domain in self.dimensions.items():
            key = path.split(".")[0]
            if path not in decide and (
                (key == "optimizers" and domain.is_number) or (key in ("variant", "hacks") and domain.is_real)
            ):
                found.append(path)
        return tuple(found)

    def valid(self, point: Mapping[str, Any]) -> bool:
        key = canonical(point)
        if key not in self._judged:  # a search decides twice: while it runs, and once more from its scores
            self._judged[key] = not self.check(self.apply(point))
        return self._judged[key]

    def draw(self, seed: int, index: int, taken: Collection[str] = ()) -> Point | None:
        """Trial `index` of a random search, other than those taken (as `canonical` writes them); None where none was found."""
        for attempt in range(MOST_TRIES):
            point = self.point(Draw(seed, (index, attempt)))
            if canonical(point) not in taken and self.valid(point):
                return point
        return None

    def grid(self) -> Iterator[Point]:
        """Every valid point of a finite space, in order. Raises ValueError for a continuous dimension."""
        if endless := self.continuous():
            raise ValueError(f"a grid needs listed values, but {', '.join(endless)} has no end of them")
        return (point for point, _ in self._walk(structural_only=False) if self.valid(point))

    def continuous(self) -> tuple[str, ...]:
        """Paths of the dimensions whose values cannot be listed."""
        found = []
        for path, domain in self.dimensions.items():
            inner = domain.cases.values() if isinstance(domain, Conditional) else (domain,)
            if any(one.listed() is None for one in inner):
                found.append(path)
        return tuple(found)

    def _domain(self, path: str, point: Mapping[str, Any]) -> tuple[Path, Domain] | None:
        """The domain that holds for `path` beside `point` (with its place), or None where it would do nothing."""
        if not self._is_effective(path, point):
            return None
        domain = self.dimensions[path]
        if isinstance(domain, Conditional):
            return domain.case(self._value(domain.on, point))
        return (), domain

    def _value(self, path: str, point: Mapping[str, Any]) -> Any:
        """What the configuration at a point has at a path; a subset of hacks stands beside the trial's own."""
        if path not in point:
            above = max((one for one in point if path.startswith(f"{one}.")), key=len, default=None)
            if above is None:
                return _at(self.trial, path)
            return _at(self._value(above, point), path[len(above) + 1 :])
        domain = self.dimensions.get(path)
        return domain.beside(self.trial.get(path) or (), point[path]) if isinstance(domain, Subsets) else point[path]

    def _is_effective(self, path: str, point: Mapping[str, Any]) -> bool:
        """Whether the plugin that the path goes through is chosen, and whether the variant has the optimizer's role."""
        key, *rest = path.split(".")
        if key == "optimizers" and rest:
            return self._has_role(self._value("variant", point), rest[0])
        if key not in PLUGIN_KEYS or not rest:
            return True
        chosen = self._value(key, point)
        if rest[0] in SIDES and key == "backbone":
            if len(rest) == 1:
                return True
            chosen = point.get(f"{key}.{rest[0]}", chosen.get(rest[0]) if isinstance(chosen, Mapping) else chosen)
            rest = rest[1:]
        return chosen is not None and rest[0] in names_in(chosen)

    def _has_role(self, variant: Any, role: str) -> bool:
        name = (" ".join(names_in(variant)), role)
        if name not in self._played:
            self._played[name] = self.plays(variant, role)
        return self._played[name]

    def _walk(self, *, structural_only: bool) -> Iterator[Placed]:
        """Every combination of listed values; dimensions without a list (or not structural) are left out."""
        paths = list(self.dimensions)

        def walk(i: int, point: Point, places: tuple[tuple[str, Path], ...]) -> Iterator[Placed]:
            if i == len(paths):
                yield dict(point), places
                return
            path = paths[i]
            found = self._domain(path, point)
            values = found[1].listed() if found and (not structural_only or self._is_listed(path, found[1])) else None
            if found is None or values is None:
                yield from walk(i + 1, point, places)
                return
            for value, inner in values:
                own: Places = tuple((*found[0], *place) for place in inner)
                yield from walk(i + 1, {**point, path: value}, (*places, *((path, place) for place in own)))

        return walk(0, {}, ())

    # --- examination when planning --------------------------------------------------------------------------------

    def examine(self) -> Examination:
        """Every mistake: a value that is wrong wherever it stands. Combinations that do not fit are pruned and counted.

        Of too many combinations some are drawn, and for each listed value that none of them makes valid some more.
        """
        combinations = list(islice(self._walk(structural_only=True), MOST_COMBINATIONS + 1))
        whole = len(combinations) <= MOST_COMBINATIONS
        found = self._checked(combinations if whole else (self._drawn(Draw(0, (k,))) for k in range(MOST_COMBINATIONS)))
        count, valid = len(found), sum(not faults for _, _, faults in found)
        if not whole:
            found += self._checked(self._sought(found))
        good = [point for point, _, faults in found if not faults]
        if not good:
            return Examination(tuple(self._hopeless(found, whole)))
        cuts = [] if whole else self._unmet(found)
        faults = self._dead(found, whole) + self._ends(good, cuts, whole)
        return Examination(tuple(faults), (self._note(count, valid, whole), *dict.fromkeys(cuts)), tuple(good))

    def _checked(self, combinations: Iterable[Placed]) -> list[Checked]:
        return [(point, places, tuple(self.check(self.apply(point)))) for point, places in combinations]

    def _is_listed(self, path: str, domain: Domain) -> bool:
        """Whether planning goes through a dimension's values: those that are checked one by one, or that decide others."""
        return domain.structural or any(path in one for one in self._decisive)

    @cached_property
    def _decisive(self) -> list[list[str]]:
        """For each conditional dimension those that its condition is about."""
        conditionals = (one for one in self.dimensions.values() if isinstance(one, Conditional))
        return [_needs(one.on, self.dimensions) for one in conditionals]

    def _drawn(self, chooser: Chooser) -> Placed:
        """A combination by anyone's choices, and where its values stand."""
        point: Point = {}
        places: list[tuple[str, Path]] = []
        for path in self.dimensions:
            found = self._domain(path, point)
            if found is not None and self._is_listed(path, found[1]):
                point[path] = found[1].pick(chooser, _asked(path, found[0]))
                places += [(path, (*found[0], *place)) for place in found[1].places(point[path])]
        return point, tuple(places)

    def _sought(self, found: Sequence[Checked]) -> Iterator[Placed]:
        """Combinations with the listed values that no valid one of those found holds."""
        alive = {place for _, places, faults in found if not faults for place in places}
        for path, domain in self.dimensions.items():
            for (answer, index), place in domain.answers(path):
                if (path, place) not in alive:
                    yield from (self._drawn(Bent(Draw(1, (k,)), answer, index)) for k in range(FORCED))

    def _unmet(self, found: Sequence[Checked]) -> list[str]:
        """A line for each listed value that is in no valid combination of those drawn."""
        alive = {place for _, places, faults in found if not faults for place in places}
        drawn = dict.fromkeys(place for _, places, _ in found for place in places if place not in alive)
        lines = []
        for path, place in drawn:
            point = next(point for point, places, _ in found if (path, place) in places)
            domain = (self._domain(path, point) or ((), self.dimensions[path]))[1]
            items = domain.items if isinstance(domain, Subsets) else [value for value, _ in domain.listed() or ()]
            name = " ".join(names_in(items[int(place[-1])]))
            lines.append(f"space: no valid combination was drawn in which `{path}` has {name}")
        return lines

    def _hopeless(self, found: Sequence[Checked], whole: bool) -> list[Fault]:
        """No combination is valid: what the trial has wrong in all of them, else the values that are wrong, else the first."""
        first = found[0][2]
        common = [fault for fault in first if all(fault in faults for _, _, faults in found)]
        if fixed := [one for one in map(self._placed, common) if one.path[0] == "trial"]:
            return fixed
        return self._dead(found, whole) or [self._placed(fault) for fault in first[:1]]

    def _placed(self, fault: Fault) -> Fault:
        """A fault of the trial's configuration at its place under `with`."""
        under = [path for path in self.dimensions if fault.path[: path.count(".") + 1] == tuple(path.split("."))]
        if not under and _at(self.trial, ".".join(map(str, fault.path))) is None:
            under = [path for path in self.dimensions if _is_path(fault, path)]
        place: Path = ("space", max(under, key=len)) if under else ("trial", *fault.path)
        return Fault(place, fault.id, fault.what, fault.why, fault.hint)

    def _dead(self, found: Sequence[Checked], whole: bool) -> list[Fault]:
        """Listed values that no valid combination holds; of those drawn: that are wrong whatever stands beside."""
        held: dict[tuple[str, Path], list[tuple[Fault, ...]]] = {}
        for _, places, faults in found:
            for one in places:
                held.setdefault(one, []).append(faults)
        alive = any(not faults for _, _, faults in found)
        dead: list[Fault] = []
        for (path, place), told in held.items():
            if not all(told):
                continue
            common = [one for one in told[0] if whole or all(_told(one, other) for other in told)]
            own = [fault for fault in common if fault.path[:1] == (path.split(".")[0],)]
            if own or (alive and common):  # where nothing is valid, another value's mistake is told there alone
                fault = (own or common)[0]
                at = ("space", path, *(() if _is_path(fault, path) else place))
                if all(at != one.path for one in dead):  # a path that is wrong is told once
                    dead.append(Fault(at, fault.id, fault.what, fault.why, fault.hint))
        return dead

    def _outside(self, path: str, domain: Normal, point: Point) -> float:
        """The share of a normal distribution that the parameter refuses beside a point's other values."""

        def refused(value: float) -> bool:
            return bool(self.check(self.apply({**point, path: value})))

        outside = 0.0
        for sign in (-1, 1):
            good, bad = domain.mean, domain.mean + sign * FARTHEST_SD * domain.sd
            if not refused(bad):
                continue
            for _ in range(40):
                middle = (good + bad) / 2
                good, bad = (good, middle) if refused(middle) else (middle, bad)
            outside += 1 - NormalDist().cdf(abs(bad - domain.mean) / domain.sd)
        return outside

    def _ends(self, good: Sequence[Point], cuts: list[str], whole: bool) -> list[Fault]:
        """Ends of ranges that the parameter itself refuses, and dimensions that no valid combination uses.

        `cuts` gets a line for each normal distribution that the parameter's range cuts.
        """
        faults: list[Fault] = []
        for path in self.dimensions:
            seen: set[Path] = set()
            for point in good:
                found = self._domain(path, point)
                if found is None or found[0] in seen:
                    continue
                refused = [] if found[1].structural else self._refused(path, found, point)
                if isinstance(found[1], Normal) and not refused and (share := self._outside(path, found[1], point)):
                    what = f"{share:.0%} of the normal distribution of `{path}`"
                    if share > MOST_OUTSIDE:
                        place = ("space", path, *found[0], "normal")
                        refused.append(
                            Fault(place, "out-of-range", f"{what} is refused by the parameter", "", "move its mean")
                        )
                    cuts.append(f"space: {what} is outside of what the parameter accepts, and is cut off")
                faults += refused
                seen.add(found[0])
            faults += self._idle(path, seen, whole)
        return faults

    def _idle(self, path: str, seen: Collection[Path], whole: bool) -> list[Fault]:
        """What of a dimension would never do anything; of combinations drawn: what no other one can change."""
        domain, why, hint = self.dimensions[path], "", ""
        cases = list(domain.cases) if isinstance(domain, Conditional) else []
        names = self._names(domain.on) if isinstance(domain, Conditional) else None
        never = [key for key in cases if ("conditional", "cases", key) not in seen]
        never = never if whole else [key for key in never if names is not None and key not in names]
        key, *rest = path.split(".")
        if key in PLUGIN_KEYS and rest:
            name = rest[1] if rest[0] in SIDES and len(rest) > 1 else rest[0]
            chosen = self._names(key) or []
            if name not in chosen:
                whole, why, hint = True, f"{key} is never {name}", suggest(name, chosen)
                near = f"{hint} else " if hint.startswith("did") else ""
                hint = f"{near}list {name} in the space, or set it under `trial`"
        elif key == "optimizers" and rest:
            variants = self._names("variant")
            if variants is not None and not any(self.plays(one, rest[0]) for one in (variants or (None,))):
                whole, why = True, f"no variant of the search has the role {rest[0]}"
        if seen or not (whole or (cases and len(never) == len(cases))):
            return [
                Fault(
                    ("space", path, "conditional", "cases", case),
                    "no-effect",
                    f"`{domain.on}` is never '{case}'",  # type: ignore[attr-defined]
                    "",
                    suggest(case, names or ()),
                )
                for case in never
            ]
        if cases and not why:
            why = f"`{domain.on}` is never {' or '.join(map(repr, cases))}"  # type: ignore[attr-defined]
            hint = next((found for case in cases if (found := suggest(case, names or ()))), "")
        what = f"`{path}` would never do anything"
        return [
            Fault(("space", path), "no-effect", what, why or "no valid combination chooses what it belongs to", hint)
        ]

    def _names(self, path: str) -> list[str] | None:
        """What may stand at a path, as cases are called; None where there is no end of it."""
        parts = [one for one in _needs(path, self.dimensions) if one != path]
        if parts:
            return None
        found = names_in(_at(self.trial, path)) if _at(self.trial, path) is not None else []
        sides = [f"{path}.{side}" for side in SIDES] if path == "backbone" else []
        if sides and found and set(found) <= set(SIDES):
            found = [name for side in sides for name in names_in(_at(self.trial, side) or [])]
        for one in (path, *sides):
            domain = self.dimensions.get(one)
            for inner in domain.cases.values() if isinstance(domain, Conditional) else [domain] if domain else []:
                if inner.listed() is None and not isinstance(inner, Subsets):
                    return None
                values = inner.items if isinstance(inner, Subsets) else [value for value, _ in inner.listed() or ()]
                found += [name for value in values for name in names_in(value)]
        return list(dict.fromkeys(found))

    def _refused(self, path: str, found: tuple[Path, Domain], point: Point) -> list[Fault]:
        faults: list[Fault] = []
        for value, place in found[1].probes():
            if wrong := self.check(self.apply({**point, path: value})):
                one = wrong[0]
                if _is_path(one, path):  # told once
                    return [Fault(("space", path), one.id, one.what, one.why, one.hint)]
                faults.append(Fault(("space", path, *found[0], *place), one.id, one.what, one.why, one.hint))
        return faults

    def _note(self, count: int, valid: int, whole: bool) -> str:
        """The size of the space in words; `count` combinations were looked at."""
        ranges = [p for p, d in self.dimensions.items() if not d.structural and not isinstance(d, Conditional)]
        beside = f", beside {len(ranges)} range{'s' * (len(ranges) > 1)}" if ranges else ""
        if not whole:
            return f"space: more than {MOST_COMBINATIONS} combinations{beside}; {valid / count:.0%} of those drawn are valid"
        pruned = count - valid
        note = f"space: {valid} combination{'s' * (valid != 1)}{beside}"
        return f"{note}; {pruned} of {count} pruned as incompatible" if pruned else note


def read_space(
    space: Any, trial: Mapping[str, Any], assign: Assign, check: Check, plays: Plays = lambda variant, role: True
) -> tuple[Space | None, list[Fault]]:
    """The space written under `space`, or every mistake in how it is written (paths under `with`)."""
    if not isinstance(space, Mapping) or not space:
        return None, [Fault(("space",), "wrong-type", "`space` must map at least one path to a distribution")]
    faults: list[Fault] = []
    domains: dict[str, Domain] = {}
    for path, value in space.items():
        place: Path = ("space", path)
        if not isinstance(path, str) or not all(path.split(".")):
            faults.append(Fault(place, "wrong-type", f"'{path}' is no dotted path, like optimizers.generator.lr"))
            continue
        domain, wrong = read_domain(value, place)
        faults += wrong
        if domain is not None:
            domains[path] = domain
    faults += _misplaced(domains)
    for path, domain in domains.items():
        if isinstance(domain, Conditional) and not _needs(domain.on, domains) and _at(trial, domain.on) is None:
            what = f"`{path}` depends on '{domain.on}', which neither the space nor the trial has"
            hint = suggest(domain.on, [*domains, *flat(trial)])
            faults.append(Fault(("space", path, "conditional", "on"), "unknown-path", what, "", hint))
    ordered = _ordered(domains)
    if not faults and ordered is None:
        faults.append(Fault(("space",), "cycle", "conditional dimensions depend on each other in a circle"))
    if faults or ordered is None:
        return None, faults
    return Space(dict(trial), ordered, assign, check, plays), []


def _misplaced(domains: Mapping[str, Domain]) -> list[Fault]:
    """`subsets` anywhere but at `hacks`."""
    return [
        Fault(("space", path), "wrong-type", f"`{path}` cannot take subsets", "only `hacks` is a set", "use choice")
        for path, domain in domains.items()
        if isinstance(domain, Subsets) and path != "hacks"
    ]


def _ordered(domains: Mapping[str, Domain]) -> dict[str, Domain] | None:
    """Shallow paths first, conditionals after what they depend on; None for a circle."""
    waiting = sorted(domains, key=_order)
    ordered: dict[str, Domain] = {}
    while waiting:
        ready = [
            path
            for path in waiting
            if not isinstance(domain := domains[path], Conditional)
            or all(one in ordered for one in _needs(domain.on, domains))
        ]
        if not ready:
            return None
        ordered[ready[0]] = domains[ready[0]]
        waiting.remove(ready[0])
    return ordered


def _needs(on: str, domains: Mapping[str, Domain]) -> list[str]:
    """The dimensions that decide the value at a path: its own, and those of what it is a part of."""
    return [path for path in domains if on == path or on.startswith(f"{path}.")]


def _is_path(fault: Fault, path: str) -> bool:
    """Whether the path of a dimension is wrong, not a value of it."""
    parts = tuple(path.split("."))
    deeper = len(fault.path) < len(parts)
    return fault.path == parts[: len(fault.path)] and (deeper or fault.id == "unknown-key")


def _told(fault: Fault, others: Sequence[Fault]) -> bool:
    """Whether another combination has the same mistake, wherever it stands there."""
    return any((fault.id, fault.what, fault.why) == (one.id, one.what, one.why) for one in others)


def _asked(path: str, place: Path) -> str:
    """The name that a chooser is asked: the cases of a conditional are choices of their own."""
    return f"{path}?{place[-1]}" if place else path


def _order(path: str) -> tuple[int, str]:
    return path.count("."), path


def _at(value: Any, path: str) -> Any:
    """The value at a dotted path of a trial, or of a part of one; None where there is none."""
    for part in path.split("."):
        if isinstance(value, list | tuple):  # of plugins, each a name or {name: parameters}
            value = next((one for one in value if part in names_in(one)), None)
        value = value.get(part) if isinstance(value, Mapping) else {} if value == part else None
    return value


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            found |= flat(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = item
    return found


def canonical(value: Any) -> str:
    """Equal values, equal text."""
    return json.dumps(value, sort_keys=True, default=str)


__all__ = ["Draw", "Examination", "Point", "Space", "canonical", "flat", "read_space"]

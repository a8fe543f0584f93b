"""What a model must reach to be promoted: bounds on its scores, and better than the model that holds an alias.

Pure: nothing here talks to a registry. Scores are those of the evaluate stage, {metric: {"value", "values", "directions",
"protocol"}}; a requirement names a metric (its primary value) or one of its values ("mode_coverage.high_quality").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.stage import Complaint
from trainers import plugins

Scores = Mapping[str, Mapping[str, Any]]
CONDITIONS = ("max", "min", "better_than")


@dataclass(frozen=True)
class Requirement:
    """Conditions on one value. `max` and `min` are allowed themselves; `better_than` is an alias, to be beaten strictly."""

    name: str
    max: float | None = None
    min: float | None = None
    better_than: str | None = None

    @property
    def metric(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Holder:
    """The version that holds an alias, and its scores."""

    version: str
    scores: Scores


@dataclass(frozen=True)
class Finding:
    """One condition judged. `text` says value, bound and, where it is not met, what to do."""

    name: str
    condition: str
    passed: bool
    text: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "condition": self.condition, "passed": self.passed, "text": self.text}


def requirements(require: Mapping[str, Any]) -> tuple[Requirement, ...]:
    """The requirements as written, once `check` has found nothing."""
    return tuple(Requirement(str(name), **conditions) for name, conditions in require.items())


# --- checking, when planning ----------------------------------------------------------------------------------------


def check(require: Mapping[str, Any], computed: Mapping[str, Any] | None) -> Iterator[Complaint]:
    """Mistakes in `require`. `computed`: the metrics that the scores will hold, None when that is not known."""
    for name, conditions in require.items():
        yield from _check_name(str(name), computed)
        yield from _check_conditions(str(name), conditions)


def _check_name(name: str, computed: Mapping[str, Any] | None) -> Iterator[Complaint]:
    metric, _, value = name.partition(".")
    path = ("require", name)
    known = plugins.names("metrics")
    if metric not in known:
        yield Complaint(path, "unknown-metric", f"there is no metric {metric!r}", hint=plugins.suggest(metric, known))
    elif computed is not None and metric not in computed:
        what = f"{metric} is required, but not among the scores"
        hint = f"add it to the metrics of the stage that makes them, which computes {', '.join(computed) or 'none'}"
        yield Complaint(path, "metric-not-computed", what, hint=hint)
    elif value and value not in (values := _directions(metric)):
        what = f"{metric} has no value {value!r} that a gate may compare"
        yield Complaint(path, "unknown-value", what, hint=plugins.suggest(value, sorted(values)))


def _check_conditions(name: str, conditions: Any) -> Iterator[Complaint]:
    path = ("require", name)
    if not isinstance(conditions, Mapping) or not conditions:
        hint = f"write {{max: {conditions}}}" if _is_number(conditions) else "write {max: …}, {min: …} or both"
        yield Complaint(path, "wrong-type", f"the conditions on {name} must be a mapping", hint=hint)
        return
    for key, value in conditions.items():
        if key not in CONDITIONS:
            hint = plugins.suggest(key, CONDITIONS)
            yield Complaint((*path, key), "unknown-key", f"there is no condition {key!r}", hint=hint)
        elif key == "better_than" and not (isinstance(value, str) and value):
            yield Complaint(
                (*path, key), "wrong-type", "`better_than` must be an alias", hint="write better_than: champion"
            )
        elif key != "better_than" and not _is_number(value):
            yield Complaint((*path, key), "wrong-type", f"`{key}` must be a finite number, not {value!r}")
    bounds: list[Any] = [conditions.get(key) for key in ("min", "max")]
    if all(_is_number(bound) for bound in bounds) and bounds[0] > bounds[1]:
        yield Complaint(path, "out-of-range", f"no value is at least {bounds[0]} and at most {bounds[1]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _directions(metric: str) -> dict[str, str]:
    """Value name -> minimize or maximize, of every value that a gate may compare."""
    attributes = plugins.describe("metrics", metric).attributes
    return {attributes["primary"]: attributes["direction"], **attributes.get("directions", {})}


# --- judging -----------------------------------------------------------------------------------------------------------


def judge(required: tuple[Requirement, ...], scores: Scores, holders: Mapping[str, Holder | None]) -> list[Finding]:
    """Every condition judged. `holders`: for each alias in `better_than` the version that holds it, None for nobody."""
    return [finding for one in required for finding in _judge(one, scores, holders)]


def _judge(one: Requirement, scores: Scores, holders: Mapping[str, Holder | None]) -> Iterator[Finding]:
    value = _value(one, scores)
    if value is None:
        yield Finding(
            one.name, "present", False, f"{one.name} was not computed; add it to the metrics of the evaluation"
        )
        return
    if one.max is not None:
        yield _bound(
            one, value, "max", value <= one.max, f"{_show(value)} is above the highest allowed {_show(one.max)}"
        )
    if one.min is not None:
        yield _bound(
            one, value, "min", value >= one.min, f"{_show(value)} is below the lowest allowed {_show(one.min)}"
        )
    if one.better_than is not None:
        yield _duel(one, value, scores, holders.get(one.better_than))


def _bound(one: Requirement, value: float, condition: str, passed: bool, refusal: str) -> Finding:
    if passed:
        limit = one.max if condition == "max" else one.min
        return Finding(one.name, condition, True, f"{one.name} {_show(value)} ({condition} {limit})")
    remedy = f"train longer or change the model, or move require.{one.name}.{condition}"
    return Finding(one.name, condition, False, f"{one.name} {refusal}; {remedy}")


def _duel(one: Requirement, value: float, scores: Scores, holder: Holder | None) -> Finding:
    def found(passed: bool, text: str) -> Finding:
        return Finding(one.name, "better_than", passed, f"{one.name} {text}")

    if holder is None:
        return found(True, f"{_show(value)}: there is no {one.better_than} yet")
    whose = f"the {one.better_than}, version {holder.version},"
    other = _value(one, holder.scores)
    if other is None:
        why = f"{whose} was registered without this score"
        return found(False, f"{_show(value)} cannot be compared: {why}; register it again with it, or drop better_than")
    if differing := unlike(scores[one.metric]["protocol"], holder.scores[one.metric]["protocol"]):
        why = f"{whose} was scored by another protocol ({differing})"
        remedy = "evaluate both alike and register again, or use another model name"
        return found(False, f"{_show(value)} cannot be compared with {_show(other)}: {why}; {remedy}")
    better = value < other if _direction(one, scores) == "minimize" else value > other
    if better:
        return found(True, f"{_show(value)} is better than {_show(other)} of {whose.rstrip(',')}")
    return found(False, f"{_show(value)} is not better than {_show(other)} of {whose} which keeps the alias")


def unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """What differs between two protocols, in words; "" when scores under them may be compared."""
    differing = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    return ", ".join(f"{key}: {_brief(ours.get(key))} here, {_brief(theirs.get(key))} there" for key in differing)


def _brief(value: Any) -> str:
    return "none" if value is None else str(value)[:24]


def _value(one: Requirement, scores: Scores) -> float | None:
    result, (_, _, name) = scores.get(one.metric), one.name.partition(".")
    if result is None:
        return None
    value = result.get("values", {}).get(name) if name else result["value"]
    return None if value is None else float(value)


def _direction(one: Requirement, scores: Scores) -> str:
    """The direction under which the metric is described now; for a metric gone since, the one stored with the score."""
    result, (_, _, name) = scores[one.metric], one.name.partition(".")
    known = _directions(one.metric) if one.metric in plugins.names("metrics") else {}
    value = name or str(result.get("primary", ""))
    stored = result.get("directions", {}).get(value, result.get("direction", "minimize"))
    return str(known.get(value, stored))


def _show(value: float) -> str:
    return f"{value:.6g}"

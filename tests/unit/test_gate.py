"""Gates: bounds, better than a champion, and never a comparison of unlike scores."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.gate import Finding, Holder, check, judge, requirements, unlike
from orchestrator.stages.register import Register

PROTOCOL = {"space": "classifier", "weights": "abc", "num_generated": 2000}


def scores(value: float, **protocol: Any) -> dict[str, Any]:
    return {
        "frechet_distance": {
            "value": value,
            "values": {"frechet_distance": value},
            "primary": "frechet_distance",
            "direction": "minimize",
            "protocol": {**PROTOCOL, **protocol},
        }
    }


def coverage(strict: float, quality: float) -> dict[str, Any]:
    values = {"modes_strict": strict, "high_quality": quality, "reverse_kl": 0.1}
    described = {"primary": "modes_strict", "direction": "maximize", "protocol": {}}
    return {"mode_coverage": {"value": strict, "values": values, **described}}


def decide(require: dict[str, Any], ours: dict[str, Any], champion: dict[str, Any] | None = None) -> list[Finding]:
    holder = None if champion is None else Holder("3", champion)
    return judge(requirements(require), ours, {"champion": holder})


def passes(*args: Any) -> bool:
    return all(finding.passed for finding in decide(*args))


@pytest.mark.parametrize(("value", "met"), [(39.9, True), (40.0, True), (40.1, False), (math.nan, False)])
def test_the_highest_allowed_value_is_allowed_itself(value: float, met: bool) -> None:
    assert passes({"frechet_distance": {"max": 40}}, scores(value)) is met


@pytest.mark.parametrize(("value", "met"), [(7.0, False), (8.0, True), (9.0, True), (math.nan, False)])
def test_the_lowest_allowed_value_is_allowed_itself(value: float, met: bool) -> None:
    assert passes({"mode_coverage": {"min": 8}}, coverage(value, 0.9)) is met


def test_a_value_of_a_metric_can_be_required_alone() -> None:
    require = {"mode_coverage": {"min": 8}, "mode_coverage.high_quality": {"min": 0.95}}
    assert not passes(require, coverage(8, 0.9))
    assert passes(require, coverage(8, 0.97))


def test_a_refusal_tells_value_bound_and_remedy() -> None:
    (finding,) = decide({"frechet_distance": {"max": 40}}, scores(52.25))
    assert not finding.passed
    for part in ("frechet_distance", "52.25", "40", "require.frechet_distance.max"):
        assert part in finding.text


BETTER = {"frechet_distance": {"better_than": "champion"}}


@pytest.mark.parametrize(("ours", "champion", "met"), [(9.0, 10.0, True), (10.0, 10.0, False), (11.0, 10.0, False)])
def test_lower_is_better_where_the_metric_says_so(ours: float, champion: float, met: bool) -> None:
    assert passes(BETTER, scores(ours), scores(champion)) is met


@pytest.mark.parametrize(("ours", "champion", "met"), [(8.0, 7.0, True), (7.0, 8.0, False)])
def test_higher_is_better_where_the_metric_says_so(ours: float, champion: float, met: bool) -> None:
    require = {"mode_coverage": {"better_than": "champion"}}
    assert passes(require, coverage(ours, 0.9), coverage(champion, 0.9)) is met


def test_the_direction_of_a_further_value_is_its_own() -> None:
    require = {"mode_coverage.reverse_kl": {"better_than": "champion"}}
    worse, better = coverage(8, 0.9), coverage(8, 0.9)
    better["mode_coverage"]["values"]["reverse_kl"] = 0.05
    assert passes(require, better, worse)
    assert not passes(require, worse, better)


def test_no_champion_passes() -> None:
    assert passes(BETTER, scores(99.0), None)


def test_unlike_protocols_are_never_compared() -> None:
    (finding,) = decide(BETTER, scores(1.0), scores(10.0, weights="other"))
    assert not finding.passed
    assert "weights: abc here, other there" in finding.text


def test_a_champion_without_the_score_is_not_beaten() -> None:
    assert not passes(BETTER, scores(1.0), coverage(8, 0.9))


def test_unlike_names_every_difference() -> None:
    assert unlike({"a": 1, "b": 2}, {"a": 1, "b": 2}) == ""
    assert (
        unlike({"a": 1, "b": 2}, {"a": 2, "c": 3}) == "a: 1 here, 2 there, b: 2 here, none there, c: none here, 3 there"
    )


def complaints(require: Any, computed: Any = None) -> dict[str, str]:
    return {complaint.id: f"{complaint.what} {complaint.hint}" for complaint in check(require, computed)}


def test_an_unknown_metric_is_found_when_planning() -> None:
    assert "frechet_distance" in complaints({"frechet_distanc": {"max": 1}})["unknown-metric"]


def test_a_metric_that_is_not_computed_is_found_when_planning() -> None:
    assert "metric-not-computed" in complaints({"fid": {"max": 1}}, {"frechet_distance": {}})
    assert complaints({"fid": {"max": 1}}, None) == {}
    assert complaints({"fid": {"max": 1}}, {"fid": {}}) == {}


def test_an_unknown_value_is_found_when_planning() -> None:
    assert "high_quality" in complaints({"mode_coverage.high_qualty": {"min": 1}})["unknown-value"]


@pytest.mark.parametrize(
    ("conditions", "mistake"),
    [
        (40, "wrong-type"),
        ({}, "wrong-type"),
        ({"maximum": 40}, "unknown-key"),
        ({"max": "40"}, "wrong-type"),
        ({"max": True}, "wrong-type"),
        ({"max": math.inf}, "wrong-type"),
        ({"better_than": 3}, "wrong-type"),
        ({"min": 3, "max": 2}, "out-of-range"),
    ],
)
def test_mistakes_in_conditions(conditions: Any, mistake: str) -> None:
    assert mistake in complaints({"fid": conditions})


def foreseen(stage: Register, **inputs: Any) -> set[str]:
    return {complaint.id for complaint in stage.foresee({"model": {}, **inputs}).complaints}


def test_the_stage_checks_names_and_needs_scores_for_a_gate() -> None:
    assert foreseen(Register(model="dcgan")) == set()
    assert foreseen(Register(model="a/b")) == {"bad-name"}
    assert foreseen(Register(model="dcgan.lock")) == {"bad-name"}
    assert foreseen(Register(model="dcgan", alias="v1")) == {"bad-name"}
    assert foreseen(Register(model="dcgan", alias="Latest")) == {"bad-name"}
    gated = Register(model="dcgan", require={"fid": {"max": 1}})
    assert foreseen(gated) == {"missing-input"}
    assert foreseen(gated, scores={}) == set()
    assert foreseen(gated, scores={"metrics": {"mode_coverage": {}}}) == {"metric-not-computed"}

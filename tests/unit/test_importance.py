"""Importances say what is known of formulas, and nothing where there is too little to say it from."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import importance, outcomes
from tests import searches

Formula = Callable[[dict[str, Any]], float]


def made(formula: Formula, count: int = 300, points: Callable[[random.Random], dict[str, Any]] | None = None) -> Any:
    """A search of one rung over a formula."""
    rng = random.Random(0)
    draw = points or (lambda rng: {name: rng.random() for name in "abc"})
    rows = []
    for i in range(count):
        point = draw(rng)
        score = formula(point)
        rows.append(
            {"trial": i, "status": "finished", "point": point, "config": {}, "scores": {"5": score}, "score": score}
            | {"steps": 5, "error": ""}
        )
    return outcomes.parse({"metric": {"name": "m", "direction": "minimize"}, "winner": 0, "trials": rows}, "search")


def test_shares_of_a_sum_are_those_of_the_variance() -> None:
    found = importance.weigh(made(lambda p: p["a"] + 2 * p["b"]))
    shares = dict(found.shares)
    assert [name for name, _ in found.shares] == ["b", "a", "c"]
    assert shares["b"] == pytest.approx(0.8, abs=0.1)  # 4 : 1
    assert shares["a"] == pytest.approx(0.2, abs=0.1)
    assert shares["c"] < 0.02
    assert found.r2 is not None
    assert found.r2 > 0.8


def test_what_acts_only_together_belongs_to_neither() -> None:
    found = importance.weigh(made(lambda p: float((p["a"] > 0.5) != (p["b"] > 0.5))))
    assert max(share for _, share in found.shares) < 0.15
    left = float(found.note.split("%")[0].split()[-1])
    assert left > 70
    assert "acting together" in found.note


def test_one_huge_score_does_not_hide_the_rest() -> None:
    def formula(point: dict[str, Any]) -> float:
        return 1e30 if point["c"] > 0.995 else point["a"]

    assert importance.weigh(made(formula)).shares[0][0] == "a"


def test_chance_is_told_as_chance() -> None:
    noise = random.Random(1)
    found = importance.weigh(made(lambda p: noise.random()))
    assert "next to nothing" in found.note


def test_conditional_values_and_sets() -> None:
    def draw(rng: random.Random) -> dict[str, Any]:
        point: dict[str, Any] = {"variant": rng.choice(["gan", {"wgan_gp": {"gp_weight": 3}}])}
        point["hacks"] = [hack for hack in ("ema", {"r1": {"gamma": 1}}) if rng.random() < 0.5]
        if point["variant"] != "gan":
            point["n_critic"] = rng.randint(1, 5)
        return point

    def formula(point: dict[str, Any]) -> float:
        return float(point.get("n_critic", 0)) + 4.0 * ("ema" in point["hacks"])

    shares = dict(importance.weigh(made(formula, points=draw)).shares)
    assert set(shares) == {"variant", "n_critic", "hacks: ema", 'hacks: {"r1": {"gamma": 1}}'}
    assert shares["hacks: ema"] > 0.2
    assert shares["variant"] > 0.1
    assert shares["n_critic"] > 0.02
    assert shares['hacks: {"r1": {"gamma": 1}}'] < 0.02


def test_trials_are_compared_at_a_step_that_all_reached() -> None:
    search = searches.search(60)
    step, scored = importance.comparable(search)
    assert step == 50
    assert len(scored) == sum(50 in trial.scores for trial in search.trials) > 50
    found = importance.weigh(search)
    assert found.shares[0][0] == searches.LR
    assert found == importance.weigh(search)  # repeats
    assert found.to_json()["num_trials"] == len(scored)


@pytest.mark.parametrize("count", [1, 8, 17])
def test_too_few_trials_are_told(count: int) -> None:
    found = importance.weigh(searches.search(count))
    assert not found.shares
    assert "not told" in found.note


def test_nothing_that_differs() -> None:
    found = importance.weigh(made(lambda p: 1.0, count=20, points=lambda rng: {"a": 1}))
    assert not found.shares
    assert "nothing" in found.note


def test_equal_scores_have_no_shares_to_tell() -> None:
    found = importance.weigh(made(lambda p: 1.0, count=40))
    assert all(share == 0 for _, share in found.shares)

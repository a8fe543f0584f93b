"""Synchronous rungs: who goes on, in whatever order the scores come in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.search import (
    Conductor,
    Objective,
    Outcome,
    Rules,
    Segment,
    Trial,
    milestones,
    planned_steps,
    promoted,
)


def rules(rungs: tuple[int, ...], scheduler: Any, direction: Any, factor: int = 2, **more: Any) -> Rules:
    return Rules(rungs, (Objective("score", direction),), scheduler, factor, **more)


def points(count: int) -> Any:
    """Proposes `count` points at once."""
    return lambda told: [] if told else [{"x": i} for i in range(count)]


def play(conductor: Conductor, score: Any, *, at_once: int = 1, seed: int = 0) -> list[Segment]:
    """Run every segment, up to `at_once` open at a time, ending in random order; returns them as they were handed out."""
    rng, handed, open_ = random.Random(seed), [], []
    while True:
        while len(open_) < at_once and (segment := conductor.next()) is not None:
            handed.append(segment)
            open_.append(segment)
        if not open_:
            assert conductor.ended
            return handed
        segment = open_.pop(rng.randrange(len(open_)))
        outcome = score(segment)
        conductor.tell(segment, outcome if isinstance(outcome, Outcome) else Outcome(outcome, 1.0))


@pytest.mark.parametrize(
    ("scheduler", "total", "grace", "factor", "expected"),
    [
        ("asha", 100, 25, 2, (25, 50, 100)),
        ("asha", 100, 10, 3, (10, 30, 100)),
        ("asha", 100, 200, 2, (100,)),
        ("median", 100, 25, 2, (25, 50, 75, 100)),
        ("none", 100, 25, 2, (100,)),
        ("asha", 1, 1, 2, (1,)),
    ],
)
def test_milestones(scheduler: Any, total: int, grace: int, factor: int, expected: tuple[int, ...]) -> None:
    assert milestones(scheduler, total, grace, factor) == expected


def test_asha_halves_and_the_best_of_the_last_rung_wins() -> None:
    conductor = Conductor(points(8), rules((25, 50, 100), "asha", "minimize"))
    play(conductor, lambda s: float(s.index))
    assert [t.steps for t in conductor.trials] == [100, 100, 50, 50, 25, 25, 25, 25]
    assert [t.status for t in conductor.trials] == ["finished"] * 2 + ["stopped"] * 6
    assert conductor.winner is conductor.trials[0]
    assert sum(t.seconds for t in conductor.trials) == 8 + 4 + 2
    assert planned_steps("asha", (25, 50, 100), 8, 2) == 8 * 25 + 4 * 25 + 2 * 50


def test_a_lead_at_an_early_rung_does_not_win() -> None:
    conductor = Conductor(points(4), rules((10, 20), "asha", "maximize"))
    play(conductor, lambda s: 9.0 - s.index if s.until == 10 else float(s.index))
    assert conductor.winner is conductor.trials[1]


@pytest.mark.parametrize("scheduler", ["asha", "median", "none"])
@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_order_and_concurrency_change_nothing(scheduler: Any, at_once: int) -> None:
    def score(segment: Segment) -> float:
        return random.Random(segment.index * 1000 + segment.until).random()

    def searched(at_once: int, seed: int) -> list[Trial]:
        conductor = Conductor(points(12), rules(milestones(scheduler, 90, 30, 3), scheduler, "minimize", 3))
        play(conductor, score, at_once=at_once, seed=seed)
        return [*conductor.trials, *([conductor.winner] if conductor.winner else [])]

    assert searched(at_once, 5) == searched(1, 0)


def test_the_median_rule_stops_what_never_was_better_than_the_median() -> None:
    trials = [Trial(i, {}, {10: (float(i),), 20: (float(i),)}) for i in range(5)]
    assert [t.index for t in promoted("median", trials, (Objective("score"),), 2)] == [0, 1, 2]
    trials[4].values[10] = (-1.0,)  # it once was
    assert 4 in [t.index for t in promoted("median", trials, (Objective("score"),), 2)]


def test_failures_cost_their_trial_only() -> None:
    def score(segment: Segment) -> Any:
        return Outcome(None, 0.0, "diverged", "NaN") if segment.index == 0 else float(segment.index)

    conductor = Conductor(points(4), rules((10, 20), "asha", "minimize"))
    handed = play(conductor, score)
    assert [s.index for s in handed if s.until == 20] == [1, 2]
    assert (conductor.trials[0].status, conductor.trials[0].error) == ("diverged", "NaN")
    assert conductor.winner is conductor.trials[1]


def test_a_score_that_is_not_finite_is_a_failure() -> None:
    conductor = Conductor(points(2), rules((10,), "none", "minimize"))
    play(conductor, lambda s: float("nan") if s.index == 0 else 1.0)
    assert conductor.trials[0].status == "failed"
    assert conductor.winner is conductor.trials[1]


def test_all_failed_means_no_winner() -> None:
    conductor = Conductor(points(3), rules((10, 20), "asha", "minimize"))
    play(conductor, lambda s: Outcome(None, 0.0, "failed", "no"))
    assert conductor.ended
    assert conductor.winner is None


def test_known_outcomes_are_not_run_again_and_give_the_same_end() -> None:
    def score(segment: Segment) -> float:
        return float((segment.index * 7 + segment.until) % 11)

    whole = Conductor(points(8), rules((25, 50, 100), "asha", "minimize"))
    handed = play(whole, score)
    for kept in range(len(handed) + 1):
        known = {s.key: Outcome(score(s), 1.0) for s in handed[:kept]}
        again = Conductor(points(8), rules((25, 50, 100), "asha", "minimize"), known)
        assert sorted(play(again, score), key=repr) == sorted(handed[kept:], key=repr)
        assert again.trials == whole.trials


def test_batches_hear_of_the_ones_before() -> None:
    heard: list[list[float | None]] = []

    def propose(told: Sequence[Trial]) -> list[dict[str, int]]:
        heard.append([trial.score for trial in told])
        return [] if len(told) >= 4 else [{"x": len(told)}, {"x": len(told) + 1}]

    play(Conductor(propose, rules((10,), "none", "minimize")), lambda s: float(s.index))
    assert heard == [[], [0.0, 1.0], [0.0, 1.0, 2.0, 3.0]]

"""Synchronous rungs: who goes on, in whatever order the scores come in, and whatever is known from before a crash."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.search import (
    Asynchronous,
    Conductor,
    Evolution,
    Key,
    Objective,
    Outcome,
    Rules,
    Segment,
    Trial,
    interval,
    milestones,
    planned_steps,
    promoted,
    training_seed,
)
from orchestrator.search.objectives import chosen, crowding, dominates, fronts, pareto, ranked, spread
from orchestrator.space import Space, read_space
from trainers import config

LR = "optimizers.generator.lr"
SCORE = (Objective("score"),)
TWO = (Objective("a"), Objective("b", "maximize"))
Score = Callable[[Segment], Any]
lively = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rules(rungs: tuple[int, ...], scheduler: Any, direction: Any, factor: int = 2, **more: Any) -> Rules:
    return Rules(rungs, (Objective("score", direction),), scheduler, factor, **more)


def points(count: int, batch: int | None = None) -> Any:
    """Proposes `count` points, in batches."""
    return lambda told: [{LR: 1e-3, "x": i} for i in range(len(told), min(count, len(told) + (batch or count)))]


def play(conductor: Conductor, score: Score, *, at_once: int = 1, seed: int = 0) -> list[Segment]:
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
        conductor.tell(segment, outcome(score, segment))


def outcome(score: Score, segment: Segment) -> Outcome:
    found = score(segment)
    return found if isinstance(found, Outcome) else Outcome(found, 1.0)


def ended(conductor: Conductor) -> list[Any]:
    """All that a search decided."""
    winner = conductor.winner
    return [*conductor.trials, winner and winner.index, conductor.ended_by, conductor.steps, conductor.front]


@pytest.mark.parametrize(
    ("scheduler", "total", "grace", "factor", "expected"),
    [
        ("asha", 100, 25, 2, (25, 50, 100)),
        ("asha", 100, 10, 3, (10, 30, 100)),
        ("asha", 100, 200, 2, (100,)),
        ("median", 100, 25, 2, (25, 50, 75, 100)),
        ("pbt", 100, 25, 2, (25, 50, 75, 100)),
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
    assert conductor.steps == planned_steps("asha", (25, 50, 100), 8, 2) == 8 * 25 + 4 * 25 + 2 * 50
    assert planned_steps("asha", (25, 50, 100), 8, 2, 3) == 3 * conductor.steps


def test_a_lead_at_an_early_rung_does_not_win() -> None:
    conductor = Conductor(points(4), rules((10, 20), "asha", "maximize"))
    play(conductor, lambda s: 9.0 - s.index if s.until == 10 else float(s.index))
    assert conductor.winner is conductor.trials[1]


def test_all_that_may_run_is_handed_out_at_once() -> None:
    conductor = Conductor(points(4), rules((10, 20), "asha", "minimize", replicates=2))
    first = conductor.waiting()
    assert first == [Segment(i, 10, r) for i in range(4) for r in range(2)]
    assert conductor.waiting() == []
    for segment in first:
        assert not conductor.ended
        conductor.tell(segment, Outcome(float(segment.index)))
    assert conductor.waiting() == [Segment(i, 20, r) for i in range(2) for r in range(2)]
    assert conductor.trials[0].status == "running"


def test_the_median_rule_stops_what_never_was_better_than_the_median() -> None:
    trials = [Trial(i, {}, {10: (float(i),), 20: (float(i),)}) for i in range(5)]
    assert [t.index for t in promoted("median", trials, SCORE, 2)] == [0, 1, 2]
    trials[4].values[10] = (-1.0,)  # it once was
    assert 4 in [t.index for t in promoted("median", trials, SCORE, 2)]


# --- failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["diverged", "failed", "pruned"])
def test_failures_cost_their_trial_only(status: str) -> None:
    def score(segment: Segment) -> Any:
        return Outcome(None, 0.0, status, "why") if segment.index == 0 else float(segment.index)

    conductor = Conductor(points(4), rules((10, 20), "asha", "minimize"))
    handed = play(conductor, score)
    assert [s.index for s in handed if s.until == 20] == [1, 2]
    assert (conductor.trials[0].status, conductor.trials[0].error) == (status, "why")
    assert conductor.winner is conductor.trials[1]


def test_a_pruned_trial_names_its_symptom() -> None:
    conductor = Conductor(points(2), rules((10,), "none", "minimize"))
    play(conductor, lambda s: Outcome(None, 1.0, "pruned", symptom="collapse") if s.index == 0 else 1.0)
    assert (conductor.trials[0].error, conductor.trials[0].symptoms) == ("pruned: collapse", ["collapse"])


def test_a_score_that_is_not_finite_is_a_failure() -> None:
    conductor = Conductor(points(2), rules((10,), "none", "minimize"))
    play(conductor, lambda s: float("nan") if s.index == 0 else 1.0)
    assert conductor.trials[0].status == "failed"
    assert conductor.winner is conductor.trials[1]


def test_a_missing_metric_is_a_failure() -> None:
    conductor = Conductor(points(2), Rules((10,), TWO, "none"))
    play(conductor, lambda s: Outcome(1.0, values={"a": 1.0} if s.index == 0 else {"a": 2.0, "b": 1.0}))
    assert conductor.trials[0].status == "failed"
    assert conductor.winner is conductor.trials[1]


def test_all_failed_means_no_winner() -> None:
    conductor = Conductor(points(3), rules((10, 20), "asha", "minimize"))
    play(conductor, lambda s: Outcome(None, 0.0, "failed", "no"))
    assert conductor.ended
    assert conductor.winner is None


# --- replicates -----------------------------------------------------------------------------------------------------------


def test_replicates_count_by_their_mean() -> None:
    scores = {0: (0.0, 9.0), 1: (4.0, 4.2), 2: (5.0, 5.0), 3: (1.0, 8.0)}
    conductor = Conductor(points(4), rules((10, 20), "asha", "minimize", replicates=2))
    handed = play(conductor, lambda s: scores[s.index][s.replicate], at_once=8, seed=3)
    assert [(s.index, s.replicate) for s in handed if s.until == 20] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert conductor.winner is conductor.trials[1]
    assert conductor.trials[1].scores == {10: 4.1, 20: 4.1}
    assert spread(conductor.trials[0], 10, SCORE) == [(0.0, 9.0)]


def test_a_trial_that_lost_a_replicate_ranks_behind_those_that_lost_fewer() -> None:
    def score(segment: Segment) -> Any:
        if (segment.index, segment.replicate) == (0, 1):
            return Outcome(None, 0.0, "diverged", "NaN")
        return float(segment.index)

    conductor = Conductor(points(3), rules((10, 20), "asha", "minimize", factor=2, replicates=2))
    handed = play(conductor, score)
    assert [(s.index, s.replicate) for s in handed if s.until == 20] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    first = conductor.trials[0]
    assert (first.status, first.error, first.scores) == ("stopped", "", {10: 0.0})
    assert first.lost[1].error == "NaN"


def test_what_is_left_of_a_trial_goes_on_without_the_lost_replicate() -> None:
    conductor = Conductor(points(1), rules((10, 20), "asha", "minimize", replicates=3))
    handed = play(conductor, lambda s: Outcome(None, 0.0, "failed", "x") if s.replicate == 1 else float(s.replicate))
    assert [s.replicate for s in handed if s.until == 20] == [0, 2]
    assert conductor.trials[0].score == 1.0
    assert conductor.winner is conductor.trials[0]


@pytest.mark.parametrize(
    ("statuses", "status"), [(("diverged", "diverged"), "diverged"), (("pruned", "failed"), "failed")]
)
def test_a_trial_without_replicates_has_failed(statuses: tuple[str, str], status: str) -> None:
    conductor = Conductor(points(1), rules((10, 20), "asha", "minimize", replicates=2))
    handed = play(conductor, lambda s: Outcome(None, 0.0, statuses[s.replicate], f"no {s.replicate}"))
    assert len(handed) == 2
    assert conductor.trials[0].status == status
    assert conductor.trials[0].error == "all 2 replicates; the first: no 0"


def test_the_interval_is_student_s() -> None:
    assert interval([1.0]) is None
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.302652729911275 / math.sqrt(3))  # t(0.975, 2) of any table
    assert interval([5.0] * 4) == 0.0


def test_training_seeds_differ_and_the_first_is_the_search_s_own() -> None:
    seeds = [training_seed(7, one) for one in range(64)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 64
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert training_seed(8, 1) != training_seed(7, 1)


# --- several objectives ---------------------------------------------------------------------------------------------------

costs_of = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 2), min_size=1, max_size=14)


@lively
@given(costs_of)
def test_fronts_are_those_of_the_definition(points_: list[tuple[float, ...]]) -> None:
    found = fronts(points_)
    assert sorted(i for front in found for i in front) == list(range(len(points_)))
    for depth, front in enumerate(found):
        for i in front:
            before = [j for earlier in found[:depth] for j in earlier]
            assert not any(dominates(points_[j], points_[i]) for j in front)
            assert depth == 0 or any(dominates(points_[j], points_[i]) for j in before)


def test_the_loneliest_of_a_front_come_first() -> None:
    line = [(0.0, 10.0), (1.0, 9.0), (2.0, 8.0), (6.0, 4.0), (10.0, 0.0)]
    assert crowding(line) == [math.inf, 0.4, 1.0, 1.6, math.inf]
    trials = [Trial(i, {}, {10: point}) for i, point in enumerate(line)]
    both = (Objective("a"), Objective("b"))
    assert [trial.index for trial in ranked(trials, both)] == [0, 4, 3, 2, 1]
    assert [trial.index for trial in promoted("asha", trials, both, 2)] == [0, 4, 3]


def test_the_winner_of_several_is_the_nearest_to_the_ideal_point_or_the_preferred() -> None:
    values = [
        (0.0, 0.0),
        (2.0, 900.0),
        (10.0, 1000.0),
        (11.0, 900.0),
    ]  # a is minimized, b maximized; the last is dominated
    trials = [Trial(i, {}, {10: value}) for i, value in enumerate(values)]
    assert [trial.index for trial in pareto(trials, TWO)] == [0, 1, 2]
    assert chosen(trials, TWO) is trials[1]
    assert chosen(trials, TWO, "a") is trials[0]
    assert chosen(trials, TWO, "b") is trials[2]


def test_only_those_that_went_farthest_are_on_the_front() -> None:
    conductor = Conductor(points(4), Rules((10, 20), TWO, "asha"))
    play(conductor, lambda s: Outcome(1.0, values={"a": float(s.index), "b": float(s.index) - s.until}))
    assert {trial.steps for trial in conductor.front} == {20}
    assert conductor.winner in conductor.front


# --- population based training --------------------------------------------------------------------------------------------


def space() -> Space:
    found, faults = read_space(
        {
            LR: {"loguniform": [1e-4, 1e-2]},
            "optimizers.critic.lr": {"choice": [1e-4, 2e-4, 4e-4]},
            "optimizers.generator.warmup_steps": {"int": [1, 9]},
            "hacks": {"subsets": ["label_smoothing", "ema"]},
            "batch_size": {"choice": [32, 64]},
        },
        {"variant": "gan"},
        config.assign,
        lambda user: config.check(user, {}),
    )
    assert found is not None, faults
    return found


SPACE = space()


def population(count: int) -> Any:
    def propose(told: Sequence[Trial]) -> list[dict[str, Any]]:
        return [] if told else [point for i in range(count) if (point := SPACE.draw(0, i)) is not None]

    return propose


def pbt(rungs: tuple[int, ...] = (10, 20, 30), **more: Any) -> Rules:
    return rules(rungs, "pbt", "minimize", evolution=Evolution(SPACE, 5), **more)


def test_the_worst_of_a_population_become_copies_of_the_best() -> None:
    conductor = Conductor(population(8), pbt())
    first = [dict(trial.point) for trial in conductor.trials or []]
    handed = play(conductor, lambda s: float(s.index))
    copied = [s for s in handed if s.origin is not None]
    assert {s.index for s in copied if s.until == 20} == {6, 7}
    assert first == []
    for segment in copied:
        assert segment.origin is not None
        assert segment.origin[0] in (0, 1)
        assert segment.origin[2] == segment.until - 10
    assert all(trial.status == "finished" and trial.steps == 30 for trial in conductor.trials)
    assert conductor.steps == 8 * 30
    loser = conductor.trials[7]
    assert [change.step for change in loser.changes] == [10, 20]
    assert loser.point == loser.changes[-1].point
    source = conductor.trials[loser.changes[0].source]
    assert loser.changes[0].point["batch_size"] == source.point["batch_size"]  # shapes come with the weights
    assert loser.changes[0].point["hacks"] == source.point["hacks"]
    assert loser.changes[0].point[LR] != source.point[LR]


def test_a_segment_s_point_is_the_one_in_force() -> None:
    conductor = Conductor(population(4), pbt())
    seen: dict[Key, Mapping[str, Any]] = {}
    while segments := conductor.waiting():
        for segment in segments:
            seen[segment.key] = dict(conductor.point(segment))
            conductor.tell(segment, Outcome(float(segment.index)))
    change = conductor.trials[3].changes[0]
    assert seen[3, 0, 10] != change.point
    assert seen[3, 0, 20] == change.point


def test_a_dead_trial_is_revived_as_a_copy() -> None:
    def score(segment: Segment) -> Any:
        return Outcome(None, 0.0, "diverged", "NaN") if segment.key == (0, 0, 10) else float(segment.index)

    conductor = Conductor(population(8), pbt())
    play(conductor, score)
    assert (conductor.trials[0].status, conductor.trials[0].error) == ("finished", "")
    assert conductor.trials[0].changes[0].source in (1, 2)
    assert conductor.winner is conductor.trials[0]


def test_replicates_are_copied_one_by_one_and_a_lost_one_by_the_first_that_is_left() -> None:
    def score(segment: Segment) -> Any:
        lost = segment.index == 0 and segment.replicate == 1 and segment.until == 10
        return Outcome(None, 0.0, "failed", "x") if lost else float(segment.index)

    conductor = Conductor(population(2), pbt((10, 20), replicates=2))
    handed = play(conductor, score)
    assert [s.origin for s in handed if s.index == 0 and s.until == 20] == [(1, 0, 10), (1, 1, 10)]
    only = Conductor(population(2), pbt((10, 20), replicates=3))
    handed = play(only, lambda s: Outcome(None, status="failed", error="x") if s.index or s.replicate == 1 else 1.0)
    assert [s.origin for s in handed if s.index == 1 and s.until == 20] == [(0, 0, 10), (0, 0, 10), (0, 2, 10)]


@lively
@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 3))
def test_explored_points_stay_in_the_space(seed: int, index: int, rung: int) -> None:
    point = SPACE.draw(seed, index)
    assert point is not None
    found = Evolution(SPACE, seed, resample=0.0).explored(point, index, rung)
    assert SPACE.recall(found) is not None
    assert SPACE.valid(found)
    moved = found[LR] / point[LR]
    assert any(moved == pytest.approx(factor) for factor in (0.8, 1.2)) or found[LR] in (1e-4, 1e-2)
    levels = [1e-4, 2e-4, 4e-4]
    assert abs(levels.index(found["optimizers.critic.lr"]) - levels.index(point["optimizers.critic.lr"])) <= 1
    steps = "optimizers.generator.warmup_steps"
    assert found[steps] != point[steps] or found[steps] in (1, 9)


def test_a_quarter_of_the_numbers_is_drawn_again() -> None:
    point = SPACE.draw(1, 1)
    assert point is not None
    moved = [Evolution(SPACE, 0).explored(point, i, 0)[LR] / point[LR] for i in range(400)]
    again = sum(not any(m == pytest.approx(f) for f in (0.8, 1.2)) for m in moved)
    assert 70 <= again <= 130


# --- budgets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [10, 79, 80, 100, 119, 120, 1000])
def test_a_step_budget_is_never_exceeded_and_spent_best_first(budget: int) -> None:
    conductor = Conductor(points(8), rules((10, 20), "asha", "maximize", step_budget=budget))
    handed = play(conductor, lambda s: float(s.index))
    spent = len(handed) * 10
    assert spent == conductor.steps <= budget
    assert (conductor.ended_by == "steps") == (budget < 120)
    if budget == 100:
        assert [s.index for s in handed if s.until == 20] == [6, 7]
    if budget < 80:
        assert len(conductor.trials) == budget // 10


def test_a_population_goes_on_whole_or_not_at_all() -> None:
    conductor = Conductor(population(4), pbt((10, 20), step_budget=70))
    play(conductor, lambda s: float(s.index))
    assert conductor.steps == 40
    assert {trial.status for trial in conductor.trials} == {"stopped"}
    assert not any(trial.changes for trial in conductor.trials)


@pytest.mark.parametrize("after", [1, 4, 5, 8, 12, 99])
def test_out_of_time_no_rung_begins_and_the_decisions_are_found_again(after: int) -> None:
    told: dict[Key, Outcome] = {}

    def score(segment: Segment) -> Outcome:
        told[segment.key] = Outcome(float(segment.index), 1.0)
        return told[segment.key]

    live = Conductor(points(8, batch=4), rules((10, 20), "asha", "minimize"), out_of_time=lambda: len(told) >= after)
    play(live, score)
    assert (live.ended_by == "time") == (after < 12)
    assert live.winner is live.trials[0]
    by_time = live.ended_by == "time"
    again = Conductor(points(8, batch=4), rules((10, 20), "asha", "minimize"), told, lambda: by_time)
    assert again.next() is None
    assert ended(again) == ended(live)


# --- kills and orders -----------------------------------------------------------------------------------------------------


@st.composite
def searches(draw: st.DrawFn) -> tuple[Callable[[Mapping[Key, Outcome]], Conductor], Score]:
    """Any search, and what its segments come to, of which some fail."""
    scheduler = draw(st.sampled_from(["asha", "median", "pbt", "none"]))
    count, replicates, factor = draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.integers(2, 4))
    objectives = SCORE if scheduler == "median" else draw(st.sampled_from([SCORE, TWO]))
    rungs = milestones(scheduler, draw(st.sampled_from([40, 90])), 10, factor)
    evolution = Evolution(SPACE, 3, draw(st.sampled_from([0.25, 0.5]))) if scheduler == "pbt" else None
    budget = draw(st.none() | st.integers(10, 2000))
    made = Rules(rungs, objectives, scheduler, factor, replicates, budget, None, evolution)
    propose = population(count) if scheduler == "pbt" else points(count, draw(st.none() | st.integers(1, 4)))
    seed, failing = draw(st.integers(0, 999)), draw(st.sampled_from([0.0, 0.2, 0.9]))

    def score(segment: Segment) -> Outcome:
        rng = random.Random(repr((seed, segment.key)))
        if rng.random() < failing:
            return Outcome(
                None, rng.random(), rng.choice(["failed", "diverged", "pruned"]), "x", rng.choice(["", "dead"])
            )
        a, b = float(rng.randrange(5)), float(rng.randrange(5))
        return Outcome(a, rng.random(), values={"a": a, "b": b} if len(objectives) > 1 else {})

    return lambda known: Conductor(propose, made, known), score


@lively
@given(searches(), st.integers(1, 12), st.integers(0, 99))
def test_order_and_concurrency_change_nothing(search: Any, at_once: int, seed: int) -> None:
    make, score = search
    one, other = make({}), make({})
    assert sorted(s.key for s in play(one, score)) == sorted(
        s.key for s in play(other, score, at_once=at_once, seed=seed)
    )
    assert ended(one) == ended(other)


@lively
@given(searches(), st.integers(1, 12), st.integers(0, 99), st.data())
def test_a_kill_anywhere_changes_nothing(search: Any, at_once: int, seed: int, data: st.DataObject) -> None:
    make, score = search
    whole = make({})
    handed = play(whole, score, at_once=at_once, seed=seed)
    kept = set(data.draw(st.lists(st.sampled_from(handed), unique=True))) if handed else set()
    again = make({segment.key: outcome(score, segment) for segment in kept})
    rest = play(again, score)
    assert sorted(rest, key=repr) == sorted(
        (s for s in handed if s not in kept), key=repr
    )  # nothing twice, origins too
    assert ended(again) == ended(whole)


@lively
@given(searches())
def test_a_segment_starts_from_what_has_been_trained(search: Any) -> None:
    make, score = search
    conductor = make({})
    trained: dict[Key, float | None] = {}
    rungs = (0, *conductor.rules.rungs)
    while segments := conductor.waiting():
        assert len({segment.key for segment in segments}) == len(segments)
        for segment in segments:
            before = rungs[rungs.index(segment.until) - 1]
            source = segment.origin or (segment.index, segment.replicate, before)
            assert before == 0 or trained[source] is not None
        for segment in segments:
            found = outcome(score, segment)
            trained[segment.key] = found.score
            conductor.tell(segment, found)
    budget = conductor.rules.step_budget
    assert budget is None or conductor.steps <= budget
    if conductor.winner is not None:
        assert conductor.winner.steps == max(trial.steps for trial in conductor.trials if not trial.error)


def test_batches_hear_of_the_ones_before() -> None:
    heard: list[list[float | None]] = []

    def propose(told: Sequence[Trial]) -> list[dict[str, int]]:
        heard.append([trial.score for trial in told])
        return [] if len(told) >= 4 else [{"x": len(told)}, {"x": len(told) + 1}]

    play(Conductor(propose, rules((10,), "none", "minimize")), lambda s: float(s.index))
    assert heard == [[], [0.0, 1.0], [0.0, 1.0, 2.0, 3.0]]


def test_an_outcome_survives_its_text() -> None:
    told = Outcome(1.0, 2.0, "ok", "", "collapse", {"a": 1.0})
    assert Outcome(**told.to_json()) == told
    assert Outcome(score=1.0, seconds=2.0, status="ok", error="") == replace(told, symptom="", values={})


# --- asynchronous -----------------------------------------------------------------------------------------------------------


def by_index(segment: Segment) -> float:
    return float((segment.index * 7) % 16)


def test_asynchronous_trials_go_on_while_others_of_their_rung_run() -> None:
    """Trial 15 hangs at its first rung: the best of the others get to the end meanwhile."""
    conductor = Asynchronous(points(16), rules((1, 2, 4), "asha", "minimize"))
    hangs: list[Segment] = []
    while (segment := conductor.next()) is not None:
        if segment.index == 15:
            hangs.append(segment)
        else:
            conductor.tell(segment, Outcome(by_index(segment)))
    assert [one.until for one in hangs] == [1]
    assert not conductor.ended
    best = min((trial for trial in conductor.trials if 4 in trial.values), key=lambda trial: trial.scores[4])
    assert best.scores[4] == 0.0
    conductor.tell(hangs[0], Outcome(by_index(hangs[0])))
    while (segment := conductor.next()) is not None:
        conductor.tell(segment, Outcome(by_index(segment)))
    assert conductor.ended
    assert conductor.winner is best
    assert {trial.status for trial in conductor.trials} == {"finished", "stopped"}


@given(st.integers(1, 40), st.integers(2, 4), st.integers(1, 8), st.integers(0, 10**6))
@lively
def test_an_asynchronous_trial_goes_on_only_among_the_best_and_each_rung_is_filled(
    count: int, factor: int, at_once: int, seed: int
) -> None:
    rungs = (1, 2, 4, 8)
    rng = random.Random(seed)
    scores = [rng.random() for _ in range(count)]
    conductor = Asynchronous(points(count), rules(rungs, "asha", "minimize", factor))
    told: dict[int, list[float]] = {rung: [] for rung in rungs}
    open_: list[Segment] = []
    while True:
        while len(open_) < at_once and (segment := conductor.next()) is not None:
            if segment.until > 1:
                here = sorted(told[segment.until // 2])
                assert here.index(scores[segment.index]) < math.ceil(len(here) / factor)
            open_.append(segment)
        if not open_:
            break
        segment = open_.pop(rng.randrange(len(open_)))
        told[segment.until].append(scores[segment.index])
        conductor.tell(segment, Outcome(scores[segment.index]))
    assert conductor.ended
    assert len(told[1]) == count
    for low, high in pairwise(rungs):
        assert len(told[high]) >= max(1, math.ceil(len(told[low]) / factor))
    assert conductor.winner is not None
    assert conductor.winner.steps == 8
    assert {trial.status for trial in conductor.trials} <= {"finished", "stopped"}


@given(st.integers(2, 24), st.integers(0, 60), st.integers(1, 2), st.integers(0, 10**6))
@lively
def test_an_asynchronous_search_goes_on_from_all_that_was_scored(
    count: int, done: int, replicates: int, seed: int
) -> None:
    rng = random.Random(seed)
    made: dict[Key, Outcome] = {}
    for limit in (done, 10**9):
        conductor = Asynchronous(
            points(count), rules((1, 2, 4), "asha", "minimize", 2, replicates=replicates), dict(made)
        )
        open_: list[Segment] = []
        while True:
            while len(open_) < 5 and (segment := conductor.next()) is not None:
                assert segment.key not in made
                open_.append(segment)
            if not open_ or len(made) >= limit:
                break
            segment = open_.pop(rng.randrange(len(open_)))
            outcome = Outcome(rng.random()) if rng.random() < 0.9 else Outcome(None, status="failed", error="it failed")
            made[segment.key] = outcome
            conductor.tell(segment, outcome)
    assert conductor.ended
    assert all(conductor.trials[i].outcomes[step][one] == outcome for (i, one, step), outcome in made.items())
    assert conductor.steps == sum(step - step // 2 if step > 1 else 1 for _, _, step in made)


def test_budgets_end_an_asynchronous_search() -> None:
    conductor = Asynchronous(points(8), rules((1, 2), "asha", "minimize", 2, step_budget=10))
    play(conductor, by_index)
    assert (conductor.steps, conductor.ended_by) == (10, "steps")
    late = iter([False] + [True] * 1000)
    conductor = Asynchronous(points(20, 4), rules((1, 2), "asha", "minimize"), {}, lambda: next(late))
    play(conductor, by_index)
    assert (conductor.steps, conductor.ended_by, conductor.ended) == (4, "time", True)

"""Optuna's proposals: better than chance at an equal budget, the same each time, and no forgetting of an earlier search.

The spaces are of the kinds that searches over GANs are: variants with parameters of their own, sets of hacks, rates over
decades, regions that diverge. What a point is worth is a formula, so that a search takes no training; its scores are noisy.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import pytest

from orchestrator.search import Conductor, Objective, Outcome, Rules, Trial
from orchestrator.search.table import Earlier, earlier, table
from orchestrator.space import Draw, Space, canonical, read_space
from orchestrator.stages._proposals import OPTUNA_BATCH, Proposer, Searcher
from trainers import config

G, C, EPS = "optimizers.generator.lr", "optimizers.critic.lr", "optimizers.generator.eps"
MOMENTUM = "optimizers.generator.momentum"
SCORE = (Objective("score"),)
Worth = Callable[[Mapping[str, Any]], float | None]


def opened(space: Mapping[str, Any], fits: Callable[[Any], bool] = lambda user: True) -> Space:
    refusal: Any = "refused"
    found, faults = read_space(space, {}, config.assign, lambda user: [] if fits(user) else [refusal])
    assert found is not None, faults
    return found


def bowl(x: float, best: float) -> float:
    return (x - best) ** 2


def variants() -> tuple[Space, Worth]:
    """Four losses with optima of their own, hacks that help some of them, two parameters that only one choice has."""
    best = {"gan": -3.7, "lsgan": -3.3, "wgan_gp": -4.0, "hinge": -3.5}
    behind = {"gan": 1.0, "lsgan": 0.6, "wgan_gp": 0.0, "hinge": 0.4}

    def worth(point: Mapping[str, Any]) -> float:
        variant, hacks = point["variant"], point["hacks"]
        value = behind[variant] + bowl(math.log10(point[G]), best[variant])
        value += 0.7 * bowl(math.log10(point[C]), best[variant] + 0.4) + abs(point["batch_size"] - 128) / 400
        value += 0.5 * ("instance_noise" in hacks) - 0.4 * ("ema" in hacks)
        value += {"wgan_gp": 0.2, "hinge": -0.3}.get(variant, 0.0) * ("spectral_norm" in hacks)
        if "r1" in hacks:
            value += 0.4 * bowl(math.log10(point["hacks.r1.gamma"]), 0.3) - 0.3
        if variant == "wgan_gp":
            value += 0.5 * bowl(math.log10(point["variant.wgan_gp.gp_weight"]), 1.0)
        return value

    space = {
        "variant": {"choice": list(best)},
        "hacks": {"subsets": ["ema", "r1", "spectral_norm", "instance_noise"]},
        "hacks.r1.gamma": {"loguniform": [0.01, 100]},
        "variant.wgan_gp.gp_weight": {"loguniform": [0.1, 100]},
        G: {"loguniform": [1e-5, 1e-2]},
        C: {"loguniform": [1e-5, 1e-2]},
        "batch_size": {"quniform": [32, 256, 32]},
    }
    return opened(space, lambda user: not ("instance_noise" in user["hacks"] and user["variant"] == "lsgan")), worth


def branches() -> tuple[Space, Worth]:
    """The rates' ranges depend on two choices, and some branches have none."""

    def worth(point: Mapping[str, Any]) -> float:
        x, y = point.get(G, 1.0), point.get(C, 1.0)
        own = {
            "gan": 1 + 0.5 * bowl(math.log10(x), -4),
            "lsgan": 0.2 + bowl(math.log10(x), -3),
            "wgan_gp": 0.5 + 4 * bowl(x, 0.7),
            "hinge": 0.4 + abs(x - 0.3),
            "began": 0.9,
        }[point["variant"]]
        own += {"mlp": 0.5 * bowl(math.log10(y), -2), "dcgan": 0.3 + 5 * bowl(y, 0.4), "resnet": 0.6}[point["backbone"]]
        return own + 0.3 * abs(math.log2(point["batch_size"]) - 4)

    rates = {
        "gan": {"loguniform": [1e-6, 1e-2]},
        "lsgan": {"loguniform": [1e-6, 1e-2]},
        "wgan_gp": {"uniform": [1e-3, 1.0]},
        "hinge": {"choice": [0.1, 0.2, 0.3, 0.4]},
    }
    critic = {"mlp": {"loguniform": [1e-6, 1.0]}, "dcgan": {"normal": [0.5, 0.2]}}
    space = {
        "variant": {"choice": [*rates, "began"]},
        "backbone": {"choice": ["mlp", "dcgan", "resnet"]},
        G: {"conditional": {"on": "variant", "cases": rates}},
        C: {"conditional": {"on": "backbone", "cases": critic}},
        "batch_size": {"int": [2, 64]},
    }
    return opened(space, lambda user: user.get("optimizers", {}).get("critic", {}).get("lr", 1.0) > 0), worth


def cliff() -> tuple[Space, Worth]:
    """The best is just before rates from which training diverges; where that is depends on the variant and a hack."""

    def worth(point: Mapping[str, Any]) -> float | None:
        x, y, z = (math.log10(point[path]) for path in (G, C, EPS))
        edge = {"gan": -3.1, "wgan_gp": -2.6, "hinge": -2.1}[point["variant"]] + 0.5 * (
            "spectral_norm" in point["hacks"]
        )
        room = edge - x - 0.3 * y
        if room < 0:
            return None
        value = 0.5 * room + 0.3 * bowl(y, -3) + 0.1 * bowl(z, -4) - 0.3 * ("ema" in point["hacks"])
        return value + 0.2 * ("r1" in point["hacks"] and point["variant"] != "hinge")

    rates = {path: {"loguniform": [1e-6, 1.0]} for path in (G, C, EPS)}
    choices = {"variant": {"choice": ["gan", "wgan_gp", "hinge"]}, "hacks": {"subsets": ["ema", "r1", "spectral_norm"]}}
    return opened({**rates, **choices}), worth


def valley() -> tuple[Space, Worth]:
    """The best rates are in one ratio: a narrow valley across six decades, which ends where training diverges."""
    name = "optimizers.generator.name"

    def worth(point: Mapping[str, Any]) -> float | None:
        x, y = math.log10(point[G]), math.log10(point[C])
        if y > -1.5:
            return None
        value = 3 * abs(x - y + 0.6) + 0.4 * abs(x + 3.2) + 0.5 * abs(point[MOMENTUM] - 0.2)
        return value + {"adam": 0.0, "rmsprop": 0.3, "sgd": 1.5}[point[name]]

    rates = {path: {"loguniform": [1e-6, 1.0]} for path in (G, C)}
    return opened({**rates, MOMENTUM: {"uniform": [0, 0.95]}, name: {"choice": ["adam", "rmsprop", "sgd"]}}), worth


FULL = os.environ.get("ORCHESTRATOR_PROOF") == "full"
SPACES = {"variants": variants, "branches": branches, "cliff": cliff, "valley": valley}


def search(
    space: Space, worth: Worth, searcher: Searcher, seed: int, count: int, known: Earlier | None = None
) -> Conductor:
    """A whole search, its scores noisy, without rungs."""
    proposer = Proposer(space, searcher, seed, count, SCORE, 1, known)
    conductor = Conductor(proposer.propose, Rules((1,), SCORE, "none"))
    while segments := conductor.waiting():
        for segment in segments:
            value = worth(conductor.point(segment))
            noise = random.Random(repr((seed, segment.index))).gauss(0, 0.1)
            lost = Outcome(None, status="diverged", error="NaN")
            conductor.tell(segment, lost if value is None else Outcome(value + noise))
    return conductor


def best(conductor: Conductor, worth: Worth) -> float:
    """What the winner is worth without the noise that it was chosen by."""
    assert conductor.winner is not None
    value = worth(conductor.winner.point)
    assert value is not None
    return value


def compare(name: str, seeds: range, count: int) -> tuple[float, float]:
    """Median worth of the winners: of Optuna, and of chance."""
    space, worth = SPACES[name]()
    found = [
        median(best(search(space, worth, searcher, seed, count), worth) for seed in seeds)
        for searcher in ("optuna", "random")
    ]
    return found[0], found[1]


@pytest.mark.parametrize("name", SPACES)
def test_optuna_beats_chance_at_an_equal_budget(name: str) -> None:
    learned, by_chance = compare(name, range(10), 40)
    assert learned < by_chance


@pytest.mark.long
@pytest.mark.parametrize("count", [48, 60] if FULL else [48])
@pytest.mark.parametrize("name", SPACES)
def test_optuna_beats_chance_with_other_seeds_and_budgets(name: str, count: int) -> None:
    learned, by_chance = compare(name, range(1000, 1020 if FULL else 1010), count)
    assert learned < by_chance


def test_optuna_repeats_and_hears_a_batch_only_when_it_has_ended() -> None:
    space, worth = variants()
    one, other = search(space, worth, "optuna", 3, 24), search(space, worth, "optuna", 3, 24)
    assert [trial.point for trial in one.trials] == [trial.point for trial in other.trials]
    assert len({canonical(trial.point) for trial in one.trials}) == 24
    assert search(space, worth, "optuna", 4, 24).trials[0].point != one.trials[0].point
    cut = search(space, lambda point: 0.0, "optuna", 3, 24)
    same = [a.point == b.point for a, b in zip(one.trials, cut.trials, strict=True)]
    assert all(same[:OPTUNA_BATCH])
    assert not all(same)


def test_where_all_diverges_optuna_goes_elsewhere() -> None:
    space = opened({G: {"loguniform": [1e-6, 1.0]}})
    conductor = search(space, lambda point: None if point[G] > 1e-5 else point[G], "optuna", 0, 48)
    alive = [not trial.error for trial in conductor.trials]
    assert sum(alive[24:]) > 2 * 24 / 6  # by chance one of six


def test_several_objectives_are_learned_together() -> None:
    space = opened({G: {"loguniform": [1e-6, 1.0]}, C: {"uniform": [0.0, 1.0]}})
    both = (Objective("a"), Objective("b", "maximize"))

    def spread_of(searcher: Searcher, seed: int) -> float:
        """How much of the plane the front leaves: the hypervolume against (6, 0)."""
        conductor = Conductor(Proposer(space, searcher, seed, 48, both, 1).propose, Rules((1,), both, "none"))
        while segments := conductor.waiting():
            for segment in segments:
                point = conductor.point(segment)
                off = abs(math.log10(point[G]) + 4)
                values = {"a": off + point[C] ** 2, "b": point[C] - off}
                conductor.tell(segment, Outcome(values["a"], values=values))
        front = sorted(trial.values[1] for trial in conductor.front)
        volume, floor = 0.0, 0.0
        for a, b in front:
            volume += max(6 - a, 0) * max(b - floor, 0)
            floor = max(floor, b)
        return volume

    learned, by_chance = (median(spread_of(searcher, seed) for seed in range(5)) for searcher in ("optuna", "random"))
    assert learned > by_chance


# --- an earlier search ------------------------------------------------------------------------------------------------------


def found_before(space: Space, worth: Worth, about: Mapping[str, Any], count: int = 32) -> dict[str, Any]:
    return table(search(space, worth, "optuna", 11, count), space, 0, about)


ABOUT = {"metrics": [{"name": "score", "direction": "minimize"}], "dataset": "abc", "total_steps": 1}


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_the_best_of_an_earlier_search_is_tried_first(searcher: Searcher) -> None:
    space, worth = variants()
    told = found_before(space, worth, ABOUT)
    known = earlier(told, space, ABOUT, SCORE)
    assert known.comparable
    assert len(known.trials) == known.total == 32
    assert canonical(known.points[0]) == canonical(told["trials"][told["winner"]]["point"])
    conductor = search(space, worth, searcher, 5, 16, known)
    first = [trial.point for trial in conductor.trials]
    assert first[0] == known.points[0]
    expected = 1 if searcher == "optuna" else 4
    assert first[:expected] == list(known.points[:expected])
    assert len({canonical(point) for point in first}) == 16


def test_what_was_learned_before_helps() -> None:
    space, worth = variants()
    known = earlier(found_before(space, worth, ABOUT), space, ABOUT, SCORE)
    rest = Earlier((), known.trials, True, known.total)  # without its best point, which is tried first
    cold = [best(search(space, worth, "optuna", seed, 8), worth) for seed in range(8)]
    warm = [best(search(space, worth, "optuna", seed, 8, rest), worth) for seed in range(8)]
    assert median(warm) < median(cold)


def test_scores_of_other_data_are_not_believed() -> None:
    space, worth = variants()
    known = earlier(found_before(space, worth, ABOUT), space, {**ABOUT, "dataset": "other"}, SCORE)
    assert not known.comparable
    assert not any(trial.values for trial in known.trials)
    conductor = search(space, worth, "optuna", 5, 16, known)
    assert [trial.point for trial in conductor.trials[:4]] == list(known.points[:4])


def test_scores_of_trials_that_changed_while_they_trained_are_not_believed() -> None:
    space, worth = variants()
    told = found_before(space, worth, ABOUT)
    told["trials"][3]["changes"] = [{"step": 1, "source": 0, "point": told["trials"][3]["point"]}]
    assert not earlier(told, space, ABOUT, SCORE).comparable


def test_points_that_the_space_no_longer_holds_are_left_out() -> None:
    space, worth = variants()
    told = found_before(space, worth, ABOUT)
    narrow = opened({path: {"choice": ["wgan_gp", "hinge"]} if path == "variant" else SOURCE[path] for path in SOURCE})
    known = earlier(told, narrow, ABOUT, SCORE)
    variants_of = {line["point"]["variant"] for line in told["trials"]}
    assert {point["variant"] for point in known.points} == variants_of & {"wgan_gp", "hinge"}
    assert len(known.points) == sum(line["point"]["variant"] in ("wgan_gp", "hinge") for line in told["trials"])


SOURCE: dict[str, Any] = {
    "variant": {"choice": ["gan", "lsgan", "wgan_gp", "hinge"]},
    "hacks": {"subsets": ["ema", "r1", "spectral_norm", "instance_noise"]},
    "hacks.r1.gamma": {"loguniform": [0.01, 100]},
    "variant.wgan_gp.gp_weight": {"loguniform": [0.1, 100]},
    G: {"loguniform": [1e-5, 1e-2]},
    C: {"loguniform": [1e-5, 1e-2]},
    "batch_size": {"quniform": [32, 256, 32]},
}


@pytest.mark.parametrize("name", SPACES)
def test_a_point_can_be_recalled_and_no_other_answer_gives_it(name: str) -> None:
    space, _ = SPACES[name]()

    class Again:
        """A chooser that answers as was recalled."""

        def __init__(self, answers: Mapping[str, Any]) -> None:
            self.answers = dict(answers)

        def category(self, name: str, count: int) -> int:
            return int(self.answers[name])

        def integer(self, name: str, low: int, high: int) -> int:
            assert low <= self.answers[name] <= high
            return int(self.answers[name])

        def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            assert low <= self.answers[name] <= high
            return float(self.answers[name])

    for i in range(50):
        point = space.point(Draw(2, (i,)))
        answers = space.recall(point)
        assert answers is not None
        again = space.point(Again(answers))
        assert again.keys() == point.keys()
        assert all(
            a == pytest.approx(point[path]) if isinstance(a, float) else a == point[path] for path, a in again.items()
        )
        assert space.recall({**point, "extra": 1}) is None
        first = next(iter(space.dimensions))
        assert space.recall({path: value for path, value in point.items() if path != first}) is None


def test_a_trial_that_lost_a_replicate_ranks_behind_whole_ones() -> None:
    space = opened({G: {"loguniform": [1e-6, 1.0]}})
    proposer = Proposer(space, "optuna", 0, 64, SCORE, 1)
    told: list[Trial] = []
    while points := proposer.propose(told):  # every good region loses a replicate
        for point in points:
            trial = Trial(len(told), point, {1: (point[G],)})
            trial.lost = {1: Outcome(None, status="diverged", error="x")} if point[G] < 1e-3 else {}
            told.append(trial)
    late = [trial.point[G] for trial in told[32:]]
    assert sum(value > 1e-3 for value in late) > len(late) / 2

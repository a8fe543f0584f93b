"""Search spaces: what they hold, what they refuse and where, and that they repeat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.space import Draw, Space, canonical, read_space
from trainers import config
from trainers.plugins import Fault

POINTS = {"shape": {"kind": "points", "size": [2], "num_classes": 8, "bounded": False, "other": None}}
LR, AE = "optimizers.generator.lr", "optimizers.autoencoder.lr"


def read(space: Mapping[str, Any], trial: Mapping[str, Any] | None = None) -> tuple[Space | None, list[Fault]]:
    return read_space(
        space,
        trial or {},
        lambda user, path, value: config.assign(user, path, value, POINTS),
        lambda user: config.check(user, POINTS),
        lambda variant, role: config.plays(variant, role, POINTS),
    )


def opened(space: Mapping[str, Any], trial: Mapping[str, Any] | None = None) -> Space:
    found, faults = read(space, trial)
    assert found is not None, faults
    return found


def faults(space: Mapping[str, Any], trial: Mapping[str, Any] | None = None) -> dict[tuple[str | int, ...], str]:
    """Every mistake: path -> id."""
    found, wrong = read(space, trial)
    if found is not None:
        wrong = list(found.examine().faults)
    return {fault.path: fault.id for fault in wrong}


def test_key_order_and_other_dimensions_change_no_draw() -> None:
    small = opened({LR: {"loguniform": [1e-4, 1e-2]}, "batch_size": {"int": [2, 512]}})
    large = opened({"batch_size": {"int": [2, 512]}, "hacks": {"subsets": ["ema"]}, LR: {"loguniform": [1e-4, 1e-2]}})
    for i in range(20):
        a, b = small.draw(7, i), large.draw(7, i)
        assert a is not None
        assert b is not None
        assert a == {key: b[key] for key in a}
    assert small.draw(8, 0) != small.draw(7, 0)


def test_each_distribution_has_its_shape() -> None:
    space = opened(
        {
            LR: {"loguniform": [1e-4, 1e-2]},
            "optimizers.generator.eps": {"uniform": [1.0, 3.0]},
            "optimizers.generator.weight_decay": {"normal": [5.0, 1.0]},
            "batch_size": {"quniform": [16, 64, 16]},
            "optimizers.generator.warmup_steps": {"int": [3, 5]},
        }
    )
    drawn = [space.point(Draw(0, (i,))) for i in range(2000)]
    logs = [math.log10(point[LR]) for point in drawn]
    assert min(logs) >= -4
    assert max(logs) <= -2
    assert abs(sum(logs) / len(logs) + 3) < 0.05
    eps = [point["optimizers.generator.eps"] for point in drawn]
    assert abs(sum(eps) / len(eps) - 2) < 0.05
    decay = [point["optimizers.generator.weight_decay"] for point in drawn]
    assert abs(sum(decay) / len(decay) - 5) < 0.1
    assert abs(sum((d - 5) ** 2 for d in decay) / len(decay) - 1) < 0.15
    assert Counter(point["batch_size"] for point in drawn).keys() == {16, 32, 48, 64}
    assert all(isinstance(point["batch_size"], int) for point in drawn)
    assert Counter(point["optimizers.generator.warmup_steps"] for point in drawn).keys() == {3, 4, 5}


def test_steps_of_a_quantised_range_are_round() -> None:
    space = opened({"optimizers.generator.eps": {"quniform": [0.1, 0.5, 0.1]}})
    values = [point["optimizers.generator.eps"] for point in space.grid()]
    assert values == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_every_subset_is_reached_and_its_order_is_kept() -> None:
    space = opened({"hacks": {"subsets": ["ema", {"label_smoothing": {}}]}}, {"variant": "gan"})
    assert [point["hacks"] for point in space.grid()] == [
        [],
        ["ema"],
        [{"label_smoothing": {}}],
        ["ema", {"label_smoothing": {}}],
    ]
    limited = opened({"hacks": {"subsets": {"of": ["ema", "label_smoothing"], "min": 1, "max": 1}}}, {"variant": "gan"})
    assert [point["hacks"] for point in limited.grid()] == [["ema"], ["label_smoothing"]]
    assert {len(limited.point(Draw(0, (i,)))["hacks"]) for i in range(50)} == {1}


def test_subsets_stand_beside_the_trial_s_own_hacks() -> None:
    space = opened(
        {
            "hacks": {"subsets": ["label_smoothing"]},
            "hacks.ema.half_life": {"loguniform": [10, 100]},
            "optimizers.generator.lr": {"conditional": {"on": "hacks", "cases": {"ema": {"choice": [1e-3]}}}},
        },
        {"variant": "gan", "hacks": ["ema"]},
    )
    assert not space.examine().faults
    point = space.point(Draw(0, (1,)))
    user = space.apply({**point, "hacks": ["label_smoothing"]})
    assert set(user["hacks"]) == {"ema", "label_smoothing"}
    assert user["hacks"]["ema"]["half_life"] == point["hacks.ema.half_life"]
    assert user["optimizers"]["generator"]["lr"] == 1e-3


def test_incompatible_combinations_are_pruned_counted_and_never_drawn() -> None:
    space = opened({"variant": {"choice": ["gan", "wgan_gp"]}, "hacks": {"subsets": ["label_smoothing", "ema"]}})
    examined = space.examine()
    assert not examined.faults
    assert examined.notes == ("space: 6 combinations; 2 of 8 pruned as incompatible",)
    drawn = [space.draw(0, i) for i in range(60)]
    assert {("wgan_gp", True)}.isdisjoint({(p["variant"], "label_smoothing" in p["hacks"]) for p in drawn if p})


def test_a_small_space_is_drawn_whole_and_then_no_more() -> None:
    space = opened({"variant": {"choice": ["gan", "wgan_gp"]}, "batch_size": {"choice": [32, 64]}})
    taken: list[dict[str, Any]] = []
    while point := space.draw(3, len(taken), {canonical(one) for one in taken}):
        taken.append(point)
    assert len({canonical(point) for point in taken}) == len(taken) == 4


def test_a_parameter_of_what_is_not_chosen_is_left_out() -> None:
    space = opened(
        {
            "variant": {"choice": ["gan", "wgan_gp"]},
            "variant.wgan_gp.gp_weight": {"uniform": [1, 20]},
            "hacks": {"subsets": [{"r1": {"gamma": 1.0}}]},
            "hacks.r1.gamma": {"loguniform": [0.1, 10]},
        }
    )
    assert not space.examine().faults
    for i in range(40):
        point = space.point(Draw(1, (i,)))
        assert ("variant.wgan_gp.gp_weight" in point) == (point["variant"] == "wgan_gp")
        assert ("hacks.r1.gamma" in point) == bool(point["hacks"])
        user = space.apply(point)
        if point["hacks"]:
            assert user["hacks"] == {"r1": {"gamma": point["hacks.r1.gamma"]}}


def test_a_conditional_follows_another_choice() -> None:
    cases = {"gan": {"choice": [1e-4]}, "wgan_gp": {"uniform": [1e-3, 2e-3]}}
    space = opened({"variant": {"choice": ["gan", "wgan_gp"]}, LR: {"conditional": {"on": "variant", "cases": cases}}})
    assert not space.examine().faults
    for i in range(30):
        point = space.point(Draw(0, (i,)))
        assert (point[LR] == 1e-4) if point["variant"] == "gan" else (1e-3 <= point[LR] <= 2e-3)
    fixed = opened({LR: {"conditional": {"on": "variant", "cases": cases}}}, {"variant": "gan"})
    assert fixed.point(Draw(0, (0,))) == {LR: 1e-4}


@pytest.mark.parametrize(
    ("space", "trial", "path", "error_id"),
    [
        ({}, {}, ("space",), "wrong-type"),
        ({LR: 3}, {}, ("space", LR), "wrong-type"),
        ({LR: {"loguniforn": [1, 2]}}, {}, ("space", LR, "loguniforn"), "unknown-distribution"),
        ({LR: {"loguniform": [0, 2]}}, {}, ("space", LR, "loguniform", 0), "out-of-range"),
        ({LR: {"uniform": [2, 1]}}, {}, ("space", LR, "uniform"), "out-of-range"),
        ({LR: {"uniform": [1, True]}}, {}, ("space", LR, "uniform", 1), "wrong-type"),
        ({LR: {"uniform": [-1.0, 1.0]}}, {}, ("space", LR, "uniform", 0), "out-of-range"),
        ({"batch_size": {"int": [1.5, 8]}}, {}, ("space", "batch_size", "int", 0), "wrong-type"),
        ({"batch_size": {"int": [1, 8]}}, {}, ("space", "batch_size", "int", 0), "out-of-range"),
        ({"batch_size": {"choice": []}}, {}, ("space", "batch_size", "choice"), "wrong-type"),
        ({"batch_size": {"choice": [32, 32]}}, {}, ("space", "batch_size", "choice", 1), "duplicate"),
        ({"variant": {"choice": ["gan", "wgan_pg"]}}, {}, ("space", "variant", "choice", 1), "unknown-variant"),
        ({"hacks": {"subsets": ["ema", "emma"]}}, {}, ("space", "hacks", "subsets", 1), "unknown-hack"),
        (
            {"hacks": {"subsets": {"of": ["emma"], "min": 1}}},
            {},
            ("space", "hacks", "subsets", "of", 0),
            "unknown-hack",
        ),
        ({"variant": {"subsets": ["gan"]}}, {}, ("space", "variant"), "wrong-type"),
        ({"hacks.ema.nope": {"uniform": [0, 1]}}, {"hacks": ["ema"]}, ("space", "hacks.ema.nope"), "unknown-key"),
        ({"hacks.r1.gamma": {"uniform": [0, 1]}}, {"hacks": ["ema"]}, ("space", "hacks.r1.gamma"), "no-effect"),
        ({LR: {"uniform": [1, 2]}}, {"batchsize": 3}, ("trial", "batchsize"), "unknown-key"),
        (
            {LR: {"conditional": {"on": "nope", "cases": {"a": {"choice": [1]}}}}},
            {},
            ("space", LR, "conditional", "on"),
            "unknown-path",
        ),
        (
            {
                "variant": {"choice": ["gan"]},
                LR: {"conditional": {"on": "variant", "cases": {"dcgan": {"choice": [1]}}}},
            },
            {},
            ("space", LR),
            "no-effect",
        ),
    ],
)
def test_mistakes_are_placed(
    space: dict[str, Any], trial: dict[str, Any], path: tuple[str | int, ...], error_id: str
) -> None:
    assert faults(space, trial).get(path) == error_id


def test_a_value_that_fits_nowhere_is_an_error_not_pruned() -> None:
    assert faults({"variant": {"choice": ["gan", "wgan_gp"]}}, {"backbone": "mlp"}) == {}
    fixed = faults({"variant": {"choice": ["gan", "wgan_gp"]}}, {"hacks": ["label_smoothing"]})
    assert fixed == {("space", "variant", "choice", 1): "incompatible"}
    images_only = faults({"variant": {"choice": ["gan", "lapgan"]}})
    assert list(images_only) == [("space", "variant", "choice", 1)]


def test_a_grid_needs_an_end() -> None:
    with pytest.raises(ValueError, match=r"optimizers\.generator\.lr"):
        opened({LR: {"uniform": [1e-4, 1e-3]}}).grid()


def test_a_large_space_is_examined_by_drawing() -> None:
    space = opened(
        {
            f"optimizers.{role}.{key}": {"choice": [1e-4, 2e-4, 3e-4, 4e-4]}
            for role in ("generator", "critic")
            for key in ("lr", "eps", "weight_decay")
        }
    )
    examined = space.examine()
    assert not examined.faults
    assert "more than 256 combinations" in examined.notes[0]


def test_draws_of_neighbouring_trials_are_unlike() -> None:
    reals = [Draw(0, (i, 0)).real("x", 0.0, 1.0) for i in range(200)]
    correlation = sum((a - 0.5) * (b - 0.5) for a, b in pairwise(reals)) / 199 * 12
    assert abs(correlation) < 0.25


GP = "variant.wgan_gp.gp_weight"


@pytest.mark.parametrize(
    ("on", "trial", "more"),
    [
        ("variant.wgan_gp.n_critic", {}, {"variant": {"choice": ["gan", {"wgan_gp": {"n_critic": 2}}]}}),
        ("variant.wgan_gp.n_critic", {"variant": {"wgan_gp": {"n_critic": 2}}}, {}),
        (
            "variant.wgan_gp.n_critic",
            {},
            {"variant": {"choice": ["gan", "wgan_gp"]}, "variant.wgan_gp.n_critic": {"choice": [2, 4]}},
        ),
    ],
)
def test_a_conditional_follows_a_part_of_what_is_chosen(on: str, trial: Any, more: Any) -> None:
    space = opened({LR: {"conditional": {"on": on, "cases": {"2": {"choice": [1e-4]}}}}, **more}, trial)
    assert not space.examine().faults
    seen = set()
    for i in range(40):
        point = space.point(Draw(0, (i,)))
        chosen = space.apply(point)["variant"]
        two = isinstance(chosen, dict) and chosen.get("wgan_gp", {}).get("n_critic") == 2
        assert (LR in point) == two
        seen.add(two)
    assert True in seen


def test_a_condition_on_a_hack_s_parameter_looks_into_the_list() -> None:
    on = {"conditional": {"on": "hacks.r1.gamma", "cases": {"1.0": {"choice": [1e-4]}}}}
    space = opened({"hacks": {"subsets": [{"r1": {"gamma": 1.0}}, "ema"]}, LR: on}, {"variant": "gan"})
    for i in range(30):
        point = space.point(Draw(0, (i,)))
        assert (LR in point) == ({"r1": {"gamma": 1.0}} in point["hacks"])


def test_dimensions_that_depend_on_each_other_s_parts_are_a_circle() -> None:
    cases = {"cases": {"x": {"choice": [1]}}}
    circle = {
        "batch_size": {"conditional": {"on": "latent_dim.of", **cases}},
        "latent_dim": {"conditional": {"on": "batch_size", **cases}},
    }
    assert faults(circle) == {("space",): "cycle"}


def test_what_a_parameter_refuses_of_a_normal_distribution_is_cut_off_and_told() -> None:
    path = "optimizers.generator.weight_decay"
    space = opened({path: {"normal": [0.001, 0.001]}})
    found = space.examine()
    assert not found.faults
    told = "16% of the normal distribution of `optimizers.generator.weight_decay`"
    assert f"space: {told} is outside of what the parameter accepts, and is cut off" in found.notes
    drawn = [point[path] for i in range(300) if (point := space.draw(0, i))]
    assert len(drawn) == 300
    assert min(drawn) >= 0
    assert sum(value > 0.001 for value in drawn) / 300 == pytest.approx(
        0.5 / 0.8413, abs=0.08
    )  # the rest keeps its shape
    assert len(opened({path: {"normal": [1.0, 0.1]}}).examine().notes) == 1


def test_a_normal_distribution_that_is_nearly_all_refused_is_an_error() -> None:
    both = "optimizers.generator.betas"
    path = "hacks.instance_noise.sigma"
    assert faults({path: {"normal": [-1.0, 0.2]}}, {"variant": "gan", "hacks": ["instance_noise"]}) == {
        ("space", path, "normal", 0): "out-of-range"
    }
    assert both not in path
    momentum = "optimizers.generator.momentum"
    sgd = {"optimizers": {"generator": {"name": "sgd"}}}
    assert faults({momentum: {"normal": [0.5, 20.0]}}, sgd) == {("space", momentum, "normal"): "out-of-range"}


def test_the_cases_of_a_conditional_are_drawn_apart() -> None:
    cases = {"gan": {"uniform": [1e-4, 1e-3]}, "wgan_gp": {"uniform": [1e-4, 1e-3]}}
    asked: list[str] = []

    class Listening(Draw):
        def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            asked.append(name)
            return super().real(name, low, high, log=log)

    space = opened({"variant": {"choice": ["gan", "wgan_gp"]}, LR: {"conditional": {"on": "variant", "cases": cases}}})
    for i in range(20):
        space.point(Listening(0, (i,)))
    assert set(asked) == {f"{LR}?gan", f"{LR}?wgan_gp"}


def test_what_may_change_while_training() -> None:
    space = opened(
        {
            LR: {"loguniform": [1e-4, 1e-2]},
            "optimizers.critic.lr": {"conditional": {"on": "variant", "cases": {"gan": {"choice": [1e-3, 2e-3]}}}},
            "optimizers.generator.warmup_steps": {"int": [0, 9]},
            "optimizers.generator.schedule": {"choice": ["constant", "linear"]},
            "variant": {"choice": ["gan", "wgan_gp"]},
            GP: {"uniform": [1, 20]},
            "variant.wgan_gp.n_critic": {"int": [1, 5]},
            "hacks.instance_noise.sigma": {"quniform": [0.1, 0.3, 0.1]},
            "batch_size": {"quniform": [16, 64, 16]},
            "backbone.mlp.width": {"int": [16, 64]},
        },
        {"hacks": ["instance_noise"]},
    )
    assert set(space.tunable()) == {
        LR,
        "optimizers.critic.lr",
        "optimizers.generator.warmup_steps",
        GP,
        "hacks.instance_noise.sigma",
    }


@pytest.mark.parametrize(
    ("domain", "value", "down", "up"),
    [
        ({"uniform": [1.0, 10.0]}, 5.0, 4.0, 6.0),
        ({"uniform": [4.5, 5.5]}, 5.0, 4.5, 5.5),
        ({"int": [1, 100]}, 50, 40, 60),
        ({"int": [1, 100]}, 2, 1, 3),
        ({"int": [1, 3]}, 1, 1, 2),
        ({"quniform": [0, 100, 10]}, 50, 40, 60),
        ({"quniform": [0, 100, 10]}, 10, 0, 20),
        ({"choice": [1, 5, 7]}, 5, 1, 7),
        ({"choice": [1, 5, 7]}, 7, 5, 7),
        ({"normal": [0.0, 1.0]}, -1.0, -0.8, -1.2),
    ],
)
def test_a_number_moves_within_its_range(domain: Any, value: float, down: float, up: float) -> None:
    found = opened({"batch_size": domain}).domain("batch_size", {})
    assert found is not None
    assert found.moved(value, 0.8) == pytest.approx(down)
    assert found.moved(value, 1.2) == pytest.approx(up)
    assert type(found.moved(value, 1.2)) is type(value)


LARGE: dict[str, Any] = {  # more combinations than are checked one by one
    "variant": {"choice": ["gan", "lsgan", "wgan", "wgan_gp", "hinge", "r3gan"]},
    "hacks": {"subsets": ["ema", "label_smoothing", "instance_noise", "r1", "feature_matching", "spectral_norm"]},
}
SIGMA = "hacks.instance_noise.sigma"


@pytest.mark.parametrize(
    ("more", "path", "error_id", "word"),
    [
        ({LR: {"uniform": [0, 1e-3]}}, ("space", LR, "uniform", 0), "out-of-range", "greater than 0"),
        ({SIGMA: {"uniform": [-1e-9, 1]}}, ("space", SIGMA, "uniform", 0), "out-of-range", "at least 0"),
        ({"batch_size": {"int": [1, 64]}}, ("space", "batch_size", "int", 0), "out-of-range", "at least 2"),
        ({LR: {"normal": [-1, 0.1]}}, ("space", LR, "normal", 0), "out-of-range", "greater than 0"),
        ({"hacks.r1.gama": {"uniform": [0, 1]}}, ("space", "hacks.r1.gama"), "unknown-key", "'gamma'"),
        ({"hacks.r11.gamma": {"uniform": [0, 1]}}, ("space", "hacks.r11.gamma"), "no-effect", "'r1'"),
        (
            {"variant": {"choice": [*LARGE["variant"]["choice"], "lsgann"]}},
            ("space", "variant", "choice", 6),
            "unknown-variant",
            "'lsgan'",
        ),
        (
            {"hacks": {"subsets": [*LARGE["hacks"]["subsets"], {"r1_": {}}]}},
            ("space", "hacks", "subsets", 6),
            "unknown-hack",
            "'r1'",
        ),
        (
            {LR: {"conditional": {"on": "variant", "cases": {"gan": {"choice": [1]}, "wgangp": {"choice": [1]}}}}},
            ("space", LR, "conditional", "cases", "wgangp"),
            "no-effect",
            "'wgan_gp'",
        ),
        (
            {LR: {"conditional": {"on": "variant", "cases": {"wgan_gp": {"uniform": [0, 1]}}}}},
            ("space", LR, "conditional", "cases", "wgan_gp", "uniform", 0),
            "out-of-range",
            "greater than 0",
        ),
    ],
)
def test_mistakes_in_a_large_space_are_found(
    more: dict[str, Any], path: tuple[str | int, ...], error_id: str, word: str
) -> None:
    assert faults(LARGE) == {}
    (fault,) = opened({**LARGE, **more}).examine().faults
    assert (fault.path, fault.id) == (path, error_id)
    assert word in f"{fault.what} {fault.hint}"


def test_what_a_large_space_never_holds_is_told() -> None:
    notes = opened({**LARGE, "hacks": {"subsets": ["diffaugment", *LARGE["hacks"]["subsets"]]}}).examine().notes
    assert notes[1] == "space: no valid combination was drawn in which `hacks` has diffaugment"


@pytest.mark.parametrize(
    ("path", "error_id", "word"),
    [
        ("optimizers.generater.lr", "unknown-role", "'generator'"),
        ("varaint", "unknown-key", "'variant'"),
        ("hacks.instance_nose.sigma", "no-effect", "'instance_noise'"),
        ("batch_size.low", "wrong-type", "integer"),
        ("optimizers.autoencoder.lr", "no-effect", "role autoencoder"),
    ],
)
@pytest.mark.parametrize("values", [{"uniform": [0.1, 0.2]}, {"choice": [0.1, 0.2]}])
def test_a_path_that_leads_nowhere_is_told_once(path: str, error_id: str, word: str, values: Any) -> None:
    (fault,) = opened({path: values}, {"hacks": ["instance_noise"]}).examine().faults
    assert (fault.path, fault.id) == (("space", path), error_id)
    assert word in f"{fault.what} {fault.why} {fault.hint}"


def test_a_case_that_never_holds_is_told_with_what_was_meant() -> None:
    space = {
        "variant": {"choice": ["gan", "wgan_gp"]},
        LR: {"conditional": {"on": "variant", "cases": {"wgangp": {"choice": [0.1]}}}},
    }
    (fault,) = opened(space).examine().faults
    assert (fault.path, fault.id, fault.why) == (("space", LR), "no-effect", "`variant` is never 'wgangp'")
    assert fault.hint == "did you mean 'wgan_gp'?"


def test_a_role_that_a_variant_does_not_have_is_left_out_of_its_points() -> None:
    space = opened({"variant": {"choice": ["gan", "vae"]}, LR: {"choice": [0.1]}, AE: {"choice": [0.2]}})
    assert not space.examine().faults
    assert list(space.grid()) == [{"variant": "gan", LR: 0.1}, {"variant": "vae", AE: 0.2}]
    assert {point["variant"] for i in range(20) if (point := space.draw(0, i))} == {"gan", "vae"}


def test_a_conditional_on_a_range_of_integers_is_checked_for_each_of_them() -> None:
    cases = {"16": {"uniform": [0.1, 0.2]}, "17": {"uniform": [0, 0.2]}}
    space = {"batch_size": {"int": [16, 18]}, LR: {"conditional": {"on": "batch_size", "cases": cases}}}
    assert faults(space) == {("space", LR, "conditional", "cases", "17", "uniform", 0): "out-of-range"}


def test_a_place_in_a_list_is_a_dimension() -> None:
    path = "optimizers.generator.betas.0"
    space = opened({path: {"uniform": [0, 0.9]}, "variant": {"choice": ["gan", "wgan_gp"]}})
    assert not space.examine().faults
    user = space.apply({"variant": "wgan_gp", path: 0.25})
    assert user["optimizers"]["generator"]["betas"] == [0.25, 0.9], "the other one is the variant's own"
    assert faults({path: {"uniform": [0, 1]}}) == {("space", path, "uniform", 1): "out-of-range"}
    assert list(faults({"optimizers.generator.betas.2": {"uniform": [0, 0.5]}}).values()) == ["wrong-type"]


@pytest.mark.parametrize(
    ("space", "trial", "stated"),
    [
        ({"backbone.mlp.width": 0}, {}, {"backbone": "mlp"}),
        ({"backbone.mlp.width": 0, "variant": {"choice": ["gan", "wgan_gp"]}}, {}, {"backbone": "mlp"}),
        ({"variant.gan.latent_dim": 0}, {}, {"variant": "gan"}),
        ({"hacks.ema.half_life": 0}, {}, {"hacks": ["ema"]}),
        ({"hacks": {"subsets": ["r1"]}}, {}, {"hacks": ["ema"]}),
        ({"hacks.ema.half_life": 0}, {"hacks": []}, {}),
        ({LR: 0}, {}, {}),
    ],
)
def test_what_the_trial_leaves_out_is_in_force_where_a_path_leads_into_it(
    space: dict[str, Any], trial: dict[str, Any], stated: dict[str, Any]
) -> None:
    assert config.stated(trial, space, POINTS) == {**trial, **stated}


def test_one_side_of_a_backbone_for_both_can_be_searched() -> None:
    user = config.assign({"backbone": "mlp"}, "backbone.generator.mlp.width", 8)
    assert user["backbone"] == {"generator": {"mlp": {"width": 8}}, "critic": "mlp"}

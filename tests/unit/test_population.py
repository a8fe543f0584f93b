"""Populations: every member gets what it would have got alone.

Variants and hacks are those that are registered and say that they vectorize: a new one is tested here with no other change.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.test_loop import Folder
from trainers import config, grouping, loop, plugins
from trainers.cohort import Cohort
from trainers.core import DataShape
from trainers.data import Prepared
from trainers.dataset import Arrays
from trainers.generator import Generator
from trainers.population import Population
from trainers.stacked import Unstackable
from trainers.step import Game
from trainers.stream import Stream

STEPS, BATCH = 100, 12
SMALL = {"width": 8, "critic_width": 8, "latent_dim": 3, "n_critic": 2, "kernels": 4, "dims": 2}


def vectorizing(kind: str) -> list[str]:
    return [name for name in plugins.names(kind) if plugins.describe(kind, name).attributes["vectorizes"]]


def points(n: int = 50) -> Prepared:
    """Labelled points; an epoch is no multiple of the batch."""
    rng = np.random.default_rng(0)
    data = Prepared.of({"train": Arrays(rng.normal(size=(n, 2)).astype(np.float32), np.arange(n) % 3)})
    data.shape = replace(data.shape, num_classes=3)
    return data


def images(n: int = 30, side: int = 4) -> Prepared:
    x = np.random.default_rng(0).integers(0, 256, (n, side, side, 1), dtype=np.uint8)
    data = Prepared.of({"train": Arrays(x, np.arange(n) % 3)}, flip=True, crop=1)
    data.shape = replace(data.shape, num_classes=3)
    return data


def domains(n: int = 30) -> Prepared:
    """Two domains of points, of which an epoch ends at different places."""
    rng = np.random.default_rng(0)
    first, second = (Arrays(rng.normal(size=(count, 2)).astype(np.float32)) for count in (n, n - 7))
    return Prepared.of({"train": first}, other={"train": second})


def suited(variant: str) -> Prepared:
    """Data that a variant can be trained on; images of 16x16 where it needs them, so that a pyramid has two levels."""
    return next(data for data in (points(), domains(), images(side=16)) if takes("", variant, data))


def spread(kind: str, name: str, member: int) -> dict[str, Any]:
    """Small parameters, and another value for each member of everything that may vary."""
    described = plugins.describe(kind, name)
    found: dict[str, Any] = {}
    for param in described.params:
        if param.name in SMALL and not param.form.check(SMALL[param.name], ()):
            found[param.name] = SMALL[param.name]
        if param.name in described.attributes.get("varies", ()):
            candidates = [param.default * factor for factor in (1.0, 0.8, 0.6) if param.default]
            found[param.name] = (candidates or [0.0, 0.1, 0.2])[member]
    return found


def resolved(
    variant: str, member: int, shape: DataShape, hacks: Sequence[str] = (), /, **more: Any
) -> config.TrainConfig:
    roles = plugins.describe("variants", variant).attributes["offers"] & set(config.ROLES)
    user: dict[str, Any] = {
        "variant": {variant: spread("variants", variant, member)},
        "backbone": {"mlp": {"width": 8, "depth": 2}},
        "hacks": {hack: spread("hacks", hack, member) for hack in hacks},
        "optimizers": {role: {"lr": 1e-3 * (member + 1), "betas": [0.3 * member, 0.9]} for role in roles},
        "batch_size": BATCH,
        "total_steps": STEPS,
        "precision": "float64",
    }
    return config.resolve(user | more, facts={"shape": shape.to_json()})


def alone(cfg: config.TrainConfig, data: Prepared, seed: int, steps: int = STEPS) -> tuple[Game, dict[str, float]]:
    game = Game(cfg, data.shape, seed)
    stream = Stream(game, data)
    told = [game.step(step, stream) for step in range(steps)][-1]
    return game, {name: float(value) for name, value in told.items()}


def check_equal(game: Game, other: Game) -> None:
    """Every weight, averaged copy, buffer and optimizer state."""
    for (name, a), b in zip(game.nets.state_dict().items(), other.nets.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)
    for name, optimizer in game.optimizers.items():
        for p, q in zip(
            optimizer.param_groups[0]["params"], other.optimizers[name].param_groups[0]["params"], strict=True
        ):
            mine, theirs = optimizer.state[p], other.optimizers[name].state[q]
            held = {key: value for key, value in theirs.items() if isinstance(value, torch.Tensor)}
            assert mine.keys() >= held.keys()
            for key, value in held.items():
                torch.testing.assert_close(mine[key], value, rtol=1e-9, atol=1e-9, msg=f"{name}/{key}")


def check_members(configs: Sequence[config.TrainConfig], data: Prepared, steps: int = STEPS) -> None:
    assert grouping.groups(configs).together == (tuple(range(len(configs))),)
    seeds = [3, 7, 7, 11][: len(configs)]
    games = [Game(cfg, data.shape, seed) for cfg, seed in zip(configs, seeds, strict=True)]
    started = [game.nets.state_dict()[next(iter(game.nets.state_dict()))].clone() for game in games]
    population = Population(games)
    streams = Stream(population, data)
    told = [population.step(step, streams) for step in range(steps)][-1]
    for i, (cfg, seed) in enumerate(zip(configs, seeds, strict=True)):
        game, losses = alone(cfg, data, seed, steps)
        check_equal(games[i], game)
        assert {name: pytest.approx(float(value[i]), rel=1e-9, abs=1e-9) for name, value in told.items()} == losses
        assert not next(iter(games[i].nets.state_dict().values())).equal(started[i])


def takes(hack: str, variant: str, data: Prepared) -> bool:
    user = {"variant": variant, "backbone": "mlp", "hacks": [hack] if hack else []}
    return not config.check(user, {"shape": data.shape.to_json()})


# --- equal to training alone ------------------------------------------------------------------------------------------


def test_the_variants_and_hacks_that_were_promised_are_there() -> None:
    promised = {"gan", "lsgan", "wgan", "wgan_gp", "hinge", "r3gan", "cgan", "infogan", "vae", "aae"}
    assert promised <= set(vectorizing("variants"))
    assert {"ema", "feature_matching", "instance_noise", "label_smoothing", "r1"} <= set(vectorizing("hacks"))


@pytest.mark.parametrize("variant", vectorizing("variants"))
def test_a_member_of_each_variant_equals_itself_alone(variant: str) -> None:
    data = suited(variant)
    hacks = [hack for hack in ("ema",) if takes(hack, variant, data)]
    check_members([resolved(variant, i, data.shape, hacks) for i in range(2)], data)


@pytest.mark.parametrize("hack", vectorizing("hacks"))
def test_a_member_with_each_hack_equals_itself_alone(hack: str) -> None:
    data = next(data for data in (points(), images()) if takes(hack, "gan", data) or takes(hack, "infogan", data))
    variant = next(variant for variant in ("gan", *vectorizing("variants")) if takes(hack, variant, data))
    check_members([resolved(variant, i, data.shape, [hack]) for i in range(3)], data, steps=40)


@pytest.mark.parametrize("hack", vectorizing("hacks"))
def test_hacks_on_images_and_for_members_with_equal_strengths(hack: str) -> None:
    data = images()
    variant = next(variant for variant in ("gan", *vectorizing("variants")) if takes(hack, variant, data))
    check_members([resolved(variant, 1, data.shape, [hack]) for _ in range(2)], data, steps=20)


@pytest.mark.parametrize("pair", list(combinations(vectorizing("hacks"), 2)), ids="-".join)
def test_pairs_of_hacks(pair: tuple[str, str]) -> None:
    """Members of which each has other strengths of both."""
    cases = ((variant, data) for data in (points(), images()) for variant in vectorizing("variants"))
    variant, data = next(one for one in cases if all(takes(hack, *one) for hack in pair))
    check_members([resolved(variant, i, data.shape, pair) for i in range(3)], data, steps=12)


def test_a_gaussian_posterior_is_each_member_s_own() -> None:
    data = points()
    variant = {"aae": {"latent_dim": 3, "critic_width": 8, "posterior": "gaussian"}}
    check_members([resolved("aae", i, data.shape, variant=variant) for i in range(2)], data, steps=20)


OPTIMIZERS = [
    {"name": "adamw", "weight_decay": 0.1},
    {"name": "adam", "weight_decay": 0.01, "schedule": "linear", "final": 0.1},
    {"name": "rmsprop"},
    {"name": "rmsprop", "momentum": 0.5, "weight_decay": 0.01, "schedule": "cosine"},
    {"name": "sgd", "warmup_steps": 10},
    {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda one: "-".join(str(value) for value in one.values()))
def test_every_optimizer_is_torch_s(optimizer: dict[str, Any]) -> None:
    data = points()
    configs = []
    for member in range(3):
        numbers = {k: v * (1 - 0.2 * member) if isinstance(v, float) else v for k, v in optimizer.items()}
        one = {"lr": 1e-2 * (member + 1), "eps": 1e-8 * (member + 1), **numbers}
        configs.append(resolved("gan", member, data.shape, optimizers={"generator": one, "critic": one}))
    check_members(configs, data, steps=40)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("kind", ["points", "image"])
def test_normalisation_is_each_member_s_own(norm: str, kind: str) -> None:
    data = points() if kind == "points" else images()
    normed = {"mlp": {"width": 8, "depth": 2, "norm": norm, "activation": "silu"}}
    for variant, critic in (("gan", "mlp" if norm == "batch" else normed), ("vae", normed)):
        backbone = {"generator": normed, "critic": critic}
        check_members([resolved(variant, i, data.shape, backbone=backbone) for i in range(2)], data, steps=50)


def test_batch_normalisation_in_the_critic_is_trained_alone() -> None:
    """Rounding grows a million times in 100 steps of it; the last bias of a generator of points is moved by nothing else."""
    shape = points().shape
    normed = {"mlp": {"width": 8, "depth": 2, "norm": "batch"}}
    found = grouping.groups([resolved("gan", i, shape, backbone=normed) for i in range(2)])
    assert found.together == ()
    assert "batch normalisation in the critic" in found.alone[0]
    for side, word in (("generator", "in the decoder"), ("critic", "")):  # its critic sees latents
        backbone = {"generator": "mlp", "critic": "mlp", side: normed}
        found = grouping.groups([resolved("aae", i, shape, backbone=backbone) for i in range(2)])
        assert bool(found.together) != bool(word)
        assert word in found.alone.get(0, "")


# --- members come and go ----------------------------------------------------------------------------------------------


def test_members_that_leave_change_nothing_for_the_others_and_go_on_alone() -> None:
    data = points()
    configs = [resolved("wgan", i, data.shape, ["ema"]) for i in range(3)]
    games = [Game(cfg, data.shape, seed) for seed, cfg in enumerate(configs)]
    population = Population(games)
    streams = Stream(population, data)
    for step in range(10):
        population.step(step, streams)
    population.keep([2, 0])
    for step in range(10, 20):
        population.step(step, streams)
    stream = Stream(games[1], data)
    for step in range(10, 20):
        games[1].step(step, stream)
    population.keep([])
    for seed, (game, cfg) in enumerate(zip(games, configs, strict=True)):
        check_equal(game, alone(cfg, data, seed, 20)[0])


def test_samples_of_a_member_are_its_own() -> None:
    data = points()
    configs = [resolved("gan", i, data.shape, ["ema"]) for i in range(2)]
    games = [Game(cfg, data.shape, seed) for seed, cfg in enumerate(configs)]
    population = Population(games)
    streams = Stream(population, data)
    for step in range(10):
        population.step(step, streams)
    expected = Generator.of(alone(configs[1], data, 1, 10)[0]).sample(5, seed=2)
    torch.testing.assert_close(Generator.of(games[1]).sample(5, seed=2), expected)


def test_what_cannot_be_stacked_is_refused() -> None:
    data = points()
    plain = resolved("gan", 0, data.shape)
    for other, what in (
        (resolved("gan", 0, data.shape, backbone={"mlp": {"width": 9}}), "one shape"),
        (resolved("lsgan", 0, data.shape), "gan is not lsgan"),
        (resolved("gan", 0, data.shape, ["ema"]), "one shape"),
        (resolved("gan", 0, data.shape, ["r1"]), "differ in their hacks"),
        (resolved("gan", 0, data.shape, total_steps=7), "settings"),
    ):
        with pytest.raises(Unstackable, match=what):
            Population([Game(plain, data.shape, 0), Game(other, data.shape, 1)])
    with pytest.raises(Unstackable, match="Linear"):
        Population([Game(resolved("gan", 0, data.shape, ["spectral_norm"]), data.shape, seed) for seed in range(2)])


# --- trainings --------------------------------------------------------------------------------------------------------


def trainings(configs: Sequence[config.TrainConfig], data: Prepared, root: Path, **more: Any) -> list[loop.Training]:
    made = []
    for i, cfg in enumerate(configs):
        (root / str(i)).mkdir(exist_ok=True)
        made.append(loop.open_training(cfg, data, seed=i, checkpoints=Folder(root / str(i)), **more))
    return made


def settings(total_steps: int = 24) -> dict[str, Any]:
    return {"total_steps": total_steps, "log_every": 4, "checkpoint_every": 6, "sample_every": 12}


def test_a_cohort_makes_the_models_that_trainings_alone_make(tmp_path: Path) -> None:
    data = points()
    configs = [resolved("gan", i, data.shape, ["ema"], **settings()) for i in range(3)]
    reports: list[dict[str, Any]] = []
    members = trainings(configs, data, tmp_path, report=reports.append)
    assert Cohort(members).run() == members
    for seed, (training, cfg) in enumerate(zip(members, configs, strict=True)):
        (tmp_path / f"alone{seed}").mkdir()
        single = loop.open_training(cfg, data, seed=seed, checkpoints=Folder(tmp_path / f"alone{seed}"))
        fitted = single.fit()
        check_equal(training.game, single.game)
        assert training.finish().files.keys() == fitted.files.keys()
        assert training.finish().metrics == pytest.approx(fitted.metrics, rel=1e-9, abs=1e-9)
        for step in (6, 12, 18, 24):
            mine, theirs = (tmp_path / name / f"{step:06d}" for name in (str(seed), f"alone{seed}"))
            assert sorted(p.name for p in mine.iterdir()) == sorted(p.name for p in theirs.iterdir())
    assert [report["step"] for report in reports] == [step for step in range(4, 25, 4) for _ in range(3)]


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_checkpoints_are_those_of_trainings_alone_and_back(tmp_path: Path, optimizer: str) -> None:
    """Together to step 6, alone to 12, together to the end: as if never stopped."""
    data = points()
    one = {"name": optimizer, "lr": 1e-3, "momentum": 0.5}
    more = {"optimizers": {"generator": one, "critic": one}, **settings()}
    configs = [resolved("gan", i, data.shape, ["ema"], **more) for i in range(2)]
    assert [t.step for t in Cohort(trainings(configs, data, tmp_path)).run(until=6)] == [6, 6]
    lines: list[str] = []
    for training in trainings(configs, data, tmp_path, say=lines.append):
        assert training.step == 6
        training.stop = lambda training=training: training.step == 12
        with pytest.raises(loop.Stopped):
            training.run()
    members = trainings(configs, data, tmp_path, say=lines.append)
    assert [training.step for training in members] == [12, 12]
    Cohort(members).run()
    assert lines == []
    for seed, (training, cfg) in enumerate(zip(members, configs, strict=True)):
        check_equal(training.game, alone(cfg, data, seed, 24)[0])
        steps = [json.loads(line)["step"] for line in training.history.encoded().splitlines()]
        assert steps == [4, 8, 12, 16, 20, 24]


def test_a_member_that_diverges_is_told_and_harms_nobody(tmp_path: Path) -> None:
    data = points()
    rates = [1e-3, 1e300, 1e-3]
    configs = [
        resolved("gan", 0, data.shape, optimizers={"generator": {"lr": lr}, "critic": {"lr": lr}}, **settings())
        for lr in rates
    ]
    members = trainings(configs, data, tmp_path)
    gone: list[tuple[loop.Training, Exception]] = []
    stayed = Cohort(members).run(left=lambda training, error: gone.append((training, error)))
    assert [id(training) for training in stayed] == [id(members[0]), id(members[2])]
    ((training, error),) = gone
    assert training is members[1]
    assert isinstance(error, loop.NotFinite)
    assert error.step < 4
    assert error.kept is None
    assert not list((tmp_path / "1").iterdir()), "nothing of it was saved"
    for seed in (0, 2):
        check_equal(members[seed].game, alone(configs[seed], data, seed, 24)[0])


def test_a_state_that_is_not_finite_is_found_though_the_losses_are(tmp_path: Path) -> None:
    data = points()
    configs = [resolved("gan", i, data.shape, ["ema"], **settings()) for i in range(3)]
    members = trainings(configs, data, tmp_path)
    cohort = Cohort(members)
    with torch.no_grad():
        next(members[1].game.nets["generator_ema"].parameters()).fill_(torch.inf)
    assert cohort.population.finite() == [True, False, True]
    gone: list[Exception] = []
    assert len(cohort.run(left=lambda _, error: gone.append(error))) == 2
    assert "generator_ema" in str(gone[0])


def test_a_cohort_of_which_all_diverge_ends(tmp_path: Path) -> None:
    data = points()
    one = {"lr": 1e300}
    configs = [resolved("gan", 0, data.shape, optimizers={"generator": one, "critic": one}, **settings())] * 2
    gone: list[Exception] = []
    assert Cohort(trainings(configs, data, tmp_path)).run(left=lambda _, error: gone.append(error)) == []
    assert [type(error) for error in gone] == [loop.NotFinite] * 2


def test_a_member_that_is_asked_to_stop_is_saved_and_leaves(tmp_path: Path) -> None:
    data = points()
    configs = [resolved("gan", i, data.shape, **settings()) for i in range(2)]
    members = trainings(configs, data, tmp_path)
    members[0].stop = lambda: members[0].step >= 8
    gone: list[Exception] = []
    assert len(Cohort(members).run(left=lambda _, error: gone.append(error))) == 1
    (error,) = gone
    assert isinstance(error, loop.Stopped)
    assert (tmp_path / "0" / f"{error.step:06d}" / "state.json").exists()
    again = trainings(configs[:1], data, tmp_path)[0]
    assert again.step == error.step
    check_equal(again.game, alone(configs[0], data, 0, error.step)[0])


def test_rungs_drop_members(tmp_path: Path) -> None:
    data = points()
    configs = [resolved("gan", i, data.shape, **settings()) for i in range(3)]
    members = trainings(configs, data, tmp_path)
    cohort = Cohort(members)
    cohort.run(until=10)
    cohort.drop([members[1]])
    assert [t.step for t in cohort.run()] == [24, 24]
    assert members[1].step == 10
    for seed, steps in ((0, 24), (1, 10), (2, 24)):
        check_equal(members[seed].game, alone(configs[seed], data, seed, steps)[0])


# --- which go together ------------------------------------------------------------------------------------------------


def test_groups_hold_what_differs_in_numbers_only_and_say_why_others_do_not() -> None:
    shape = points().shape
    configs = [
        resolved("gan", 0, shape, ["ema", "r1"]),
        resolved("gan", 0, shape, ["spectral_norm"]),
        resolved("gan", 2, shape, ["ema", "r1"], init="models:/x@champion"),
        resolved("lsgan", 0, shape),
        resolved("gan", 1, shape, ["ema", "r1"]),
        resolved("gan", 0, shape, precision="bf16"),
        resolved("gan", 0, shape, microbatch=4),
        resolved("gan", 0, shape, ["ema", "r1"], batch_size=13),
    ]
    found = grouping.groups(configs)
    assert found.together == ((0, 2, 4),)
    assert list(found.alone) == [1, 3, 5, 6, 7]
    for i, word in ((1, "hack spectral_norm"), (3, "no other"), (5, "bf16"), (6, "microbatch"), (7, "no other")):
        assert word in found.alone[i]


@pytest.mark.parametrize("kind", ["variants", "hacks", "backbones"])
def test_whatever_cannot_be_trained_together_says_why(kind: str) -> None:
    for name in plugins.names(kind):
        attributes = plugins.describe(kind, name).attributes
        assert bool(attributes["vectorizes"]) != bool(attributes["alone"]), name
    told = grouping.obstacle(config.resolve({"variant": "cyclegan"}))
    assert told == "variant cyclegan cannot be trained as a population: its history of samples has no stacked form"


SGD = {"optimizers": {"critic": {"name": "sgd", "momentum": 0.5}}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SGD, {"optimizers": {"critic": {"name": "adam"}}}),
        (SGD, {"optimizers": {"critic": {"name": "sgd", "momentum": 0.0}}}),
        ({}, {"total_steps": STEPS + 1}),
        ({}, {"backbone": {"mlp": {"width": 9}}}),
        ({}, {"variant": {"gan": {"latent_dim": 4}}}),
        ({}, {"hacks": {"ema": {"rampup": None}}}),
        ({}, {"hacks": {"ema": {"start_step": 3}}}),
        ({}, {"hacks": {}}),
    ],
)
def test_shapes_differ(one: dict[str, Any], other: dict[str, Any]) -> None:
    def made(more: dict[str, Any]) -> config.TrainConfig:
        user = {"variant": "gan", "backbone": "mlp", "hacks": {"ema": {"half_life": 100.0}}, **more}
        return config.resolve(user, facts={"shape": points().shape.to_json()})

    assert grouping.groups([made(one), made(one)]).together == ((0, 1),)
    found = grouping.groups([made(one), made(other)])
    assert found.together == ()
    assert found.alone == dict.fromkeys((0, 1), "no other trial has its shape")


def test_large_groups_are_split_evenly() -> None:
    configs = [resolved("gan", 0, points().shape)] * 70
    sizes = [len(group) for group in grouping.groups(configs, largest=32).together]
    assert sum(sizes) == 70
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 32
    with pytest.raises(ValueError, match="at least 2"):
        grouping.groups(configs, largest=1)


def test_grouping_needs_no_torch() -> None:
    code = (
        "import sys; from trainers import config, grouping; c = config.resolve({'variant': 'gan'}); "
        "assert grouping.groups([c, c]).together == ((0, 1),); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

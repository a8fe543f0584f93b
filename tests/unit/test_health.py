"""Health monitors: they name what is broken in real, short trainings, and say nothing of healthy ones."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.test_population import images
from trainers import config, health, loop, plugins
from trainers.cohort import Cohort
from trainers.data import Prepared
from trainers.dataset import Arrays

STEPS = 300
FULL = os.environ.get("ORCHESTRATOR_PROOF") == "full"
STRONG = {"optimizers": {"generator": {"lr": 1e-6}, "critic": {"lr": 5e-3}}}
WILD = {"optimizers": {"generator": {"lr": 1e-1}, "critic": {"lr": 1e-1}}}


def ring(n: int = 2000) -> Prepared:
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * (np.arange(n) % 8) / 8
    x = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.01 * rng.normal(size=(n, 2))
    return Prepared.of({"train": Arrays(x.astype(np.float32))})


def opened(data: Prepared, seed: int, total: int, **user: Any) -> loop.Training:
    more = {"backbone": {"mlp": {"width": 64, "depth": 2}}, "hacks": [], "total_steps": total, "log_every": 25}
    return loop.open_training(config.resolve(more | user, facts={"shape": data.shape.to_json()}), data, seed=seed)


def told(steps: int = STEPS, seeds: tuple[int, ...] = (0, 1), data: Prepared | None = None, **user: Any) -> list[Any]:
    """What is said of trainings that have come to half of their steps, and at their end."""
    members = [opened(data or ring(), seed, steps, **user) for seed in seeds]
    cohort = Cohort(members, pictures=False)
    found = []
    for until in (steps // 2, steps):
        cohort.run(until=until)
        found += [health.symptom(training) for training in cohort.trainings]
    return found


# --- real trainings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["gan", "wgan", "vae"])
def test_healthy_trainings_are_left_alone(variant: str) -> None:
    assert told(500, variant={variant: {"latent_dim": 2}}) == [None] * 4


@pytest.mark.long
@pytest.mark.parametrize("hacks", [[], ["ema"], ["minibatch_discrimination", "instance_noise"]])
@pytest.mark.parametrize("variant", plugins.names("variants"))
def test_healthy_trainings_of_every_variant_are_left_alone(variant: str, hacks: list[str]) -> None:
    described = plugins.describe("variants", variant)
    data = images() if "image" in described.attributes["needs"] else ring()
    facts = {"shape": data.shape.to_json()}
    if config.check({"variant": variant, "backbone": "mlp", "hacks": hacks}, facts):
        pytest.skip("does not fit the data or the hacks")
    seeds = ((0, 1, 2) if FULL else (0, 1)) if described.attributes["vectorizes"] else (0,)
    params = {"latent_dim": 2} if any(param.name == "latent_dim" for param in described.params) else {}
    members = [opened(data, seed, 1000, variant={variant: params}, hacks=hacks) for seed in seeds]
    for until in (100, 200, 300, 500, 800, 1000) if FULL else (100, 200, 300):
        if len(members) > 1:
            Cohort(members, pictures=False).run(until=until)
        while members[0].step < until:
            members[0].advance()
        assert [health.symptom(training) for training in members] == [None] * len(members), until


@pytest.mark.parametrize(
    ("variant", "optimizers"),
    [
        ({"gan": {"latent_dim": 2}}, STRONG),
        ({"gan": {"latent_dim": 2, "loss": "minimax"}}, STRONG),
        ({"hinge": {"latent_dim": 2}}, STRONG),
        ({"lsgan": {"latent_dim": 2}}, STRONG),
    ],
    ids=lambda one: next(iter(one)),
)
def test_a_critic_that_has_won_is_saturated(variant: dict[str, Any], optimizers: dict[str, Any]) -> None:
    *_, first, second = told(500, variant=variant, **optimizers)
    assert str(first).startswith(health.SATURATED)
    assert str(second).startswith(health.SATURATED)


def test_a_critic_clipped_to_nothing_is_dead() -> None:
    found = told(variant={"wgan": {"latent_dim": 2, "clip": 1e-12}})
    assert found[:2] == [None] * 2, "too early to tell"
    assert all(str(one).startswith(health.DEAD) for one in found[2:])


def test_losses_without_bound_are_exploding() -> None:
    (found,) = told(200, (0,), variant={"wgan": {"latent_dim": 2, "clip": 1e4}}, **WILD)[1:]
    assert str(found).startswith(f"{health.EXPLODED}: critic/")


def test_a_generator_that_makes_one_thing_is_collapsed() -> None:
    training = opened(ring(), 0, STEPS, variant={"gan": {"latent_dim": 2}})
    training.step = STEPS
    last = [module for module in training.game.nets["generator"].modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.copy_(torch.tensor([1.0, 0.0]))
        for scale, name in ((0.05, health.COLLAPSED), (0.02, health.CONSTANT), (0.0, health.CONSTANT)):
            last.weight.mul_(scale)
            assert str(health.symptom(training)).startswith(name)


@pytest.mark.long
def test_a_generator_that_chases_its_critic_collapses() -> None:
    """Found, not made: learning rates of which mode collapse comes."""
    rates = {"generator": {"lr": 3e-3, "betas": [0.9, 0.999]}, "critic": {"lr": 1e-5, "betas": [0.9, 0.999]}}
    found = told(2000, tuple(range(6)), variant={"gan": {"latent_dim": 2}}, optimizers=rates)
    assert sum(str(one).startswith((health.COLLAPSED, health.CONSTANT)) for one in found) >= 3


# --- functions ------------------------------------------------------------------------------------------------------------


def test_losses_explode_by_growth_not_by_size() -> None:
    large = [{"step": i, "critic/real": 1e6 + i} for i in range(20)]
    assert health.exploding(large) is None
    grown = [{"step": i, "critic/real": math.exp(i)} for i in range(20)]
    assert str(health.exploding(grown)) == "exploding losses: critic/real is 1.8e+08, was 1.5e+02"
    assert health.exploding(grown[:1]) is None
    assert health.exploding([]) is None
    assert health.exploding([{"step": 10**9}] * 3) is None
    assert health.exploding([{"step": 1, "a": 1.0}, {"step": 2, "a": None}]) is None


def losses(critic: float, generator: list[float]) -> list[dict[str, float]]:
    names = ("discriminator/real", "discriminator/fake")
    return [{"step": i, **dict.fromkeys(names, critic), "generator/adversarial": g} for i, g in enumerate(generator)]


@pytest.mark.parametrize(
    ("critic", "generator", "ill"),
    [
        (0.001, [8.0] * 10, True),
        (0.001, [8.0 + i for i in range(10)], True),
        (0.001, [0.0] * 10, True),  # minimax: nothing left to learn from
        (0.001, [8.0] * 7, False),  # too few
        (0.001, [20.0 - 2 * i for i in range(10)], False),  # the generator gets better
        (0.1, [8.0] * 10, False),
        (-0.001, [8.0] * 10, False),  # no objective that can be satisfied
        (0.001, [math.nan] * 10, False),
    ],
)
def test_saturation_is_a_sure_critic_and_a_generator_that_gets_no_better(
    critic: float, generator: list[float], ill: bool
) -> None:
    game = opened(ring(), 0, 100, variant="gan").game
    assert (health.saturated(losses(critic, generator), game) is not None) == ill


def test_duplicates_are_counted_against_the_data_s() -> None:
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(100, 3, generator=rng)
    assert health.collapsed(torch.randn(100, 3, generator=rng), real) is None
    twice = real[:50].repeat(2, 1)
    assert str(health.collapsed(twice, real)) == "duplicates: 100% of the samples have a twin, of the data 0%"
    assert health.collapsed(twice, twice) is None
    assert health.collapsed(real, torch.zeros(100, 3)) is None, "data that are one point say nothing"
    assert str(health.collapsed(real / 0.0, real)).startswith(health.EXPLODED)


def test_asking_is_quick_and_changes_nothing() -> None:
    pair = [opened(ring(), 0, 240, variant={"gan": {"latent_dim": 2}}, hacks=["ema"]) for _ in range(2)]
    took = []
    for step in range(240):
        for training in pair:
            training.advance()
        if step >= 200:
            start = time.process_time()
            assert health.symptom(pair[0]) is None
            took.append(time.process_time() - start)
    for a, b in zip(pair[0].game.nets.state_dict().values(), pair[1].game.nets.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert min(took) < 0.02

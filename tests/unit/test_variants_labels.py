"""Conditional GAN and InfoGAN: labels and codes reach where they should."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.synthetic import GREY, POINTS, SyntheticSplit
from trainers import config, plugins
from trainers.core import Batch, DataShape, Entry
from trainers.generator import Generator
from trainers.layers import LabelledCritic, find_critic
from trainers.step import Game


def game_for(variant: Any, shape: DataShape, backbone: Any = None, **settings: Any) -> Game:
    user = {
        "variant": variant,
        "backbone": backbone or {"mlp": {"width": 16, "depth": 2}},
        "hacks": [],
        "batch_size": 8,
    }
    return Game(config.resolve({**user, **settings}, facts={"shape": shape.to_json()}), shape, seed=0)


def fetch_for(game: Game) -> Any:
    split = SyntheticSplit(game.shape)
    return lambda position, rows: split.batch(torch.arange(rows.start, rows.stop), device="cpu", dtype=game.dtype)


@pytest.mark.parametrize("shape", [GREY, POINTS])
def test_the_critic_sees_the_label_as_constant_channels(shape: DataShape) -> None:
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    x, label = torch.randn(2, *shape.size), torch.tensor([1, 3])
    LabelledCritic(Spy(), shape, 4)(x, condition=label)
    (told,) = seen
    c = shape.channels
    assert told[:, :c].equal(x)
    flat = told[:, c:].flatten(2) if shape.kind == "image" else told[:, c:, None]
    assert flat.equal(torch.nn.functional.one_hot(label, 4).float()[..., None].expand_as(flat))


def test_hacks_find_the_critic_inside_the_labelled_one() -> None:
    game = game_for("cgan", GREY)
    assert find_critic(game.nets["discriminator"]) is game.nets["discriminator"].critic
    with pytest.raises(ValueError, match=r"no layers\.Critic"):
        find_critic(game.nets["generator"])


def test_a_conditional_critic_answers_by_label() -> None:
    game = game_for("cgan", POINTS)
    x = torch.zeros(2, 2)
    play = game.play(0, None, (), 0, range(2))
    scores = play.critic("discriminator", Entry((x,), torch.tensor([0, 1]))).logits
    assert scores[0] != scores[1]


def test_cgan_trains_on_the_labels_of_the_batch() -> None:
    game = game_for("cgan", POINTS)
    batch = fetch_for(game)(0, range(8))
    act = game.acts[0]
    for phase in act.phases:
        play = game.play(0, phase, act.phases, 0, range(8))
        phase.loss(game.nets, batch, play)
        assert all(judged.entry.condition is batch.label for judged in play.judged)


def test_cgan_learns_where_each_class_lies() -> None:
    """Four classes at the corners of a square: samples of a class lie nearest to its own corner."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])

    def fetch(position: int, rows: range) -> Batch:
        label = torch.arange(rows.start, rows.stop) % 4
        noise = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(position))
        return Batch(corners[label] + 0.05 * noise, label, label)

    optimizers = {"generator": {"lr": 1e-3}, "critic": {"lr": 1e-3}}
    shape = DataShape("points", (2,), 4, bounded=False)
    game = game_for(
        {"cgan": {"latent_dim": 2}}, shape, {"mlp": {"width": 32, "depth": 2}}, optimizers=optimizers, batch_size=64
    )
    for step in range(400):
        game.step(step, fetch)
    label = torch.arange(100) % 4
    samples = Generator.of(game).sample(100, labels=label)
    assert (torch.cdist(samples, corners).argmin(-1) == label).float().mean() > 0.95


def test_cgan_refuses_data_without_labels_when_planning() -> None:
    unlabelled = DataShape("points", (2,), bounded=False)
    faults = config.check({"variant": "cgan"}, {"shape": unlabelled.to_json()})
    assert [fault.id for fault in faults] == ["incompatible"]


def infogan(**params: Any) -> Any:
    return {"infogan": {"latent_dim": 3, "categories": [3, 2], "num_continuous": 2, **params}}


@pytest.mark.parametrize("role", ["critic", "generator"])
def test_information_reaches_both_players(role: str) -> None:
    """Without its GAN loss each player still has a gradient: lambda L_I is in both objectives, and nothing cuts it."""
    game = game_for(infogan(), POINTS)
    act = game.acts[0]
    phase = next(phase for phase in act.phases if phase.role == role)
    game.nets.requires_grad_(True)
    losses = phase.loss(game.nets, fetch_for(game)(0, range(8)), game.play(0, phase, act.phases, 0, range(8)))
    (losses["categorical"] + losses["continuous"]).sum().backward()
    for part in {"generator", "discriminator", "recogniser"} if role == "generator" else set(phase.updates):
        weights = {n: p for n, p in game.nets[part].named_parameters() if "head" not in n}  # D's own head is not Q's
        assert all(p.grad is not None and bool(p.grad.any()) for p in weights.values()), part


def test_the_codes_that_are_recognised_are_those_that_were_drawn() -> None:
    """A recogniser that reads the codes exactly pays nothing for the categories."""
    game = game_for(infogan(num_continuous=0), POINTS)
    phase = game.acts[0].phases[-1]
    play = game.play(0, phase, game.acts[0].phases, 0, range(8))
    codes = [play.integers("category_0", 3), play.integers("category_1", 2)]
    truth = torch.cat([torch.nn.functional.one_hot(c, k) * 100.0 for c, k in zip(codes, (3, 2), strict=True)], -1)
    game.nets["recogniser"] = Constant(truth)
    losses = phase.loss(game.nets, fetch_for(game)(0, range(8)), play)
    assert float(losses["categorical"].abs().max()) < 1e-6


class Constant(torch.nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value


def test_each_code_is_a_knob() -> None:
    game = game_for(infogan(), POINTS)
    variant, nets, z = game.variant, game.nets, torch.randn(4, 3)
    base = [torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)]
    still = torch.zeros(4, 2)
    made = variant.decode(nets, z, base, still)  # type: ignore[attr-defined]
    for turned in ([base[0] + 1, base[1]], [base[0], base[1] + 1]):
        assert not variant.decode(nets, z, turned, still).equal(made)  # type: ignore[attr-defined]
    assert not variant.decode(nets, z, base, still + 0.5).equal(made)  # type: ignore[attr-defined]


def test_labels_set_the_first_category() -> None:
    generator = Generator.of(game_for(infogan(), DataShape("points", (2,), bounded=False)))
    assert generator.num_labels == 3
    assert not generator.sample(4, labels=[0] * 4).equal(generator.sample(4, labels=[1] * 4))
    with pytest.raises(ValueError, match="from 0 to 2"):
        generator.sample(1, labels=[3])


def test_a_game_without_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one code"):
        game_for(infogan(categories=[], num_continuous=0), POINTS)


@pytest.mark.parametrize("params", [{"categories": []}, {"num_continuous": 0}])
def test_codes_of_one_kind_alone(params: dict[str, Any]) -> None:
    game = game_for(infogan(**params), POINTS)
    told = game.step(0, fetch_for(game))
    assert ("generator/continuous" in told) == ("categories" in params)
    assert ("generator/categorical" in told) == ("num_continuous" in params)


def test_without_categories_no_labels_are_taken() -> None:
    generator = Generator.of(game_for(infogan(categories=[]), POINTS))
    assert generator.sample(3).shape == (3, 2)
    with pytest.raises(ValueError, match="takes no labels"):
        generator.sample(1, labels=[0])


def test_infogan_makes_its_categories_legible() -> None:
    """Four corners, no labels: after training Q tells the first code of most samples."""

    def fetch(position: int, rows: range) -> Batch:
        g = torch.Generator().manual_seed(position)
        signs = torch.randint(2, (len(rows), 2), generator=g) * 2.0 - 1
        return Batch(signs + 0.05 * torch.randn(len(rows), 2, generator=g), None, torch.arange(len(rows)))

    shape = DataShape("points", (2,), bounded=False)
    optimizers = {"generator": {"lr": 1e-3}, "critic": {"lr": 1e-3}}
    variant = infogan(categories=[4], num_continuous=0)
    game = game_for(variant, shape, {"mlp": {"width": 32, "depth": 2}}, optimizers=optimizers, batch_size=64)
    for step in range(300):
        told = game.step(step, fetch)
    assert float(told["generator/categorical"]) < 0.4  # log 4 = 1.39 at the start


@pytest.mark.parametrize("name", ["cgan", "infogan"])
def test_labels_are_what_they_say_they_take(name: str) -> None:
    assert plugins.describe("variants", name).attributes["given"] == "labels"

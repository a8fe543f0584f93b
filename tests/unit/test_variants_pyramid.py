"""LAPGAN: the pyramid takes images apart and puts them together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.synthetic import SyntheticSplit
from trainers import config
from trainers.core import DataShape
from trainers.step import Game
from trainers.variants.lapgan import LAPGAN, doubled, halved


def game_for(size: tuple[int, ...], backbone: str = "mlp", **params: Any) -> Game:
    shape = DataShape("image", size)
    small = {"mlp": {"width": 8, "depth": 1}, "dcgan": {"width": 4}, "resnet": {"width": 4, "num_blocks": 1}}[backbone]
    user = {
        "variant": {"lapgan": {"latent_dim": 4, **params}},
        "backbone": {backbone: small},
        "hacks": [],
        "batch_size": 4,
    }
    return Game(config.resolve(user, facts={"shape": shape.to_json()}), shape, seed=0)


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        (8, [8]),
        (16, [8, 16]),
        (24, [12, 24]),
        (40, [10, 20, 40]),
        (56, [14, 28, 56]),
        (88, [22, 44, 88]),
        (256, [8, 16, 32, 64, 128, 256]),
    ],
)
def test_levels_halve_down_to_the_coarsest(resolution: int, expected: list[int]) -> None:
    levels = LAPGAN().levels(DataShape("image", (3, resolution, resolution)))
    assert [level.resolution for level in levels] == expected
    assert all(level.channels == 3 for level in levels)


def test_levels_of_images_that_are_not_square() -> None:
    levels = LAPGAN().levels(DataShape("image", (1, 16, 32)))
    assert [level.size for level in levels] == [(1, 8, 16), (1, 16, 32)]


def test_low_pass_of_a_constant_is_the_constant() -> None:
    x = torch.full((2, 3, 16, 16), 0.3)
    torch.testing.assert_close(doubled(halved(x)), x)
    assert halved(torch.arange(4.0).view(1, 2, 2)).tolist() == [[[1.5]]]


def test_halving_and_doubling_take_a_population() -> None:
    x = torch.randn(2, 3, 1, 8, 8)
    assert halved(x)[1].equal(halved(x[1]))
    assert doubled(x)[1].equal(doubled(x[1]))


@pytest.mark.parametrize("resolution", [8, 16, 24, 88])
def test_true_bands_give_the_image_back(resolution: int) -> None:
    """Sampling with generators that know the bands of an image gives that image."""
    game = game_for((1, resolution, resolution))
    x = torch.rand(4, 1, resolution, resolution) * 2 - 1
    image = x
    levels = game.variant.levels(game.shape)  # type: ignore[attr-defined]
    for level in levels[:0:-1]:
        low = doubled(halved(image))
        game.nets[f"generator_{level.resolution}"] = Known(image - low)
        image = halved(image)
    game.nets[f"generator_{levels[0].resolution}"] = Known(image)
    made = game.variant.sample(game.nets, 4, game.play(0, None, (), 0, range(4)))
    torch.testing.assert_close(made, x)


class Known(torch.nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.value


def test_critics_are_shown_the_image_of_their_level() -> None:
    game = game_for((1, 32, 32))
    batch = SyntheticSplit(game.shape).batch(torch.arange(4), device="cpu", dtype=torch.float32)
    play = game.play(0, None, (), 0, range(4))
    expected = {8: halved(halved(batch.x)), 16: halved(batch.x), 32: batch.x}
    for resolution, image in expected.items():
        assert game.variant.real_entry(f"discriminator_{resolution}", batch, play).inputs[0].equal(image)


def test_levels_are_independent_games() -> None:
    """Only a level's own generator and critic answer in its phases."""
    game = game_for((1, 16, 16))
    batch = SyntheticSplit(game.shape).batch(torch.arange(4), device="cpu", dtype=torch.float32)
    act = game.acts[0]
    assert [phase.name for phase in act.phases] == [
        "discriminator_8",
        "generator_8",
        "discriminator_16",
        "generator_16",
    ]
    game.nets.requires_grad_(True)
    for phase in act.phases:
        game.nets.zero_grad(set_to_none=True)
        losses = phase.loss(game.nets, batch, game.play(0, phase, act.phases, 0, range(4)))
        sum(losses.values()).sum().backward()  # type: ignore[union-attr]
        touched = {name.split(".")[0] for name, p in game.nets.named_parameters() if p.grad is not None}
        resolution = phase.name.split("_")[1]
        assert touched == {f"generator_{resolution}", f"discriminator_{resolution}"}


def test_bands_are_not_bounded_and_samples_are() -> None:
    game = game_for((1, 16, 16))
    game.nets["generator_16"] = Known(torch.full((4, 1, 16, 16), -1.7))
    made = game.variant.sample(game.nets, 4, game.play(0, None, (), 0, range(4)))
    assert made.min() == -1
    low, noise = torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 100.0)
    band = game_for((1, 16, 16)).nets["generator_16"](low, noise)
    assert band.abs().max() > 1


@pytest.mark.parametrize("backbone", ["dcgan", "resnet"])
@pytest.mark.parametrize("resolution", [8, 24, 40, 72])
def test_convolutional_pyramids_of_any_size(backbone: str, resolution: int) -> None:
    game = game_for((3, resolution, resolution), backbone)
    split = SyntheticSplit(game.shape)

    def fetch(position: int, rows: range) -> Any:
        return split.batch(torch.arange(rows.start, rows.stop), device="cpu", dtype=torch.float32)

    told = game.step(0, fetch)
    assert all(value.isfinite() for value in told.values())

"""What every backbone must keep, whichever are there."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from trainers import plugins
from trainers.core import Backbone, DataShape, Score
from trainers.layers import Critic, find_critic

TINY = {"width": 4, "max_width": 8, "depth": 2, "num_blocks": 1}
SIZES = (8, 16, 24, 32, 40, 48, 56, 64, 88, 120, 128, 248, 256)
EVERY_SIZE = tuple(range(8, 257, 8))
POINTS = DataShape("points", (3,), bounded=False)


def tiny(name: str, **more: Any) -> Backbone:
    described = plugins.describe("backbones", name)
    params = {p.name: TINY[p.name] for p in described.params if p.name in TINY and not p.form.check(TINY[p.name], ())}
    made: Backbone = plugins.build("backbones", name, {**params, **more})
    return made


def takes(name: str, kind: str, resolution: int = 0) -> bool:
    sizes = plugins.describe("backbones", name).attributes["sizes"]
    if kind not in sizes:
        return False
    limits = sizes[kind]
    return limits is None or (limits[0] <= resolution <= limits[1] and resolution % limits[2] == 0)


BACKBONES = plugins.names("backbones")
IMAGE_BACKBONES = [name for name in BACKBONES if takes(name, "image", 64)]
CONVOLUTIONAL = [name for name in IMAGE_BACKBONES if plugins.describe("backbones", name).attributes["sizes"]["image"]]


def check_all(backbone: Backbone, shape: DataShape, batch: int = 2) -> None:
    """The four networks answer in the shapes of their contract."""
    x = torch.randn(batch, *shape.size).clamp(-1, 1)
    with torch.no_grad():
        made = backbone.generator(5, shape)(torch.randn(batch, 5))
        assert made.shape == x.shape
        assert not shape.bounded or made.abs().max() <= 1
        score = backbone.critic(shape)(x)
        assert isinstance(score, Score)
        assert score.logits.shape == (batch,)
        assert score.features.shape[0] == batch
        assert backbone.encoder(shape, 6)(x).shape == (batch, 6)
        assert backbone.translator(shape, replace(shape, bounded=False))(x).shape == x.shape


@pytest.mark.parametrize("name", IMAGE_BACKBONES)
@pytest.mark.parametrize("resolution", SIZES)
def test_images_of_every_size(name: str, resolution: int) -> None:
    if not takes(name, "image", resolution):
        pytest.skip(f"{name} does not claim {resolution}")
    check_all(tiny(name), DataShape("image", (1, resolution, resolution)))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_each_claimed_size_has_a_map_to_start_from(name: str) -> None:
    """Every multiple of 8, without running: shapes alone, on the meta device."""
    for resolution in EVERY_SIZE:
        shape = DataShape("image", (3, resolution, resolution))
        with torch.device("meta"):
            backbone = tiny(name)
            z, x = torch.empty(2, 5), torch.empty(2, *shape.size)
            assert backbone.generator(5, shape)(z).shape == x.shape
            assert backbone.critic(shape)(x).logits.shape == (2,)
            assert backbone.translator(shape, shape)(x).shape == x.shape


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("resolution", [8, 10, 12, 14, 20, 22, 28])
def test_even_sizes_between_serve_the_levels_of_a_pyramid(name: str, resolution: int) -> None:
    check_all(tiny(name), DataShape("image", (1, resolution, resolution)))


@pytest.mark.parametrize("name", IMAGE_BACKBONES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(name: str, channels: int) -> None:
    backbone, shape = tiny(name), DataShape("image", (channels, 16, 16))
    check_all(backbone, shape)
    other = shape.with_channels(channels + 2)
    assert backbone.translator(shape, other)(torch.zeros(2, *shape.size)).shape == (2, *other.size)


@pytest.mark.parametrize("name", [name for name in BACKBONES if takes(name, "points")])
def test_points(name: str) -> None:
    check_all(tiny(name), POINTS)
    backbone = tiny(name)
    assert backbone.translator(POINTS, POINTS.with_channels(5))(torch.zeros(4, 3)).shape == (4, 5)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_critic_is_a_trunk_and_a_head(name: str) -> None:
    shape = DataShape("image", (1, 16, 16)) if takes(name, "image", 16) else POINTS
    module = tiny(name).critic(shape, 7)
    critic = find_critic(module)
    assert isinstance(critic, Critic)
    score = module(torch.randn(3, *shape.size))
    assert score.logits.shape == (3, 7)
    assert score.features.shape == (3, critic.num_features)
    torch.testing.assert_close(critic.head(score.features), score.logits)


@pytest.mark.parametrize("name", BACKBONES)
def test_offers_of_batch_normalisation_are_true(name: str) -> None:
    """For every choice of normalisation: batch statistics on a side exactly where that side offers them."""
    from trainers.compatibility import by_side, offered

    described = plugins.describe("backbones", name)
    shape = DataShape("image", (1, 16, 16)) if takes(name, "image", 16) else POINTS
    fields = {p.name: p.choices for p in described.params if "batch" in p.choices}
    choices: list[dict[str, Any]] = [{}, *({field: value} for field, values in fields.items() for value in values)]
    for chosen in choices:
        backbone = tiny(name, **chosen)
        words = offered(described, plugins.complete("backbones", name, chosen))
        for side, module in (
            ("critic", backbone.critic(shape)),
            ("critic", backbone.encoder(shape, 3)),
            ("generator", backbone.generator(4, shape)),
            ("generator", backbone.translator(shape, shape)),
        ):
            has = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in module.modules())
            assert has == (f"{side}.batch_norm" in by_side(side, words)), (chosen, side)


@pytest.mark.parametrize("name", IMAGE_BACKBONES)
@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_the_scale_at_the_start_suits_training(name: str, resolution: int) -> None:
    """Generators do not start saturated or dead, critics neither deaf nor loud, at any depth."""
    torch.manual_seed(0)
    backbone, shape = tiny(name, width=16), DataShape("image", (3, resolution, resolution))
    with torch.no_grad():
        made = backbone.generator(32, shape)(torch.randn(16, 32))
        assert made.std() > 1e-3
        assert (made.abs() > 0.98).float().mean() < 0.2
        score = backbone.critic(shape)(torch.rand(16, *shape.size) * 2 - 1)
        assert score.logits.abs().max() < 5
        assert score.features.std() > 1e-3


def test_residual_networks_keep_their_scale_with_depth() -> None:
    torch.manual_seed(0)
    found = []
    for resolution in (8, 32, 128):
        shape = DataShape("image", (3, resolution, resolution))
        for norm in ("none", "batch"):
            with torch.no_grad():
                made = tiny("resnet", width=8, max_width=32, generator_norm=norm).generator(16, shape)(
                    torch.randn(8, 16)
                )
            found.append(float(made.std()))
    assert max(found) < 3 * min(found)
    assert min(found) > 0.1
    assert max(found) < 0.9


def test_residual_critics_answer_at_one_scale_at_any_depth() -> None:
    torch.manual_seed(0)
    found = []
    for resolution in (8, 32, 128, 256):
        shape = DataShape("image", (3, resolution, resolution))
        with torch.no_grad():
            features = tiny("resnet", width=8, max_width=32).critic(shape)(torch.randn(4, *shape.size)).features
        found.append(math.sqrt(float(features.square().mean())))
    assert max(found) < 4 * min(found)

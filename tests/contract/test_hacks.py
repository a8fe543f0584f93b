"""What every hack must keep: with every variant it is effective or refused with the reason, never silent.

A hack dropped in as one file is tested here with no other change. Which pairs must be accepted is a committed list,
`accepted_pairs.txt`.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.test_variants import COLOUR, GREY, POINTS, fetch_for, norms, shape_for, user_form
from trainers import config, plugins
from trainers.core import DataShape, Hack
from trainers.step import Game

PAIRS = Path(__file__).parent / "accepted_pairs.txt"
STEPS = 2
HACKS, VARIANTS = plugins.names("hacks"), plugins.names("variants")


def committed() -> list[tuple[str, str]]:
    lines = (line.split("#")[0].split() for line in PAIRS.read_text().splitlines())
    return [(hack, variant) for hack, *variants in filter(None, lines) for variant in variants]


def setting(hack: str | None, variant: str, params: dict[str, Any] | None = None) -> tuple[dict[str, Any], DataShape]:
    """The first small set-up of a variant that takes the hack, else its first."""
    found = []
    for backbone, base in (("mlp", POINTS), ("mlp", GREY), ("dcgan", GREY), ("resnet", COLOUR), ("dcgan", COLOUR)):
        shape = shape_for(variant, base)
        norm = norms(variant, backbone, shape)
        if norm == "":
            continue
        user = {**user_form(variant, backbone, norm), "hacks": {hack: params or {}} if hack else {}}
        found.append((user, shape))
        if not config.check(user, {"shape": shape.to_json()}):
            return user, shape
    return found[0]


def partner(hack: str, *, uncoupled: bool = False) -> str:
    """A variant that takes the hack: of the committed ones, or, for a hack dropped in, of all."""
    for variant in (*(v for h, v in committed() if h == hack), *VARIANTS):
        coupled = plugins.describe("variants", variant).attributes["coupled"]
        user, shape = setting(hack, variant)
        if not (uncoupled and coupled) and not config.check(user, {"shape": shape.to_json()}):
            return variant
    pytest.fail(f"no variant takes {hack}")


def trained(user: dict[str, Any], shape: DataShape) -> tuple[Game, dict[str, Tensor]]:
    game = Game(config.resolve(user, facts={"shape": shape.to_json()}), shape, seed=5)
    for step in range(STEPS):
        game.step(step, fetch_for(game))
    return game, {name: value.detach().clone() for name, value in game.sampling().state_dict().items()}


def moved(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether what is sampled from, or what it was trained against, differs."""
    return a.keys() != b.keys() or any(a[k].shape != b[k].shape or not torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("hack", HACKS)
def test_effective_or_refused(hack: str, variant: str) -> None:
    user, shape = setting(hack, variant)
    faults = config.check(user, {"shape": shape.to_json()})
    if faults:
        assert (hack, variant) not in committed(), f"this pair must be accepted: {faults[0]}"
        assert all(fault.what and (fault.why or fault.hint) for fault in faults)
        return
    _, with_it = trained(user, shape)
    _, without = trained({**user, "hacks": {}}, shape)
    assert moved(with_it, without), f"{hack} is accepted with {variant} and changes nothing"


def test_the_committed_list_names_what_is_there() -> None:
    for hack, variant in committed():
        assert hack in HACKS and variant in VARIANTS, (hack, variant)


@pytest.mark.parametrize(
    "hack", [h for h in HACKS if plugins.describe("hacks", h).attributes.get("neutral") is not None]
)
def test_a_hack_of_strength_zero_changes_nothing(hack: str) -> None:
    neutral = plugins.describe("hacks", hack).attributes["neutral"]
    variant = partner(hack)
    user, shape = setting(hack, variant, neutral)
    _, with_it = trained(user, shape)
    _, without = trained({**user, "hacks": {}}, shape)
    assert with_it.keys() == without.keys()
    assert all(torch.allclose(with_it[name], without[name], atol=1e-12, rtol=0) for name in with_it)


@pytest.mark.parametrize("hack", HACKS)
def test_a_hack_overrides_only_hooks(hack: str) -> None:
    cls = plugins.load("hacks", hack)
    hooks = {name for name, value in vars(Hack).items() if inspect.isfunction(value)}
    own = {name for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("__")}
    assert own & hooks, "a hack without a hook does nothing"
    for name in own & hooks:
        assert list(inspect.signature(getattr(cls, name)).parameters) == list(
            inspect.signature(getattr(Hack, name)).parameters
        )


@pytest.mark.parametrize("hack", HACKS)
def test_exactness_over_halves_is_kept_unless_told_otherwise(hack: str) -> None:
    if plugins.describe("hacks", hack).attributes["coupled"]:
        pytest.skip("couples the batch, and says so")
    variant = partner(hack, uncoupled=True)
    user, shape = setting(hack, variant)
    user["backbone"] = {"mlp": {"width": 8, "depth": 2}}
    whole, _ = trained(user, shape)
    halves, _ = trained({**user, "microbatch": user["batch_size"] // 2}, shape)
    if hack == "spectral_norm":
        pytest.skip("a power iteration a forward pass: microbatches iterate more often")
    for (name, a), (_, b) in zip(whole.nets.named_parameters(), halves.nets.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-9, rtol=0), name

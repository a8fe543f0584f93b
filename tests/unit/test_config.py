"""The train configuration: what is refused, where, and what the defaults become; all without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trainers import config
from trainers.plugins import BadParametersError

GREY32 = {"shape": {"kind": "image", "size": [1, 32, 32], "num_classes": 10}}
POINTS = {"shape": {"kind": "points", "size": [2], "num_classes": 8, "bounded": False}}


def test_the_canonical_form_is_a_user_form() -> None:
    user = {"variant": {"wgan_gp": {"gp_weight": 5}}, "hacks": ["r1", {"ema": {"half_life": 500}}], "total_steps": 10}
    resolved = config.resolve(user, facts=GREY32)
    assert config.resolve(resolved.to_json(), facts=GREY32) == resolved
    assert resolved.variant.params["gp_weight"] == 5.0
    assert resolved.optimizers["critic"].betas == (0.0, 0.9), "the variant's own default"


def test_the_order_of_hacks_does_not_matter() -> None:
    a = config.resolve({"variant": "gan", "hacks": ["spectral_norm", "ema", "label_smoothing"]}, facts=GREY32)
    b = config.resolve(
        {"variant": "gan", "hacks": {"label_smoothing": {}, "ema": None, "spectral_norm": {}}}, facts=GREY32
    )
    assert a == b


def test_what_a_variant_wants_of_its_backbone_stays_when_another_parameter_is_set() -> None:
    resolved = config.resolve({"variant": "wgan_gp", "backbone": {"dcgan": {"width": 8}}}, facts=GREY32)
    assert resolved.critic.params == {"width": 8, "max_width": 512, "norm": "layer"}
    assert resolved.generator.params["norm"] == "batch"


def test_points_get_perceptrons() -> None:
    assert config.resolve({"variant": "wgan_gp"}, facts=POINTS).critic.name == "mlp"
    assert config.resolve({}, facts=POINTS).variant.name == "gan"
    assert config.resolve({}, facts=GREY32).variant.name == "dcgan"


@pytest.mark.parametrize(
    ("user", "facts", "path", "id_", "told"),
    [
        ({"total_step": 3}, GREY32, ("total_step",), "unknown-key", "did you mean 'total_steps'?"),
        ({"variant": "dcgn"}, GREY32, ("variant",), "unknown-variant", "did you mean 'dcgan'?"),
        ({"variant": {"gan": {"los": 1}}}, GREY32, ("variant", "gan", "los"), "unknown-key", "did you mean 'loss'?"),
        ({"hacks": ["emma"]}, GREY32, ("hacks", 0), "unknown-hack", "did you mean 'ema'?"),
        ({"hacks": ["ema", "ema"]}, GREY32, ("hacks",), "duplicate", "twice"),
        ({"optimizers": {"discriminator": {}}}, GREY32, ("optimizers", "discriminator"), "unknown-role", "critic"),
        (
            {"optimizers": {"critic": {"lr": -1}}},
            GREY32,
            ("optimizers", "critic", "lr"),
            "out-of-range",
            "greater than 0",
        ),
        ({"optimizers": {"autoencoder": {"lr": 1}}}, GREY32, ("optimizers", "autoencoder"), "no-effect", "dcgan"),
        ({"batch_size": "many"}, GREY32, ("batch_size",), "wrong-type", "integer"),
        ({"backbone": "dcgan"}, POINTS, ("backbone",), "backbone-kind", "mlp"),
        ({"variant": "dcgan"}, POINTS, ("variant",), "incompatible", "images"),
        ({"variant": "wgan_gp", "hacks": ["label_smoothing"]}, GREY32, ("hacks", 0), "incompatible", "targets"),
        (
            {"variant": "wgan_gp", "backbone": {"dcgan": {"norm": "batch"}}},
            GREY32,
            ("variant",),
            "incompatible",
            "batch normalisation",
        ),
        (
            {"variant": "dcgan"},
            {"shape": {"kind": "image", "size": [1, 28, 28]}},
            ("backbone",),
            "image-size",
            "multiples of 8",
        ),
    ],
)
def test_mistakes_are_named_and_placed(user: dict, facts: dict, path: tuple, id_: str, told: str) -> None:  # type: ignore[type-arg]
    faults = config.check(user, facts)
    assert [(fault.path, fault.id) for fault in faults] == [(path, id_)]
    assert told in str(faults[0])
    with pytest.raises(BadParametersError):
        config.resolve(user, facts=facts)


def test_a_search_winner_gives_way_to_what_is_explicit() -> None:
    winner = {"variant": "wgan_gp", "optimizers": {"generator": {"lr": 1e-3}}, "total_steps": 100}
    merged = config.merge(winner, {"total_steps": 900, "optimizers": {"generator": {"betas": [0, 0.9]}}})
    assert merged == {
        "variant": "wgan_gp",
        "optimizers": {"generator": {"lr": 1e-3, "betas": [0, 0.9]}},
        "total_steps": 900,
    }


def test_assigning_by_path() -> None:
    assert config.assign({}, "optimizers.generator.lr", 0.1) == {"optimizers": {"generator": {"lr": 0.1}}}
    assert config.assign({"hacks": ["r1"]}, "hacks.r1.gamma", 3) == {"hacks": {"r1": {"gamma": 3}}}
    assert config.assign({"hacks": ["ema"]}, "hacks.r1.gamma", 3) == {"hacks": {"ema": {}}}, "not chosen: left out"
    user = {"variant": "wgan_gp", "backbone": {"generator": "mlp"}}
    assert config.assign(user, "variant.wgan_gp.n_critic", 2)["variant"] == {"wgan_gp": {"n_critic": 2}}
    assert config.assign(user, "variant.gan.loss", "minimax") == user
    assert config.assign(user, "backbone.generator.mlp.width", 8)["backbone"] == {"generator": {"mlp": {"width": 8}}}


def test_rates_of_schedules() -> None:
    linear = config.Optimizer(lr=1.0, schedule="linear", warmup_steps=10, final=0.1)
    assert [linear.rate(s, 110) for s in (0, 9, 10, 60, 110)] == pytest.approx([0.1, 1.0, 1.0, 0.55, 0.1])
    cosine = config.Optimizer(lr=2.0, schedule="cosine")
    assert [cosine.rate(s, 100) for s in (0, 50, 100)] == pytest.approx([2.0, 1.0, 0.0])
    assert config.Optimizer(lr=3.0).rate(10**6, 10) == 3.0


def test_checking_needs_no_torch() -> None:
    code = (
        "import sys; from trainers import config; "
        "config.check({'variant': 'wgan_gp', 'hacks': ['r1']}, {'shape': {'kind': 'image', 'size': [1, 32, 32]}}); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

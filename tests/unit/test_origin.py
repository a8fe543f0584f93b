"""A training that starts from another's checkpoint: the state is the other's, numbers and draws are its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.test_loop import Folder
from tests.unit.test_population import check_equal, images, points, resolved
from trainers import config, loop
from trainers.checkpoint import Mismatch
from trainers.cohort import Cohort
from trainers.data import Prepared
from trainers.step import Game
from trainers.stream import Stream

COPIED, TOTAL = 12, 24
EVERY = {"total_steps": TOTAL, "log_every": 4, "checkpoint_every": 6, "sample_every": 12}
SECOND = {"lr": 3e-3, "betas": [0.1, 0.8]}
OTHER = {
    "optimizers": {"generator": SECOND, "critic": SECOND},
    "hacks": {"ema": {"half_life": 99.0}, "r1": {"gamma": 3}},
}


def made(shape: Any, variant: str = "gan", **user: Any) -> config.TrainConfig:
    return resolved(variant, 0, shape, **{"hacks": ["ema", "r1"], **EVERY, **user})


def trained(cfg: config.TrainConfig, data: Prepared, seed: int, root: Path) -> loop.Training:
    root.mkdir(exist_ok=True)
    training = loop.open_training(cfg, data, seed=seed, checkpoints=Folder(root))
    training.run()
    return training


def state(root: Path, step: int = COPIED) -> Mapping[str, Path]:
    found = Folder(root).latest(at_most=step)
    assert found is not None
    assert found[0] == step
    return found[1]


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_copy_with_the_same_numbers_goes_on_as_the_original_to_the_bit(
    precision: str, optimizer: str, tmp_path: Path
) -> None:
    data = images()
    rate = {"name": optimizer, "lr": 1e-3, "momentum": 0.5, "warmup_steps": 15}
    cfg = made(data.shape, precision=precision, optimizers={"generator": rate, "critic": rate})
    trained(cfg, data, 4, tmp_path / "first")
    (tmp_path / "copy").mkdir()
    copy = loop.open_training(
        cfg, data, seed=4, checkpoints=Folder(tmp_path / "copy"), origin=state(tmp_path / "first")
    )
    assert (copy.step, copy.kept) == (COPIED, None)
    copy.run()
    for name in ("state.safetensors", "history.jsonl", "samples.safetensors"):
        mine, theirs = (state(tmp_path / root, TOTAL)[name].read_bytes() for root in ("copy", "first"))
        assert mine == theirs, name


def expected(cfg: config.TrainConfig, seed: int, data: Prepared, files: Mapping[str, Path]) -> Game:
    """The same by hand, through torch's own way of loading, without what is tested."""
    game, stored = Game(cfg, data.shape, seed), load_file(files["state.safetensors"])
    game.nets.load_state_dict({k.removeprefix("net/"): v for k, v in stored.items() if k.startswith("net/")})
    for phase in game.acts[0].phases:
        for name, p in game.parameters(phase):
            prefix = f"optimizer/{phase.name}/{name}/"
            held = {key.removeprefix(prefix): v.clone() for key, v in stored.items() if key.startswith(prefix)}
            assert held
            game.optimizers[phase.name].state[p] = held
    stream = Stream(game, data)
    about = json.loads(files["state.json"].read_text())
    for step in range(about["step"], cfg.settings.total_steps):
        game.step(step, stream)
    return game


def test_numbers_and_draws_are_the_copier_s(tmp_path: Path) -> None:
    data = points()
    trained(made(data.shape), data, 4, tmp_path / "first")
    files = state(tmp_path / "first")
    copies = [(made(data.shape), 4), (made(data.shape), 5), (made(data.shape, **OTHER), 4)]
    games = []
    for cfg, seed in copies:
        training = loop.open_training(cfg, data, seed=seed, origin=files)
        training.run()
        check_equal(training.game, expected(cfg, seed, data, files))
        games.append(training.game)
    weights = [next(game.nets["generator"].parameters()) for game in games]
    assert not weights[0].equal(weights[1]), "its draws should be those of its own seed"
    assert not weights[0].equal(weights[2]), "its learning rates should be its own"


def test_members_of_a_cohort_start_from_others_and_equal_themselves_alone(tmp_path: Path) -> None:
    """Exploit and explore: after a rung, two members go on from the third's state, with numbers of their own."""
    data = points()
    configs = [made(data.shape), made(data.shape, **OTHER), resolved("gan", 1, data.shape, ["ema", "r1"], **EVERY)]
    for i in range(3):
        (tmp_path / str(i)).mkdir()
    members = [
        loop.open_training(cfg, data, seed=i, checkpoints=Folder(tmp_path / str(i))) for i, cfg in enumerate(configs)
    ]
    Cohort(members).run(until=COPIED)
    files = state(tmp_path / "2")
    for i in (3, 4):
        (tmp_path / str(i)).mkdir()
    copies = [
        loop.open_training(cfg, data, seed=3 + i, checkpoints=Folder(tmp_path / str(3 + i)), origin=files)
        for i, cfg in enumerate(configs[:2])
    ]
    Cohort([members[2], *copies]).run()
    for i, cfg in enumerate(configs[:2]):
        check_equal(copies[i].game, expected(cfg, 3 + i, data, files))
    (tmp_path / "alone").mkdir()
    check_equal(members[2].game, trained(configs[2], data, 2, tmp_path / "alone").game)
    steps = [json.loads(line)["step"] for line in copies[0].history.encoded().splitlines()]
    assert steps == list(range(4, TOTAL + 1, 4))


def test_its_own_checkpoint_comes_first(tmp_path: Path) -> None:
    """A copy that is killed and started again, as it was started, goes on where it was."""
    data = points()
    trained(made(data.shape), data, 4, tmp_path / "first")
    files, cfg = state(tmp_path / "first"), made(data.shape, **OTHER)
    straight = loop.open_training(cfg, data, seed=5, origin=files)
    straight.run()
    (tmp_path / "copy").mkdir()
    for step, last in ((COPIED, 19), (19, TOTAL)):
        training = loop.open_training(cfg, data, seed=5, checkpoints=Folder(tmp_path / "copy"), origin=files)
        assert training.step == step
        training.stop = lambda training=training, last=last: training.step == last
        if last < TOTAL:
            with pytest.raises(loop.Stopped):
                training.run()
        else:
            training.run()
    for a, b in zip(straight.game.nets.parameters(), training.game.nets.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("user", "what"),
    [
        ({"backbone": {"mlp": {"width": 9, "depth": 2}}}, r"net/generator.* is \(8, 3\).* not \(9, 3\)"),
        ({"backbone": {"mlp": {"width": 8, "depth": 3}}}, "net/"),
        ({"variant": "lsgan"}, "variant is gan, not lsgan"),
        ({"hacks": ["ema"]}, "hacks are ema, r1, not ema"),
        ({"hacks": []}, "hacks are ema, r1, not none"),
        ({"optimizers": {"critic": {"name": "rmsprop"}}}, "lacks optimizer/discriminator/.*square_avg"),
        ({"optimizers": {"critic": {"name": "sgd"}}}, "has optimizer/discriminator/.*exp_avg"),
        ({"precision": "float32"}, "float64"),
        ({"total_steps": COPIED - 1}, f"step {COPIED}, beyond this training's {COPIED - 1}"),
    ],
)
def test_what_is_not_of_its_shape_is_refused(user: dict[str, Any], what: str, tmp_path: Path) -> None:
    data = points()
    trained(made(data.shape), data, 4, tmp_path / "first")
    with pytest.raises(Mismatch, match=what):
        loop.open_training(made(data.shape, **user), data, seed=5, origin=state(tmp_path / "first"))


def test_other_data_are_refused(tmp_path: Path) -> None:
    trained(made(points().shape), points(), 4, tmp_path / "first")
    data = images()
    with pytest.raises(Mismatch, match="not of its shape: the checkpoint's data are"):
        loop.open_training(made(data.shape), data, seed=5, origin=state(tmp_path / "first"))

"""The training loop: resume to the bit, stop, NaN, extension, and several workers against one."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.synthetic import GREY, POINTS, SyntheticData
from trainers import config, loop, plugins
from trainers.core import Act
from trainers.distributed import Workers
from trainers.generator import load_generator
from trainers.records import History


class Folder:
    """Checkpoints in a directory, all of them kept."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, step: int, files: Mapping[str, bytes | Path]) -> None:
        for name, data in files.items():
            path = self.root / f"{step:06d}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.read_bytes())

    def latest(self, *, at_most: int | None = None) -> tuple[int, dict[str, Path]] | None:
        steps = sorted(int(p.name) for p in self.root.iterdir() if at_most is None or int(p.name) <= at_most)
        if not steps:
            return None
        folder = self.root / f"{steps[-1]:06d}"
        return steps[-1], {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}


def resolved(shape: Any, **user: Any) -> config.TrainConfig:
    small = {"mlp": {"width": 16}} if shape.kind == "points" else {"dcgan": {"width": 4}}
    return config.resolve(
        {
            "total_steps": 12,
            "batch_size": 8,
            "log_every": 4,
            "sample_every": 6,
            "checkpoint_every": 3,
            "backbone": small,
        }
        | user,
        facts={"shape": shape.to_json()},
    )


ALL_HACKS = [
    "ema",
    "label_smoothing",
    "instance_noise",
    "feature_matching",
    "minibatch_discrimination",
    "spectral_norm",
]


@pytest.mark.parametrize(
    ("shape", "user"),
    [
        (GREY, {"variant": "dcgan", "hacks": ALL_HACKS}),
        (GREY, {"variant": "wgan_gp", "hacks": ["r1", "ema"]}),
        (POINTS, {"variant": "gan", "optimizers": {"critic": {"name": "sgd", "momentum": 0.9, "schedule": "cosine"}}}),
        (POINTS, {"variant": "gan", "optimizers": {"generator": {"name": "rmsprop"}, "critic": {"name": "adamw"}}}),
    ],
)
def test_killed_and_continued_equals_straight(tmp_path: Path, shape: Any, user: dict[str, Any]) -> None:
    straight = loop.fit(resolved(shape, **user), SyntheticData(shape), seed=3)
    (tmp_path / "c").mkdir()
    calls = iter(range(100))
    with pytest.raises(loop.Stopped) as stopped:
        loop.fit(
            resolved(shape, **user),
            SyntheticData(shape),
            seed=3,
            checkpoints=Folder(tmp_path / "c"),
            stop=lambda: next(calls) == 6,
        )
    assert stopped.value.step == 7
    continued = loop.fit(resolved(shape, **user), SyntheticData(shape), seed=3, checkpoints=Folder(tmp_path / "c"))
    assert continued.files == straight.files, "weights, history and pictures, to the bit"


def test_a_finished_run_extends(tmp_path: Path) -> None:
    straight = loop.fit(resolved(POINTS, variant="gan", total_steps=12), SyntheticData(POINTS), seed=1)
    loop.fit(
        resolved(POINTS, variant="gan", total_steps=6), SyntheticData(POINTS), seed=1, checkpoints=Folder(tmp_path)
    )
    started: list[int] = []
    extended = loop.fit(
        resolved(POINTS, variant="gan", total_steps=12),
        SyntheticData(POINTS),
        seed=1,
        checkpoints=Folder(tmp_path),
        report=lambda event: started.append(event["step"]),
    )
    assert started and min(started) > 6
    assert extended.files["model.safetensors"] == straight.files["model.safetensors"]


def test_nan_is_found_named_and_never_saved(tmp_path: Path) -> None:
    class Poisoned(SyntheticData):
        def split(self, name: str) -> Any:
            split = super().split(name)
            clean = split.batch
            calls = iter(range(10_000))

            def batch(indices: Any, **options: Any) -> Any:
                made = clean(indices, **options)
                return made._replace(x=made.x * float("nan")) if next(calls) >= 11 else made

            split.batch = batch  # type: ignore[method-assign]
            return split

    with pytest.raises(loop.NotFinite) as found:
        loop.fit(
            resolved(POINTS, variant="gan", total_steps=100), Poisoned(POINTS), seed=0, checkpoints=Folder(tmp_path)
        )
    assert found.value.step < 50 and "discriminator/real" in found.value.terms
    kept = Folder(tmp_path).latest()
    assert kept is not None and kept[0] == found.value.kept
    weights = load_file(kept[1]["state.safetensors"])
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())


def poison(game: Any, where: str) -> None:
    """Put one NaN or Inf into the state where no loss shows it."""
    with torch.no_grad():
        if where == "optimizer":
            p = next(iter(game.nets["discriminator"].parameters()))
            game.optimizers["discriminator"].state[p]["exp_avg_sq"].view(-1)[0] = float("inf")
        else:
            next(v for k, v in game.nets.state_dict().items() if k.startswith(where)).view(-1)[0] = float("nan")


@pytest.mark.parametrize("where", ["generator_ema", "discriminator.unused", "optimizer"])
def test_what_no_loss_shows_is_found_named_and_never_saved(tmp_path: Path, where: str) -> None:
    user = {"variant": "gan", "hacks": ["ema"], "total_steps": 60, "log_every": 60, "checkpoint_every": 7}
    training = loop.open_training(resolved(POINTS, **user), SyntheticData(POINTS), seed=0, checkpoints=Folder(tmp_path))
    training.game.nets["discriminator"].register_buffer("unused", torch.zeros(2))
    while training.step < 20:
        training.advance()
    poison(training.game, where)
    with pytest.raises(loop.NotFinite) as found:
        training.run()
    assert 20 <= found.value.step < 45 and found.value.kept == 14
    assert any(where in term for term in found.value.terms), found.value.terms
    assert (Folder(tmp_path).latest() or (0,))[0] == 14


def test_large_but_finite_losses_are_no_alarm() -> None:
    training = loop.open_training(resolved(POINTS, variant="gan"), SyntheticData(POINTS), seed=0)
    large = {"a": torch.tensor(3e38), "b": torch.tensor(3e38)}
    assert loop.not_finite(training.game, [(4, large)]) is None
    assert loop.not_finite(
        training.game, [(4, large), (5, {"a": torch.tensor(1.0), "b": -torch.tensor(torch.inf)})]
    ) == (
        5,
        ["b"],
    )


def test_history_goes_through_json_exactly() -> None:
    history = History()
    values = {"a": 0.1 + 0.2, "b": 1e-310, "c": float(torch.tensor(1 / 3)), "d": float("nan")}
    history.add(3, values)
    history.add(3, {"a": 0.0})
    again = History(history.encoded())
    assert again.last() == history.last() == {name: value for name, value in values.items() if name != "d"}
    assert json.loads(history.encoded()) == {"step": 3, **values, "d": None}


# --- in the background ------------------------------------------------------------------------------------------------


class Slow(Folder):
    """Takes its time, or fails, as told; knows how far training was when it began and ended to write."""

    def __init__(self, root: Path, seconds: float = 0.0, error: Exception | None = None) -> None:
        super().__init__(root)
        self.seconds, self.error = seconds, error
        self.training: loop.Training | None = None
        self.seen: list[tuple[int, int, int]] = []
        self.active = 0

    def save(self, step: int, files: Mapping[str, bytes | Path]) -> None:
        assert self.training is not None
        self.active += 1
        assert self.active == 1, "one at a time"
        began = self.training.step
        time.sleep(self.seconds)
        if self.error and step > 16:
            raise self.error
        super().save(step, files)
        self.seen.append((step, began, self.training.step))
        self.active -= 1


def slow(tmp_path: Path, seconds: float = 0.0, error: Exception | None = None, **user: Any) -> loop.Training:
    checkpoints = Slow(tmp_path, seconds, error)
    every = {"variant": "gan", "total_steps": 48, "checkpoint_every": 16, "log_every": 1000, "sample_every": 1000}
    training = loop.open_training(
        resolved(POINTS, **{**every, **user}), SyntheticData(POINTS), seed=0, checkpoints=checkpoints
    )
    checkpoints.training = training
    return training


def test_training_goes_on_while_a_checkpoint_is_written_but_not_far(tmp_path: Path) -> None:
    training = slow(tmp_path, 0.3)
    training.run()
    assert [step for step, _, _ in training.checkpoints.seen] == [16, 32, 48]
    assert [ended - step for step, _, ended in training.checkpoints.seen] == [4, 4, 0], (
        "a quarter of the interval, then it waits"
    )
    assert training.kept == 48


def test_nothing_is_told_that_lies_more_than_an_interval_past_a_checkpoint(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    training = slow(tmp_path, 0.1, log_every=1)
    training.report = lambda event: told.append((event["step"], training.kept or 0))
    training.run()
    assert [step for step, _ in told] == list(range(1, 49))
    assert max(step - kept for step, kept in told) <= 16


def test_short_intervals_are_written_at_once(tmp_path: Path) -> None:
    training = slow(tmp_path, 0.02, checkpoint_every=3, total_steps=9)
    training.run()
    assert [ended - step for step, _, ended in training.checkpoints.seen] == [0, 0, 0]


def test_what_goes_wrong_in_the_background_ends_training_at_the_next_step(tmp_path: Path) -> None:
    training = slow(tmp_path, 0.0, OSError(28, "no space left"))
    with pytest.raises(OSError, match="no space left"):
        training.run()
    assert 32 <= training.step <= 36
    assert training.kept == 16 and (Folder(tmp_path).latest() or (0,))[0] == 16


def test_a_stop_waits_until_its_checkpoint_is_there(tmp_path: Path) -> None:
    training = slow(tmp_path, 0.2)
    training.stop = lambda: training.step == 18
    with pytest.raises(loop.Stopped):
        training.run()
    assert training.kept == 18 and (Folder(tmp_path).latest() or (0,))[0] == 18


def test_another_failure_waits_for_the_checkpoint_and_stays_the_one_told(tmp_path: Path) -> None:
    training = slow(tmp_path, 0.2, OSError(28, "no space left"))

    def stop() -> bool:
        if training.step == 33:
            raise RuntimeError("out of memory")
        return False

    training.stop = stop
    with pytest.raises(RuntimeError, match="out of memory") as found:
        training.run()
    assert "no space left" in found.value.__notes__[0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint-")]


def test_phases_of_one_name_update_one_set_of_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = plugins.load("variants", "gan")
    first = cls.acts

    def acts(self: Any, shape: Any) -> Any:
        critic, generator = first(self, shape)[0].phases
        return (Act("a", 0.5, (critic,)), Act("b", 0.5, (replace(generator, name=critic.name),)))

    monkeypatch.setattr(cls, "acts", acts)
    with pytest.raises(ValueError, match="two phases are called discriminator"):
        loop.open_training(resolved(POINTS, variant="gan"), SyntheticData(POINTS), seed=0)


def test_a_stored_model_samples_as_the_trained_one(tmp_path: Path) -> None:
    fitted = loop.fit(resolved(GREY, variant="dcgan"), SyntheticData(GREY), seed=0)
    for name, data in fitted.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    generator = load_generator(tmp_path)
    images = generator.images(5, seed=1)
    assert images.shape == (5, 16, 16, 1) and images.dtype == "uint8"
    assert (images == load_generator(tmp_path).images(5, seed=1)).all()
    assert (images != generator.images(5, seed=2)).any()
    assert torch.allclose(generator.sample(3, seed=1, first=2), generator.sample(5, seed=1)[2:], atol=1e-6)
    with pytest.raises(ValueError, match="not conditional"):
        generator.sample(2, labels=[0, 1])
    with pytest.raises(ValueError, match="truncation"):
        generator.sample(2, truncation=2.0)


def test_weights_of_another_model_are_taken_over(tmp_path: Path) -> None:
    fitted = loop.fit(resolved(POINTS, variant="gan"), SyntheticData(POINTS), seed=0)
    path = tmp_path / "model.safetensors"
    path.write_bytes(fitted.files["model.safetensors"])
    training = loop.open_training(
        resolved(POINTS, variant="wgan_gp"), SyntheticData(POINTS), seed=5, init={"model.safetensors": path}
    )
    source = load_file(path)
    own = training.game.nets.state_dict()
    shared = [name for name in own if name in source and source[name].shape == own[name].shape]
    assert shared and all(torch.equal(own[name], source[name]) for name in shared)


def test_microbatches_change_nothing() -> None:
    whole = loop.fit(resolved(POINTS, variant="wgan_gp", precision="float64"), SyntheticData(POINTS), seed=2)
    pieces = loop.fit(
        resolved(POINTS, variant="wgan_gp", precision="float64", microbatch=3), SyntheticData(POINTS), seed=2
    )
    assert_close(whole, pieces)


def assert_close(a: loop.Fitted, b: loop.Fitted, tolerance: float = 1e-9) -> None:
    from safetensors.torch import load

    left, right = load(a.files["model.safetensors"]), load(b.files["model.safetensors"])
    assert left.keys() == right.keys()
    for name in left:
        assert torch.allclose(left[name], right[name], atol=tolerance, rtol=0), name


def _worker(rank: int, size: int, port: int, user: dict[str, Any], out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    fitted = loop.fit(resolved(POINTS, **user), SyntheticData(POINTS), seed=4, workers=Workers(rank, size))
    Path(out, f"{rank}.safetensors").write_bytes(fitted.files["model.safetensors"])
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("variant", ["gan", "wgan_gp"])
def test_two_workers_equal_one(tmp_path: Path, variant: str) -> None:
    user = {"variant": variant, "precision": "float64", "hacks": ["ema", "instance_noise"]}
    one = loop.fit(resolved(POINTS, **user), SyntheticData(POINTS), seed=4)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_worker, (2, port, user, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    ranks = [(tmp_path / f"{rank}.safetensors").read_bytes() for rank in (0, 1)]
    assert ranks[0] == ranks[1], "the workers hold the same weights"
    two = loop.Fitted(one.step, {"model.safetensors": ranks[0]}, {}, {})
    assert_close(one, two)

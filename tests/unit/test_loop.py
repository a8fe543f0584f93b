"""The training loop: resume to the bit, stop, NaN, extension, and several workers against one."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.synthetic import GREY, POINTS, SyntheticData
from trainers import config, loop
from trainers.distributed import Workers
from trainers.generator import load_generator


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

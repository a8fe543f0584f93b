"""Stopped, killed and continued trainings end with the bits of an undisturbed one: every variant, every hack.

A plugin dropped in as one file is tested here with no other change. What is compared is the last checkpoint (networks,
averaged copies, hack buffers, optimizers, history, pictures) and the model.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator import files as storage
from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from tests.contract.test_hacks import HACKS, partner, setting
from tests.contract.test_variants import COLOUR, GREY, POINTS, norms, shape_for, small
from trainers import checkpoint, config, loop, plugins
from trainers.core import Act, DataShape
from trainers.data import Prepared
from trainers.dataset import Arrays
from trainers.distributed import Workers
from trainers.step import Game

TOTAL = 13
ROWS = 8
SPAWN_S = 120  # for a process that was started to end


class Case:
    """A small configuration and the data it needs."""

    def __init__(self, user: Mapping[str, Any], shape: DataShape, **augment: Any) -> None:
        self.shape, self.augment = shape, augment
        every = {"total_steps": TOTAL, "checkpoint_every": 3, "sample_every": 5, "log_every": 2, "batch_size": ROWS}
        self.user = {**user, **every, "precision": user.get("precision", "float32")}

    def config(self, **more: Any) -> config.TrainConfig:
        return config.resolve({**self.user, **more}, facts={"shape": self.shape.to_json()})

    def open(self, store: Path | None, **options: Any) -> loop.Training:
        more = options.pop("user", {})
        checkpoints = StoredCheckpoints(ArtifactStore(str(store)), "lineage") if store else None
        return loop.open_training(self.config(**more), self.data(), seed=3, checkpoints=checkpoints, **options)

    def game(self) -> Game:
        return Game(self.config(), self.shape, 3)

    def data(self) -> Prepared:
        """Real prepared data: 21 samples, so that epochs do not end where batches do."""
        made = arrays(self.shape, 21, 0)
        other = {"train": arrays(self.shape.other, 17, 1)} if self.shape.other else None
        return Prepared.of({"train": made}, other=other, **self.augment)


def arrays(shape: DataShape, n: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    label = np.arange(n) % shape.num_classes if shape.num_classes else None
    if shape.kind == "points":
        return Arrays(rng.normal(size=(n, *shape.size)).astype(np.float32), label)
    channels, height, width = shape.size
    return Arrays(rng.integers(0, 256, (n, height, width, channels), dtype=np.uint8), label)


def usual(variant: str) -> dict[str, Any]:
    """A variant as a user gets it who names nothing else, with its own backbones made small."""
    defaults = plugins.describe("variants", variant).attributes.get("defaults", {}).get("backbone", "mlp")
    sides = (
        defaults
        if isinstance(defaults, dict) and "generator" in defaults
        else {"generator": defaults, "critic": defaults}
    )
    backbone = {}
    for side, chosen in sides.items():
        one = config.choice(chosen)
        backbone[side] = {one.name: {**one.params, **small("backbones", one.name)}}
    return {"variant": {variant: small("variants", variant)}, "backbone": backbone}


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for variant in plugins.names("variants"):
        for base in (GREY, COLOUR):
            shape = shape_for(variant, base)
            if f"{variant}" not in found and not config.check(usual(variant), {"shape": shape.to_json()}):
                found[variant] = Case(usual(variant), shape, flip=True, crop=1)
        points = shape_for(variant, POINTS)
        if norms(variant, "mlp", points) != "":
            user = {"variant": {variant: small("variants", variant)}, "backbone": {"mlp": {"width": 8, "depth": 2}}}
            found[f"{variant}-points"] = Case(user, points)
    for hack in HACKS:
        user, shape = setting(hack, partner(hack))
        found[f"hack-{hack}"] = Case({**user, "precision": "float32"}, shape)
    return {**found, **special()}


def special() -> dict[str, Case]:
    """What plugins' defaults do not touch: schedules, other optimizers, microbatches, lazy phases, many hacks at once."""
    mlp = {"backbone": {"mlp": {"width": 8, "depth": 1}}}
    scheduled = {"schedule": "cosine", "warmup_steps": 4}
    return {
        "momentum": Case({**mlp, "variant": "gan", "optimizers": {
            "generator": {"name": "sgd", "momentum": 0.9, **scheduled}, "critic": {"name": "rmsprop", "momentum": 0.5}}}, POINTS),
        "plain-sgd": Case({**mlp, "variant": "gan", "optimizers": {
            "generator": {"name": "adamw", "weight_decay": 0.1, "schedule": "linear"}, "critic": {"name": "sgd"}}}, POINTS),
        "lazy": Case({**mlp, "variant": {"gan": {"n_critic": 2}}, "microbatch": 3, "hacks": {
            "r1": {"every": 4}, "ema": {"start_step": 5}, "instance_noise": {}}}, POINTS),
        "many": Case({"variant": "dcgan", "backbone": {"dcgan": {"width": 4}}, "hacks": [
            "ema", "spectral_norm", "minibatch_discrimination", "feature_matching", "label_smoothing", "diffaugment",
            "instance_noise"]}, GREY, flip=True, crop=2),
    }  # fmt: skip


CASES = cases()


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


def stored(store: Path) -> dict[str, Path]:
    found = StoredCheckpoints(ArtifactStore(str(store)), "lineage").latest()
    assert found is not None and found[0] == TOTAL
    return found[1]


def outcome(store: Path, fitted: loop.Fitted) -> dict[str, dict[str, str]]:
    """Digests of all that a finished training leaves."""
    last = {name: path.read_bytes() for name, path in stored(store).items()}
    return {"checkpoint": digests(last), "model": digests(fitted.files)}


class Killed(BaseException):
    """Ends a training as abruptly as an exception can."""


def dying(at: int) -> Callable[[], bool]:
    """A `stop` that raises once `at` steps are done."""
    calls = iter(range(1, 10**6))

    def stop() -> bool:
        if next(calls) == at:
            raise Killed
        return False

    return stop


def stopping(after: int) -> Callable[[], bool]:
    """A `stop` that says yes once `after` steps are done."""
    calls = iter(range(1, 10**6))
    return lambda: next(calls) == after


@cache
def straight(name: str, root: Path) -> dict[str, dict[str, str]]:
    store = root / f"straight-{name}"
    return outcome(store, CASES[name].open(store).fit())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.mark.parametrize("name", CASES)
def test_stopped_and_continued_equals_straight(name: str, root: Path, tmp_path: Path) -> None:
    case = CASES[name]
    with pytest.raises(Killed):
        case.open(tmp_path, stop=dying(2)).run()  # before the first checkpoint
    reached = []
    for steps, way in ((1, stopping), (4, dying), (4, stopping), (1, stopping), (4, dying)):
        training = case.open(tmp_path, stop=way(steps))
        reached.append(training.step)
        with pytest.raises((loop.Stopped, Killed)):
            training.run()
    assert reached == [0, 1, 3, 7, 8]
    assert outcome(tmp_path, case.open(tmp_path).fit()) == straight(name, root)
    assert digests(case.open(None).fit().files) == straight(name, root)["model"], "checkpoints change nothing"


@pytest.mark.parametrize("name", CASES)
def test_every_key_of_a_checkpoint_is_needed(name: str, root: Path, tmp_path: Path) -> None:
    """Each tensor, each field and each file that is missing is refused by its name; so are strange and misshapen ones."""
    straight(name, root)
    files, game = stored(root / f"straight-{name}"), CASES[name].game()
    assert checkpoint.restore(game, files) == TOTAL
    tensors = load_file(files[checkpoint.STATE])
    assert {key.split("/")[0] for key in tensors} >= {"net", "optimizer"}
    damaged = tmp_path / "damaged"

    def refused(changed: Mapping[str, Any], match: str) -> None:
        save_file(dict(changed), damaged)
        with pytest.raises(checkpoint.Mismatch, match=match):
            checkpoint.restore(game, {**files, checkpoint.STATE: damaged})

    for key, value in tensors.items():
        refused({k: v for k, v in tensors.items() if k != key}, key.replace(".", r"\."))
        if key.endswith(("bias", "exp_avg", "momentum_buffer")):
            refused({**tensors, key: torch.cat([value, value])}, key.replace(".", r"\."))
    refused({**tensors, "net/more": torch.zeros(1)}, "net/more")
    some = next(key for key, value in tensors.items() if value.is_floating_point())
    refused({**tensors, some: tensors[some].half()}, some.replace(".", r"\."))
    about = json.loads(files[checkpoint.ABOUT].read_text())
    for field in about:
        damaged.write_text(json.dumps({k: v for k, v in about.items() if k != field}))
        with pytest.raises(checkpoint.Mismatch, match=field):
            checkpoint.restore(game, {**files, checkpoint.ABOUT: damaged})
    for phase in about["stepped"]:
        damaged.write_text(json.dumps({**about, "stepped": [p for p in about["stepped"] if p != phase]}))
        if any(key.startswith(f"optimizer/{phase}/") for key in tensors):
            with pytest.raises(checkpoint.Mismatch, match=f"optimizer/{phase}"):
                checkpoint.restore(game, {**files, checkpoint.ABOUT: damaged})


def test_every_file_and_every_record_of_a_checkpoint_is_needed(root: Path, tmp_path: Path) -> None:
    straight("dcgan", root)
    files = stored(root / "straight-dcgan")
    assert set(files) == {"state.safetensors", "state.json", "history.jsonl", "samples.safetensors"}

    class Given:
        def __init__(self, given: Mapping[str, Path]) -> None:
            self.given = dict(given)

        def save(self, step: int, files: Any) -> None:
            raise AssertionError

        def latest(self, *, at_most: int | None = None) -> tuple[int, dict[str, Path]]:
            return TOTAL, self.given

    def opened(given: Mapping[str, Path]) -> loop.Training:
        case = CASES["dcgan"]
        return loop.open_training(case.config(), case.data(), seed=3, checkpoints=Given(given))

    assert opened(files).step == TOTAL
    damaged = tmp_path / "damaged"
    for name in files:
        with pytest.raises(checkpoint.Mismatch, match=name):
            opened({k: v for k, v in files.items() if k != name})
        damaged.write_bytes(files[name].read_bytes()[:-9])
        with pytest.raises(checkpoint.Mismatch, match=r"read|records"):
            opened({**files, name: damaged})
    lines = files["history.jsonl"].read_bytes().splitlines(keepends=True)
    damaged.write_bytes(b"".join(lines[1:]))
    with pytest.raises(checkpoint.Mismatch, match="records"):
        opened({**files, "history.jsonl": damaged})
    pictures = load_file(files["samples.safetensors"])
    assert len(pictures) == 3
    for name in pictures:
        save_file({k: v for k, v in pictures.items() if k != name}, damaged)
        with pytest.raises(checkpoint.Mismatch, match=name):
            opened({**files, "samples.safetensors": damaged})


@pytest.mark.parametrize("name", ["momentum", "lazy"])
def test_no_stored_state_is_dead(name: str, tmp_path: Path) -> None:
    """Changing any one stored tensor changes the model that comes out."""
    case = CASES[name]
    with pytest.raises(loop.Stopped):
        case.open(tmp_path, stop=stopping(7)).run()
    _, files = StoredCheckpoints(ArtifactStore(str(tmp_path)), "lineage").latest() or (0, {})
    tensors = load_file(files[checkpoint.STATE])

    def model(changed: Mapping[str, Any]) -> str:
        training = case.open(None)
        save_file(dict(changed), tmp_path / "changed")
        training.step = checkpoint.restore(training.game, {**files, checkpoint.STATE: tmp_path / "changed"})
        return digests(training.fit().files)["model.safetensors"]

    untouched = model(tensors)
    without_use = [key for key, value in tensors.items() if model({**tensors, key: value + 1}) == untouched]
    # RMSprop counts its steps, and nothing depends on them.
    assert [key for key in without_use if not (name == "momentum" and key.endswith("/step"))] == []


@pytest.mark.parametrize("stop", [2, 6, 7])
def test_an_act_begins_once(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two acts, the second of which changes the networks as it begins, after 6 of 12 steps; and a phase every other step."""
    cls = plugins.load("variants", "gan")
    usual_acts = cls.acts

    def enter(nets: Any) -> None:
        with torch.no_grad():
            for p in nets["generator"].parameters():
                p.mul_(0.5)

    def acts(self: Any, shape: DataShape) -> tuple[Act, ...]:
        from dataclasses import replace

        critic, generator = usual_acts(self, shape)[0].phases
        later = (critic, replace(generator, every=2))
        return (Act("first", 0.5, (critic,)), Act("second", 0.5, later, enter))

    monkeypatch.setattr(cls, "acts", acts)
    case = Case({"variant": "gan", "backbone": {"mlp": {"width": 8, "depth": 1}}}, POINTS)
    whole = {"user": {"total_steps": 12, "checkpoint_every": 2}}
    expected = digests(case.open(None, **whole).fit().files)
    with pytest.raises(loop.Stopped):
        case.open(tmp_path, stop=stopping(stop), **whole).run()
    continued = case.open(tmp_path, **whole)
    assert continued.step == stop
    assert digests(continued.fit().files) == expected


# --- whose state it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "told"),
    [
        ({"variant": "wgan_gp"}, "its variant is"),
        ({"backbone": {"mlp": {"width": 9, "depth": 1}}}, "its backbone is"),
        ({"hacks": []}, "its hacks is"),
        ({"batch_size": 4}, "its batch_size is 8, not 4"),
        ({"precision": "float64"}, "its precision is float32, not float64"),
        ({"optimizers": {"critic": {"lr": 0.1}}}, "its optimizers is"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(user: dict[str, Any], told: str, tmp_path: Path) -> None:
    case = Case({"variant": "gan", "backbone": {"mlp": {"width": 8, "depth": 1}}}, POINTS)
    case.open(tmp_path).run()
    with pytest.raises(checkpoint.Mismatch, match=f"belongs to another training: {told}"):
        case.open(tmp_path, user=user)


def test_other_data_and_another_seed_are_refused(tmp_path: Path) -> None:
    case = Case({"variant": "gan", "backbone": {"mlp": {"width": 8, "depth": 1}}}, POINTS)
    case.open(tmp_path).run()
    files = stored(tmp_path)
    with pytest.raises(checkpoint.Mismatch, match="its shape is"):
        checkpoint.restore(Game(case.config(), DataShape("points", (3,), bounded=False), 3), files)
    with pytest.raises(checkpoint.Mismatch, match="its seed is 3, not 4"):
        checkpoint.restore(Game(case.config(), case.shape, 4), files)


def test_what_rounds_differently_is_told(tmp_path: Path) -> None:
    case, said = CASES["lazy"], []
    with pytest.raises(loop.Stopped):
        case.open(tmp_path, stop=stopping(4)).run()
    case.open(tmp_path, say=said.append)
    assert said == []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        case.open(tmp_path, say=said.append)
    finally:
        torch.set_num_threads(threads)
    assert said == [f"not bit-exact from step 4 on: threads was {threads}, is {threads + 1}"]
    case.open(tmp_path, say=said.append, user={"microbatch": 4, "total_steps": 20})
    assert said[1:] == ["not bit-exact from step 4 on: microbatch was 3, is 4"]


# --- really killed ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Any:
    """Processes that start with everything imported, and no thread of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:  # a fork server of Python 3.11 looks nowhere else
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
        multiprocessing.forkserver.ensure_running()
    return context


def train_here(name: str, store: str, die_at: int, observed: bool) -> None:
    """A training that ends its own process with SIGKILL: after a step, or at a store operation."""
    torch.set_num_threads(1)
    count = iter(range(1, 10**6))

    def tick(*_: Any) -> bool:
        if next(count) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    if observed:
        storage.observe = tick
    case = CASES[name]
    fitted = case.open(Path(store), stop=(lambda: False) if observed else tick).fit()
    Path(store, "outcome.json").write_text(json.dumps(outcome(Path(store), fitted)))


def rerun_until_whole(server: Any, name: str, store: Path, deaths: Iterator[int], *, observed: bool) -> int:
    """Start the training again and again until it ends; returns how often it was killed."""
    killed = 0
    while True:
        process = server.Process(target=train_here, args=(name, str(store), next(deaths, 0), observed))
        process.start()
        process.join(SPAWN_S)
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            return killed
        killed += 1


KILLED = ["gan-points", "cyclegan-points", "many", "momentum"]


def check_killed(server: Any, name: str, seed: int, root: Path, store: Path) -> None:
    """Killed three times after random steps, then left alone."""
    draw = random.Random(f"{name}/{seed}")
    deaths = iter([draw.randint(1, 5), draw.randint(4, 9), draw.randint(1, 4)])
    assert rerun_until_whole(server, name, store, deaths, observed=False) >= 2
    assert json.loads((store / "outcome.json").read_text()) == straight(name, root)


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_continued_equals_straight(name: str, server: Any, root: Path, tmp_path: Path) -> None:
    check_killed(server, name, 0, root, tmp_path)


@pytest.mark.long
def test_whatever_is_trained_survives_being_killed(server: Any, root: Path, tmp_path: Path) -> None:
    """Every variant and hack, at other steps for each seed; a sample of them where the proof is to be small."""
    full = os.environ.get("ORCHESTRATOR_PROOF", "small") == "full"
    for seed in range(1, 4 if full else 2):
        for name in CASES if full else sorted(CASES)[seed::5]:
            store = tmp_path / f"{name}-{seed}"
            store.mkdir()
            check_killed(server, name, seed, root, store)


def test_killed_while_a_checkpoint_is_written(server: Any, root: Path, tmp_path: Path) -> None:
    """At sampled operations of the store, nearly all of them in the background: the checkpoint before stays whole."""
    draw = random.Random(0)
    for point in sorted(draw.sample(range(1, 60), 3)):
        store = tmp_path / str(point)
        assert rerun_until_whole(server, "gan-points", store, iter([point, point]), observed=True) >= 1
        assert json.loads((store / "outcome.json").read_text()) == straight("gan-points", root)


def train_as_one_of_two(name: str, store: str, rank: int, port: int, die_before: int, stop_after: int) -> None:
    """One of two workers; worker 1 is killed before a step, or both are asked to stop after one."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    step = Game.step

    def mortal(game: Game, number: int, fetch: Any) -> Any:
        if rank == 1 and number == die_before:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(game, number, fetch)

    Game.step = mortal  # type: ignore[method-assign]
    training = CASES[name].open(Path(store), workers=Workers(rank, 2), stop=lambda: training.step == stop_after)
    try:
        fitted = training.fit()
    except loop.Stopped:
        return
    Path(store, f"outcome-{rank}.json").write_text(json.dumps(digests(fitted.files)))


def two_workers(server: Any, name: str, store: Path, die_before: int = -1, stop_after: int = -1) -> tuple[int, int]:
    """Run both to their end; where one is killed, the other is, too. Returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [
        server.Process(target=train_as_one_of_two, args=(name, str(store), rank, port, die_before, stop_after))
        for rank in (0, 1)
    ]
    for process in both:
        process.start()
    both[1].join(SPAWN_S)
    if both[1].exitcode != 0:
        both[0].kill()
    both[0].join(SPAWN_S)
    return both[0].exitcode, both[1].exitcode


@pytest.mark.parametrize("name", ["dcgan", "cyclegan-points"])
def test_two_workers_killed_and_continued_equal_two_undisturbed(name: str, server: Any, tmp_path: Path) -> None:
    """Batch statistics and histories of samples are each worker's own; a checkpoint more or less changes nothing."""
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    assert two_workers(server, name, undisturbed) == (0, 0)
    assert two_workers(server, name, disturbed, die_before=7)[1] == -signal.SIGKILL
    assert two_workers(server, name, disturbed, stop_after=10) == (0, 0)
    assert two_workers(server, name, disturbed) == (0, 0)

    def result(store: Path) -> list[Any]:
        models = [
            json.loads((store / f"outcome-{rank}.json").read_text()) for rank in (0, 1)
        ]  # worker 0 has the pictures
        last = digests({name: path.read_bytes() for name, path in stored(store).items()})
        return [models[0], models[1]["model.safetensors"], last]

    assert result(disturbed) == result(undisturbed)
    said: list[str] = []
    CASES[name].open(undisturbed, say=said.append)
    assert said == [f"not bit-exact from step {TOTAL} on: workers was 2, is 1"]

"""The train stage without Ray: what it foresees, and that it stops, goes on, grows and diverges as promised."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.errors import BadInput, Diverged, IntegrityError, Interrupted
from orchestrator.stage import Scale
from orchestrator.stages.train import Train
from tests import stand
from trainers import config
from trainers.generator import load_generator

POINTS: dict[str, Any] = {"shape": {"kind": "points", "size": [2], "num_classes": 8, "bounded": False, "other": None}}
SMALL: dict[str, Any] = {"variant": "gan", "hacks": ["ema"], "batch_size": 32, "log_every": 5, "checkpoint_every": 10}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def ring(store: ArtifactStore) -> Artifact:
    return stand.ring(store, 64)


def weights(store: ArtifactStore, model: Artifact) -> dict[str, torch.Tensor]:
    return load_file(store.open(model, "model.safetensors"))


def test_its_parameters_are_those_of_the_train_configuration() -> None:
    assert tuple(field.name for field in fields(Train)) == config.KEYS


# --- planning -----------------------------------------------------------------------------------------------------------


def test_what_is_foreseen_is_what_is_made(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    stage = Train(**SMALL, total_steps=10)
    foreseen = stage.foresee({"dataset": ring.metadata})
    made = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store))["model"]
    assert not foreseen.complaints
    assert {key: made.metadata[key] for key in foreseen.outputs["model"]} == json.loads(
        json.dumps(foreseen.outputs["model"])
    )
    assert set(foreseen.plugins) == {("variants", "gan"), ("hacks", "ema"), ("backbones", "mlp")}
    assert load_generator(store.directory(made)).sample(3).shape == (3, 2)


def test_mistakes_are_placed_where_they_are_written() -> None:
    stage = Train(variant="wgan_gp", hacks=["ema", "label_smoothing"], optimizers={"critic": {"lr": -1}})
    found = {c.path: c.id for c in stage.foresee({"dataset": POINTS}).complaints}
    assert found == {("optimizers", "critic", "lr"): "out-of-range"}
    stage = Train(variant="wgan_gp", hacks=["ema", "label_smoothing"])
    assert {c.path: c.id for c in stage.foresee({"dataset": POINTS}).complaints} == {("hacks", 1): "incompatible"}


def test_explicit_values_win_over_the_winner_and_it_over_the_defaults() -> None:
    winner = {"variant": "wgan_gp", "batch_size": 16, "optimizers": {"critic": {"lr": 0.25}, "generator": {"lr": 0.5}}}
    stage = Train(total_steps=30, optimizers={"critic": {"lr": 0.125}})
    foreseen = stage.foresee({"dataset": POINTS, "config": {"winner": winner}})
    made = foreseen.outputs["model"]["config"]
    assert next(iter(made["variant"])) == "wgan_gp"
    assert (made["batch_size"], made["total_steps"]) == (16, 30)
    assert (made["optimizers"]["critic"]["lr"], made["optimizers"]["generator"]["lr"]) == (0.125, 0.5)
    assert ("variants", "wgan_gp") in foreseen.plugins


def test_an_open_search_leaves_compatibility_open_but_no_typing_error() -> None:
    open_search: dict[str, Any] = {"dataset": POINTS, "config": {"metric": "frechet_distance"}}
    assert not Train(hacks=["minibatch_discrimination"], total_steps=5).foresee(open_search).complaints
    assert Train(hacks=["minibatch_discriminaton"]).foresee(open_search).complaints
    assert "config" not in Train(total_steps=5).foresee(open_search).outputs["model"]


# --- running ------------------------------------------------------------------------------------------------------------


def test_progress_losses_and_grids_are_told(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    diary = stand.Diary()
    Train(**SMALL, total_steps=20, sample_every=10).run(
        stand.context(tmp_path, {"dataset": ring}, store=store, diary=diary)
    )
    assert diary.steps[-1] == (20, 20)
    assert [step for step, _ in diary.logged] == [5, 10, 15, 20]
    assert list(diary.figures) == ["samples/step_00000010.png", "samples/step_00000020.png"]
    assert diary.values["settings.batch_size" if "settings.batch_size" in diary.values else "batch_size"] == 32


def test_stopped_and_continued_ends_bit_identical(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    stage = Train(**SMALL, total_steps=40)
    whole = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="whole"))["model"]
    diary = stand.Diary()
    asked = [False]
    diary.on_step = lambda done: asked.__setitem__(0, done >= 15)
    cut = stand.context(tmp_path, {"dataset": ring}, store=store, lineage="cut", diary=diary, stopping=lambda: asked[0])
    with pytest.raises(Interrupted):
        stage.run(cut)
    again = stand.Diary()
    rest = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="cut", diary=again))["model"]
    assert again.lines == ["training goes on from step 16"]
    assert rest.digest == whole.digest


def test_a_checkpoint_is_told_not_bit_exact_or_refused(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    """Another number of threads rounds differently; another training's checkpoint is never gone on from."""
    Train(**SMALL, total_steps=10).run(stand.context(tmp_path, {"dataset": ring}, store=store))
    diary, threads = stand.Diary(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        Train(**SMALL, total_steps=20).run(stand.context(tmp_path, {"dataset": ring}, store=store, diary=diary))
    finally:
        torch.set_num_threads(threads)
    told = f"not bit-exact from step 10 on: threads was {threads}, is {threads + 1}"
    assert diary.lines == [told, "training goes on from step 10"]
    with pytest.raises(IntegrityError, match=r"its seed is 0, not 1; .* remove checkpoints/lineage from the storage"):
        Train(**SMALL, total_steps=20).run(stand.context(tmp_path, {"dataset": ring}, store=store, seed=1))


def test_a_finished_training_grows(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    def run(total_steps: int, lineage: str, diary: stand.Diary | None = None) -> Artifact:
        context = stand.context(tmp_path, {"dataset": ring}, store=store, lineage=lineage, diary=diary)
        return Train(**SMALL, total_steps=total_steps, sample_every=20).run(context)["model"]

    run(20, "grows")
    diary = stand.Diary()
    grown = weights(store, run(40, "grows", diary))
    assert diary.lines == ["training goes on from step 20"]
    straight = weights(store, run(40, "straight"))
    assert all(torch.equal(grown[name], straight[name]) for name in straight)


def test_nan_is_divergence(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    wild = {role: {"name": "sgd", "lr": 1e30} for role in ("generator", "critic")}
    with pytest.raises(Diverged, match="diverged"):
        Train(**SMALL, total_steps=60, optimizers=wild).run(stand.context(tmp_path, {"dataset": ring}, store=store))


def test_weights_come_from_another_model(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    first = Train(**SMALL, total_steps=10).run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="a"))[
        "model"
    ]
    frozen = {role: {"name": "sgd", "lr": 1e-30} for role in ("generator", "critic")}
    stage = Train(**SMALL, total_steps=1, optimizers=frozen)
    context = stand.context(tmp_path, {"dataset": ring, "model": first}, store=store, lineage="b", seed=5)
    there, here = weights(store, first), weights(store, stage.run(context)["model"])
    trained = [name for name in here if name.startswith("generator.")]
    assert trained
    assert all(torch.equal(there[name], here[name]) for name in trained)
    by_path = Train(**SMALL, total_steps=1, optimizers=frozen, init=str(store.directory(first)))
    again = weights(
        store, by_path.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="c", seed=5))["model"]
    )
    assert all(torch.equal(again[name], here[name]) for name in trained)


def test_what_cannot_be_is_bad_input(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    context = stand.context(tmp_path, {"dataset": ring}, store=store, scale=Scale(num_workers=3))
    with pytest.raises(BadInput, match="shared equally by 3 workers"):
        Train(**SMALL).run(context)
    with pytest.raises(BadInput, match=r"no model\.safetensors"):
        Train(**SMALL, init=str(tmp_path)).run(stand.context(tmp_path, {"dataset": ring}, store=store))

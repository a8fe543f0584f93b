"""Models found by run, pipeline and path, and sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.errors import BadInput
from orchestrator.loaded import in_turn, load, sample_source
from orchestrator.runs import Diary, RunRecord, StageRecord
from tests.stand import stripes
from trainers import config
from trainers.core import DataShape
from trainers.generator import Generator, as_float
from trainers.step import Game

LABELLED = DataShape("image", (1, 8, 8), 4)
TWO = DataShape("image", (1, 8, 8), other=DataShape("image", (1, 8, 8)))


def game(variant: str = "gan", seed: int = 0, shape: DataShape = LABELLED) -> Game:
    user = {"variant": variant, "backbone": {"mlp": {"width": 8}}, "batch_size": 8, "total_steps": 10}
    return Game(config.resolve(user, facts={"shape": shape.to_json()}), shape, seed)


def model(store: ArtifactStore, made: Game) -> Artifact:
    from safetensors.torch import save

    from trainers.checkpoint import networks

    about = {"config": made.config.to_json(), "shape": made.shape.to_json(), "step": 10, "seed": made.seed}
    files = {"model.safetensors": save(networks(made)), "config.json": json.dumps(about).encode()}
    return store.put("model", files, about)


def record(store: ArtifactStore, run_id: str, **artifacts: Artifact) -> None:
    """A run's record with a stage for each artifact."""
    stages = [
        StageRecord(stage=stage, name=stage.split(".")[0], uses="train", outputs={made.kind: made.digest})
        for stage, made in artifacts.items()
    ]
    Diary(store, RunRecord(run_id, run_id.rsplit("-", 3)[0], status="succeeded", stages=stages)).save()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "runs"))


def test_a_run_is_found_by_id_by_pipeline_and_as_the_latest_with_a_model(store: ArtifactStore) -> None:
    record(store, "gan-20260101-000000-aaaa", train=model(store, game(seed=1)))
    record(store, "gan-20260102-000000-bbbb", train=model(store, game(seed=2)))
    record(store, "gan-20260103-000000-cccc")
    record(store, "ring-20250101-000000-dddd", train=model(store, game(seed=3)))
    assert load(store.url, "gan-20260101-000000-aaaa").run_id.endswith("aaaa")
    assert load(store.url, "gan").run_id.endswith("bbbb")
    assert load(store.url, "ring").run_id.endswith("dddd")
    assert load(store.url).run_id.endswith("bbbb")
    with pytest.raises(BadInput, match="made no model"):
        load(store.url, "gan-20260103-000000-cccc")
    with pytest.raises(BadInput, match="gan, ring"):
        load(store.url, "cycle")


def test_samples_are_those_of_the_generator(store: ArtifactStore) -> None:
    made = model(store, game())
    scores = store.put("scores", {"scores.json": b"{}"}, {"scores": {"fid": {"value": 3.0}}, "model": made.digest})
    record(store, "gan-20260101-000000-aaaa", train=made, evaluate=scores)
    run = load(store.url)
    images = run.sample(6, seed=4)
    assert images.dtype == np.uint8
    assert np.array_equal(images, Generator.of(game()).images(6, seed=4))
    assert run.config["variant"].keys() == {"gan"}
    assert run.scores == {"fid": {"value": 3.0}}
    assert run.report_path is None
    with pytest.raises(BadInput, match="takes no labels"):
        run.sample(2, labels=[0, 1])
    with pytest.raises(BadInput, match="truncation"):
        run.sample(2, truncation=3.0)


def test_several_models_are_told_apart_by_stage(store: ArtifactStore) -> None:
    made: dict[str, Any] = {f"train.seed-{seed}": model(store, game(seed=seed)) for seed in (0, 1)}
    record(store, "gan-20260101-000000-aaaa", **made)
    with pytest.raises(BadInput, match=r"train\.seed-0, train\.seed-1"):
        load(store.url)
    chosen = load(store.url, stage="train.seed-1")
    assert np.array_equal(chosen.sample(2), Generator.of(game(seed=1)).images(2))


def test_a_translator_translates_its_own_data(store: ArtifactStore) -> None:
    made = model(store, game("travelgan", shape=TWO))
    record(store, "two-20260101-000000-aaaa", data=stripes(store), train=made)
    run = load(store.url)
    assert run.sample(3, seed=1).shape == (3, 8, 8, 1)
    source = np.zeros((2, 8, 8, 1), dtype=np.uint8)
    theirs = Generator.of(game("travelgan", shape=TWO)).images(2, source=as_float(source))
    assert np.array_equal(run.sample(2, source=source), theirs)


def test_a_model_directory_or_one_of_its_files_is_enough(store: ArtifactStore) -> None:
    directory = store.directory(model(store, game("cgan")))
    expected = Generator.of(game("cgan")).images(5, seed=2, labels=in_turn(5, 4))
    for path in (directory, directory / "model.safetensors"):
        assert np.array_equal(sample_source(str(path), 5, 2), expected)
    with pytest.raises(BadInput, match="labels"):
        sample_source(str(directory), 5, labels=[0])


def test_what_is_no_model_is_told(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run with a model"):
        sample_source("nothing", 1, storage=store.url)
    with pytest.raises(BadInput, match="names no registered model"):
        sample_source("models:/dcgan", 1, storage=str(tmp_path))

"""A search on Ray Tune decides what the same search decides in one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.cluster import Cluster
from orchestrator.errors import Interrupted
from orchestrator.stage import Scale
from orchestrator.stages.tune import Tune
from tests import stand

pytestmark = pytest.mark.usefixtures("ray_cluster")
STAGE = Tune(
    space={
        "variant": {"choice": ["gan", "wgan_gp"]},
        "hacks": {"subsets": ["label_smoothing"]},
        "optimizers.generator.lr": {"loguniform": [1e-4, 1e-2]},
    },
    trial={"total_steps": 8, "batch_size": 16, "log_every": 4},
    num_trials=6,
    eval_samples=64,
)


def trials(store: ArtifactStore, search: Artifact) -> list[dict[str, Any]]:
    """What repeats of each trial."""
    found: list[dict[str, Any]] = json.loads(store.read(search, "trials.json"))["trials"]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in found]


def test_a_search_is_the_same_on_ray_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    ring = stand.ring(store, 64)
    alone = STAGE.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="alone"))["search"]

    cut = stand.Diary()
    context = stand.context(
        tmp_path,
        {"dataset": ring},
        store=store,
        cluster=Cluster(),
        lineage="ray",
        diary=cut,
        stopping=lambda: len(cut.children) >= 3,
    )
    with pytest.raises(Interrupted):
        STAGE.run(context)

    diary = stand.Diary()
    context = stand.context(tmp_path, {"dataset": ring}, store=store, cluster=Cluster(), lineage="ray", diary=diary)
    search = STAGE.run(context)["search"]
    assert trials(store, search) == trials(store, alone)
    assert search.metadata == alone.metadata
    assert diary.lines[0].startswith("the search goes on: ")
    told = cut.steps + diary.steps
    assert told
    assert all(done <= planned for done, planned in told)


def scores(store: ArtifactStore, search: Artifact) -> dict[tuple[int, str], float]:
    return {(one["trial"], step): value for one in trials(store, search) for step, value in one["scores"].items()}


def test_trials_share_a_processor(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    ring = stand.ring(store, 64)
    stage = replace(STAGE, population="off", num_trials=4, scheduler="none")
    alone = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="alone"))["search"]
    context = stand.context(
        tmp_path, {"dataset": ring}, store=store, cluster=Cluster(), lineage="ray", scale=Scale(cpus_per_worker=0.5)
    )
    assert trials(store, stage.run(context)["search"]) == trials(store, alone)


@pytest.mark.long
def test_a_trial_may_have_several_workers(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    ring = stand.ring(store, 64)
    trial = {"total_steps": 8, "batch_size": 16, "log_every": 4, "precision": "float64", "backbone": "mlp"}
    stage = replace(STAGE, space={"variant": {"choice": ["gan", "wgan_gp"]}}, trial=trial, num_trials=2, grace_steps=4)
    alone = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="alone"))["search"]
    diary = stand.Diary()
    context = stand.context(
        tmp_path,
        {"dataset": ring},
        store=store,
        cluster=Cluster(),
        lineage="ray",
        scale=Scale(num_workers=2),
        diary=diary,
    )
    wide = stage.run(context)["search"]
    assert scores(store, wide) == pytest.approx(scores(store, alone), rel=1e-7)
    assert {line["status"] for line in trials(store, wide)} == {"finished", "stopped"}
    assert set(diary.children) == {"trial-000", "trial-001"}

"""The worker of a trial that is killed or stopped: the search decides what it would have decided."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.cluster import Cluster
from orchestrator.stages.tune import Tune
from tests import stand

STAGE = Tune(
    space={"optimizers.generator.lr": {"choice": [1e-4, 1e-3, 1e-2]}},
    trial={"variant": "gan", "total_steps": 400, "batch_size": 16, "log_every": 10},
    searcher="grid",
    scheduler="none",
    eval_samples=64,
    max_concurrent=1,
)


def actors() -> list[int]:
    """The processes in which trials run, among our descendants."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            name = " ".join(one.cmdline()[:1])
        except psutil.Error:
            continue
        if name.startswith("ray::ImplicitFunc"):
            found.append(one.pid)
    return found


def trials(store: ArtifactStore, search: Artifact) -> Any:
    return json.loads(store.read(search, "trials.json"))["trials"]


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_trial_is_run_again_and_nothing_differs(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    ring = stand.ring(store, 64)
    alone = STAGE.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="alone"))["search"]
    diary, killed = stand.Diary(), []

    def kill(done: float) -> None:
        if not killed and done >= 450:  # the second trial is under way
            killed.extend(actors())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    diary.on_step = kill
    context = stand.context(tmp_path, {"dataset": ring}, store=store, cluster=Cluster(), lineage="hit", diary=diary)
    hit = STAGE.run(context)["search"]
    assert killed
    assert trials(store, hit) == trials(store, alone)
    assert hit.metadata == alone.metadata
    assert hit.metadata["failed"] == 0

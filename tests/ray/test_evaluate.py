"""Scoring over Ray tasks gives what one process gives, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import ArtifactStore
from orchestrator.cluster import Cluster
from orchestrator.errors import Diverged, Unavailable
from orchestrator.stage import Scale
from orchestrator.stages import _scoring
from orchestrator.stages.evaluate import Evaluate
from orchestrator.stages.features import Features
from tests import stand
from tests.unit.test_metrics_stages import model


@pytest.mark.usefixtures("ray_cluster")
def test_tasks_give_the_scores_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    dataset = stand.stripes(store)
    features = Features(max_steps=20, dim=8, width=4).run(stand.context(tmp_path, {"dataset": dataset}, store=store))[
        "features"
    ]
    inputs = {"dataset": dataset, "model": model(store, dataset), "features": features}

    def scores(cluster: Cluster | None, scale: Scale | None = None) -> str:
        context = stand.context(tmp_path, inputs, store=store, cluster=cluster, scale=scale)
        return str(Evaluate(num_samples=1300).run(context)["scores"].digest)

    alone = scores(None)
    assert scores(Cluster()) == alone
    assert scores(Cluster(), Scale(max_concurrent=1)) == alone
    monkeypatch.setattr(_scoring, "TASKS_PER_SLOT", 1)
    assert scores(Cluster()) == alone


@pytest.mark.usefixtures("ray_cluster")
def test_errors_of_tasks_keep_their_kinds(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save

    store = ArtifactStore(str(tmp_path / "store"))
    dataset = stand.stripes(store)
    good = model(store, dataset)
    files: dict[str, Any] = {name: store.read(good, name) for name in good.files}
    weights = load_file(store.open(good, "model.safetensors"))
    files["model.safetensors"] = save({key: value * float("nan") for key, value in weights.items()})
    inputs = {"dataset": dataset, "model": store.put("model", files, good.metadata)}
    with pytest.raises(Diverged, match="NaN"):
        Evaluate(metrics=("nearest_neighbors",), num_samples=64).run(
            stand.context(tmp_path, inputs, store=store, cluster=Cluster())
        )
    with pytest.raises(Unavailable, match="Inception"):
        Evaluate(metrics=({"fid": {"weights": "/nowhere.pth"}},), num_samples=64).run(
            stand.context(tmp_path, inputs, store=store, cluster=Cluster())
        )

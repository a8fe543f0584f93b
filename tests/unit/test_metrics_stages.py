"""The stages features and evaluate: what they foresee, what they store, and that shards change nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.errors import BadInput, Diverged, Interrupted, StageFailed, Unavailable
from orchestrator.stage import Foresight
from orchestrator.stages import _scoring
from orchestrator.stages.evaluate import Evaluate
from orchestrator.stages.features import Features
from tests import stand
from trainers import config, loop
from trainers.classifier import Classifier
from trainers.data import Prepared

STRIPES = {"shape": {"kind": "image", "size": [1, 8, 8], "num_classes": 4}, "splits": {"train": 256}, "mixture": None}
UNLABELLED = {**STRIPES, "shape": {"kind": "image", "size": [3, 64, 64], "num_classes": None}}
RING = {
    "shape": {"kind": "points", "size": [2], "num_classes": 8},
    "splits": {"train": 512, "test": 0},
    "mixture": {"centers": [[0.0, 1.0]], "sigma": 0.1},
}


def model(store: ArtifactStore, dataset: Artifact, **user: Any) -> Artifact:
    """A model trained for two steps."""
    given = {"variant": "gan", "backbone": {"mlp": {"width": 8}}, "total_steps": 2, "batch_size": 8, **user}
    resolved = config.resolve(given, facts=dataset.metadata)
    fitted = loop.fit(resolved, Prepared.open(store.directory(dataset)), seed=0)
    return store.put("model", fitted.files, fitted.metadata)


def foreseen(dataset: Mapping[str, Any], *, features: Any = None, **params: Any) -> Foresight:
    inputs = {"dataset": dict(dataset), "model": {}}
    return Evaluate(**params).foresee(inputs | ({} if features is None else {"features": features}))


# --- planning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "features", "metrics", "said"),
    [
        (STRIPES, None, ("frechet_distance",), "needs the input `features`"),
        (UNLABELLED, None, ("frechet_distance",), "without labels take `fid`"),
        (STRIPES, None, ("mode_coverage",), "needs a mixture"),
        (STRIPES, None, ({"mode_coverage": {}},), "needs points"),
        (RING, None, ("fid",), "needs images"),
        (RING, None, ({"frechet_distance": {"space": "classifier"}},), "needs the input `features`"),
        (UNLABELLED, {}, ("class_confidence",), "needs labels"),
        (STRIPES, {}, ("frechet_distanse",), "did you mean 'frechet_distance'"),
        (STRIPES, {}, ({"frechet_distance": {"spaces": "raw"}},), "did you mean 'space'"),
        (STRIPES, {}, ({"precision_recall": {"k": 0}},), "at least 1"),
        (STRIPES, {}, (3,), "a metric is a name"),
        (STRIPES, {}, ("precision_recall", {"precision_recall": {"k": 5}}), "named twice"),
        (STRIPES, {"shape": {"size": [3, 8, 8]}}, ("frechet_distance",), "3x8x8"),
    ],
)
def test_what_cannot_be_scored_is_refused_when_planning(dataset: Any, features: Any, metrics: Any, said: str) -> None:
    complaints = foreseen(dataset, features=features, metrics=metrics).complaints
    assert any(said in f"{c.what}; {c.why}; {c.hint}" for c in complaints), complaints


def test_a_split_without_samples_is_refused() -> None:
    (complaint,) = foreseen(RING, split="test").complaints
    assert (complaint.path, complaint.id) == (("split",), "empty-split")


@pytest.mark.parametrize(
    ("dataset", "features", "expected"),
    [
        (RING, None, ["mode_coverage", "frechet_distance"]),
        (STRIPES, None, ["precision_recall", "nearest_neighbors"]),
        (STRIPES, {}, ["frechet_distance", "precision_recall", "nearest_neighbors", "class_confidence"]),
    ],
)
def test_metrics_that_suit_are_chosen(dataset: Any, features: Any, expected: list[str]) -> None:
    plan = foreseen(dataset, features=features)
    assert not plan.complaints
    assert [name for _, name in plan.plugins] == expected
    assert list(plan.outputs["scores"]["metrics"]) == expected


def test_an_unknown_data_set_is_not_complained_about() -> None:
    assert not foreseen({}, metrics=("mode_coverage", "fid")).complaints


def test_features_need_labels_and_a_size() -> None:
    assert not Features().foresee({"dataset": STRIPES}).complaints
    assert Features().foresee({"dataset": STRIPES}).outputs["features"]["dim"] == 64
    (complaint,) = Features().foresee({"dataset": UNLABELLED}).complaints
    assert "labels" in complaint.what
    assert "fid" in complaint.hint
    large = {"shape": {"kind": "image", "size": [3, 512, 512], "num_classes": 2}}
    assert Features().foresee({"dataset": large}).complaints[0].id == "image-size"


# --- running ----------------------------------------------------------------------------------------------------------


def features_of(root: Path, store: ArtifactStore, dataset: Artifact) -> Artifact:
    stage = Features(max_steps=20, dim=8, width=4)
    return stage.run(stand.context(root, {"dataset": dataset}, store=store))["features"]


def test_features_are_stored_with_their_accuracy(tmp_path: Path) -> None:
    store, diary = ArtifactStore(str(tmp_path / "store")), stand.Diary()
    dataset = stand.stripes(store)
    inputs = {"dataset": dataset}
    made = Features(max_steps=100, dim=16, width=8).run(stand.context(tmp_path, inputs, store=store, diary=diary))[
        "features"
    ]
    classifier = Classifier.load(store.open(made, "classifier.safetensors"))
    assert made.metadata["digest"] == classifier.digest == made.files["classifier.safetensors"].digest
    assert made.metadata["train_accuracy"] > 0.9
    assert (made.metadata["dim"], made.metadata["num_classes"], made.metadata["space"]) == (16, 4, "classifier")
    assert diary.steps[-1] == (100, 100)
    again = Features(max_steps=100, dim=16, width=8).run(stand.context(tmp_path, inputs, store=store))["features"]
    assert again.digest == made.digest


def test_images_are_scored_and_shown(tmp_path: Path) -> None:
    store, diary = ArtifactStore(str(tmp_path / "store")), stand.Diary()
    dataset = stand.stripes(store)
    inputs = {"dataset": dataset, "model": model(store, dataset), "features": features_of(tmp_path, store, dataset)}
    scores = Evaluate(num_samples=600).run(stand.context(tmp_path, inputs, store=store, diary=diary))["scores"]
    names = {"frechet_distance", "precision_recall", "nearest_neighbors", "class_confidence"}
    assert set(scores.metadata["scores"]) == names <= set(scores.metadata["values"])
    assert scores.metadata["values"]["frechet_distance"] == scores.metadata["scores"]["frechet_distance"]["value"]
    protocol = scores.metadata["scores"]["frechet_distance"]["protocol"]
    assert protocol["num_generated"] == 600
    assert protocol["weights"] == inputs["features"].metadata["digest"]
    assert protocol["reference_digest"] == dataset.digest
    assert json.loads(store.read(scores, "scores.json")) == scores.metadata
    for name in ("grid.png", "nearest_neighbors.png"):
        assert Image.open(io.BytesIO(store.read(scores, name))).width > 100
    assert set(diary.figures) == {"grid.png", "nearest_neighbors.png"}
    assert diary.logged[-1][1] == scores.metadata["values"]
    assert diary.steps[-1] == (600, 600) or diary.steps[-1][0] == diary.steps[-1][1]


def test_points_are_scored(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    dataset = stand.ring(store)
    inputs = {"dataset": dataset, "model": model(store, dataset)}
    scores = Evaluate().run(stand.context(tmp_path, inputs, store=store))["scores"]
    assert scores.metadata["scores"]["mode_coverage"]["protocol"]["num_generated"] == 10_000
    assert scores.metadata["scores"]["mode_coverage"]["values"]["modes"] == 8
    assert not any("/" in name for name in scores.metadata["values"])


def test_the_batch_size_and_the_shards_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    dataset = stand.stripes(store)
    inputs = {"dataset": dataset, "model": model(store, dataset), "features": features_of(tmp_path, store, dataset)}

    def values(**params: Any) -> dict[str, float]:
        made = Evaluate(num_samples=1000, **params).run(stand.context(tmp_path, inputs, store=store))["scores"]
        return dict(made.metadata["values"])

    whole = values()
    assert values(batch_size=50) == pytest.approx(whole, rel=1e-4)
    monkeypatch.setattr(_scoring, "TASKS_PER_SLOT", 1)
    assert values() == whole
    assert values(seed=1) != whole


def test_a_model_that_makes_nan_has_diverged(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save

    store = ArtifactStore(str(tmp_path / "store"))
    dataset = stand.ring(store)
    good = model(store, dataset)
    files: dict[str, Any] = {name: store.read(good, name) for name in good.files}
    weights = load_file(store.open(good, "model.safetensors"))
    files["model.safetensors"] = save({key: torch.full_like(value, float("nan")) for key, value in weights.items()})
    broken = store.put("model", files, good.metadata)
    with pytest.raises(Diverged, match="NaN"):
        Evaluate(num_samples=64).run(stand.context(tmp_path, {"dataset": dataset, "model": broken}, store=store))


def test_errors_have_their_kinds(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    dataset = stand.stripes(store, n=32)
    inputs = {"dataset": dataset, "model": model(store, dataset)}

    def run(*metrics: Any, stopping: bool = False) -> None:
        context = stand.context(tmp_path, inputs, store=store, stopping=lambda: stopping)
        Evaluate(metrics=metrics, num_samples=64).run(context)

    with pytest.raises(Unavailable, match="no file of Inception weights"):
        run({"fid": {"weights": "/nowhere.pth"}})
    with pytest.raises(StageFailed, match="40-th"):
        run({"precision_recall": {"space": "raw", "k": 40}})
    with pytest.raises(BadInput, match="no parameter"):
        run({"precision_recall": {"kk": 3}})
    with pytest.raises(Interrupted):
        run({"precision_recall": {"space": "raw"}}, stopping=True)


@pytest.mark.parametrize("variant", ["cgan", "travelgan"])
def test_conditional_models_and_translators_are_scored(variant: str, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    dataset = two_domains(store) if variant == "travelgan" else stand.stripes(store)
    width = {"dcgan": {"width": 8}} if variant == "travelgan" else {"mlp": {"width": 8}}
    trained = model(store, dataset, variant=variant, backbone=width)
    inputs = {"dataset": dataset, "model": trained}
    stage = Evaluate(metrics=({"frechet_distance": {"space": "raw"}},), num_samples=300)
    assert not stage.foresee({port: one.metadata for port, one in inputs.items()}).complaints
    scores = stage.run(stand.context(tmp_path, inputs, store=store))["scores"]
    protocol = scores.metadata["scores"]["frechet_distance"]["protocol"]
    assert protocol["num_generated"] == (128 if variant == "travelgan" else 300)  # one for each source image
    assert ("second domain" in protocol["reference_split"]) == (variant == "travelgan")


def two_domains(store: ArtifactStore) -> Artifact:
    """Stripes, and the same stripes in white on black as the second domain."""
    one = stand.stripes(store, n=128, size=16)
    index = json.loads(store.read(one, "index.json"))
    shape = {**one.metadata["shape"], "num_classes": None}
    index["metadata"] |= {"shape": {**shape, "other": shape}, "domains": 2}
    shard = index["splits"]["train"]["shards"][0]
    index["splits"]["train"]["other"] = [{**shard, "y": None}]
    files: dict[str, Any] = {name: store.read(one, name) for name in one.files}
    return store.put("dataset", {**files, "index.json": json.dumps(index).encode()}, index["metadata"])

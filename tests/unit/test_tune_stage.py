"""The tune stage without Ray: it repeats, goes on, and counts failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.errors import Diverged, Interrupted
from orchestrator.stages.tune import Tune
from tests import stand
from trainers import config

POINTS: dict[str, Any] = {"shape": {"kind": "points", "size": [2], "num_classes": 8, "bounded": False, "other": None}}
IMAGES: dict[str, Any] = {
    "shape": {"kind": "image", "size": [1, 8, 8], "num_classes": 4, "bounded": True, "other": None}
}
LR = "optimizers.generator.lr"
SPACE: dict[str, Any] = {
    "variant": {"choice": ["gan", "wgan_gp"]},
    "hacks": {"subsets": ["label_smoothing", "instance_noise"]},
    LR: {"loguniform": [1e-4, 1e-2]},
}
TRIAL: dict[str, Any] = {"total_steps": 8, "batch_size": 16, "log_every": 4}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def ring(store: ArtifactStore) -> Artifact:
    return stand.ring(store, 64)


def tune(**options: Any) -> Tune:
    return Tune(**{"space": SPACE, "trial": TRIAL, "num_trials": 4, "eval_samples": 64, **options})


def trials(store: ArtifactStore, search: Artifact) -> list[dict[str, Any]]:
    """What repeats of each trial."""
    found: list[dict[str, Any]] = json.loads(store.read(search, "trials.json"))["trials"]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in found]


def test_the_size_of_the_space_is_told() -> None:
    foreseen = tune().foresee({"dataset": POINTS})
    assert not foreseen.complaints
    assert foreseen.notes[:2] == (
        "space: 6 combinations, beside 1 range; 2 of 8 pruned as incompatible",
        "search: 4 trials by random, scored at steps 2, 4, 8; about 16 steps in all",
    )
    assert foreseen.outputs["search"] == {"metric": "frechet_distance", "direction": "minimize"}
    named = set(foreseen.plugins)
    assert {
        ("variants", "gan"),
        ("variants", "wgan_gp"),
        ("hacks", "instance_noise"),
        ("metrics", "frechet_distance"),
    } <= named


@pytest.mark.parametrize(
    ("options", "facts", "path", "error_id"),
    [
        ({"space": {"variant": {"choice": ["gann"]}}}, POINTS, ("space", "variant", "choice", 0), "unknown-variant"),
        ({"space": {"total_steps": {"choice": [5, 10]}}}, POINTS, ("space", "total_steps"), "fixed"),
        ({"trial": {"batch_siz": 3}}, POINTS, ("trial", "batch_siz"), "unknown-key"),
        ({"metric": "frechet"}, POINTS, ("metric",), "unknown-metric"),
        (
            {"metric": {"frechet_distance": {"spacee": "raw"}}},
            POINTS,
            ("metric", "frechet_distance", "spacee"),
            "unknown-key",
        ),
        (
            {"metric": "frechet_distance", "space": {"variant": {"choice": ["dcgan"]}}},
            IMAGES,
            ("metric",),
            "unmet-need",
        ),
        ({"metric": 3}, POINTS, ("metric",), "wrong-type"),
        ({"searcher": "grid"}, POINTS, ("space", LR), "endless"),
    ],
)
def test_mistakes_are_placed(options: Any, facts: Any, path: Any, error_id: str) -> None:
    assert {c.path: c.id for c in tune(**options).foresee({"dataset": facts}).complaints}.get(path) == error_id


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_search_repeats(tmp_path: Path, store: ArtifactStore, ring: Artifact, searcher: str) -> None:
    stage = tune(searcher=searcher, num_trials=6)
    a, b = (stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage=name))["search"] for name in "ab")
    assert trials(store, a) == trials(store, b)
    assert a.metadata == b.metadata
    other = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="c", seed=1))["search"]
    assert trials(store, other)[0]["point"] != trials(store, a)[0]["point"]


def test_the_winner_is_a_train_configuration_without_the_trial_s_budget(
    tmp_path: Path, store: ArtifactStore, ring: Artifact
) -> None:
    diary = stand.Diary()
    search = tune().run(stand.context(tmp_path, {"dataset": ring}, store=store, diary=diary))["search"]
    told = trials(store, search)
    winner = search.metadata["winner"]
    assert not config.check(winner, ring.metadata)
    assert "total_steps" not in winner
    assert winner["batch_size"] == 16
    finished = [trial for trial in told if trial["steps"] == 8]
    assert search.metadata["best"] == min(trial["score"] for trial in finished)
    assert {trial["status"] for trial in told} == {"finished", "stopped"}
    assert list(diary.children) == [f"trial-{i:03d}" for i in range(4)]
    assert all(child.ended == "FINISHED" for child in diary.children.values())
    assert diary.children["trial-000"].values["batch_size"] == 16
    assert diary.steps[-1][0] <= diary.steps[-1][1]
    kept = store.files.names("checkpoints")
    assert kept == ["lineage"]  # those of the trials are gone


def test_rungs_change_how_far_trials_go_but_not_what_they_are(
    tmp_path: Path, store: ArtifactStore, ring: Artifact
) -> None:
    halved = trials(store, tune().run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="a"))["search"])
    whole = tune(scheduler="none").run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="b"))["search"]
    for cut, full in zip(halved, trials(store, whole), strict=True):
        assert cut["point"] == full["point"]
        if cut["steps"] == full["steps"]:
            assert cut["score"] == full["score"]  # trained in three segments, as if in one


def test_a_stopped_search_goes_on_where_it_stood(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    whole = tune().run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="whole"))["search"]
    diary = stand.Diary()
    context = stand.context(
        tmp_path,
        {"dataset": ring},
        store=store,
        lineage="cut",
        diary=diary,
        stopping=lambda: len(diary.children) >= 3,
    )
    with pytest.raises(Interrupted):
        tune().run(context)
    again = stand.Diary()
    rest = tune().run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="cut", diary=again))["search"]
    assert again.lines[0] == "the search goes on: 2 scores are known"
    assert trials(store, rest) == trials(store, whole)


def test_a_failed_trial_is_counted_and_costs_nothing_else(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    stage = tune(
        space={"optimizers.generator.lr": {"choice": [1e-3, 1e30]}, "optimizers.critic.lr": {"choice": [1e-3, 1e30]}},
        trial={**TRIAL, "optimizers": {"critic": {"name": "sgd"}, "generator": {"name": "sgd"}}, "total_steps": 40},
        searcher="grid",
        num_trials=None,
        scheduler="none",
    )
    diary = stand.Diary()
    search = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, diary=diary))["search"]
    told = trials(store, search)
    assert len(told) == search.metadata["num_trials"] == 4
    assert search.metadata["failed"] == sum(trial["status"] == "diverged" for trial in told) >= 1
    assert search.metadata["winner"]["optimizers"]["generator"]["lr"] == 1e-3
    assert any("diverged" in line for line in diary.lines)


def test_all_diverged_is_divergence(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    wild = {"optimizers": {role: {"name": "sgd"} for role in ("generator", "critic")}}
    stage = tune(
        space={LR: {"choice": [1e30, 1e31]}},
        trial={**TRIAL, **wild, "total_steps": 40},
        searcher="grid",
        num_trials=None,
    )
    with pytest.raises(Diverged, match="all 2 trials failed"):
        stage.run(stand.context(tmp_path, {"dataset": ring}, store=store))

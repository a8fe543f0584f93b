"""Who is trained with whom: the pieces keep all processes busy, and no result depends on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.stages._segments import KEPT
from orchestrator.stages._teams import cost, teams, told
from orchestrator.stages.tune import Tune
from tests import stand
from trainers import cohort, config

SHAPE = {"kind": "points", "size": [2], "num_classes": 8, "bounded": False, "other": None}
LR = "optimizers.generator.lr"


def resolved(count: int, **user: Any) -> list[config.TrainConfig]:
    """`count` of one shape."""
    rates = [{"optimizers": {"generator": {"lr": 1e-4 * (i + 1)}}} for i in range(count)]
    return [
        config.resolve({"variant": "gan", "backbone": "mlp", **user, **one}, facts={"shape": SHAPE}) for one in rates
    ]


@pytest.mark.parametrize(
    ("count", "processes", "population", "sizes"),
    [
        (64, 2, "auto", [32, 32]),
        (20, 2, "auto", [10, 10]),
        (20, 1, "auto", [20]),
        (65, 2, "auto", [16, 16, 16, 17]),  # two rounds, and never more than 32 at once
        (16, 2, 4, [4, 4, 4, 4]),
        (5, 4, "auto", [2, 3]),  # not by themselves: a result would depend on the number of processes
        (2, 8, "auto", [2]),
        (3, 2, "off", [1, 1, 1]),
    ],
)
def test_pieces_of_one_shape(count: int, processes: int, population: Any, sizes: list[int]) -> None:
    found = teams(resolved(count), [100] * count, processes, population)
    assert sorted(map(len, found.teams)) == sizes
    assert sorted(i for team in found.teams for i in team) == list(range(count))


def test_what_cannot_be_grouped_is_alone_and_says_why() -> None:
    mixed = [*resolved(6), *resolved(1, variant="wgan_gp"), *resolved(2, precision="bf16")]
    found = teams(mixed, [100] * 9, 2)
    assert sorted(map(len, found.teams)) in ([1, 1, 1, 6], [1, 1, 1, 2, 4], [1, 1, 1, 3, 3])
    assert set(found.alone) == {6, 7, 8}
    assert found.alone[6] == "no other trial has its shape"
    assert "bf16" in found.alone[7]
    line = told(mixed, "auto", 9)
    assert line.startswith(
        "population: 6 of 9 trainings together, of 1 shape, at most 32 at once; 2 alone: precision bf16"
    )
    assert told(mixed, "auto", 90).startswith("population: about 60 of 90 trainings together")
    assert told(mixed, "off", 9) == "population: off, every trial is trained by itself"


def test_the_plan_counts_the_shapes_of_a_grid_over_all_of_it() -> None:
    rates = [1e-4 * (i + 1) for i in range(70)]  # the first 70 points are of one variant
    space = {"variant": {"choice": ["gan", "lsgan", "wgan_gp"]}, LR: {"choice": rates}}
    facts = {"dataset": {"shape": SHAPE}}
    for count, all_of in ((None, 210), (30, 30), (500, 210)):
        notes = search(space=space, searcher="grid", num_trials=count, scheduler="none").foresee(facts).notes
        assert f"{all_of} trials" in notes[1]
        assert notes[-1] == f"population: all of {all_of} trainings together, of 3 shapes, at most 32 at once"
    sparse = search(space=space, searcher="grid", num_trials=2, scheduler="none").foresee(facts).notes
    assert sparse[-1].endswith("every trial is trained by itself: no other trial has its shape")


def test_trainings_to_different_steps_are_not_together_and_the_longest_go_first() -> None:
    until = [100, 200] * 4
    found = teams(resolved(8), until, 1)
    assert [{until[i] for i in team} for team in found.teams] == [{200}, {100}]
    assert [cost(team, until) for team in found.teams] == sorted((cost(t, until) for t in found.teams), reverse=True)


# --- in a search ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def ring(store: ArtifactStore) -> Artifact:
    return stand.ring(store, 64)


def search(precision: str = "float32", **options: Any) -> Tune:
    trial = {
        "total_steps": 12,
        "batch_size": 16,
        "log_every": 4,
        "precision": precision,
        "backbone": {"mlp": {"width": 8}},
    }
    space = {"variant": {"choice": ["gan", "wgan_gp"]}, LR: {"loguniform": [1e-4, 1e-2]}}
    return Tune(**{"space": space, "trial": trial, "num_trials": 8, "eval_samples": 64, **options})


def scores(store: ArtifactStore, made: Artifact) -> dict[tuple[int, str], float]:
    lines = json.loads(store.read(made, "trials.json"))["trials"]
    return {(one["trial"], step): value for one in lines for step, value in one["scores"].items()}


def run(stage: Tune, tmp_path: Path, store: ArtifactStore, ring: Artifact, name: str, **more: Any) -> Artifact:
    return stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage=name, **more))["search"]


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_a_population_finds_what_single_trainings_find(
    tmp_path: Path, store: ArtifactStore, ring: Artifact, precision: str, tolerance: float
) -> None:
    alone = run(search(precision, population="off"), tmp_path, store, ring, "off")
    for population in ("auto", 2):
        together = run(search(precision, population=population), tmp_path, store, ring, f"with-{population}")
        assert scores(store, together) == pytest.approx(scores(store, alone), rel=tolerance)
        assert {**together.metadata, "best": 0} == {**alone.metadata, "best": 0}


def test_the_size_of_the_groups_changes_no_bit(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    a, b = (run(search(population=n), tmp_path, store, ring, f"of-{n}") for n in ("auto", 2))
    assert scores(store, a) == scores(store, b)


def test_a_member_that_diverges_costs_only_itself(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    def stage(rates: list[float], population: Any) -> Tune:
        sgd = {"optimizers": {role: {"name": "sgd"} for role in ("generator", "critic")}}
        trial = {**(search().trial or {}), **sgd, "total_steps": 40}
        return search(
            space={LR: {"choice": rates}}, trial=trial, searcher="grid", num_trials=None, population=population
        )

    good, wild = [1e-3, 2e-3, 3e-3], [1e-3, 1e30, 2e-3, 3e-3]
    kept = scores(store, run(stage(good, "auto"), tmp_path, store, ring, "good"))
    made = run(stage(wild, "auto"), tmp_path, store, ring, "wild")
    lines = json.loads(store.read(made, "trials.json"))["trials"]
    assert [one["status"] == "diverged" for one in lines] == [False, True, False, False]
    first = {one["point"][LR]: one["scores"]["10"] for one in lines if one["scores"]}
    assert first == {rate: kept[i, "10"] for i, rate in enumerate(good)}


def test_where_a_team_fails_as_a_whole_its_members_are_trained_one_by_one(
    tmp_path: Path, store: ArtifactStore, ring: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run(search(population="off"), tmp_path, store, ring, "off")

    def broken(self: Any, *arguments: Any, **options: Any) -> None:
        raise RuntimeError("one of us is to blame")

    monkeypatch.setattr(cohort.Cohort, "run", broken)
    together = run(search(), tmp_path, store, ring, "broken")
    assert scores(store, together) == scores(store, alone)
    assert together.metadata["failed"] == 0


def test_a_stopped_team_goes_on_where_it_stood(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    from orchestrator.errors import Interrupted

    stage = search(scheduler="none", trial={**(search().trial or {}), "total_steps": 40})
    whole = run(stage, tmp_path, store, ring, "whole")
    asked = iter([False] * 3)
    with pytest.raises(Interrupted):
        run(stage, tmp_path, store, ring, "cut", stopping=lambda: next(asked, True))
    kept = [name for name in store.files.names("checkpoints") if name.startswith("cut.trial-")]
    assert len(kept) >= 2  # the members of the team that ran
    diary = stand.Diary()
    begun = run(stage, tmp_path, store, ring, "cut", diary=diary)
    assert scores(store, begun) == scores(store, whole)
    assert KEPT > 2  # PBT: another trial may begin from a rung that its owner has left

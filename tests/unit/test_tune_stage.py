"""The tune stage without Ray: it repeats, goes on, and counts failures."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import outcomes
from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.errors import BadInput, Diverged, Interrupted, OrchestratorError, SpecError, StageFailed
from orchestrator.runs import Diary, RunRecord, StageRecord
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
        ({"metric": ["frechet_distance", "frechet"]}, POINTS, ("metric", 1), "unknown-metric"),
        ({"metric": ["frechet_distance", "frechet_distance"]}, POINTS, ("metric", 1), "duplicate"),
        ({"metric": []}, POINTS, ("metric",), "wrong-type"),
        ({"prefer": "mode_coverage"}, POINTS, ("prefer",), "contradiction"),
        (
            {"scheduler": "median", "metric": ["frechet_distance", "mode_coverage"]},
            {**POINTS, "mixture": {"modes": 8}},
            ("scheduler",),
            "contradiction",
        ),
        ({"scheduler": "pbt", "searcher": "optuna"}, POINTS, ("searcher",), "contradiction"),
        ({"scheduler": "pbt", "space": {"batch_size": {"int": [8, 64]}}}, POINTS, ("scheduler",), "contradiction"),
        ({"synchronous": False, "scheduler": "median"}, POINTS, ("synchronous",), "contradiction"),
        ({"synchronous": False, "searcher": "optuna"}, POINTS, ("synchronous",), "contradiction"),
        ({"warm_start": "x", "searcher": "grid"}, POINTS, ("warm_start",), "contradiction"),
        ({"step_budget": 1}, POINTS, ("step_budget",), "out-of-range"),
    ],
)
def test_mistakes_are_placed(options: Any, facts: Any, path: Any, error_id: str) -> None:
    assert {c.path: c.id for c in tune(**options).foresee({"dataset": facts}).complaints}.get(path) == error_id


def test_a_grid_is_counted_as_far_as_that_is_quick() -> None:
    small = tune(space={"batch_size": {"int": [16, 25]}}, searcher="grid", num_trials=None, scheduler="none")
    told = small.foresee({"dataset": POINTS}).notes
    assert "search: the whole grid of 10 trials, scored at step 8; 80 steps in all" in told
    large = tune(space={"batch_size": {"int": [16, 4000]}}, searcher="grid", num_trials=None)
    started = time.monotonic()
    told = large.foresee({"dataset": POINTS}).notes
    assert time.monotonic() - started < 20
    assert "search: the whole grid, scored at steps 2, 4, 8" in told


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


@pytest.mark.parametrize("population", ["auto", "off"])
def test_an_asynchronous_search_is_kept_as_it_went_and_goes_on_after_a_stop(
    tmp_path: Path, store: ArtifactStore, ring: Artifact, population: Any
) -> None:
    stage = tune(synchronous=False, num_trials=6, population=population)
    assert any(note.startswith("asynchronous:") for note in stage.foresee({"dataset": POINTS}).notes)
    left = [0]

    def stopping() -> bool:
        left[0] += 1
        return left[0] % 11 == 0

    scored: dict[tuple[int, str], float] = {}
    for _ in range(60):
        try:
            context = stand.context(tmp_path, {"dataset": ring}, store=store, lineage="cut", stopping=stopping)
            search = stage.run(context)["search"]
            break
        except Interrupted:
            known = stage.so_far(store, {"dataset": ring}, 0, outcomes._ledger(store, "cut"))
            for trial in known["trials"]:
                for step, score in trial["scores"].items():
                    assert scored.setdefault((trial["trial"], step), score) == score
    else:
        pytest.fail("it never ended")
    assert scored
    told = trials(store, search)
    assert len(told) == 6
    final = {(trial["trial"], step): score for trial in told for step, score in trial["scores"].items()}
    assert scored.keys() <= final.keys()
    first, second, last = (sum(step in trial["scores"] for trial in told) for step in ("2", "4", "8"))
    assert first == 6
    assert first > second >= first / 2
    assert second > last >= second / 2
    best = min((trial for trial in told if "8" in trial["scores"]), key=lambda trial: trial["scores"]["8"])
    assert table(store, search)["winner"] == best["trial"]


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


# --- more than one score for a trial --------------------------------------------------------------------------------------


def table(store: ArtifactStore, search: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(search, "trials.json"))
    return found


def test_replicates_are_trained_with_seeds_of_their_own_and_the_mean_counts(
    tmp_path: Path, store: ArtifactStore, ring: Artifact
) -> None:
    diary = stand.Diary()
    many = tune(seeds=3).run(stand.context(tmp_path, {"dataset": ring}, store=store, diary=diary, lineage="a"))[
        "search"
    ]
    one = tune().run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="b"))["search"]
    for trial, alone in zip(trials(store, many), trials(store, one), strict=True):
        (scores,) = trial["replicates"]
        assert len(set(trial["seeds"])) == len(scores) == 3
        assert trial["score"] == pytest.approx(sum(scores) / 3)
        assert len(set(scores)) == 3
        assert trial["interval"][0] < trial["score"] < trial["interval"][1]
        assert trial["point"] == alone["point"]
        if trial["steps"] == alone["steps"]:
            assert scores[0] == alone["score"]  # the first replicate is the search without replicates
    assert "(3 seeds)" in diary.lines[-1]
    assert not [name for name in store.files.names("checkpoints") if "trial" in name]


def test_two_metrics_give_a_front_and_a_winner_on_it(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    metric = ["frechet_distance", "mode_coverage"]
    diary = stand.Diary()
    context = stand.context(tmp_path, {"dataset": ring}, store=store, diary=diary)
    search = tune(metric=metric, num_trials=8, searcher="optuna").run(context)["search"]
    told = table(store, search)
    assert [one["name"] for one in told["metrics"]] == metric
    assert [one["direction"] for one in told["metrics"]] == ["minimize", "maximize"]
    assert told["metric"] == told["metrics"][0]
    assert told["winner"] in told["front"]
    whole = [trial["values"] for trial in told["trials"] if trial["steps"] == 8]
    for index in told["front"]:
        values = told["trials"][index]["values"]
        assert not any(
            other != values and other[metric[0]] <= values[metric[0]] and other[metric[1]] >= values[metric[1]]
            for other in whole
        )
    assert f"one of {len(told['front'])} on the Pareto front" in diary.lines[-1]
    preferred = tune(metric=metric, num_trials=8, searcher="optuna", prefer="mode_coverage")
    search = preferred.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="b"))["search"]
    again = table(store, search)
    best = max(again["trials"][index]["values"]["mode_coverage"] for index in again["front"])
    assert again["trials"][again["winner"]]["values"]["mode_coverage"] == best


# --- population based training ----------------------------------------------------------------------------------------------

PBT: dict[str, Any] = {
    "scheduler": "pbt",
    "space": {LR: {"loguniform": [1e-4, 1e-2]}, "backbone.mlp.width": {"choice": [16, 24]}},
    "trial": {**TRIAL, "variant": "gan"},
    "grace_steps": 2,
}


def test_a_population_copies_its_best_and_is_repeated(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    stage = tune(**PBT)
    a, b = (stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage=name))["search"] for name in "ab")
    told = trials(store, a)
    assert told == trials(store, b)
    assert {trial["status"] for trial in told} == {"finished"}
    changes = [(trial, change) for trial in told for change in trial["changes"]]
    assert sorted(change["step"] for _, change in changes) == [2, 4, 6]  # one of four at each rung
    for trial in told:
        if trial["changes"]:
            assert trial["point"] == trial["changes"][-1]["point"]
            assert trial["config"]["optimizers"]["generator"]["lr"] == trial["point"][LR]
    winner = told[a.metadata["best_trial"]]
    assert a.metadata["winner"]["optimizers"]["generator"]["lr"] == winner["point"][LR]


def test_a_stopped_population_goes_on_where_it_stood(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    whole = tune(**PBT).run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="whole"))["search"]
    left = [0]

    def stopping() -> bool:
        left[0] += 1
        return left[0] % 12 == 0

    for _ in range(60):
        try:
            context = stand.context(tmp_path, {"dataset": ring}, store=store, lineage="cut", stopping=stopping)
            rest = tune(**PBT).run(context)["search"]
            break
        except Interrupted:
            pass
    else:
        pytest.fail("it never ended")
    assert trials(store, rest) == trials(store, whole)


# --- budgets ----------------------------------------------------------------------------------------------------------------


def test_a_step_budget_decides_how_many_trials_there_are(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    stage = tune(num_trials=None, step_budget=25)
    assert (
        "search: 5 trials by random, scored at steps 2, 4, 8; about 24 steps in all"
        in stage.foresee({"dataset": POINTS}).notes
    )
    search = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store))["search"]
    told = table(store, search)
    assert len(told["trials"]) == 5
    assert told["steps"] == 24


def test_a_budget_that_ends_a_search_is_told(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    diary = stand.Diary()
    stage = tune(num_trials=8, step_budget=20)
    told = table(store, stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, diary=diary))["search"])
    assert (told["ended_by"], told["steps"]) == ("steps", 20)
    assert "the step budget is used up: 20 of 20 steps" in diary.lines


def test_time_ends_a_search_between_rungs(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    diary = stand.Diary()
    stage = tune(num_trials=None, time_budget_s=1e-6, searcher="optuna")
    told = stage.foresee({"dataset": POINTS}).notes
    assert "search: trials by optuna in batches of 8, scored at steps 2, 4, 8" in told
    assert "budget: nothing begins after 1e-06 s; a search that time ends does not repeat" in told
    with pytest.raises(StageFailed, match="no trial began"):
        stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, diary=diary))
    longer = tune(num_trials=None, time_budget_s=3.0, searcher="optuna")
    search = longer.run(stand.context(tmp_path, {"dataset": ring}, store=store, diary=diary, lineage="b"))["search"]
    found = table(store, search)
    assert found["ended_by"] == "time"
    assert any("the time budget of 3 s is used up" in line for line in diary.lines)
    assert len(found["trials"]) % 8 == 0
    again = stand.context(tmp_path, {"dataset": ring}, store=store, lineage="b")  # what was spent before counts
    assert (
        trials(store, tune(num_trials=None, time_budget_s=3.0, searcher="optuna").run(again)["search"])
        == found["trials"]
    )


# --- an earlier search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_search_goes_on_from_an_earlier_one(
    tmp_path: Path, store: ArtifactStore, ring: Artifact, searcher: str
) -> None:
    first = tune(num_trials=6).run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="a"))["search"]
    diary = stand.Diary()
    inputs = {"dataset": ring, "earlier": first}
    stage = tune(searcher=searcher)
    second = stage.run(stand.context(tmp_path, inputs, store=store, lineage="b", diary=diary))["search"]
    assert diary.lines[0] == "warm start: 6 of 6 earlier points are in this space; their scores count"
    best = table(store, first)["trials"][table(store, first)["winner"]]
    repeated = trials(store, second)[0]
    assert repeated["point"] == best["point"]
    assert "warm start: the best of the earlier search" in " ".join(
        stage.foresee({"dataset": POINTS, "earlier": {}}).notes
    )


def test_a_run_names_the_earlier_search(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    first = tune(num_trials=6).run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="a"))["search"]
    run_id = "old-20261122-010203-abcd"
    searched = StageRecord("coarse", "coarse", "tune", outputs={"search": first.digest})
    Diary(store, RunRecord(run_id, "old", status="succeeded", stages=[searched])).save()
    for name in (run_id, f"{run_id}:coarse"):
        context = stand.context(tmp_path, {"dataset": ring}, store=store, lineage=name[-6:])
        second = tune(warm_start=name, num_trials=1).run(context)["search"]
        assert trials(store, second)[0]["point"] == table(store, first)["trials"][first.metadata["best_trial"]]["point"]
    with pytest.raises(BadInput, match="has no search fine"):
        tune(warm_start=f"{run_id}:fine").run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="c"))


def test_a_run_that_is_not_there_is_no_warm_start(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    with pytest.raises(OrchestratorError, match="20200101"):
        tune(warm_start="20200101-000000-none").run(stand.context(tmp_path, {"dataset": ring}, store=store))


# --- ill trials -------------------------------------------------------------------------------------------------------------


def test_an_ill_trial_is_pruned_and_counted_apart(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    options: dict[str, Any] = {
        "space": {"optimizers.generator.weight_decay": {"choice": [0.0, 1000.0]}},  # all weights go to 0
        "trial": {**TRIAL, "variant": "gan", "total_steps": 540, "optimizers": {"generator": {"lr": 0.01}}},
        "searcher": "grid",
        "num_trials": None,
        "scheduler": "median",
        "grace_steps": 270,
    }
    diary = stand.Diary()
    context = stand.context(tmp_path, {"dataset": ring}, store=store, lineage="a", diary=diary)
    search = tune(**options, prune=True).run(context)["search"]
    good, ill = trials(store, search)
    assert (ill["status"], ill["symptoms"]) == ("pruned", [ill["error"].partition(":")[0]])
    assert ill["scores"] == {}
    assert good["status"] == "finished"
    assert (search.metadata["failed"], search.metadata["pruned"]) == (0, 1)
    assert diary.lines[-1].endswith("0 of 2 failed, 1 pruned")
    plain = tune(**options).run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="b"))["search"]
    assert plain.metadata["pruned"] == 0


# --- looking at a search that is not finished ---------------------------------------------------------------------------------


def test_what_is_known_of_a_stopped_search_is_told(tmp_path: Path, store: ArtifactStore, ring: Artifact) -> None:
    whole = table(store, tune().run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="whole"))["search"])
    diary = stand.Diary()
    context = stand.context(
        tmp_path, {"dataset": ring}, store=store, lineage="cut", stopping=lambda: len(diary.children) >= 3, diary=diary
    )
    with pytest.raises(Interrupted):
        tune(population="off").run(context)
    found = context.checkpoints.latest()
    assert found is not None
    lines = json.loads(found[1]["outcomes.json"].read_text())
    told = tune().so_far(store, {"dataset": ring}, 0, lines)
    assert [trial["point"] for trial in told["trials"]] == [trial["point"] for trial in whole["trials"]]
    assert sum(trial["score"] is not None for trial in told["trials"]) == len(lines)
    assert {trial["status"] for trial in told["trials"]} <= {"running", "waiting"}


def test_an_earlier_run_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    spec = tmp_path / "warm.yaml"
    spec.write_text(
        "version: 1\nname: warm\nstages:\n  data: {uses: prepare, with: {dataset: ring8}}\n  search:\n    uses: tune\n"
        "    inputs: {dataset: data}\n    with:\n      warm_start: other-20260101-000000-abcd\n"
        "      space: {optimizers.generator.lr: {choice: [0.1]}}\n"
    )
    with pytest.raises(SpecError) as caught:
        orchestrator.plan(spec, storage=str(tmp_path / "runs"))
    (problem,) = caught.value.problems
    assert (problem.line, problem.col, problem.id) == (9, 19, "unknown-reference")
    assert "there is no run yet" in str(problem)

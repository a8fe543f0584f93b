"""Trials as they are read back: ranked, sorted, and shown in MLflow without drowning it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import exhibits, outcomes
from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.cli.trials import sorted_by
from orchestrator.errors import BadInput
from tests import searches, stand


@pytest.fixture(scope="module")
def found() -> outcomes.SearchResults:
    return searches.search(60)


def test_the_winner_is_first_and_the_failed_are_last(found: outcomes.SearchResults) -> None:
    ranked = found.ranked()
    assert ranked[0].index == found.winner
    good = [trial for trial in ranked if trial.status not in outcomes.BAD]
    assert ranked[len(good) :] == [trial for trial in ranked if trial.status in outcomes.BAD] != []
    assert [trial.steps for trial in good] == sorted((trial.steps for trial in good), reverse=True)
    whole = [trial.score for trial in good if trial.steps == 400 and trial.score is not None]
    assert whole == sorted(whole)


def test_more_is_better_where_the_metric_says_so() -> None:
    table = searches.stored(20)
    table["metrics"] = [{"name": "mode_coverage", "direction": "maximize"}]
    table["winner"] = None
    best = outcomes.parse(table, "search").ranked()[0]
    assert best.score == max(row["score"] for row in table["trials"] if row["steps"] == best.steps and row["score"])


@pytest.mark.parametrize(
    "key", ["score", "-score", "frechet_distance", "steps", "-steps", "trial", "generator.lr", "variant", "n_critic"]
)
def test_sorting(found: outcomes.SearchResults, key: str) -> None:
    trials = sorted_by(found.trials, found, key)
    assert sorted(trial.index for trial in trials) == list(range(60))
    full = {"generator.lr": searches.LR, "n_critic": searches.N_CRITIC}

    def value(trial: outcomes.TrialResult) -> Any:
        name = key.removeprefix("-")
        if name in ("score", "frechet_distance"):
            return trial.score
        return {"steps": trial.steps, "trial": trial.index}.get(name, trial.point.get(full.get(name, name)))

    values = [value(trial) for trial in trials]
    there = [one for one in values if one is not None]
    assert values[: len(there)] == there  # what is not there comes last, whichever way
    assert there == sorted(there, reverse=key.startswith("-"))


def test_an_unknown_key_names_the_known_ones(found: outcomes.SearchResults) -> None:
    with pytest.raises(BadInput, match="did you mean 'batch_size'"):
        sorted_by(found.trials, found, "batchsize")


def test_short_names_tell_paths_apart() -> None:
    paths = [
        "optimizers.generator.lr",
        "optimizers.critic.lr",
        "lr",
        "variant",
        "variant.wgan_gp.n_critic",
        "a.variant",
    ]
    assert outcomes.shortened(paths) == ["generator.lr", "critic.lr", "lr", "variant", "n_critic", "a.variant"]
    assert len(set(outcomes.shortened(paths))) == len(paths)
    places = ["optimizers.generator.betas.0", "optimizers.generator.betas.1"]
    assert outcomes.shortened(places) == ["betas.0", "betas.1"], "a place alone says nothing"


def test_tables_of_earlier_versions_are_read() -> None:
    old = {
        "metric": {"name": "frechet_distance", "direction": "minimize", "written": "frechet_distance"},
        "rungs": [5, 10],
        "winner": 0,
        "trials": [
            {"trial": 0, "status": "finished", "point": {"a": 1}, "config": {"a": 1}, "seed": 0, "steps": 10}
            | {"score": 1.5, "scores": {"5": 2.0, "10": 1.5}, "error": ""},
            {"trial": 1, "status": "failed", "point": {"a": 2}, "config": {"a": 2}, "seed": 0, "steps": 0}
            | {"score": None, "scores": {}, "error": None},
        ],
    }
    found = outcomes.parse(old, "search")
    assert found.goal == outcomes.Goal("frechet_distance", "minimize")
    assert found.trials[0].scores == {5: 2.0, 10: 1.5}
    assert found.trial(0).value("frechet_distance") == 1.5
    assert found.trials[1].error == ""
    assert found.varied() == ["a"]
    with pytest.raises(BadInput, match="no trial 2"):
        found.trial(2)


def test_replicates_have_an_interval() -> None:
    found = searches.search(20, seeds=3)
    several = [trial for trial in found.trials if trial.interval]
    assert len(several) > 10
    assert all(
        trial.interval[0] < trial.score < trial.interval[1] for trial in several if trial.interval and trial.score
    )
    assert any(trial.lost for trial in found.trials)  # a replicate that failed does not fail the trial
    one = several[0].to_json()
    assert one["score"] == pytest.approx(sum(one["replicates"]) / len(one["replicates"]))
    assert len(one["replicates"]) + len(one["lost"]) == 3


def test_the_ledger_is_read_while_it_is_written(tmp_path: Path) -> None:
    """The stage drops each file once the next is there; what is half written, damaged or gone is passed over."""
    store = ArtifactStore(str(tmp_path))
    kept = StoredCheckpoints(store, "lineage")
    lines = [{"trial": 0, "replicate": 0, "until": 5, "outcome": {"score": 1.0, "seconds": 2.5}}]
    for count in (1, 2):
        kept.save(count, {outcomes.LEDGER: json.dumps(lines * count).encode()})
    assert len(outcomes._ledger(store, "lineage")) == 2
    newest = next(tmp_path.glob("checkpoints/lineage/0000000002-*"))
    (newest / outcomes.LEDGER).write_bytes(b"[")
    assert len(outcomes._ledger(store, "lineage")) == 1
    (newest / outcomes.LEDGER).unlink()
    assert len(outcomes._ledger(store, "lineage")) == 1
    assert outcomes._ledger(store, "") == outcomes._ledger(store, "none") == []
    assert outcomes._seconds(lines * 2) == {0: 5.0}
    assert not list(tmp_path.glob("quarantine/*"))  # reading changes nothing


def shown(tmp_path: Path, count: int, **options: Any) -> stand.Diary:
    table = searches.stored(count, **options)
    diary = stand.Diary()
    context = stand.context(tmp_path, {}, diary=diary)
    exhibits.show(context, table, {0: 1.5}, followed=exhibits.follows(count * options.get("seeds", 1)))
    return diary


def test_mlflow_gets_the_table_and_a_page(tmp_path: Path) -> None:
    diary = shown(tmp_path, 30, metrics=2)
    assert set(diary.files) == {"search/trials.json", "search/trials.csv", "search/search.html"}
    assert len(json.loads(diary.files["search/trials.json"])["trials"]) == 30
    rows = list(csv.DictReader(io.StringIO(diary.files["search/trials.csv"].decode())))
    assert len(rows) == 30
    assert rows[0]["status"] == "finished"
    assert float(rows[0]["frechet_distance"]) > 0
    assert float(rows[0]["mode_coverage"]) > 0
    assert json.loads(rows[0]["hacks"]) is not None
    page = diary.files["search/search.html"].decode()
    assert "<svg" in page
    assert "Lineage" not in page
    assert not diary.children  # each had its own while it ran


def test_of_a_large_search_only_the_best_and_some_failed_become_runs(tmp_path: Path) -> None:
    diary = shown(tmp_path, 1000)
    assert len(diary.children) == exhibits.BEST + exhibits.FAILED
    assert [one.ended for one in diary.children.values()].count("FAILED") == exhibits.FAILED
    best = searches.search(1000).winner
    child = diary.children[f"trial-{best:03d}"]
    assert child.values["status"] == "finished"
    assert child.values["optimizers.generator.lr"] > 0
    assert [step for step, values in child.logged if "score" in values] == [50, 100, 200, 400]
    assert len(json.loads(diary.files["search/trials.json"])["trials"]) == 1000


@pytest.mark.parametrize(("count", "follows"), [(1, True), (32, True), (33, False), (None, False)])
def test_what_is_followed(count: int | None, follows: bool) -> None:
    assert exhibits.follows(count) == follows


def test_a_page_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator import report

    def broken(page: object) -> str:
        raise RuntimeError("no template")

    monkeypatch.setattr(report, "render", broken)
    diary = shown(tmp_path, 4)
    assert "search/trials.csv" in diary.files
    assert diary.lines == ["no page of the search for MLflow: RuntimeError: no template"]

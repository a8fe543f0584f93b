"""Does a comparison of two runs tell what differs, and what is better? Fake stages, real storage."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import comparison
from orchestrator.artifacts import Artifact, manifest_path
from orchestrator.comparison import Change, compare
from orchestrator.execute import Options, execute
from orchestrator.runs import Run
from orchestrator.stage import Context
from tests import fake_stages
from tests.fake_stages import CHAIN
from tests.fake_stages._calls import CALLS


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_stages.install(monkeypatch)
    CALLS.clear()
    yield
    CALLS.clear()


def run(folder: Path, *sets: str, text: str = CHAIN) -> Run:
    path = folder / "chain.yaml"
    path.write_text(textwrap.dedent(text))
    plan = orchestrator.plan(path, storage=str(folder / "runs"), sets=sets)
    return execute(plan, options=Options(ray=False, tracking=False))


def test_what_was_asked_and_what_came_of_it(tmp_path: Path) -> None:
    old = run(tmp_path)
    new = run(tmp_path, "stages.train.with.total_steps=5", "seed=0")
    found = compare(old, new)
    assert found.spec == (Change("stages.train.with.total_steps", 3, 5),)
    assert [(pair.stage, pair.same, pair.new) for pair in found.stages] == [
        ("data", True, "cached"),
        ("train", False, "succeeded"),
        ("score", False, "succeeded"),
    ]
    assert found.stages[1].reason == "total_steps 3 -> 5"
    assert not found.same
    told = json.loads(json.dumps(found.to_json()))
    assert told["runs"][1]["sets"] == ["stages.train.with.total_steps=5", "seed=0"]


def test_a_run_is_like_itself(tmp_path: Path) -> None:
    one = run(tmp_path)
    found = compare(one, one)
    assert found.same
    assert (found.spec, found.config, found.versions, found.notes) == ((), (), (), ())


def test_a_stage_of_one_run_only(tmp_path: Path) -> None:
    old = run(tmp_path)
    new = run(tmp_path, text=CHAIN + "  again: {uses: judge, inputs: {models: train}}\n")
    pair = compare(old, new).stages[-1]
    assert (pair.stage, pair.old, pair.new, pair.same) == ("again", "", "cached", None)
    assert not compare(old, new).same


def test_scores_know_which_way_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fake_stages.judge import Judge

    def scored(self: Judge, context: Context) -> dict[str, Artifact]:
        length = len(context.store.read(context.inputs["models"][0], "text"))
        about = {"distance": {"direction": "minimize", "primary": "distance", "directions": {"share": "maximize"}}}
        values = {
            "distance": 10.0 / length,
            "distance.share": length / 10,
            "distance.other": float(length),
            "same": 1.0,
        }
        metadata = {"values": values, "metrics": about}
        return {"scores": context.store.put("scores", {}, metadata)}

    monkeypatch.setattr(Judge, "run", scored)
    found = compare(run(tmp_path), run(tmp_path, "stages.train.with.total_steps=5"))
    verdicts = {score.name: score.verdict for score in found.scores}
    assert verdicts == {"distance": "better", "distance.share": "better", "distance.other": "", "same": ""}
    back = compare(found.new, found.old)
    assert {score.verdict for score in back.scores if score.name != "same"} == {"worse", ""}


def test_what_is_gone_is_told(tmp_path: Path) -> None:
    old, new = run(tmp_path), run(tmp_path, "stages.train.with.total_steps=5")
    (tmp_path / "runs" / manifest_path(old.record.stage("score").outputs["scores"])).unlink()
    found = compare(old, new)
    assert found.notes == (f"score.scores of {old.run_id} is no longer whole in the storage",)
    assert found.stages[2].same is False


def test_changes_are_told_by_path() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": "x"}
    new: dict[str, Any] = {"a": 1, "b": {"c": [1, 3], "d": None}, "come": {}}
    assert list(comparison.changes(old, new)) == [
        Change("b.c", [1, 2], [1, 3]),
        Change("come", None, {}),
        Change("gone", "x", None),
    ]

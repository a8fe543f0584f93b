"""Specs in which a search's configuration is fixed, however they are written and wired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import document, fixed, outcomes, runs
from orchestrator import spec as specs
from orchestrator.artifacts import ArtifactStore
from orchestrator.errors import BadInput

CONFIG = {"variant": "wgan_gp", "hacks": ["ema"], "batch_size": 16, "total_steps": 9, "log_every": 3}
DATA = "  data: {uses: prepare, with: {dataset: ring8}}\n"
TUNE = "uses: tune, with: {space: {variant: {choice: [gan, wgan_gp]}}}"
HEAD = "version: 1\nname: small\nstages:\n"


def made(tmp_path: Path, text: str, stage: str = "search", status: str = "finished") -> fixed.Fixed:
    """A run of a spec, as far as it is looked at, and one trial of a search."""
    file = tmp_path / "small.yaml"
    file.write_text(text)
    spec = specs.load(file)
    record = runs.RunRecord("small-20261122-010203-abcd", "small", spec=spec.to_json(), spec_file=str(file))
    record.stages = [runs.StageRecord(name, name, one.uses) for name, one in spec.stages.items()]
    goal = outcomes.Goal("frechet_distance", "minimize")
    trial = outcomes.TrialResult(
        0, status, {"variant": "wgan_gp"}, CONFIG, {9: 1.0}, 9, 1.0, error="why" * (status != "finished")
    )
    search = outcomes.SearchResults(stage, (goal,), (trial,), (9,), 0)
    return fixed.fixed(runs.Run(ArtifactStore(str(tmp_path / "runs")), record), search, 0)


def stages(found: fixed.Fixed) -> dict[str, Any]:
    value: dict[str, Any] = document.parse(found.text, "spec").value["stages"]
    return value


def test_a_spec_of_one_line(tmp_path: Path) -> None:
    train = "train: {uses: train, inputs: {config: search, dataset: data}}"
    text = f"{{version: 1, name: small, stages: {{{DATA.strip()}, search: {{{TUNE}, inputs: {{dataset: data}}}}, {train}}}}}"
    found = made(tmp_path, text)
    assert stages(found)["train"] == {
        "uses": "train",
        "inputs": {"dataset": "data"},
        "with": {"variant": "wgan_gp", "hacks": ["ema"], "batch_size": 16},
    }
    assert found.text.count("\n") == 0


def test_the_budget_of_a_trial_is_not_the_training_s(tmp_path: Path) -> None:
    text = HEAD + DATA + f"  search: {{{TUNE}, inputs: {{dataset: data}}}}\n"
    text += "  train:\n    uses: train\n    inputs: {dataset: data, config: search.search}\n"
    text += "    with: {hacks: [], total_steps: 50}\n"
    found = made(tmp_path, text)
    assert stages(found)["train"]["with"] == {"variant": "wgan_gp", "hacks": [], "batch_size": 16, "total_steps": 50}
    assert not found.notes


def test_a_chain_of_searches_goes_as_far_as_nothing_else_needs_it(tmp_path: Path) -> None:
    text = HEAD + DATA + f"  first: {{{TUNE}, inputs: {{dataset: data}}}}\n"
    text += f"  second: {{{TUNE}, inputs: {{dataset: data, earlier: first}}}}\n"
    train = "  {0}: {{uses: train, inputs: {{dataset: data, config: {1}}}}}\n"
    found = made(tmp_path, text + train.format("train", "second"), "second")
    assert list(stages(found)) == ["data", "train"]
    assert found.notes == ["first is taken out too: only second went on from it"]
    both = text + train.format("train", "second") + train.format("other", "first")
    assert list(stages(made(tmp_path, both, "second"))) == ["data", "first", "train", "other"]
    found = made(tmp_path, both, "first")
    assert list(stages(found)) == ["data", "second", "train", "other"]
    assert found.notes == ["second no longer takes first (its port earlier)"]
    assert stages(found)["train"] == {"uses": "train", "inputs": {"dataset": "data", "config": "second"}}


def test_what_cannot_be_fixed(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no stage takes the configuration of search"):
        made(tmp_path, HEAD + DATA + f"  search: {{{TUNE}, inputs: {{dataset: data}}}}\n")


def test_a_failed_trial_is_told(tmp_path: Path) -> None:
    text = HEAD + DATA + f"  search: {{{TUNE}, inputs: {{dataset: data}}}}\n"
    text += "  train: {uses: train, inputs: {dataset: data, config: search}}\n"
    assert made(tmp_path, text, status="diverged").notes == ["trial 0 diverged: why"]


def test_a_record_that_hides_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:1")
    text = HEAD.replace("stages", "tracking: ${env:MLFLOW_TRACKING_URI}\nstages") + DATA
    text += f"  search: {{{TUNE}, inputs: {{dataset: data}}}}\n"
    text += "  train: {uses: train, inputs: {dataset: data, config: search}}\n"
    assert "${env:MLFLOW_TRACKING_URI}" in made(tmp_path, text).text
    spec = specs.load(tmp_path / "small.yaml")
    record = runs.RunRecord("small-20261122-010203-abcd", "small", spec=spec.to_json(), spec_file="gone.yaml")
    edits = fixed._original(runs.Run(ArtifactStore(str(tmp_path / "runs")), record))
    assert "tracking" not in edits.value
    assert "`tracking` is left out: a record keeps no credentials" in edits.notes

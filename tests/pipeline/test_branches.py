"""Do matrices, fan-in, profiles and parallel branches work from the file to the results? Fake stages, and one with real ones."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import display, journal
from orchestrator.cli import invoke
from orchestrator.errors import BadInput, SpecError
from orchestrator.execute import Options, execute
from orchestrator.runs import Run
from tests import fake_stages
from tests.fake_stages._calls import CALLS

GRID = """
version: 1
name: grid
stages:
  data: {uses: make, with: {text: abcd}}
  train:
    uses: grow
    inputs: {dataset: data}
    with: {pause_s: 0.05}
    matrix: {seed: [0, 1], total_steps: [2, 4]}
  each: {uses: judge, inputs: {models: train}, matrix: {seed: [0, 1]}}
  all: {uses: judge, inputs: {models: train}}
profiles:
  big: {stages.train.matrix: {seed: [0, 1, 2], total_steps: [4]}, stages.each.matrix.seed: [0, 2]}
"""
BROKEN = """
version: 1
name: broken
stages:
  data: {uses: make}
  bad: {uses: fail, with: {how: type}}
  slow: {uses: grow, inputs: {dataset: data}, with: {total_steps: 6, pause_s: 0.1}}
  after_slow: {uses: judge, inputs: {models: slow}}
  after_bad: {uses: judge, inputs: {models: slow}}
"""


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_stages.install(monkeypatch)
    CALLS.clear()
    yield
    CALLS.clear()


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plan(self, text: str, *, storage: str = "runs", **asked: Any) -> Any:
        path = self.folder / "spec.yaml"
        path.write_text(textwrap.dedent(text))
        return orchestrator.plan(path, storage=str(self.folder / storage), **asked)

    def run(self, text: str, *, jobs: int = 1, listener: Any = None, **asked: Any) -> Run:
        options = Options(jobs=jobs, ray=False, tracking=False)
        return execute(self.plan(text, **asked), listener=listener, options=options)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def states(run: Run) -> dict[str, str]:
    return {stage.stage: stage.state for stage in run.record.stages}


def overlapping(run: Run) -> int:
    """The most stages that were at work at once."""
    most, at_work = 0, 0
    for event in run.events():
        at_work += {"stage_started": 1, "stage_finished": -1, "stage_failed": -1}.get(event["event"], 0)
        most = max(most, at_work)
    return most


@pytest.mark.usefixtures("fakes")
def test_branches_run_side_by_side_to_the_same_results(bench: Bench) -> None:
    one, three = bench.run(GRID), bench.run(GRID, jobs=3, storage="other")
    assert (overlapping(one), overlapping(three)) == (1, 3)
    outputs = [{stage.stage: stage.outputs for stage in run.record.stages} for run in (one, three)]
    assert outputs[0] == outputs[1]
    assert three.artifact("all").metadata == {"texts": ["ab", "abcd", "ab", "abcd"]}
    assert three.artifact("each.seed-1").metadata == {"texts": ["ab", "abcd"]}
    assert bench.run(GRID, jobs=3).cached


@pytest.mark.usefixtures("fakes")
def test_the_next_run_goes_on_with_what_a_failure_left(bench: Bench) -> None:
    failing = BROKEN.replace("how: type", "how: os, times: 1")
    run = bench.run(failing, jobs=2)
    assert run.exit_code == 1
    assert (states(run)["data"], states(run)["bad"]) == ("succeeded", "failed")
    assert (states(run)["after_slow"], states(run)["after_bad"]) == ("skipped", "skipped")
    assert overlapping(run) == 2
    done = bench.run(failing, jobs=2)
    assert done.exit_code == 0
    assert states(done)["data"] == "cached"


@pytest.mark.usefixtures("fakes")
def test_a_branch_at_work_finishes_when_another_fails(bench: Bench) -> None:
    late = BROKEN.replace(
        "bad: {uses: fail, with: {how: type}}", "bad: {uses: fail, with: {how: hang}, timeout_s: 1.5}"
    ).replace("total_steps: 6", "total_steps: 25")  # slow has begun by then, and is at work
    run = bench.run(late, jobs=3)
    assert run.exit_code == 1
    assert (states(run)["bad"], states(run)["slow"]) == ("failed", "succeeded")
    assert (states(run)["after_slow"], states(run)["after_bad"]) == ("skipped", "skipped")
    assert [line.text for line in journal.Journal(run).lines()][-1] == "failed, exit code 1"


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("train", {"data", "train.seed-0.total_steps-2", "train.seed-0.total_steps-4", "train.seed-1.total_steps-2",
                   "train.seed-1.total_steps-4"}),
        ("train[seed=1,total_steps=2]", {"data", "train.seed-1.total_steps-2"}),
        ("each.seed-0", {"data", "train.seed-0.total_steps-2", "train.seed-0.total_steps-4", "each.seed-0"}),
    ],
)  # fmt: skip
def test_until_an_instance_or_all_of_a_stage(bench: Bench, until: str, expected: set[str]) -> None:
    run = bench.run(GRID, jobs=2, until=until)
    assert run.exit_code == 0
    assert set(states(run)) == expected


@pytest.mark.usefixtures("fakes")
def test_force_one_cell(bench: Bench) -> None:
    bench.run(GRID)
    run = bench.run(GRID, force=["train[seed=1,total_steps=4]"])
    assert [name for name, state in states(run).items() if state == "succeeded"] == ["train.seed-1.total_steps-4"]
    with pytest.raises(BadInput, match="no such stage"):
        bench.plan(GRID, force=["train[seed=7,total_steps=4]"])


@pytest.mark.usefixtures("fakes")
def test_a_profile_changes_the_matrix(bench: Bench) -> None:
    run = bench.run(GRID, profile="big", jobs=2)
    assert run.record.profile == "big"
    assert [name for name in states(run) if name.startswith("train")] == [
        f"train.seed-{seed}.total_steps-4" for seed in (0, 1, 2)
    ]
    assert run.artifact("each.seed-2").metadata == {"texts": ["abcd"]}
    assert len(run.artifact("all").metadata["texts"]) == 3
    shared = bench.run(GRID)
    assert states(shared)["train.seed-1.total_steps-4"] == "cached"


@pytest.mark.usefixtures("fakes")
def test_one_model_is_wanted_and_many_come(bench: Bench) -> None:
    text = GRID.replace("all: {uses: judge, inputs: {models: train}}", "all: {uses: grow, inputs: {dataset: each}}")
    with pytest.raises(SpecError, match=r"takes|instances|dataset"):
        bench.plan(text)


@pytest.mark.usefixtures("fakes")
def test_lines_tell_of_several_stages_at_once(bench: Bench) -> None:
    out = io.StringIO()
    assert bench.run(GRID, jobs=4, listener=display.Lines(out, every_s=0.0)).exit_code == 0
    lines = out.getvalue().splitlines()
    for seed in (0, 1):
        for steps in (2, 4):
            label = f"train[seed={seed},total_steps={steps}]"
            assert sum(label in line and " started " in line for line in lines) == 1
            assert sum(label in line and " done in " in line for line in lines) == 1
    assert not any("Traceback" in line for line in lines)


def test_real_stages_over_two_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
    version: 1
    name: seeds
    stages:
      data: {uses: prepare, with: {dataset: {ring8: {num_points: 600}}, num_shards: 1}}
      train:
        uses: train
        inputs: {dataset: data}
        with: {variant: gan, backbone: {mlp: {width: 8}}, total_steps: 6, batch_size: 8}
        matrix: {seed: [0, 1]}
      evaluate:
        uses: evaluate
        inputs: {dataset: data, model: train}
        with: {metrics: [mode_coverage], num_samples: 64}
        matrix: {seed: [0, 1]}
    """
    bench = Bench(tmp_path)
    run = bench.run(text, jobs=2)
    assert run.exit_code == 0, run.record.error
    models = [run.artifact(f"train.seed-{seed}").digest for seed in (0, 1)]
    assert models[0] != models[1]
    judged = [run.artifact(f"evaluate.seed-{seed}").metadata["model"] for seed in (0, 1)]
    assert judged == models
    straight = bench.run(text, storage="other")
    assert [straight.artifact(f"train.seed-{seed}").digest for seed in (0, 1)] == models
    capsys.readouterr()
    assert invoke(["diff", run.run_id, run.run_id, "--storage", str(tmp_path / "runs"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["stages"]) == 5
    assert invoke(["logs", run.run_id, "train", "--storage", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "train.seed-0" in out
    assert "train.seed-1" in out
    assert "evaluate" not in out

"""`orchestrate run` as a user types it: a small pipeline, its second run, and what can be asked about it afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SPEC = """\
version: 1
name: small
stages:
  data: {uses: prepare, with: {dataset: {ring8: {num_points: 2000}}, num_shards: 1}}
  train:
    uses: train
    inputs: {dataset: data}
    with: {variant: gan, backbone: {mlp: {width: 16}}, total_steps: 20, batch_size: 16, log_every: 10}
  evaluate:
    uses: evaluate
    inputs: {dataset: data, model: train}
    with: {metrics: [mode_coverage], num_samples: 500}
"""
HEAVY = ("torch", "ray", "mlflow", "rich")


class Shell:
    """Runs commands in a directory that holds one pipeline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *args: str, code: int = 0) -> str:
        done = self.run(args)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def run(
        self, args: Sequence[str], program: str = "from orchestrator.cli import main; main()"
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        command = [sys.executable, "-c", program, *args]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """After one whole run of the pipeline."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.yaml").write_text(SPEC)
    shell = Shell(folder)
    told = json.loads(shell("run", "small.yaml", "--json"))
    assert [stage["state"] for stage in told["stages"]] == ["succeeded"] * 3
    assert (told["version"], told["status"], told["exit_code"]) == (1, "succeeded", 0)
    assert Path(told["report"]).is_file() if os.path.isabs(told["report"]) else (folder / told["report"]).is_file()
    return shell


def test_the_second_run_is_cached_and_light(shell: Shell) -> None:
    program = (
        "import sys; from orchestrator.cli import invoke; code = invoke(sys.argv[1:]);"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], code)"
    )
    done = shell.run(["run", "small.yaml"], program)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0", done.stderr
    assert "everything cached" in done.stdout
    assert "next:" in done.stdout
    assert shell("plan", "small.yaml", "--detailed-exitcode").count("cached") == 3


def test_a_change_is_planned_with_its_reason(shell: Shell) -> None:
    out = shell("plan", "small.yaml", "--set", "stages.train.with.total_steps=30", "--detailed-exitcode", code=10)
    data, train, evaluate = (line for line in out.splitlines() if line.startswith(("data", "train", "evaluate")))
    assert "in all about" in out.splitlines()[-1]
    assert "cached" in data
    assert "total_steps 20 -> 30" in train
    assert " run " in evaluate
    assert "total_steps 20 -> 30" in shell("why", "small.yaml", "train", "--set", "stages.train.with.total_steps=30")


def test_status_and_report(shell: Shell) -> None:
    runs = json.loads(shell("runs", "--json"))["runs"]
    assert runs[0]["status"] == "succeeded"
    assert "mode_coverage" in runs[0]["scores"]
    run = runs[0]["run_id"]
    assert run in shell("runs", "small")
    assert run in shell("status")
    assert "mode_coverage" in json.dumps(json.loads(shell("status", "small", "--json"))["scores"])
    assert shell("status", run).count("succeeded") == 4
    first = shell("report").strip()
    assert first == shell("report", run, "--rebuild").strip()
    assert "<svg" in (shell.folder / first).read_text("utf-8")


def test_logs_and_diff(shell: Shell) -> None:
    run = json.loads(shell("status", "small", "--json"))
    lines = shell("logs", "small").splitlines()
    assert any("train " in line and "started (never run)" in line for line in lines)
    assert lines[-1].endswith("succeeded, exit code 0")
    assert all(" evaluate " in line for line in shell("logs", run["run_id"], "evaluate").splitlines())
    assert json.loads(shell("logs", "small", "--json", "-n", "2"))["lines"][-1]["stage"] == "run"
    assert shell("logs", "small", "--follow") == shell("logs", "small")  # it has ended
    told = json.loads(shell("diff", "small", run["run_id"], "--json"))
    assert (told["same_results"], told["spec"], told["config"], told["versions"]) == (True, [], [], [])
    assert {score["name"] for score in told["scores"]} >= {"mode_coverage"}
    assert "same" in shell("diff", "small", "small")


def test_a_plan_tells_what_it_will_take(shell: Shell) -> None:
    told = json.loads(shell("plan", "small.yaml", "--json", "--set", "stages.train.with.total_steps=60"))["estimate"]
    train = next(step for step in told["steps"] if step["stage"] == "train")
    assert train["samples"] == 1
    assert train["seconds"] > 0
    assert told["unknown"] == []
    assert told["free_bytes"] > told["bytes"] > 0


def test_what_does_not_run_cannot_be_cancelled(shell: Shell) -> None:
    assert "no run of pipeline small is running" in shell.run(["cancel", "small"]).stderr
    shell("cancel", "small", code=2)
    run = json.loads(shell("status", "--json"))["run_id"]
    assert f"run {run} is not running: it is succeeded" in shell.run(["cancel", run]).stderr


def test_one_seed_gives_one_picture(shell: Shell) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert shell("sample", "small", "-n", "50", "--seed", seed, "-o", f"{name}.png").strip() == f"{name}.png"
    a, b, c = ((shell.folder / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert Image.open(shell.folder / "a.png").format == "PNG"


def test_a_wrong_argument_stops_before_any_work(shell: Shell) -> None:
    shell("run", "small.yaml", "--force", "trane", code=2)
    shell("run", "small.yaml", "--force", "train", "--set", "stages.train.scale.num_workers=4096", code=2)
    shell("sample", "small", "--label", "3", "-o", "d.png", code=2)

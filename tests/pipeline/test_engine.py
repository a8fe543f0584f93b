"""Can a run be killed anywhere and be typed again? Real processes, fake stages, no Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import orchestrator
from orchestrator import runs
from orchestrator.artifacts import ArtifactStore
from orchestrator.log import Log
from tests import fake_stages

ROOT = Path(__file__).parents[2]
SPEC = """
version: 1
name: chain
stages:
  data: {uses: make, with: {text: abcd}}
  train: {uses: grow, inputs: {dataset: data}, with: {total_steps: 4, pause_s: PAUSE}}
  score: {uses: judge, inputs: {models: train}}
"""
PROGRAM = """
import os, signal, sys
import pytest
from tests import fake_stages
fake_stages.install(pytest.MonkeyPatch())
import orchestrator
from orchestrator import files
from orchestrator.errors import OrchestratorError
from orchestrator.events import Listener
from orchestrator.execute import Options, execute

path, storage, die_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
count = 0

def observe(operation, path):
    global count
    if path.startswith("pipelines/chain/beat"):
        return
    count += 1
    if count == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

class Told(Listener):
    def stage_progress(self, event):
        print("step", int(event.done), flush=True)

files.observe = observe
try:
    run = execute(orchestrator.plan(path, storage=storage), listener=Told(), options=Options(ray=False, tracking=False))
except OrchestratorError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
print("operations", count, flush=True)
sys.exit(run.exit_code)
"""


def start(folder: Path, *, die_at: int = 0, pause_s: float = 0.0, storage: str = "runs") -> subprocess.Popen[str]:
    spec = folder / "chain.yaml"
    spec.write_text(textwrap.dedent(SPEC.replace("PAUSE", str(pause_s))))
    command = [sys.executable, "-c", PROGRAM, str(spec), str(folder / storage), str(die_at)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment, process_group=0
    )


def finish(process: subprocess.Popen[str], timeout: float = 60.0) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def digests(folder: Path, storage: str = "runs") -> dict[str, dict[str, str]]:
    run = runs.latest(ArtifactStore(str(folder / storage)), "chain")
    assert run.status == "succeeded"
    return {stage.stage: stage.outputs for stage in run.record.stages}


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found.strip() == line:
            return
    raise AssertionError(f"never said {line!r}")


def test_killed_at_any_operation_the_same_command_reaches_the_same_end(tmp_path: Path) -> None:
    code, out, err = finish(start(tmp_path, storage="straight"))
    assert code == 0, err
    expected = digests(tmp_path, "straight")
    operations = int(out.split("operations")[1])
    assert operations > 50
    every = max(operations // 8, 1)  # a sample of the points; each next kill meets what the kills before it left
    for n in range(1 + every // 2, operations, every):
        code, _, _ = finish(start(tmp_path, die_at=n))
        assert code in (-signal.SIGKILL, 0)
        state = Log(ArtifactStore(str(tmp_path / "runs")).files, "chain").state()
        for stage, commit in state.commits.items():
            assert commit["outputs"] == expected[stage]
    code, _, err = finish(start(tmp_path))
    assert code == 0, err
    assert digests(tmp_path) == expected


def test_a_killed_training_goes_on_from_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_stages.install(monkeypatch)
    process = start(tmp_path, pause_s=0.3)
    wait_for(process, "step 2")
    process.kill()
    process.wait()
    planned = orchestrator.plan(tmp_path / "chain.yaml", storage=str(tmp_path / "runs")).step("train").reason
    assert re.fullmatch(r"interrupted at step [12], goes on from there", planned)
    code, out, err = finish(start(tmp_path, pause_s=0.3))
    assert code == 0, err
    assert "step 1" not in out
    assert "step 4" in out


def test_the_second_run_is_told_at_once_who_holds_the_pipeline(tmp_path: Path) -> None:
    first = start(tmp_path, pause_s=0.5)
    wait_for(first, "step 1")
    code, _, err = finish(start(tmp_path, pause_s=0.5))
    assert code == 6
    assert f"process {first.pid}" in err
    assert finish(first)[0] == 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_saves_and_exits_with_its_code(tmp_path: Path, signum: int, code: int) -> None:
    process = start(tmp_path, pause_s=0.3)
    wait_for(process, "step 1")
    process.send_signal(signum)
    assert finish(process)[0] == code
    assert runs.latest(ArtifactStore(str(tmp_path / "runs"))).status == "interrupted"
    assert finish(start(tmp_path, pause_s=0.3))[0] == 0


COMMAND = """
import sys
import pytest
from tests import fake_stages
fake_stages.install(pytest.MonkeyPatch())
from orchestrator.cli import main
sys.argv[0] = "orchestrate"
main()
"""


def test_json_of_a_run_that_was_stopped_holds_the_command_that_goes_on(tmp_path: Path) -> None:
    (tmp_path / "chain.yaml").write_text(textwrap.dedent(SPEC.replace("PAUSE", "0.3")))
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", "chain.yaml", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/checkpoints/*/*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 143, err
    assert any(line.startswith("orchestrate run chain.yaml --json") for line in json.loads(out)["next"])
    assert "go on with: orchestrate run chain.yaml --json" in err


def test_the_second_signal_ends_at_once_and_the_storage_is_whole(tmp_path: Path) -> None:
    process = start(tmp_path, pause_s=5.0)
    wait_for(process, "step 1")
    time.sleep(0.5)  # now it is inside of its pause and does not look whether to stop
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130
    assert time.monotonic() - begin < 4
    store = ArtifactStore(str(tmp_path / "runs"))
    assert Log(store.files, "chain").state().lease is not None  # left behind, and taken over by the next run
    code, out, _ = finish(start(tmp_path, pause_s=0.0))
    assert code == 0
    assert "step 4" in out


def test_a_cached_run_is_fast_and_imports_nothing_heavy(tmp_path: Path) -> None:
    assert finish(start(tmp_path))[0] == 0
    code = PROGRAM.replace("sys.exit(run.exit_code)", "print(run.cached, [m for m in HEAVY if m in sys.modules])")
    code = code.replace(
        "import os, signal, sys", "import os, signal, sys\nHEAVY = ('ray', 'torch', 'mlflow', 'fsspec')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "chain.yaml"), str(tmp_path / "runs"), "0"]
    found = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    assert "True []" in found.stdout

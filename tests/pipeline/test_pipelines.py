"""Every committed pipeline validates and plans, with every profile, on a machine that has no data, no GPU and no cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.errors import SpecError
from orchestrator.spec import load

ROOT = Path(__file__).parents[2]
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))
CASES = [(path, profile) for path in PIPELINES for profile in (None, *load(path, problems=[]).profiles)]
HEADER = re.compile(r"(?:#.*\n)+")
HEAVY = "{'torch', 'torchvision', 'ray', 'mlflow', 'sklearn', 'matplotlib'}"


@pytest.mark.parametrize(
    ("path", "profile"), CASES, ids=[f"{path.stem}-{profile or 'plain'}" for path, profile in CASES]
)
def test_it_plans(path: Path, profile: str | None, tmp_path: Path) -> None:
    planned = orchestrator.plan(path, profile=profile, storage=str(tmp_path / "runs"))
    assert planned.has_work
    done: set[str] = set()
    for step in planned.steps:
        assert set(step.step.producers) <= done, "producers come first"
        done.add(step.step.id)
        assert step.state in ("run", "unknown")
        assert step.reason
    assert not (tmp_path / "runs").exists(), "planning changes nothing"


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_its_name_is_its_files(path: Path) -> None:
    assert load(path).name == path.stem


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_it_opens_with_command_hardware_run_time_and_result(path: Path) -> None:
    """# One sentence, which `orchestrate list pipelines` shows; then lines that begin with these words."""
    found = HEADER.match(path.read_text())
    assert found, "a pipeline opens with a comment"
    header = found[0]
    assert re.match(r"#\s*\S.{10,}", header)
    assert f"orchestrate run pipelines/{path.name}" in header
    for word in ("command", "hardware", "run time", "result"):
        assert re.search(rf"^#\s*{word}\b:?\s+\S", header, re.MULTILINE | re.IGNORECASE), f"no line `# {word}: …`"


def test_planning_all_of_them_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, orchestrator\n"
        f"for path, profile in {[(str(path), profile) for path, profile in CASES]!r}:\n"
        f"    orchestrator.plan(path, profile=profile, storage={str(tmp_path / 'runs')!r})\n"
        f"sys.exit(str({HEAVY} & set(sys.modules)) if {HEAVY} & set(sys.modules) else 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("pipeline", "given", "told"),
    [
        ("dcgan", "stages.data.with.image_size=30", "30x30"),
        ("dcgan", "stages.train.with.hacks=[no_such_hack]", "no_such_hack"),
        ("dcgan", "stages.train.with.variant=wgan_gb", "did you mean 'wgan_gp'"),
        ("dcgan", "stages.train.with.batch_sizes=8", "did you mean 'batch_size'"),
        ("ring8", "stages.train.with.backbone=dcgan", "these do: mlp"),
        ("ring8", "stages.train.with.hacks=[label_smoothing]", "label_smoothing cannot be used"),
        ("ring8", "stages.evaluate.with.metrics=[fid]", "fid"),
        ("ring8", "stages.data.with.dataset=rnig8", "did you mean 'ring8'"),
    ],
)
def test_a_mistake_is_told_when_planning(pipeline: str, given: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as found:
        orchestrator.plan(ROOT / "pipelines" / f"{pipeline}.yaml", sets=[given], storage=str(tmp_path / "runs"))
    assert told in str(found.value)
    assert all(problem.id and problem.what for problem in found.value.problems)

"""The documentation is true: its files are plugins, its specs are valid, its messages and help texts are the code's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PLUGIN = re.compile(
    r"^`((?:trainers|orchestrator)/(\w+)/(\w+)\.py)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MISTAKE = re.compile(
    r"^```yaml\n(version: 1\n(?:(?!^```).)*?)^```\n(?:(?!^```).)*?^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
RUN = """
import json, sys
from orchestrator import plan
from orchestrator.execute import Options, execute

run = execute(plan("spiral.yaml"), options=Options(ray=False, tracking=False))
made = {record.stage: record.state for record in run.record.stages}
scores = {name: value for _, artifact in run.artifacts("scores") for name, value in artifact.metadata["values"].items()}
pictures = {name: run.store.read(artifact, name)[:8].hex() for _, artifact in run.artifacts("gallery") for name in artifact.files}
history = [run.store.read(model, "history.jsonl").decode() for _, model in run.artifacts("model")]
print(json.dumps({"error": run.record.error, "made": made, "scores": scores, "pictures": pictures, "history": history}))
"""


class Example(NamedTuple):
    """A complete plugin file of CONTRIBUTING."""

    path: str
    kind: str
    name: str
    code: str


def examples() -> list[Example]:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return [Example(path, kind, name, code) for path, kind, name, code in PLUGIN.findall(text)]


def specs(page: Path) -> list[str]:
    """Complete specs of a page; those followed by their error message are mistakes."""
    text = page.read_text()
    wrong = [spec for spec, _ in MISTAKE.findall(text)]
    return [
        block for block in YAML.findall(text) if re.search(r"^version: 1$", block, re.MULTILINE) and block not in wrong
    ]


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the example files were dropped, and nothing else was changed."""
    root = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("orchestrator", "trainers", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    for example in examples():
        (root / example.path).write_text(example.code)
    (spec,) = specs(ROOT / "CONTRIBUTING.md")
    (root / "spiral.yaml").write_text(spec)
    return root


def in_overlay(root: Path, *command: str, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def orchestrate(*arguments: str) -> list[str]:
    return ["-c", "import sys; from orchestrator.cli import main; main(sys.argv[1:])", *arguments]


# --- CONTRIBUTING: one file and nothing else ----------------------------------------------------------------------------


def test_there_is_an_example_of_every_kind() -> None:
    from trainers import plugins

    assert sorted(example.kind for example in examples()) == sorted(plugins.KINDS)


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.path)
def test_an_example_is_listed(overlay: Path, example: Example) -> None:
    done = in_overlay(overlay, *orchestrate("list", example.kind, example.name, "--json"))
    assert done.returncode == 0, done.stderr
    (plugin,) = json.loads(done.stdout)["plugins"]
    assert plugin["name"] == example.name
    assert plugin["summary"]


def test_a_spec_of_all_examples_is_valid_and_a_wrong_parameter_is_told(overlay: Path) -> None:
    done = in_overlay(overlay, *orchestrate("validate", "spiral.yaml"))
    assert done.returncode == 0, done.stderr
    changed = "stages.train.with.hacks=[{drift: {weights: 1}}]"
    done = in_overlay(overlay, *orchestrate("validate", "spiral.yaml", "--set", changed))
    assert done.returncode == 2
    assert "did you mean 'weight'?" in done.stderr


def test_the_examples_run(overlay: Path) -> None:
    done = in_overlay(overlay, "-c", RUN)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["error"] == ""
    assert set(told["made"].values()) == {"succeeded"}
    assert told["scores"]["linear_mmd"] >= 0
    assert told["pictures"] == {"gallery.png": b"\x89PNG\r\n\x1a\n".hex()}
    assert '"critic/drift"' in told["history"][0] or '"discriminator/drift"' in told["history"][0]


@pytest.mark.slow
def test_the_examples_keep_the_contracts(overlay: Path) -> None:
    """Some of what a new file is tested by, with no other change: the rest is the same for every other plugin."""
    chosen = "drift or linear_mmd or spiral or gallery or (rsgan and mlp) or (linear and (test_backbones or test_descriptions))"
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract", "-k", chosen]
    done = in_overlay(overlay, *command, timeout=540)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"^\d{2,} passed", done.stdout, re.MULTILINE), done.stdout[-1000:]


# --- every page -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_specs_are_valid(page: Path, tmp_path: Path) -> None:
    from orchestrator.spec import load
    from orchestrator.steps import expand

    if page.name == "CONTRIBUTING.md":
        pytest.skip("its spec needs its plugins: see above")
    for i, text in enumerate(specs(page)):
        path = tmp_path / f"{i}.yaml"
        path.write_text(text)
        spec = load(path)
        assert expand(spec).steps
        for profile in spec.profiles:
            assert expand(load(path, profile=profile)).steps


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mistakes_are_told_as_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.errors import Problem, SpecError
    from orchestrator.spec import load
    from orchestrator.steps import expand

    monkeypatch.chdir(tmp_path)
    for text, message in MISTAKE.findall(page.read_text()):
        name = message.split(":", 1)[0]
        Path(name).write_text(text)
        problems: list[Problem] = []
        with pytest.raises(SpecError) as raised:
            expand(load(name, problems=problems), problems)
        assert [line.rstrip() for line in str(raised.value).splitlines()] == message.rstrip().splitlines()


def test_some_page_shows_a_mistake() -> None:
    assert any(MISTAKE.findall(page.read_text()) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        assert (page.parent / link).exists(), link


def test_generated_pages_are_the_codes() -> None:
    """`python docs/generate.py` brings them up to date."""
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

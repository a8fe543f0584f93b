"""The command line: codes, streams, JSON, hints, speed by what it imports. Nothing here starts Ray."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.cli.explain import TEXTS

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "rich",
    "matplotlib",
    "scipy",
    "sklearn",
    "pandas",
    "fsspec",
    "jinja2",
    "optuna",
)
SPEC = """\
version: 1
name: small
stages:
  data: {uses: prepare, with: {dataset: ring8}}
  train: {uses: train, inputs: {dataset: data}, with: {variant: gan, backbone: mlp, total_steps: 20}}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A valid pipeline in a directory of its own."""
    (tmp_path / "pipelines").mkdir()
    path = tmp_path / "pipelines" / "small.yaml"
    path.write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return path


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    capsys.readouterr()
    code = cli.invoke(args)
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize("name", cli.orchestrate.list_commands(None))  # type: ignore[arg-type]
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, name, "--help")
    assert code == 0
    assert out.startswith("Usage: orchestrate")
    assert not err


def test_every_file_is_a_command_and_listed() -> None:
    shared = {"__init__", "options", "k8s_check"}  # a command of `k8s`
    files = {path.stem for path in (ROOT / "orchestrator" / "cli").glob("*.py")} - shared
    assert files == set(cli.orchestrate.list_commands(None))  # type: ignore[arg-type]


def test_an_unknown_command_and_option_are_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "rum")
    assert (code, out) == (2, "")
    assert "run" in err
    assert call(capsys, "run", "x.yaml", "--nonsense")[0] == 2


def test_a_missing_file_names_those_there_are(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "validate", "plan"):
        code, out, err = call(capsys, command, "pipelines/smal.yaml")
        assert (code, out) == (2, "")
        assert "did you mean pipelines/small.yaml" in err
        assert "Traceback" not in err


def test_validate(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "validate", str(spec))[0] == 0
    code, out, err = call(
        capsys, "validate", str(spec), "--set", "stages.train.with.variant=gam", "--set", "stages.data.with.x=1"
    )
    assert (code, out) == (2, "")
    assert "unknown-variant" in err
    assert "did you mean 'gan'" in err
    assert "unknown-key" in err
    code, out, _ = call(capsys, "validate", str(spec), "--json", "--set", "stages.train.with.variant=gam")
    told = json.loads(out)
    assert (code, told["version"], told["ok"]) == (2, 1, False)
    assert told["problems"][0]["id"] == "unknown-variant"


def test_a_mistake_has_its_place_and_line(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec.write_text(SPEC.replace("total_steps: 20", "total_stepz: 20"))
    _, _, err = call(capsys, "validate", str(spec))
    assert re.search(r"small\.yaml:5:\d+: error\[unknown-key\]", err)
    assert "\n  " in err
    assert "^" in err


def test_plan_and_its_exit_codes(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "plan", str(spec))
    assert code == 0
    assert re.search(r"data +run +never run", out)
    assert "next: orchestrate run" in err
    assert call(capsys, "plan", str(spec), "--detailed-exitcode")[0] == 10
    told = json.loads(call(capsys, "plan", str(spec), "--json")[1])
    assert told["version"] == 1
    assert [step["stage"] for step in told["steps"]] == ["data", "train"]
    assert not (spec.parents[1] / "runs").exists()  # planning changes nothing
    assert [
        s["stage"] for s in json.loads(call(capsys, "plan", str(spec), "--until", "data", "--json")[1])["steps"]
    ] == ["data"]
    assert call(capsys, "plan", str(spec), "--force", "dta")[0] == 2


def test_why_takes_its_arguments_in_any_order(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {call(capsys, "why", *words) for words in ((str(spec), "train"), ("train", str(spec)), ("train",))}
    assert len(answers) == 1
    code, out, _ = answers.pop()
    assert code == 0
    assert "never run" in out
    assert "total_steps" in out
    assert call(capsys, "why", str(spec), "trian")[0] == 2
    assert call(capsys, "why", str(spec))[0] == 2


@pytest.mark.parametrize("kind", ["variants", "hacks", "datasets", "metrics", "backbones", "stages"])
def test_list_prints_every_plugin_and_its_parameters(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    from trainers import plugins

    _, out, _ = call(capsys, "list", kind)
    assert [line.split()[0] for line in out.splitlines()] == list(plugins.names(kind))
    told = json.loads(call(capsys, "list", kind, "--json")[1])
    assert [one["name"] for one in told["plugins"]] == list(plugins.names(kind))
    for name in plugins.names(kind):
        _, out, _ = call(capsys, "list", kind, name)
        assert all(param.name in out for param in plugins.describe(kind, name).params)


def test_list_pipelines_and_unknown_names(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "list", "pipelines")[1].startswith("pipelines/small.yaml")
    code, _, err = call(capsys, "list", "variants", "dcgam")
    assert code == 2
    assert "dcgan" in err


def test_schema_is_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(call(capsys, "schema")[1])
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_status_report_and_sample_without_runs(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "status")[0] == 2
    code, out, err = call(capsys, "runs")
    assert (code, out) == (0, "")
    assert "orchestrate run" in err
    assert json.loads(call(capsys, "runs", "--json")[1])["runs"] == []
    for command in (("status", "small"), ("report",), ("report", "small-20200101-000000-abcd"), ("sample",)):
        assert call(capsys, *command)[0] == 2
    assert call(capsys, "sample", "-o", "x.jpg")[0] == 2
    assert call(capsys, "sample", "-o", "nowhere/x.png")[0] == 2


def test_sync_with_nothing_to_send(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "sync", "--json")
    assert code == 0
    assert json.loads(out)["left"] == 0


def test_unreachable_storage_is_code_4(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = spec.parents[1] / "blocked"
    blocked.write_text("a file where a directory should be")
    code, _, err = call(capsys, "plan", str(spec), "--storage", f"{blocked}/runs")
    assert code == 4, err
    assert err.startswith("error[unavailable]")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "completion", shell)
    assert code == 0
    assert "_ORCHESTRATE_COMPLETE" in out


def test_a_shell_completes_names(spec: Path) -> None:
    environment = {
        "_ORCHESTRATE_COMPLETE": "bash_complete",
        "COMP_WORDS": "orchestrate list variants wgan",
        "COMP_CWORD": "3",
    }
    out = subprocess.run(
        [*ORCHESTRATE], env=_environment(environment), capture_output=True, text=True, check=False
    ).stdout
    assert "wgan_gp" in out


def _error_ids() -> set[str]:
    """Every id that the code gives an error: a kebab-case text in a call, or the kind of an exception."""
    makers = {
        "Problem",
        "Fault",
        "Complaint",
        "Flaw",
        "Misfit",
        "_PathError",
        "_fault",
        "_refuse",
        "problem",
        "problem_at",
    }
    found = set()
    for folder in ("orchestrator", "trainers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                    found |= {text for text in texts[:1] if name in makers and re.fullmatch(r"[a-z]+(-[a-z]+)*", text)}
    return found


def test_every_error_id_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    from trainers.plugins import KINDS

    ids = _error_ids() | {f"unknown-{kind[:-1]}" for kind in KINDS}
    assert len(ids) > 40
    assert not ids - set(TEXTS)
    kinds = {cls.kind for cls in _subclasses(cli.OrchestratorError)}
    assert not kinds - set(TEXTS)
    assert call(capsys, "explain", "error[unknown-key]:")[0] == 0
    code, _, err = call(capsys, "explain", "unknown-ky")
    assert code == 2
    assert "unknown-key" in err


def _subclasses(cls: type[cli.OrchestratorError]) -> set[type[cli.OrchestratorError]]:
    return {cls, *(one for sub in cls.__subclasses__() for one in _subclasses(sub))}


def test_a_bug_is_one_line_and_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator import schema

    def broken() -> dict[str, object]:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(schema, "schema", broken)
    code, out, err = call(capsys, "schema")
    assert (code, out) == (70, "")
    assert err.count("\n") == 1
    assert "a bug of ours: RuntimeError: first line second line" in err
    trace = Path(err.rsplit("its trace: ", 1)[1].strip())
    assert "in broken" in trace.read_text()
    trace.unlink()


ORCHESTRATE = (sys.executable, "-c", "from orchestrator.cli import main; main()")


def _environment(more: dict[str, str]) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@pytest.mark.parametrize(
    "words", ["--help", "--version", "validate {}", "plan {}", "why {} train", "list variants", "runs"]
)
def test_light_commands_import_nothing_heavy(words: str, spec: Path) -> None:
    code = (
        "import sys; from orchestrator.cli import invoke; code = invoke(sys.argv[1:]);"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], code)"
    )
    args = words.format(spec).split()
    done = subprocess.run(
        [sys.executable, "-c", code, *args], env=_environment({}), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0", done.stderr


def test_no_color(spec: Path) -> None:
    done = subprocess.run(
        [*ORCHESTRATE, "plan", str(spec)],
        env=_environment({"NO_COLOR": "1"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in done.stdout + done.stderr

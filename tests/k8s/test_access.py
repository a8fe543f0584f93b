"""The Role of who submits allows what `orchestrate k8s` asks the API server for, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import invoke
from orchestrator.kubernetes import client, submit
from orchestrator.kubernetes.bundle import SUBMITS
from tests.k8s.api import FakeApi, serving
from tests.k8s.built import K8S, ROOT, documents, find
from tests.k8s.test_submit import BADLY, RUNS, WELL, pod

pytest.importorskip("lightkube")


def rights(asked: list[str]) -> set[tuple[str, str]]:
    """What each request needs, as (resource, verb). A PATCH that makes something is a create, too."""
    found = set()
    for line in asked:
        method, place = line.split()[:2]
        resource, name, below = [*place.split("/"), "", ""][:3]
        resource += f"/{below}" if below else ""
        if method == "PATCH":
            found |= {(resource, "patch"), (resource, "create")}
        else:
            found.add((resource, {"GET": "get" if name else "list", "DELETE": "delete"}[method]))
    return found


def role() -> set[tuple[str, str]]:
    rules = find(documents((K8S / "base" / "accounts.yaml").read_text()), "Role")["rules"]
    return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def everything(api: FakeApi) -> None:
    """Each command once, and a job that is refused after its ConfigMap was made."""
    pipeline = str(ROOT / "pipelines" / "ring8.yaml")
    common = ["k8s", "submit", pipeline, "--storage", "/nowhere/runs", "--name"]
    api.logs["one-xyz"] = ["a line"]
    pod(api, "one-xyz", "Running")
    api.statuses = [RUNS, RUNS, WELL]
    invoke([*common, "one"])
    api.statuses = [RUNS]
    for words in (["status"], ["status", "one"], ["logs", "one"], ["debug", "one"], ["delete", "one", "--yes"]):
        invoke(["k8s", *words])
    api.statuses = [BADLY]
    api.refuse["PATCH rayjobs"] = (422, "spec is invalid")
    invoke([*common, "two", "--no-wait"])


def test_the_role_is_what_the_commands_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.05)
    monkeypatch.setattr(client.Api.__init__, "__kwdefaults__", {"context": None, "timeout_s": 2.0, "patience_s": 1.0})
    monkeypatch.delenv("ORCHESTRATOR_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, monkeypatch) as api:
        everything(api)
    assert rights(api.asked) == role()


def test_the_check_of_roles_knows_the_same() -> None:
    assert {(resource, verb) for (_, resource), verbs in SUBMITS.items() for verb in verbs} == role()

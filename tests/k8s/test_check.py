"""`orchestrate k8s check`: every mutant is told with its place, no valid variant is, and reading tells what is no YAML."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import cli
from orchestrator.kubernetes import checking, model, policy
from orchestrator.kubernetes.advice import ADVICE
from orchestrator.kubernetes.render import Wish, render
from tests.k8s.built import ROOT, Doc, documents, find
from tests.k8s.changes import GONE, PIPELINE, More, changed, sound
from tests.k8s.refused import (
    BOX,
    HEAD,
    HEAD_BOX,
    HEAD_POD,
    IN_PODS,
    REFUSED,
    SCALER,
    TEMPLATES,
    WORKER_BOX,
    WORKER_POD,
    WORKERS,
)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: str) -> tuple[int, str, str]:
        code = cli.invoke(["k8s", "check", *words])
        return code, *capsys.readouterr()

    return run


def dumped(docs: list[Doc]) -> str:
    """As YAML, by the fast writer where there is one."""
    return str(yaml.dump_all(docs, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))


def told(docs: list[Doc]) -> list[str]:
    found, faults = checking.read(dumped(docs), "it.yaml")
    assert faults == []
    return [str(one) for one in checking.check(found).findings]


@cache
def told_before(base: str) -> set[str]:
    return set(told(sound(base)))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_told(name: str) -> None:
    base, which, changes = REFUSED[name]
    docs = changed(base, which, changes)
    assert docs != sound(base), "nothing was changed"
    found = set(told(docs)) - told_before(base)
    assert found
    assert all(line.count("; ") >= 2 for line in found), "what, why, what to do"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", IN_PODS)
def test_what_is_wrong_in_a_pod_is_told(name: str, template: str) -> None:
    base, which, pod = TEMPLATES[template]
    changes = {
        f"{pod}.containers.0{path}" if path[0] == "." else f"{pod}.{path}": v for path, v in IN_PODS[name].items()
    }
    if next(iter(changes)).endswith(".seccompProfile.localhostProfile"):
        changes = {next(iter(changes)).rpartition(".")[0]: {"type": "RuntimeDefault", "localhostProfile": "x.json"}}
    assert told(changed(base, which, changes))


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in below:
        yield (*at, key)
        yield from places(item, (*at, key))


def test_no_document_whatever_breaks_the_check() -> None:
    """Each field of an installation and of a job once as a list, a mapping, a number or nothing."""
    docs = sound("s3-prod") + sound("scaling")
    kinds = {document["kind"]: document for document in docs}
    for document in kinds.values():
        alike = {tuple(0 if isinstance(key, int) else key for key in path): path for path in places(document)}
        for number, path in enumerate(list(alike.values())[::2]):
            other = copy.deepcopy(document)
            parent = other
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = ([["x"]], {"a": ["x"]}, 7, None, [{}])[number % 5]
            assert policy.check_bundle([other]) is not None
            assert model.check(other) is not None


# --- what is right ------------------------------------------------------------------------------------------------------


def images(change: Callable[[str], str]) -> Callable[[list[Doc]], Any]:
    def go(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: change(v) if k == "image" and isinstance(v, str) else go(v) for k, v in value.items()}
        return [go(item) for item in value] if isinstance(value, list) else value

    return go


def elsewhere(docs: list[Doc]) -> list[Doc]:
    """In another namespace."""
    text = dumped(docs)
    for name in ("mlflow", "postgres"):
        text = text.replace(f"{name}.gan-orchestrator", f"{name}.ml-team")
    docs = documents(text)
    for document in docs:
        meta = document["metadata"]
        meta["name" if document["kind"] == "Namespace" else "namespace"] = "ml-team"
        for subject in document.get("subjects", []):
            subject["namespace"] = "ml-team"
    return docs


def two_groups(docs: list[Doc]) -> list[Doc]:
    job = find(docs, "RayJob")
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    more = yaml.safe_load(yaml.safe_dump(groups[0]))
    more["groupName"] = "cpu"
    del more["rayStartParams"]["num-gpus"], more["template"]["spec"]["tolerations"]
    for amounts in more["template"]["spec"]["containers"][0]["resources"].values():
        del amounts["nvidia.com/gpu"]
    groups.append(more)
    return docs


def database_elsewhere(docs: list[Doc]) -> list[Doc]:
    docs = [d for d in docs if d["metadata"]["name"] not in ("postgres", "mlflow-to-postgres") or d["kind"] == "Secret"]
    find(docs, "ConfigMap", "mlflow")["data"]["PGHOST"] = "db.example.com"
    egress = {"to": [{"ipBlock": {"cidr": "10.9.0.0/24"}}], "ports": [{"port": 5432, "protocol": "TCP"}]}
    rules = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "mlflow"}}, "policyTypes": ["Egress"]}
    meta = {"name": "database", "namespace": "gan-orchestrator"}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta}
    return [*docs, {**policy, "spec": {**rules, "egress": [egress]}}]


def other_kinds(docs: list[Doc]) -> list[Doc]:
    meta = {"name": "mlflow-auth", "namespace": "gan-orchestrator"}
    docs = [d for d in docs if (d["kind"], d["metadata"]["name"]) != ("Secret", "mlflow-auth")]
    return [*docs, {"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": meta, "spec": {}}]


OUT = {"ports": [{"port": 9000, "protocol": "TCP"}]}
ALLOWED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "more workers": (
        "dcgan-gpu",
        "RayJob",
        {f"{WORKERS}.{key}": 16 for key in ("replicas", "minReplicas", "maxReplicas")},
    ),
    "two groups": ("dcgan-gpu", "", {"": two_groups}),
    "variables": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{WORKER_BOX}.env": More(
                [
                    {"name": "NCCL_DEBUG", "value": "INFO"},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}},
                ]
            )
        },
    ),
    "pull secret": ("dcgan-gpu", "RayJob", {f"{HEAD_POD}.imagePullSecrets": [{"name": "registry"}]}),
    "cheap nodes": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{WORKER_POD}.nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"},
            f"{WORKER_POD}.priorityClassName": "batch-low",
            f"{WORKER_POD}.tolerations": More(
                [
                    {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
                    {
                        "key": "node.kubernetes.io/not-ready",
                        "operator": "Exists",
                        "effect": "NoExecute",
                        "tolerationSeconds": 9,
                    },
                ]
            ),
        },
    ),
    "part of a GPU": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{WORKER_BOX}.resources.limits": {"cpu": "1", "memory": "16Gi", "nvidia.com/mig-1g.5gb": "1"},
            f"{WORKER_BOX}.resources.requests": {"cpu": "500m", "memory": "16Gi", "nvidia.com/mig-1g.5gb": "1"},
            f"{WORKERS}.rayStartParams.num-gpus": GONE,
        },
    ),
    "deletion by rules": (
        "dcgan-gpu",
        "RayJob",
        {
            "spec.shutdownAfterJobFinishes": False,
            "spec.ttlSecondsAfterFinished": GONE,
            "spec.deletionStrategy": {
                "deletionRules": [
                    {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 60}},
                    {"policy": "DeleteSelf", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 600}},
                    {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 60}},
                ]
            },
        },
    ),
    "deletion by policies": (
        "dcgan-gpu",
        "RayJob",
        {"spec.deletionStrategy": {key: {"policy": "DeleteCluster"} for key in ("onSuccess", "onFailure")}},
    ),
    "suspended": ("dcgan-gpu", "RayJob", {"spec.suspend": True}),
    "ports of the head": (
        "dcgan-gpu",
        "RayJob",
        {f"{HEAD_BOX}.ports": [{"name": "dashboard", "containerPort": 8265}], f"{HEAD}.serviceType": "ClusterIP"},
    ),
    "labels": (
        "dcgan-gpu",
        "RayJob",
        {"metadata.labels.cost-center": "42", f"{WORKERS}.labels": {"market-type": "spot"}},
    ),
    "group that idles": ("scaling", "RayJob", {f"{WORKERS}.idleTimeoutSeconds": 30, f"{WORKERS}.priority": 3}),
    "image of the autoscaler": ("scaling", "RayJob", {f"{SCALER}.image": "example.org/gan-orchestrator:0.1.0"}),
    "larger server": (
        "dev-kind",
        "Deployment mlflow",
        {f"{BOX}.resources": {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"cpu": "4", "memory": "8Gi"}}},
    ),
    "class of storage": (
        "dev-kind",
        "PersistentVolumeClaim runs",
        {
            "spec.storageClassName": "fast",
            "spec.accessModes": ["ReadWriteMany"],
            "spec.resources.requests.storage": "100Gi",
        },
    ),
    "version of the standard": (
        "dev-kind",
        "Namespace",
        {"metadata.labels.pod-security~kubernetes~io/enforce-version": "v1.32", "metadata.labels.team": "ml"},
    ),
    "known API server": (
        "dev-kind",
        "NetworkPolicy autoscaler",
        {
            "spec.egress.0": {
                "to": [{"ipBlock": {"cidr": "10.96.0.1/32"}}],
                "ports": [{"port": 6443, "protocol": "TCP"}],
            }
        },
    ),
    "storage at home": (
        "s3-prod",
        "NetworkPolicy storage",
        {"spec.egress.0": {"to": [{"ipBlock": {"cidr": "10.5.0.0/24"}}], **OUT}},
    ),
    "storage beside": (
        "s3-prod",
        "NetworkPolicy storage",
        {
            "spec.egress.0": {
                "to": [
                    {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "minio"}},
                        "podSelector": {"matchLabels": {"app": "minio"}},
                    }
                ],
                **OUT,
            }
        },
    ),
    "people who submit": (
        "dev-kind",
        "RoleBinding",
        {"subjects": More([{"kind": "Group", "name": "ml-team", "apiGroup": "rbac.authorization.k8s.io"}])},
    ),
    "own bucket": ("s3-prod", "ConfigMap orchestrator", {"data.ORCHESTRATOR_STORAGE": "s3://acme-ml/gan"}),
    "database elsewhere": ("s3-prod", "", {"": database_elsewhere}),
    "secrets of another operator": ("dev-kind", "", {"": other_kinds}),
    **{
        f"{what} of {base}": (base, "", {"": change})
        for base in ("dev-kind", "gpu", "s3-prod", "gpu+dcgan-gpu", "scaling")
        for what, change in {
            "registry": images(lambda name: f"registry.example.org:5000/team/{name}"),
            "digest": images(lambda name: f"{name.partition(':')[0]}@sha256:{'a' * 64}"),
            "tag and digest": images(lambda name: f"{name}@sha256:{'a' * 64}"),
            "namespace": elsewhere,
        }.items()
    },
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_users_want_is_allowed(name: str) -> None:
    base, which, changes = ALLOWED[name]
    docs = changed(base, which, changes)
    assert docs != sound(base), "nothing was changed"
    assert told(docs) == []


@pytest.mark.parametrize(
    "wish",
    [
        Wish(PIPELINE, workers=5),
        Wish(PIPELINE, gpus=2),
        Wish(PIPELINE, memory=32 * 2**30),
        Wish(PIPELINE, cluster=True, max_workers=3),
        Wish(PIPELINE, pull_secrets=("registry",), node_selector={"pool": "gpu"}, namespace="ml", claim="other"),
        *(Wish(str(path), storage="s3://b/r") for path in sorted((ROOT / "pipelines").glob("*.yaml"))),
    ],
    ids=str,
)
def test_whatever_is_rendered_is_allowed(wish: Wish) -> None:
    assert told(documents(render(wish).text)) == []


# --- the command --------------------------------------------------------------------------------------------------------


def write(path: Path, docs: list[Doc]) -> Path:
    path.write_text(dumped(docs))
    return path


def test_a_finding_has_its_place(call: Call, tmp_path: Path) -> None:
    docs = changed("dev-kind", "Deployment mlflow", {f"{BOX}.securityContext.privileged": True})
    path = write(tmp_path / "built.yaml", docs)
    code, out, err = call(str(path))
    assert code == 2 and err.splitlines() == ["29 documents: 1 finding"]
    place, _, rest = out.strip().partition(": ")
    line = int(place.split(":")[1])
    assert path.read_text().splitlines()[line - 1].strip() == "privileged: true"
    assert rest.startswith(
        "error[privileged]: Deployment mlflow spec.template.spec.containers[0].securityContext.privileged"
    )
    assert out.count("\n") == 1


def test_places_of_named_things_labels_and_lists(tmp_path: Path) -> None:
    docs = sound("dev-kind")
    find(docs, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"].append(
        {"name": "API_TOKEN", "value": "x"}
    )
    find(docs, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline"
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": docs})
    found, _ = checking.read(text, "it.yaml")
    lines = text.splitlines()
    places = {one.rule: lines[one.line - 1].strip() for one in checking.check(found).findings}
    assert places == {"secrets": "- name: API_TOKEN", "namespace": "pod-security.kubernetes.io/enforce: baseline"}


def test_json(call: Call, tmp_path: Path) -> None:
    docs = changed("dev-kind", "Deployment mlflow", {"spec.replicas": 2})
    code, out, err = call(str(write(tmp_path / "built.yaml", docs)), "--json")
    values = json.loads(out)
    assert (code, err, values["documents"]) == (2, "", 29)
    (finding,) = values["findings"]
    assert finding["rule"] == "rollout" and finding["document"] == "Deployment mlflow" and finding["line"] > 1
    assert all(finding[key] for key in ("what", "why", "hint", "path", "file"))
    code, out, _ = call(str(write(tmp_path / "good.yaml", sound("dev-kind"))), "--json")
    assert code == 0 and json.loads(out)["findings"] == []


def test_files_are_judged_together(call: Call, tmp_path: Path) -> None:
    """A job that asks for GPUs, beside an installation whose quota has none."""
    base, job = write(tmp_path / "a.yaml", sound("s3-prod")), write(tmp_path / "b.yaml", sound("dcgan-gpu"))
    assert call(str(base))[0] == call(str(job))[0] == 0
    code, out, _ = call(str(tmp_path))
    assert code == 2 and "requests.nvidia.com/gpu" in out


def test_a_pipe_and_a_kustomization(tmp_path: Path) -> None:
    """As it is written in the help: what kubectl builds, through a pipe."""
    from tests.k8s.built import copy, kubectl

    place = copy() / "overlays" / "dev-kind"
    built = subprocess.run([kubectl(), "kustomize", str(place)], capture_output=True, check=True).stdout
    run = [sys.executable, "-c", "from orchestrator.cli import main; main()", "k8s", "check"]
    begun = time.monotonic()
    piped = subprocess.run([*run, "-"], input=built, capture_output=True, cwd=ROOT, check=False)
    assert piped.returncode == 0, piped.stdout
    assert time.monotonic() - begun < 10  # 0.4 s on a quiet machine
    assert subprocess.run([*run, str(place)], capture_output=True, cwd=ROOT, check=False).returncode == 0
    bad = built.replace(b"runAsNonRoot: true", b"runAsNonRoot: false", 1)
    told = subprocess.run([*run], input=bad, capture_output=True, text=False, cwd=ROOT, check=False)
    assert told.returncode == 2 and b"<stdin>:" in told.stdout and b"error[root]" in told.stdout


def test_a_kustomization_without_its_secrets_says_what_to_do(call: Call, tmp_path: Path) -> None:
    from tests.k8s.built import kubectl

    kubectl()
    text = "secretGenerator: [{name: x, envs: [secrets/x.env]}]\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    code, _, err = call(str(tmp_path))
    assert code == 2 and "env.example" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "it.yaml:2:1: error[syntax]"),
        ("- a\n- b\n", "is no mapping"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: b}\ndata: {c: d}\n",
            "it.yaml:5:1: error[twice]: data",
        ),
        ("kind: Deploymnet\napiVersion: apps/v1\nmetadata: {name: a}\n", "did you mean Deployment?"),
        ("kind: PodDisruptionBudget\napiVersion: policy/v1beta1\nmetadata: {name: a}\n", "must be policy/v1"),
    ],
)
def test_what_is_no_manifest(text: str, says: str) -> None:
    documents, faults = checking.read(text, "it.yaml")
    lines = [str(one) for one in [*faults, *checking.check(documents).findings]]
    assert any(says in line for line in lines), lines


def test_other_operators_kinds_are_noted(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text("apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: a}\n")
    code, out, err = call(str(path))
    assert (code, out) == (0, "") and "Certificate a" in err


@pytest.mark.parametrize("words", [["/nowhere.yaml"], ["EMPTY"]])
def test_nothing_to_check(call: Call, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    code, out, err = call(*[str(tmp_path / "empty.yaml") if word == "EMPTY" else word for word in words])
    assert (code, out) == (2, "") and "error[bad_input]" in err


def test_every_rule_has_its_advice() -> None:
    """Whatever a rule is called, its reader hears why it is there and what to do."""
    import re

    folder = Path(checking.__file__).parent
    rules = {
        rule for path in folder.glob("*.py") for rule in re.findall(r'yield \(?\s*"([a-z-]+)", ', path.read_text())
    }
    assert len(rules) > 25
    assert rules <= set(ADVICE)

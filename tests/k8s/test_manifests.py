"""Every overlay builds, fits the API server's schemas and KubeRay's, and keeps to our own rules; so do the jobs beside them."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from orchestrator.kubernetes import model, policy
from orchestrator.kubernetes.render import Wish, render
from orchestrator.kubernetes.workloads import job_labels, workloads
from tests.k8s.built import JOBS, K8S, OPTIONAL, OVERLAYS, ROOT, copy, documents, find, job, kustomize, overlay

KUBERNETES = ("1.32", "1.37")  # oldest and newest of k8s/README.md
RENDERED = {
    "jobs/ring8.yaml": Wish("pipelines/ring8.yaml"),
    "jobs/dcgan-gpu.yaml": Wish(
        "pipelines/dcgan.yaml",
        name="dcgan-gpu",
        profile="gpu",
        storage="s3://gan-orchestrator/runs",
        image="gan-orchestrator:0.1.0-cuda",
    ),
    "components/raycluster/raycluster.yaml": Wish(
        "pipelines/dcgan.yaml",
        name="workbench",
        cluster=True,
        workers=0,
        max_workers=4,
        storage="s3://gan-orchestrator/runs",
    ),
}
OTHERS = {  # kinds of other operators, checked by their shape below; our overlays have none of them
    "kueue.x-k8s.io/v1beta1": ("ResourceFlavor", "ClusterQueue", "LocalQueue"),
    "monitoring.coreos.com/v1": ("PodMonitor",),
}
SCHEMAS = cache(kubernetes_validate.utils.schema_contents)
CHECKER = ROOT.parent / "shared" / "tools" / "kuberay_check.py"


@pytest.fixture(autouse=True)
def schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a version's definitions takes longer than using them."""
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", SCHEMAS)


def unfit(document: dict, version: str) -> list[str]:
    """What a strict API server would refuse; a kind that nobody here knows is refused, too."""
    told = [str(fault) for fault in model.check(document)]
    wrapped = [
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "template": {"metadata": {"labels": dict(w.labels)}, "spec": dict(w.spec)},
        }
        for w in workloads(document)
    ]
    for each in [*wrapped, *([] if document["kind"] in model.KINDS else [document])]:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError as error:
            told.append(error.message)
        except kubernetes_validate.ValidationError as error:
            told.append(f"{document['kind']} {list(error.path)}: {error.message[:200]}")
    return told


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_fits_the_schemas(name: str, version: str) -> None:
    docs = overlay(name) + [d for each in JOBS[name] for d in job(each)]
    assert [told for document in docs for told in unfit(document, version)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_keeps_to_the_policy(name: str) -> None:
    assert [str(v) for v in policy.check_bundle(overlay(name))] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_with_its_jobs_keeps_to_the_policy(name: str) -> None:
    """Accounts, claims and settings that jobs name are there, and there is room for them."""
    docs = overlay(name) + [d for each in JOBS[name] for d in job(each)]
    docs = [d for d in docs if (name, d["kind"]) != ("s3-prod", "RayJob")]  # no GPUs there: its quota says so
    assert [str(v) for v in policy.check_bundle(docs)] == []


def test_quota_refuses_gpus_where_there_are_none() -> None:
    found = policy.check_bundle(overlay("s3-prod") + job("dcgan-gpu"))
    assert {v.rule for v in found} == {"room"}
    assert any("requests.nvidia.com/gpu" in str(v) for v in found)


def test_base_builds_without_any_secret() -> None:
    docs = kustomize(copy() / "base")
    assert not [d for d in docs if d["kind"] == "Secret"]
    assert [told for d in docs for told in unfit(d, KUBERNETES[-1])] == []


@pytest.mark.parametrize("name", OPTIONAL)
def test_optional_component_builds(name: str) -> None:
    docs = overlay(f"with-{name}")
    known = [d for d in docs if d["kind"] not in OTHERS.get(d["apiVersion"], ())]
    assert len(known) < len(docs) or name == "prometheus"
    assert [told for d in known for told in unfit(d, KUBERNETES[-1])] == []
    assert [v for v in policy.check_bundle(docs) if v.rule != "reference"] == []  # the base has no Secrets


def test_an_unknown_kind_is_no_pass() -> None:
    assert unfit({"apiVersion": "example.org/v1", "kind": "Sandwich", "metadata": {"name": "x"}}, "1.37")
    assert unfit({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"}}, "1.37")


@pytest.mark.parametrize("path", RENDERED)
def test_kept_copy_is_what_is_rendered(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert (K8S / path).read_text() == render(RENDERED[path]).text, f"render {path} again (k8s/README.md says how)"


@pytest.mark.parametrize("path", RENDERED)
def test_rendered_pods_are_those_that_policies_address(path: str) -> None:
    """The installation's selectors are judged against `job_labels`: what is rendered carries them."""
    expected = {labels["app.kubernetes.io/component"]: labels for labels in job_labels()}
    docs = documents((K8S / path).read_text())
    works = [work for d in docs for work in workloads(d)]
    assert len(works) >= 2
    for work in works:
        wanted = {k: v for k, v in expected[work.role].items() if k != "app.kubernetes.io/name"}
        assert wanted.items() <= dict(work.labels).items()


@pytest.mark.skipif(not CHECKER.exists(), reason="no checker of KubeRay's own schemas beside the repository")
@pytest.mark.parametrize("name", ["gpu", "s3-prod", *(f"jobs/{each}.yaml" for each in ("ring8", "dcgan-gpu"))])
def test_kuberay_takes_it(name: str, tmp_path: Path) -> None:
    path = K8S / name
    if name in OVERLAYS:
        path = tmp_path / "built.yaml"
        path.write_text(yaml.safe_dump_all(overlay(name)))
    done = subprocess.run([sys.executable, str(CHECKER), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_secret_stands_in_a_file() -> None:
    """In what git has: no Secret with contents, no literals; the files that generators read are ignored, examples say so."""
    texts = {path: path.read_text() for path in K8S.rglob("*") if path.is_file() and path.suffix in (".yaml", ".yml")}
    assert len(texts) > 20
    for path, text in texts.items():
        docs = [d for d in documents(text) if isinstance(d, dict)]
        assert [str(v) for v in policy.check_file(docs)] == [], path
    for example in K8S.rglob("*.env.example"):
        real = example.with_suffix("").relative_to(ROOT)
        ignored = subprocess.run(["git", "check-ignore", "-q", str(real)], cwd=ROOT, check=False)
        assert ignored.returncode in (0, 128), f"git would take {real}"  # 128: not a repository
        values = dict(re.findall(r"(?m)^(\w+)=(.*)$", example.read_text()))
        assert values and all(
            value == "change-me-before-use" for key, value in values.items() if policy.access.is_secret_name(key)
        )


@pytest.mark.parametrize("name", OVERLAYS)
def test_secrets_are_those_of_the_examples(name: str) -> None:
    """Names are literal: a hash behind a Secret's name would hide it from rendered jobs."""
    names = {d["metadata"]["name"] for d in overlay(name) if d["kind"] == "Secret"}
    assert names == {path.name.partition(".")[0] for path in (K8S / "overlays" / name / "secrets").glob("*.example")}


def test_gpu_overlay_asks_for_gpus() -> None:
    docs = overlay("gpu")
    group = find(docs, "RayCluster")["spec"]["workerGroupSpecs"][0]
    container = group["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == group["rayStartParams"]["num-gpus"] == "1"
    assert find(docs, "ResourceQuota")["spec"]["hard"]["requests.nvidia.com/gpu"] == "8"
    assert "-cuda" in container["image"]

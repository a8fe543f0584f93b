"""The model refuses what the API server and KubeRay's operator refuse: by rule, and by mutants of what is rendered."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import BadInput
from orchestrator.kubernetes.model import Cluster, Group, check
from orchestrator.kubernetes.render import Wish, render
from orchestrator.kubernetes.rules import quantity

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT.parent / "shared" / "tools" / "kuberay_check.py"
PIPELINE = str(ROOT / "pipelines" / "dcgan.yaml")
Json = dict[str, Any]


@cache
def _rendered() -> dict[str, Json]:
    return {
        "job": render(Wish(PIPELINE, profile="gpu", storage="s3://b/r", queue="train")).main,
        "scaling": render(Wish(PIPELINE, max_workers=8)).main,
        "cluster": render(Wish(PIPELINE, cluster=True)).main,
    }


def sound(name: str = "job") -> Json:
    return copy.deepcopy(_rendered()[name])


def told(document: Json) -> str:
    return "\n".join(f"{fault.kind} {fault}" for fault in check(document))


def at(document: Json, path: str) -> tuple[Any, Any]:
    """The parent of what a path names, and its last key: "spec.rayClusterSpec.workerGroupSpecs.0.replicas"."""
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts:
        document = document[part]
    return document, last


GROUP = "spec.rayClusterSpec.workerGroupSpecs.0"
HEAD = "spec.rayClusterSpec.headGroupSpec"
GONE = object()


@pytest.mark.parametrize(
    ("of", "changes", "kind", "says"),
    [
        ("job", {"metadata.name": "x" * 48}, "operator", "takes 47"),
        ("job", {"metadata.name": "Upper"}, "operator", "lower-case"),
        ("job", {"metadata.name": "1st"}, "operator", "begin with a letter"),
        ("cluster", {"metadata.name": "x" * 48}, "operator", "takes 47"),
        ("job", {"metadata.labels.a b": "c"}, "schema", "no label's name"),
        ("job", {"spec.shutdownAfterJobFinishes": False}, "operator", "ttlSecondsAfterFinished"),
        ("job", {"spec.ttlSecondsAfterFinished": -1}, "operator", "at least 0"),
        ("job", {"spec.submissionMode": "Bogus"}, "operator", "none of"),
        ("job", {"spec.backoffLimit": -1}, "operator", "at least 0"),
        ("job", {"spec.submitterConfig.backoffLimit": -1}, "operator", "at least 0"),
        ("job", {"spec.activeDeadlineSeconds": 0}, "operator", "at least 1"),
        ("job", {"spec.preRunningDeadlineSeconds": 0}, "operator", "at least 1"),
        ("job", {"spec.activeDeadlineSeconds": 60}, "operator", "never reached"),
        ("job", {"spec.activeDeadlineSeconds": GONE}, "safety", "hangs"),
        ("job", {"spec.suspend": True, "spec.shutdownAfterJobFinishes": False, "spec.ttlSecondsAfterFinished": 0},
         "operator", "spec.suspend: needs"),
        ("job", {"spec.rayClusterSpec": GONE}, "operator", "needs `rayClusterSpec`"),
        ("job", {"spec.entrypoint": ""}, "operator", "is missing"),
        ("job", {"spec.entrypoint": "orchestrate run 'x"}, "operator", "quotes do not match"),
        ("job", {"spec.runtimeEnvYAML": "a: ["}, "operator", "no YAML mapping"),
        ("job", {"spec.deletionStrategy": {"onSuccess": {"policy": "DeleteCluster"}}}, "schema", "both onSuccess"),
        ("job", {"spec.clusterSelector": {"a": "b"}, "spec.suspend": True}, "operator", "does not work with clusterSelector"),
        ("job", {"spec.submissionMode": "InteractiveMode"}, "operator", "InteractiveMode"),
        ("job", {"spec.submissionMode": "SidecarMode"}, "operator", "SidecarMode"),
        ("job", {"spec.submitterPodTemplate": GONE}, "safety", "security context"),
        ("job", {"spec.submitterPodTemplate.spec.restartPolicy": "Always"}, "operator", "Never or OnFailure"),
        ("job", {"spec.rayClusterSpec.enableInTreeAutoscaling": True}, "operator", "Kueue"),
        ("job", {"spec.rayClusterSpec.upgradeStrategy": {"type": "Recreate"}}, "operator", "not for the cluster of a RayJob"),
        ("job", {"spec.rayClusterSpec.authOptions.mode": "disabled"}, "safety", "may run code"),
        ("job", {"spec.rayClusterSpec.rayVersion": "2.40.0"}, "operator", "2.52 or newer"),
        ("job", {"spec.rayClusterSpec.rayVersion": GONE}, "operator", "needs `rayVersion`"),
        ("job", {f"{GROUP}.minReplicas": 9}, "operator", "more than maxReplicas"),
        ("job", {f"{GROUP}.replicas": 99}, "operator", "cut silently"),
        ("job", {f"{GROUP}.maxReplicas": -1}, "operator", "at least 0"),
        ("job", {f"{GROUP}.numOfHosts": 0}, "operator", "at least 1"),
        ("job", {f"{GROUP}.groupName": "A b"}, "operator", "no name for pods"),
        ("job", {f"{GROUP}.idleTimeoutSeconds": 60}, "operator", "needs the autoscaler"),
        ("job", {f"{GROUP}.rayStartParams.num-cpus": "two"}, "operator", "whole number"),
        ("job", {f"{GROUP}.rayStartParams.labels": "a=b"}, "operator", "use `labels`"),
        ("job", {f"{GROUP}.resources": {"cpu": "2"}}, "operator", "both say what Ray may use"),
        ("job", {f"{HEAD}.rayStartParams.num-cpus": "2"}, "safety", "lands on the head"),
        ("job", {f"{HEAD}.template.spec.containers.0.resources.limits.memory": "2Gi"}, "safety", "4Gi"),
        ("job", {f"{HEAD}.template.spec.containers.0.resources.requests.memory": "64Gi"}, "operator", "more than its limit"),
        ("job", {f"{GROUP}.template.spec.containers.0.resources.requests.nvidia.com/gpu": "8"}, "operator", "its limit"),
        ("job", {f"{GROUP}.template.spec.containers": []}, "operator", "has no container"),
        ("job", {f"{GROUP}.template.spec.containers.0.image": ""}, "operator", "image: is missing"),
        ("job", {f"{GROUP}.template.spec.containers.0.volumeMounts.0.name": "nope"}, "operator", "no volume 'nope'"),
        ("job", {f"{GROUP}.template.spec.terminationGracePeriodSeconds": 10}, "safety", "saves first"),
        ("job", {f"{GROUP}.rayStartParams.object-store-memory": "999999999999"}, "safety", "more than /dev/shm"),
        ("scaling", {"spec.rayClusterSpec.autoscalerOptions.version": "v1"}, "safety", "is not v2"),
        ("scaling", {"spec.rayClusterSpec.autoscalerOptions.securityContext": GONE}, "safety", "sidecar has none"),
        ("scaling", {f"{GROUP}.template.spec.restartPolicy": "Always"}, "operator", "must be Never with autoscaler v2"),
        ("scaling", {f"{HEAD}.template.spec.restartPolicy": "OnFailure"}, "operator", "must be Never with autoscaler v2"),
        ("scaling", {f"{GROUP}.suspend": True}, "operator", "does not work with the autoscaler"),
    ],
)  # fmt: skip
def test_each_rule_tells_what_it_is_for(of: str, changes: dict[str, Any], kind: str, says: str) -> None:
    document = sound(of)
    assert told(document) == ""
    for path, value in changes.items():
        head, _, tail = path.partition("requests.")
        parent, key = at(document, path) if "nvidia" not in path else (at(document, f"{head}requests.x")[0], tail)
        if path.startswith("metadata.labels."):
            parent, key = document["metadata"]["labels"], path.removeprefix("metadata.labels.")
        if value is GONE:
            del parent[key]
        else:
            parent[key] = value
    assert any(line.startswith(kind) and says in line for line in told(document).splitlines()), told(document)


def test_two_groups_of_one_name_and_two_volumes_of_one_name() -> None:
    document = sound()
    groups = document["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    groups.append(copy.deepcopy(groups[0]))
    assert "names two groups" in told(document)
    document = sound()
    volumes = at(document, f"{HEAD}.template.spec.volumes")[0]["volumes"]
    volumes.append(copy.deepcopy(volumes[0]))
    assert "stands here twice" in told(document)
    document = sound()
    variables = at(document, f"{HEAD}.template.spec.containers.0.env")[0]["env"]
    variables.append({"name": "HOME", "value": "/"})
    assert "HOME stands here twice" in told(document)


def test_what_is_not_kuberays_is_not_judged_and_another_version_is_told() -> None:
    assert check({"apiVersion": "v1", "kind": "ConfigMap"}) == []
    assert "must be ray.io/v1" in told({"apiVersion": "ray.io/v1alpha1", "kind": "RayJob"})


@pytest.mark.parametrize(
    ("text", "value"),
    [("4Gi", 4 * 2**30), ("500m", 0.5), ("1e3", 1000), ("2", 2), (3, 3), ("0.5G", 5e8), ("x", None), (True, None)],
)
def test_quantities(text: Any, value: float | None) -> None:
    found = quantity(text)
    assert found is value if value is None else found == pytest.approx(value)


def test_the_typed_model_refuses_what_check_refuses() -> None:
    job = sound()["spec"]["rayClusterSpec"]
    group = job["workerGroupSpecs"][0]
    parts: Json = {"name": "one", "ray_version": "2.60.0", "head": job["headGroupSpec"]["template"]}
    params = job["headGroupSpec"]["rayStartParams"]
    good = Group("gpu", 2, group["template"], group["rayStartParams"])
    assert Cluster(**parts, params=params, groups=[good]).document()["kind"] == "RayCluster"
    bad = Cluster(**parts, params=params, groups=[replace(good, least=3, most=1)])
    with pytest.raises(BadInput, match="more than maxReplicas"):
        bad.document()


# --- mutants ------------------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a document, but for what stands in free mappings of texts."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, (*path, number))


WRONG: list[Any] = ["text", 7, -1, 0, True, 1.5, [], {}, [1], {"a": 1}, "Always", "v3", "", "999Gi", "-5", 2**40]


@st.composite
def mutants(draw: st.DrawFn) -> Json:
    """A sound document with one to three changes somewhere in its spec."""
    document = sound(draw(st.sampled_from(["job", "scaling", "cluster"])))
    for _ in range(draw(st.integers(1, 3))):
        found = [path for path in places(document) if path[0] == "spec" and len(path) > 1]
        path = draw(st.sampled_from(found))
        parent: Any = document
        for part in path[:-1]:
            parent = parent[part]
        how = draw(st.sampled_from(["replace", "remove", "rename", "add", "swap"]))
        if how == "remove":
            del parent[path[-1]]
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", "Spec", f"{path[-1]}s", str(path[-1]).lower() + "_"]))] = parent.pop(
                path[-1]
            )
        elif how == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["bogus", "replica", "securitycontext", "limit", "env2"]))] = draw(
                st.sampled_from(WRONG)
            )
        elif how == "swap":
            other = draw(st.sampled_from(found))
            value: Any = document
            for part in other:
                value = value[part] if not isinstance(value, (str, int, float)) else value
            parent[path[-1]] = copy.deepcopy(value)
        else:
            parent[path[-1]] = draw(st.sampled_from(WRONG))
    return document


@cache
def reference() -> Callable[[Json], list[str]]:
    """What `kuberay_check.py` tells of a document: the CRDs themselves, and its own rules."""
    spec = importlib.util.spec_from_file_location("kuberay_check", REFERENCE)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    validators = tool.validators()

    def judge(document: Json) -> list[str]:
        schema = [error.message for error in validators[document["apiVersion"], document["kind"]].iter_errors(document)]
        try:
            return [*schema, *tool.operator_rules(document)]
        except (AttributeError, TypeError):  # its rules read documents whose shape is right
            return schema

    return judge


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs kuberay_check.py and KubeRay's CRDs beside the checkout")
@given(mutants())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_reference_refuses_is_refused(document: Json) -> None:
    if wrong := reference()(document):
        assert [fault for fault in check(document) if fault.kind != "safety"], wrong


@given(mutants())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_document_whatever_breaks_the_check(document: Json) -> None:
    for fault in check(document):
        assert str(fault)


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs kuberay_check.py and KubeRay's CRDs beside the checkout")
def test_what_is_rendered_is_right_by_the_reference() -> None:
    for name in ("job", "scaling", "cluster"):
        assert reference()(sound(name)) == []


def test_every_field_that_is_rendered_is_looked_at() -> None:
    """Renamed, each field of a document is told; free mappings of texts aside."""
    free = ("labels", "annotations", "rayStartParams", "matchLabels", "requests", "limits", "nodeSelector")
    for name in ("job", "scaling", "cluster"):
        for path in places(sound(name)):
            if (
                path[0] != "spec"
                or len(path) < 2
                or isinstance(path[-1], int)
                or any(part in free for part in path[:-1])
            ):
                continue
            document = sound(name)
            parent: Any = document
            for part in path[:-1]:
                parent = parent[part]
            parent[f"{path[-1]}X"] = parent.pop(path[-1])
            assert "no such field" in told(document), path

"""What the API server takes and KubeRay's operator (1.7) then refuses, ignores or cannot run in a RayJob.

Each rule yields `Refusal`s; `clusters` has those of the cluster, `raypods` those of pods; all of them, with what this project
promises beyond (`promises`), are `model.check`. They read documents whose shape was checked, or was not:
whatever has another type is passed over here, since its shape was told.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.kubernetes.amounts import quantity, whole
from orchestrator.kubernetes.clusters import LABEL, cluster
from orchestrator.kubernetes.raypods import LABEL_KEY, LABEL_VALUE, labels, pod
from orchestrator.kubernetes.shapes import Refusal
from orchestrator.kubernetes.workloads import items, mapping

MAX_NAME = 47  # the operator adds suffixes, and names of services end at 63 characters
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
QUEUE = "kueue.x-k8s.io/queue-name"
MAX_KUEUE_GROUPS = 7


def operator(kind: str, document: Mapping[str, Any]) -> Iterator[Refusal]:
    """Everything that KubeRay refuses in a RayJob or a RayCluster."""
    meta, spec = mapping(document.get("metadata")), mapping(document.get("spec"))
    yield from _metadata(meta)
    if kind == "RayCluster":
        yield from cluster(spec, "spec", mapping(meta.get("annotations")))
        return
    yield from _job(spec)
    yield from _deletion(spec)
    yield from _mode(spec)
    if "rayClusterSpec" in spec:
        below = mapping(spec["rayClusterSpec"])
        if below.get("upgradeStrategy"):
            yield Refusal("spec.rayClusterSpec.upgradeStrategy", "is not for the cluster of a RayJob", "operator")
        if mapping(below.get("authOptions")).get("enableK8sTokenAuth") is True:
            what = "does not work in a RayJob"
            yield Refusal("spec.rayClusterSpec.authOptions.enableK8sTokenAuth", what, "operator")
        yield from cluster(below, "spec.rayClusterSpec", mapping(meta.get("annotations")))
    if QUEUE in mapping(meta.get("labels")):
        if not mapping(meta["labels"])[QUEUE]:
            yield Refusal(f"metadata.labels.{QUEUE}", "names no queue", "operator")
        yield from _kueue(spec)
    if "submitterPodTemplate" in spec:
        at = "spec.submitterPodTemplate"
        yield from pod(mapping(spec["submitterPodTemplate"]), at)
        policy = mapping(mapping(spec["submitterPodTemplate"]).get("spec")).get("restartPolicy")
        if policy not in ("Never", "OnFailure"):
            what = "must be Never or OnFailure: the submitter is a Job, whose pods do not restart for ever"
            yield Refusal(f"{at}.spec.restartPolicy", what, "operator")


def _metadata(meta: Mapping[str, Any]) -> Iterator[Refusal]:
    name, prefix = meta.get("name"), meta.get("generateName")
    if name is None and prefix is None:
        yield Refusal("metadata.name", "is missing", "schema")
    if isinstance(name, str):
        if len(name) > MAX_NAME:
            yield Refusal("metadata.name", f"has {len(name)} characters; the operator takes {MAX_NAME}", "operator")
        if not LABEL.fullmatch(name):
            what = f"{name!r} must begin with a letter and hold lower-case letters, digits and dashes only"
            yield Refusal("metadata.name", what, "operator")
    elif isinstance(prefix, str) and len(prefix) > MAX_NAME - 5:
        yield Refusal("metadata.generateName", f"leaves no room: names have {MAX_NAME} characters at most", "operator")
    yield from labels(mapping(meta.get("labels")), "metadata.labels")


def _job(spec: Mapping[str, Any]) -> Iterator[Refusal]:
    shuts_down, selector = spec.get("shutdownAfterJobFinishes") is True, mapping(spec.get("clusterSelector"))
    ttl = whole(spec.get("ttlSecondsAfterFinished"), 0)
    if ttl > 0 and not shuts_down:
        yield Refusal("spec.ttlSecondsAfterFinished", "needs shutdownAfterJobFinishes: true", "operator")
    for name, least in (
        ("ttlSecondsAfterFinished", 0),
        ("backoffLimit", 0),
        ("activeDeadlineSeconds", 1),
        ("preRunningDeadlineSeconds", 1),
    ):
        if whole(spec.get(name), least) < least:
            yield Refusal(f"spec.{name}", f"must be at least {least}, not {spec[name]}", "operator")
    retries = whole(mapping(spec.get("submitterConfig")).get("backoffLimit"), 0)
    if retries < 0:
        yield Refusal("spec.submitterConfig.backoffLimit", f"must be at least 0, not {retries}", "operator")
    all_of_it, start = whole(spec.get("activeDeadlineSeconds"), 0), whole(spec.get("preRunningDeadlineSeconds"), 0)
    if 0 < all_of_it <= start:
        yield Refusal(
            "spec.preRunningDeadlineSeconds", f"is never reached: the whole job has {all_of_it} s", "operator"
        )
    if spec.get("suspend") is True and not shuts_down:
        yield Refusal("spec.suspend", "needs shutdownAfterJobFinishes: true", "operator")
    if not selector and not spec.get("rayClusterSpec"):
        yield Refusal("spec", "needs `rayClusterSpec` or `clusterSelector`", "operator")
    if selector:
        if not selector.get("ray.io/cluster"):
            yield Refusal("spec.clusterSelector", "needs `ray.io/cluster` with the cluster's name", "operator")
        if spec.get("rayClusterSpec"):
            yield Refusal("spec.rayClusterSpec", "is not used where clusterSelector names a cluster", "operator")
        if spec.get("suspend") is True:
            yield Refusal("spec.suspend", "does not work with clusterSelector", "operator")
        if whole(spec.get("backoffLimit"), 0) > 0:
            yield Refusal("spec.backoffLimit", "starts new clusters, and clusterSelector names one", "operator")
    if "runtimeEnvYAML" in spec:
        yield from _runtime_env(spec["runtimeEnvYAML"])


def _runtime_env(text: Any) -> Iterator[Refusal]:
    import yaml

    try:
        value = yaml.safe_load(text) if isinstance(text, str) else {}
    except yaml.YAMLError:
        value = None
    if not isinstance(value, Mapping):
        yield Refusal("spec.runtimeEnvYAML", "is no YAML mapping", "operator")


def _deletion(spec: Mapping[str, Any]) -> Iterator[Refusal]:
    found = spec.get("deletionStrategy")
    if not isinstance(found, Mapping):
        return
    at, old = "spec.deletionStrategy", [name for name in ("onSuccess", "onFailure") if name in found]
    rules = found.get("deletionRules")
    if old and "deletionRules" in found:
        yield Refusal(at, f"has {old[0]} and deletionRules: one or the other", "schema")
    elif "deletionRules" not in found and len(old) < 2:
        yield Refusal(at, "needs both onSuccess and onFailure, or deletionRules", "schema")
    if rules == []:
        yield Refusal(f"{at}.deletionRules", "is empty", "schema")
    for number, rule in enumerate(rules if isinstance(rules, list) else ()):
        condition = mapping(mapping(rule).get("condition"))
        if ("jobStatus" in condition) == ("jobDeploymentStatus" in condition):
            yield Refusal(f"{at}.deletionRules[{number}].condition", "needs jobStatus or jobDeploymentStatus", "schema")
        if whole(condition.get("ttlSeconds"), 0) < 0:
            yield Refusal(f"{at}.deletionRules[{number}].condition.ttlSeconds", "must be at least 0", "schema")
    below = mapping(spec.get("rayClusterSpec"))
    policies = [mapping(mapping(found.get(name))).get("policy") for name in old]
    if None in policies:
        yield Refusal(at, "has a case without a `policy`", "operator")
    listed = [mapping(rule).get("policy") for rule in items(rules)]
    if "DeleteWorkers" in [*policies, *listed] and below.get("enableInTreeAutoscaling") is True:
        yield Refusal(at, "DeleteWorkers does not work with the autoscaler", "operator")
    if spec.get("clusterSelector") and {"DeleteWorkers", "DeleteCluster"} & {*policies, *listed}:
        yield Refusal(at, "cannot delete a cluster that clusterSelector only names", "operator")
    if spec.get("shutdownAfterJobFinishes") is True and (rules or "DeleteNone" in policies):
        yield Refusal(at, "and shutdownAfterJobFinishes both say what goes: one or the other", "operator")
    yield from _order([mapping(rule) for rule in items(rules)], f"{at}.deletionRules")


def _order(rules: Sequence[Mapping[str, Any]], at: str) -> Iterator[Refusal]:
    """For each status one rule a policy, and first the workers, then the cluster, then the job."""
    times: dict[tuple[Any, Any], dict[Any, int]] = {}
    for number, rule in enumerate(rules):
        condition = mapping(rule.get("condition"))
        each = times.setdefault((condition.get("jobStatus"), condition.get("jobDeploymentStatus")), {})
        if rule.get("policy") in each:
            yield Refusal(f"{at}[{number}]", "says the same as a rule before it", "operator")
        each.setdefault(rule.get("policy"), whole(condition.get("ttlSeconds"), 0))
    for each in times.values():
        order = [each[policy] for policy in ("DeleteWorkers", "DeleteCluster", "DeleteSelf") if policy in each]
        if order != sorted(order):
            yield Refusal(at, "delete the job before its cluster, or the cluster before its workers", "operator")


def _mode(spec: Mapping[str, Any]) -> Iterator[Refusal]:
    mode, entrypoint = spec.get("submissionMode", "K8sJobMode"), spec.get("entrypoint")
    if isinstance(mode, str) and mode not in MODES:
        yield Refusal("spec.submissionMode", f"{mode!r} is none of {', '.join(MODES)}", "operator")
    if mode == "InteractiveMode":
        if whole(spec.get("backoffLimit"), 0) > 0:
            yield Refusal("spec.backoffLimit", "does not work in InteractiveMode", "operator")
    elif not entrypoint:
        yield Refusal("spec.entrypoint", "is missing", "operator")
    if isinstance(entrypoint, str):
        try:
            shlex.split(entrypoint)
        except ValueError:
            yield Refusal(
                "spec.entrypoint", "is put into `bash -c` as it stands, and its quotes do not match", "operator"
            )
    if "entrypointResources" in spec:
        yield from _resources(spec["entrypointResources"])
    if mode in ("HTTPMode", "InteractiveMode") and "submitterPodTemplate" in spec:
        yield Refusal("spec.submitterPodTemplate", f"is not used in {mode}: no pod hands the job in", "operator")
    if mode == "SidecarMode":
        for name in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
            if name in spec:
                yield Refusal(f"spec.{name}", "does not work in SidecarMode", "operator")
        head = mapping(mapping(mapping(spec.get("rayClusterSpec")).get("headGroupSpec")).get("template"))
        if mapping(head.get("spec")).get("restartPolicy", "Never") != "Never":
            at = "spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy"
            yield Refusal(at, "must be Never in SidecarMode", "operator")


def _resources(text: Any) -> Iterator[Refusal]:
    import json

    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        value = None
    if not isinstance(value, Mapping):
        yield Refusal("spec.entrypointResources", "is no JSON object", "operator")


def _kueue(spec: Mapping[str, Any]) -> Iterator[Refusal]:
    below = mapping(spec.get("rayClusterSpec"))
    if below.get("enableInTreeAutoscaling") is True:
        at = "spec.rayClusterSpec.enableInTreeAutoscaling"
        yield Refusal(at, "does not go with a Kueue queue: it admits fixed sizes", "operator")
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield Refusal(
            "spec.shutdownAfterJobFinishes", "must be true with a Kueue queue, which waits for it", "operator"
        )
    if spec.get("clusterSelector"):
        yield Refusal("spec.clusterSelector", "does not go with a Kueue queue", "operator")
    if len(items(below.get("workerGroupSpecs"))) > MAX_KUEUE_GROUPS:
        at = "spec.rayClusterSpec.workerGroupSpecs"
        yield Refusal(at, f"Kueue takes {MAX_KUEUE_GROUPS} groups at most", "operator")


__all__ = ["LABEL", "LABEL_KEY", "LABEL_VALUE", "MAX_NAME", "QUEUE", "operator", "quantity"]

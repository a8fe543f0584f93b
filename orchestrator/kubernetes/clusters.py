"""What KubeRay's operator (1.7) refuses, ignores or cannot run in a RayCluster's spec, which a RayJob has, too.

The rules of `ValidateRayClusterSpec` in ray-operator/controllers/ray/utils/validation.go, with the feature gates as a fresh
installation has them, and what `ray start` does not take.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from orchestrator.kubernetes.amounts import whole
from orchestrator.kubernetes.raypods import labels, pod
from orchestrator.kubernetes.shapes import Refusal
from orchestrator.kubernetes.workloads import items, mapping

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)([-+.].*)?")
TOKENS_SINCE = (2, 52)  # Ray's own token authentication
KUBERNETES_TOKENS_SINCE = (2, 55)  # authentication by the API server
PRIORITY_SINCE = (2, 56)
NEWER = "RAY_enable_autoscaler_v2"
GATED = {  # field: the feature gate that is off unless the operator is told
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}
OWN = {  # labels that the operator gives its pods, and finds them by
    "ray.io/node-type": ("head", "worker"),
    "ray.io/is-ray-node": ("yes", "yes"),
}
START = {  # options of `ray start` (2.60) that a manifest may give
    *("autoscaling-config", "block", "cgroup-path", "dashboard-agent-grpc-port", "dashboard-agent-listen-port"),
    *("dashboard-host", "dashboard-port", "disable-usage-stats", "enable-resource-isolation", "include-dashboard"),
    *("include-log-monitor", "log-color", "log-style", "max-worker-port", "memory", "metrics-export-port"),
    *("min-worker-port", "no-monitor", "no-redirect-output", "node-ip-address", "node-manager-port", "num-cpus"),
    *("num-gpus", "object-manager-port", "object-spilling-directory", "object-store-memory", "plasma-directory"),
    *("port", "ray-client-server-port", "ray-debugger-external", "redis-password", "redis-username", "resources"),
    *("runtime-env-agent-port", "system-reserved-cpu", "system-reserved-memory", "temp-dir", "worker-port-list"),
    "labels",  # told by a rule of its own
}
DASHBOARD = "8265"


def cluster(spec: Mapping[str, Any], at: str, annotations: Mapping[str, Any]) -> Iterator[Refusal]:
    """A RayCluster's spec, at a path."""
    head, groups = mapping(spec.get("headGroupSpec")), items(spec.get("workerGroupSpecs"))
    scales = spec.get("enableInTreeAutoscaling") is True
    newer = scales and mapping(spec.get("autoscalerOptions")).get("version") == "v2"
    yield from _version(spec, at)
    yield from _start(head, f"{at}.headGroupSpec")
    yield from pod(mapping(head.get("template")), f"{at}.headGroupSpec.template")
    yield from _restarts(head, f"{at}.headGroupSpec", newer)
    if scales and "version" in mapping(spec.get("autoscalerOptions")) and NEWER in _variables(head):
        yield Refusal(f"{at}.autoscalerOptions.version", f"and {NEWER} both say which", "operator")
    if not scales and _variables(head).get(NEWER) in ("1", "true"):
        yield Refusal(f"{at}.enableInTreeAutoscaling", f"must be true where {NEWER} is", "operator")
    yield from _autoscaler(mapping(spec.get("autoscalerOptions")), f"{at}.autoscalerOptions")
    yield from _fault_tolerance(spec, head, at, annotations)
    yield from _gates(spec, at)
    yield from _labels(head, 0, f"{at}.headGroupSpec")
    yield from _dashboard(head, f"{at}.headGroupSpec.rayStartParams")
    names: set[Any] = set()
    for number, group in enumerate(map(mapping, groups)):
        below = f"{at}.workerGroupSpecs[{number}]"
        name = group.get("groupName")
        if isinstance(name, str) and (not LABEL.fullmatch(name) or len(name) > 63):
            yield Refusal(f"{below}.groupName", f"{name!r} is no name for pods", "operator")
        if isinstance(name, str) and name in names:
            yield Refusal(f"{below}.groupName", f"{name!r} names two groups", "operator")
        if isinstance(name, str):
            names.add(name)
        yield from _replicas(group, below, scales)
        yield from _start(group, below)
        yield from pod(mapping(group.get("template")), f"{below}.template")
        yield from _restarts(group, below, newer)
        yield from _labels(group, 1, below)
        if "address" in mapping(group.get("rayStartParams")):
            yield Refusal(
                f"{below}.rayStartParams.address", "is KubeRay's to say: workers join their own head", "operator"
            )
        if whole(group.get("priority"), 0):
            if not newer:
                yield Refusal(f"{below}.priority", "needs the autoscaler, version v2", "operator")
            if not _since(spec, PRIORITY_SINCE):
                yield Refusal(f"{below}.priority", "needs rayVersion 2.56.0 or newer", "operator")
        if scales and group.get("suspend") is True:
            yield Refusal(f"{below}.suspend", "does not work with the autoscaler", "operator")
        if "idleTimeoutSeconds" in group:
            if not newer:
                yield Refusal(f"{below}.idleTimeoutSeconds", "needs the autoscaler, version v2", "operator")
            if whole(group["idleTimeoutSeconds"], 0) < 0:
                yield Refusal(f"{below}.idleTimeoutSeconds", "must be at least 0", "operator")


def _version(spec: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    text = spec.get("rayVersion")
    found = VERSION.fullmatch(text) if isinstance(text, str) else None
    guarded = mapping(spec.get("authOptions")).get("mode") == "token"
    if isinstance(text, str) and text and not found:
        yield Refusal(f"{at}.rayVersion", f"{text!r} is no version as 2.60.0", "operator")
    if guarded and not text:
        yield Refusal(f"{at}.authOptions.mode", "token needs `rayVersion`", "operator")
    elif guarded and found and (int(found[1]), int(found[2])) < TOKENS_SINCE:
        least = ".".join(map(str, TOKENS_SINCE))
        yield Refusal(f"{at}.authOptions.mode", f"token needs Ray {least} or newer, not {text}", "operator")
    options = mapping(spec.get("authOptions"))
    if options.get("enableK8sTokenAuth") is True:
        place = f"{at}.authOptions.enableK8sTokenAuth"
        if not guarded:
            yield Refusal(place, "needs `mode: token`", "operator")
        elif not _since(spec, KUBERNETES_TOKENS_SINCE):
            yield Refusal(place, "needs rayVersion 2.55.0 or newer", "operator")
        if options.get("secretName"):
            yield Refusal(place, "and secretName both say where tokens come from", "operator")


def _since(spec: Mapping[str, Any], least: tuple[int, int]) -> bool:
    found = VERSION.fullmatch(str(spec.get("rayVersion", "")))
    return found is not None and (int(found[1]), int(found[2])) >= least


def _replicas(group: Mapping[str, Any], at: str, scales: bool) -> Iterator[Refusal]:
    least, most = whole(group.get("minReplicas"), 0), whole(group.get("maxReplicas"), 2**31 - 1)
    for name in ("minReplicas", "maxReplicas", "replicas"):
        if whole(group.get(name), 0) < 0:
            yield Refusal(f"{at}.{name}", f"must be at least 0, not {group[name]}", "operator")
    if least > most:
        yield Refusal(f"{at}.minReplicas", f"{least} is more than maxReplicas, {most}", "operator")
    elif "replicas" in group and not least <= whole(group["replicas"], least) <= most:
        what = (
            f"{group['replicas']} lies outside of minReplicas and maxReplicas ({least} to {most}), and is cut silently"
        )
        yield Refusal(f"{at}.replicas", what, "operator")
    if whole(group.get("numOfHosts"), 1) < 1:
        yield Refusal(f"{at}.numOfHosts", "must be at least 1", "operator")
    if not scales and "replicas" not in group and least == 0 and "maxReplicas" in group:
        yield Refusal(f"{at}.replicas", "is missing: without the autoscaler the group stays empty", "operator")


def _start(group: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    params = mapping(group.get("rayStartParams"))
    if group.get("resources") and any(name in params for name in ("num-cpus", "num-gpus", "memory", "resources")):
        yield Refusal(f"{at}.resources", "and rayStartParams both say what Ray may use", "operator")
    yield from labels(mapping(group.get("labels")), f"{at}.labels")
    for name in params:
        if name not in START and name != "address":
            near = get_close_matches(str(name), START, n=1)
            told = "is no option of `ray start`" + (f"; did you mean {near[0]}?" if near else "")
            yield Refusal(f"{at}.rayStartParams.{name}", told, "operator")
    if params.get("block", "true") != "true":
        yield Refusal(f"{at}.rayStartParams.block", "must be true: the container would end at once", "operator")
    if "labels" in params:
        yield Refusal(f"{at}.rayStartParams.labels", "is refused; use `labels` of the group", "operator")
    for name in ("num-cpus", "num-gpus", "memory", "object-store-memory"):
        value = params.get(name)
        if isinstance(value, str) and not re.fullmatch(r"\d+", value):
            yield Refusal(f"{at}.rayStartParams.{name}", f"{value!r}: `ray start` takes a whole number", "operator")


def _restarts(group: Mapping[str, Any], at: str, newer: bool) -> Iterator[Refusal]:
    policy = mapping(mapping(group.get("template")).get("spec")).get("restartPolicy", "Never")
    if newer and policy != "Never":
        yield Refusal(f"{at}.template.spec.restartPolicy", "must be Never with autoscaler v2", "operator")


def _autoscaler(options: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    if whole(options.get("idleTimeoutSeconds"), 0) < 0:
        yield Refusal(f"{at}.idleTimeoutSeconds", "must be at least 0", "operator")
    names = [mapping(variable).get("name") for variable in items(options.get("env"))]
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in names:
        yield Refusal(f"{at}.env", "has KUBERAY_GEN_AUTOSCALER_START_CMD, which the operator sets", "operator")
    words = " ".join(str(word) for key in ("command", "args") for word in items(options.get(key)))
    if words and "KUBERAY_GEN_AUTOSCALER_START_CMD" not in words and "kuberay-autoscaler" not in words:
        what = "starts no autoscaler: end it with $KUBERAY_GEN_AUTOSCALER_START_CMD"
        yield Refusal(f"{at}.command", what, "operator")


def _fault_tolerance(
    spec: Mapping[str, Any], head: Mapping[str, Any], at: str, annotations: Mapping[str, Any]
) -> Iterator[Refusal]:
    options, found = spec.get("gcsFaultToleranceOptions"), _variables(head)
    params, place = mapping(head.get("rayStartParams")), f"{at}.gcsFaultToleranceOptions"
    env = f"{at}.headGroupSpec.template.spec.containers[0].env"
    if params.get("redis-username") or "REDIS_USERNAME" in found:
        yield Refusal(f"{place}.redisUsername", "is the one place for the name of a user of Redis", "operator")
    if options is None:
        if "RAY_REDIS_ADDRESS" in found and annotations.get("ray.io/ft-enabled") != "true":
            yield Refusal(env, "has RAY_REDIS_ADDRESS, which needs gcsFaultToleranceOptions", "operator")
        return
    if annotations.get("ray.io/ft-enabled"):
        yield Refusal(place, "and the annotation ray.io/ft-enabled both say whether", "operator")
    if annotations.get("ray.io/external-storage-namespace"):
        yield Refusal(place, "and the annotation ray.io/external-storage-namespace both say where", "operator")
    if params.get("redis-password"):
        yield Refusal(f"{at}.headGroupSpec.rayStartParams.redis-password", "belongs into redisPassword", "operator")
    for name in ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS"):
        if name in found:
            yield Refusal(env, f"has {name}, which gcsFaultToleranceOptions says", "operator")
    if mapping(options).get("backend") == "rocksdb":
        what = "needs the operator's feature gate GCSFaultToleranceEmbeddedStorage, which is off by default"
        yield Refusal(f"{place}.backend", what, "operator")
    elif "storage" in mapping(options):
        yield Refusal(f"{place}.storage", "is for the backend rocksdb alone", "operator")


def _gates(spec: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    for name, gate in GATED.items():
        if spec.get(name) is not None:
            what = f"needs the operator's feature gate {gate}, which is off by default"
            yield Refusal(f"{at}.{name}", what, "operator")


def _labels(group: Mapping[str, Any], role: int, at: str) -> Iterator[Refusal]:
    """Labels that the operator finds its pods by must stay its own. `role`: 0 for the head, 1 for workers."""
    for name, value in mapping(mapping(mapping(group.get("template")).get("metadata")).get("labels")).items():
        if name in OWN and value != OWN[name][role]:
            what = f"is the operator's, and {OWN[name][role]!r} here: it would lose the pod"
            yield Refusal(f"{at}.template.metadata.labels.{name}", what, "operator")
        if name == "kueue.x-k8s.io/queue-name":
            what = "belongs on the RayJob: Kueue would admit this pod apart from the others"
            yield Refusal(f"{at}.template.metadata.labels.{name}", what, "operator")


def _dashboard(head: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    """Jobs are handed in and asked for through it."""
    params = mapping(head.get("rayStartParams"))
    if params.get("include-dashboard", "true") != "true":
        yield Refusal(f"{at}.include-dashboard", "must be true: jobs are handed in through it", "operator")
    if params.get("dashboard-host") in ("127.0.0.1", "localhost", "::1"):
        yield Refusal(f"{at}.dashboard-host", "must be 0.0.0.0: nobody else reaches it", "operator")
    containers = [mapping(one) for one in items(mapping(mapping(head.get("template")).get("spec")).get("containers"))]
    ports = [mapping(port) for one in containers[:1] for port in items(one.get("ports"))]
    known = {str(port.get("containerPort")) for port in ports if port.get("name") == "dashboard"} or {DASHBOARD}
    if params.get("dashboard-port", DASHBOARD) not in known:
        what = f"is not {' or '.join(sorted(known))}, where the operator and the submitter ask"
        yield Refusal(f"{at}.dashboard-port", what, "operator")


def _variables(group: Mapping[str, Any]) -> dict[str, str]:
    """Variables of a group's first container, which is Ray's."""
    containers = items(mapping(mapping(group.get("template")).get("spec")).get("containers"))
    found = [mapping(variable) for one in containers[:1] for variable in items(mapping(one).get("env"))]
    return {str(variable.get("name")): str(variable.get("value", "")) for variable in found}


__all__ = ["LABEL", "cluster"]

"""What the API server takes and KubeRay's operator (1.7) then refuses, ignores or cannot run; and what this project promises.

Each rule yields `Refusal`s; all of them together are `model.check`. They read documents whose shape was checked, or was not:
whatever has another type is passed over here, since its shape was told.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from orchestrator.kubernetes.shapes import QUANTITY, Refusal

MAX_NAME = 47  # the operator adds suffixes, and names of services end at 63 characters
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
ENV_NAME = re.compile(r"[ -<>-~]+")  # printable, without =
VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)([-+.].*)?")
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
QUEUE = "kueue.x-k8s.io/queue-name"
TOKENS_SINCE = (2, 52)  # Ray's own token authentication
MAX_KUEUE_GROUPS = 7
GIB = 2**30
LEAST_HEAD = 4 * GIB
UNITS: dict[str, Decimal] = {"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)}
UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate(("K", "M", "G", "T", "P", "E"), 1)}
_MADE = {"ray-logs", "shared-mem"}  # volumes that KubeRay adds where it needs them
SHM = "/dev/shm"  # noqa: S108 - where Ray keeps its objects
POD_LIMIT_S = 25  # what a run needs to save after SIGTERM


def quantity(value: Any) -> Decimal | None:
    """A Kubernetes quantity as a number (4Gi: bytes), None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if not isinstance(value, str) or not QUANTITY.fullmatch(value):
        return None
    found = re.fullmatch(r"(.*?)([KMGTPE]i|[numkMGTPE])?", value)
    assert found is not None
    return Decimal(found[1]) * UNITS[found[2] or ""]


def operator(kind: str, document: Mapping[str, Any]) -> Iterator[Refusal]:
    """Everything that KubeRay refuses in a RayJob or a RayCluster."""
    meta, spec = _map(document.get("metadata")), _map(document.get("spec"))
    yield from _metadata(meta)
    if kind == "RayCluster":
        yield from cluster(spec, "spec", _map(meta.get("annotations")))
        return
    yield from _job(spec)
    yield from _deletion(spec)
    yield from _mode(spec)
    if "rayClusterSpec" in spec:
        below = _map(spec["rayClusterSpec"])
        if below.get("upgradeStrategy"):
            yield Refusal("spec.rayClusterSpec.upgradeStrategy", "is not for the cluster of a RayJob", "operator")
        yield from cluster(below, "spec.rayClusterSpec", {})
    if _map(meta.get("labels")).get(QUEUE) is not None:
        yield from _kueue(spec)
    if "submitterPodTemplate" in spec:
        at = "spec.submitterPodTemplate"
        yield from pod(_map(spec["submitterPodTemplate"]), at)
        policy = _map(_map(spec["submitterPodTemplate"]).get("spec")).get("restartPolicy")
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
    yield from _labels(_map(meta.get("labels")), "metadata.labels")


def _labels(labels: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    for key, value in labels.items():
        if not isinstance(key, str) or not LABEL_KEY.fullmatch(key) or len(key.rpartition("/")[2]) > 63:
            yield Refusal(f"{at}.{key}", "is no label's name", "schema")
        if isinstance(value, str) and (len(value) > 63 or not LABEL_VALUE.fullmatch(value)):
            yield Refusal(f"{at}.{key}", f"{value!r} is no label's value", "schema")


def _job(spec: Mapping[str, Any]) -> Iterator[Refusal]:
    shuts_down, selector = spec.get("shutdownAfterJobFinishes") is True, _map(spec.get("clusterSelector"))
    ttl = _int(spec.get("ttlSecondsAfterFinished"), 0)
    if ttl > 0 and not shuts_down:
        yield Refusal("spec.ttlSecondsAfterFinished", "needs shutdownAfterJobFinishes: true", "operator")
    for name, least in (
        ("ttlSecondsAfterFinished", 0),
        ("backoffLimit", 0),
        ("activeDeadlineSeconds", 1),
        ("preRunningDeadlineSeconds", 1),
    ):
        if _int(spec.get(name), least) < least:
            yield Refusal(f"spec.{name}", f"must be at least {least}, not {spec[name]}", "operator")
    retries = _int(_map(spec.get("submitterConfig")).get("backoffLimit"), 0)
    if retries < 0:
        yield Refusal("spec.submitterConfig.backoffLimit", f"must be at least 0, not {retries}", "operator")
    whole, start = _int(spec.get("activeDeadlineSeconds"), 0), _int(spec.get("preRunningDeadlineSeconds"), 0)
    if 0 < whole <= start:
        yield Refusal("spec.preRunningDeadlineSeconds", f"is never reached: the whole job has {whole} s", "operator")
    if spec.get("suspend") is True and not shuts_down:
        yield Refusal("spec.suspend", "needs shutdownAfterJobFinishes: true", "operator")
    if not selector and not spec.get("rayClusterSpec"):
        yield Refusal("spec", "needs `rayClusterSpec` or `clusterSelector`", "operator")
    if selector:
        if spec.get("suspend") is True:
            yield Refusal("spec.suspend", "does not work with clusterSelector", "operator")
        if _int(spec.get("backoffLimit"), 0) > 0:
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
        condition = _map(_map(rule).get("condition"))
        if ("jobStatus" in condition) == ("jobDeploymentStatus" in condition):
            yield Refusal(f"{at}.deletionRules[{number}].condition", "needs jobStatus or jobDeploymentStatus", "schema")
        if _int(condition.get("ttlSeconds"), 0) < 0:
            yield Refusal(f"{at}.deletionRules[{number}].condition.ttlSeconds", "must be at least 0", "schema")
    if spec.get("shutdownAfterJobFinishes") is True:
        yield Refusal(at, "and shutdownAfterJobFinishes both say what goes: one or the other", "operator")


def _mode(spec: Mapping[str, Any]) -> Iterator[Refusal]:
    mode, entrypoint = spec.get("submissionMode", "K8sJobMode"), spec.get("entrypoint")
    if isinstance(mode, str) and mode not in MODES:
        yield Refusal("spec.submissionMode", f"{mode!r} is none of {', '.join(MODES)}", "operator")
    if mode == "InteractiveMode":
        if _int(spec.get("backoffLimit"), 0) > 0:
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
    if mode == "SidecarMode":
        for name in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
            if name in spec:
                yield Refusal(f"spec.{name}", "does not work in SidecarMode", "operator")
        head = _map(_map(_map(spec.get("rayClusterSpec")).get("headGroupSpec")).get("template"))
        if _map(head.get("spec")).get("restartPolicy", "Never") != "Never":
            at = "spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy"
            yield Refusal(at, "must be Never in SidecarMode", "operator")


def _kueue(spec: Mapping[str, Any]) -> Iterator[Refusal]:
    below = _map(spec.get("rayClusterSpec"))
    if below.get("enableInTreeAutoscaling") is True:
        at = "spec.rayClusterSpec.enableInTreeAutoscaling"
        yield Refusal(at, "does not go with a Kueue queue: it admits fixed sizes", "operator")
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield Refusal(
            "spec.shutdownAfterJobFinishes", "must be true with a Kueue queue, which waits for it", "operator"
        )
    if spec.get("clusterSelector"):
        yield Refusal("spec.clusterSelector", "does not go with a Kueue queue", "operator")
    if len(_list(below.get("workerGroupSpecs"))) > MAX_KUEUE_GROUPS:
        at = "spec.rayClusterSpec.workerGroupSpecs"
        yield Refusal(at, f"Kueue takes {MAX_KUEUE_GROUPS} groups at most", "operator")


# --- a cluster --------------------------------------------------------------------------------------------------------


def cluster(spec: Mapping[str, Any], at: str, annotations: Mapping[str, Any]) -> Iterator[Refusal]:
    """A RayCluster's spec, at a path."""
    head, groups = _map(spec.get("headGroupSpec")), _list(spec.get("workerGroupSpecs"))
    scales = spec.get("enableInTreeAutoscaling") is True
    newer = scales and _map(spec.get("autoscalerOptions")).get("version") == "v2"
    yield from _version(spec, at)
    yield from _start(head, f"{at}.headGroupSpec")
    yield from pod(_map(head.get("template")), f"{at}.headGroupSpec.template")
    yield from _restarts(head, f"{at}.headGroupSpec", newer)
    if newer and "RAY_enable_autoscaler_v2" in _env(head):
        yield Refusal(f"{at}.autoscalerOptions.version", "and RAY_enable_autoscaler_v2 both say which", "operator")
    fault_tolerant = annotations.get("ray.io/ft-enabled")
    if fault_tolerant == "false" and spec.get("gcsFaultToleranceOptions") is not None:
        yield Refusal(f"{at}.gcsFaultToleranceOptions", "contradicts the annotation ray.io/ft-enabled", "operator")
    names: set[Any] = set()
    for number, group in enumerate(map(_map, groups)):
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
        yield from pod(_map(group.get("template")), f"{below}.template")
        yield from _restarts(group, below, newer)
        if scales and group.get("suspend") is True:
            yield Refusal(f"{below}.suspend", "does not work with the autoscaler", "operator")
        if "idleTimeoutSeconds" in group:
            if not newer:
                yield Refusal(f"{below}.idleTimeoutSeconds", "needs the autoscaler, version v2", "operator")
            if _int(group["idleTimeoutSeconds"], 0) < 0:
                yield Refusal(f"{below}.idleTimeoutSeconds", "must be at least 0", "operator")


def _version(spec: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    text = spec.get("rayVersion")
    found = VERSION.fullmatch(text) if isinstance(text, str) else None
    guarded = _map(spec.get("authOptions")).get("mode") == "token"
    if isinstance(text, str) and text and not found:
        yield Refusal(f"{at}.rayVersion", f"{text!r} is no version as 2.60.0", "operator")
    if guarded and not text:
        yield Refusal(f"{at}.authOptions.mode", "token needs `rayVersion`", "operator")
    elif guarded and found and (int(found[1]), int(found[2])) < TOKENS_SINCE:
        least = ".".join(map(str, TOKENS_SINCE))
        yield Refusal(f"{at}.authOptions.mode", f"token needs Ray {least} or newer, not {text}", "operator")


def _replicas(group: Mapping[str, Any], at: str, scales: bool) -> Iterator[Refusal]:
    least, most = _int(group.get("minReplicas"), 0), _int(group.get("maxReplicas"), 2**31 - 1)
    for name in ("minReplicas", "maxReplicas", "replicas"):
        if _int(group.get(name), 0) < 0:
            yield Refusal(f"{at}.{name}", f"must be at least 0, not {group[name]}", "operator")
    if least > most:
        yield Refusal(f"{at}.minReplicas", f"{least} is more than maxReplicas, {most}", "operator")
    elif "replicas" in group and not least <= _int(group["replicas"], least) <= most:
        what = (
            f"{group['replicas']} lies outside of minReplicas and maxReplicas ({least} to {most}), and is cut silently"
        )
        yield Refusal(f"{at}.replicas", what, "operator")
    if _int(group.get("numOfHosts"), 1) < 1:
        yield Refusal(f"{at}.numOfHosts", "must be at least 1", "operator")
    if not scales and "replicas" not in group and least == 0 and "maxReplicas" in group:
        yield Refusal(f"{at}.replicas", "is missing: without the autoscaler the group stays empty", "operator")


def _start(group: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    params = _map(group.get("rayStartParams"))
    if group.get("resources") and any(name in params for name in ("num-cpus", "num-gpus", "memory", "resources")):
        yield Refusal(f"{at}.resources", "and rayStartParams both say what Ray may use", "operator")
    if "labels" in params:
        yield Refusal(f"{at}.rayStartParams.labels", "is refused; use `labels` of the group", "operator")
    for name in ("num-cpus", "num-gpus", "memory", "object-store-memory"):
        value = params.get(name)
        if isinstance(value, str) and not re.fullmatch(r"\d+", value):
            yield Refusal(f"{at}.rayStartParams.{name}", f"{value!r}: `ray start` takes a whole number", "operator")


def _restarts(group: Mapping[str, Any], at: str, newer: bool) -> Iterator[Refusal]:
    policy = _map(_map(group.get("template")).get("spec")).get("restartPolicy", "Never")
    if newer and policy != "Never":
        yield Refusal(f"{at}.template.spec.restartPolicy", "must be Never with autoscaler v2", "operator")


# --- a pod ------------------------------------------------------------------------------------------------------------


def pod(template: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    """A pod template that KubeRay takes, and whose pods the API server then refuses."""
    spec = _map(template.get("spec"))
    yield from _labels(_map(_map(template.get("metadata")).get("labels")), f"{at}.metadata.labels")
    containers = [
        (f"{at}.spec.{kind}[{number}]", _map(one))
        for kind in ("initContainers", "containers")
        for number, one in enumerate(_list(spec.get(kind)))
    ]
    if "spec" in template and not _list(spec.get("containers")):
        yield Refusal(f"{at}.spec.containers", "has no container", "operator")
    if _int(spec.get("terminationGracePeriodSeconds"), 0) < 0:
        yield Refusal(f"{at}.spec.terminationGracePeriodSeconds", "must be at least 0", "operator")
    volumes = [_map(one) for one in _list(spec.get("volumes"))]
    yield from _volumes(volumes, f"{at}.spec.volumes")
    known = {str(one.get("name")) for one in volumes} | _MADE
    yield from _twice([one.get("name") for _, one in containers], f"{at}.spec.containers", "containers")
    for below, one in containers:
        yield from _container(one, below, known)
    for number, one in enumerate(map(_map, _list(spec.get("topologySpreadConstraints")))):
        if _int(one.get("maxSkew"), 1) < 1:
            yield Refusal(f"{at}.spec.topologySpreadConstraints[{number}].maxSkew", "must be at least 1", "operator")
    for number, one in enumerate(map(_map, _list(spec.get("tolerations")))):
        if one.get("operator", "Equal") == "Exists" and one.get("value"):
            yield Refusal(
                f"{at}.spec.tolerations[{number}].value", "must be empty where operator is Exists", "operator"
            )


def _volumes(volumes: Sequence[Mapping[str, Any]], at: str) -> Iterator[Refusal]:
    for number, one in enumerate(volumes):
        kinds = [name for name in one if name != "name"]
        if len(kinds) > 1:
            yield Refusal(f"{at}[{number}]", f"is {' and '.join(kinds)} at once", "operator")
        if isinstance(one.get("name"), str) and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", one["name"]):
            yield Refusal(f"{at}[{number}].name", f"{one['name']!r} is no volume's name", "operator")
        if "configMap" in one and not _map(one["configMap"]).get("name"):
            yield Refusal(f"{at}[{number}].configMap.name", "is missing", "operator")
        if "secret" in one and not _map(one["secret"]).get("secretName"):
            yield Refusal(f"{at}[{number}].secret.secretName", "is missing", "operator")
        if _map(one.get("emptyDir")).get("medium", "") not in ("", "Memory"):
            yield Refusal(f"{at}[{number}].emptyDir.medium", "must be Memory or left out", "operator")


def _container(one: Mapping[str, Any], at: str, volumes: set[str]) -> Iterator[Refusal]:
    name = one.get("name")
    if isinstance(name, str) and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        yield Refusal(f"{at}.name", f"{name!r} is no container's name", "operator")
    if not one.get("image"):
        yield Refusal(f"{at}.image", "is missing", "operator")
    mounts = [_map(mount) for mount in _list(one.get("volumeMounts"))]
    for number, mount in enumerate(mounts):
        if str(mount.get("name")) not in volumes:
            what = f"the pod has no volume {mount.get('name')!r}"
            yield Refusal(f"{at}.volumeMounts[{number}].name", what, "operator")
        if not str(mount.get("mountPath", "/")).startswith("/"):
            yield Refusal(f"{at}.volumeMounts[{number}].mountPath", "must begin with /", "operator")
    for number, variable in enumerate(map(_map, _list(one.get("env")))):
        text = variable.get("name")
        if isinstance(text, str) and not ENV_NAME.fullmatch(text):
            yield Refusal(f"{at}.env[{number}].name", f"{text!r} is no variable's name", "operator")
        if variable.get("value") and "valueFrom" in variable:
            yield Refusal(f"{at}.env[{number}]", "has a value and a valueFrom", "operator")
    yield from _resources(_map(one.get("resources")), f"{at}.resources")


def _resources(resources: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    limits, requests = _map(resources.get("limits")), _map(resources.get("requests"))
    for name in {**limits, **requests}:
        most, asked = quantity(limits.get(name)), quantity(requests.get(name))
        if (most is not None and most < 0) or (asked is not None and asked < 0):
            yield Refusal(f"{at}.{name}", "must be at least 0", "operator")
        if most is not None and asked is not None and asked > most:
            yield Refusal(
                f"{at}.requests.{name}", f"{requests[name]} is more than its limit, {limits[name]}", "operator"
            )
        if "/" in str(name) and name in requests and asked != most:
            yield Refusal(f"{at}.requests.{name}", "devices are limited to what is requested", "operator")


# --- what this project promises ---------------------------------------------------------------------------------------


def safety(kind: str, document: Mapping[str, Any]) -> Iterator[Refusal]:
    """What runs, but without an end, a guard, or room: every document of this project keeps to it."""
    spec = _map(document.get("spec"))
    below, at = (_map(spec.get("rayClusterSpec")), "spec.rayClusterSpec") if kind == "RayJob" else (spec, "spec")
    if kind == "RayJob":
        for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
            if name not in spec:
                yield Refusal(f"spec.{name}", "is missing: nothing ends a job that hangs", "safety")
        if spec.get("shutdownAfterJobFinishes") is not True and not spec.get("deletionStrategy"):
            yield Refusal("spec.shutdownAfterJobFinishes", "is not true: the cluster outlives its job", "safety")
        if spec.get("submissionMode", "K8sJobMode") == "K8sJobMode" and "submitterPodTemplate" not in spec:
            what = "is missing: the operator's own has no security context, which PSA restricted refuses"
            yield Refusal("spec.submitterPodTemplate", what, "safety")
        if spec.get("clusterSelector"):
            return
    if not below.get("rayVersion"):
        yield Refusal(f"{at}.rayVersion", "is missing: the operator guesses what this Ray can do", "safety")
    if _map(below.get("authOptions")).get("mode") != "token":
        yield Refusal(f"{at}.authOptions.mode", "is not token: whoever reaches the head may run code", "safety")
    if below.get("enableInTreeAutoscaling") is True:
        options = _map(below.get("autoscalerOptions"))
        if options.get("version") != "v2":
            yield Refusal(f"{at}.autoscalerOptions.version", "is not v2", "safety")
        if not options.get("securityContext"):
            what = "is missing: the operator's own sidecar has none, which PSA restricted refuses"
            yield Refusal(f"{at}.autoscalerOptions.securityContext", what, "safety")
    head = _map(below.get("headGroupSpec"))
    if _list(below.get("workerGroupSpecs")) and _map(head.get("rayStartParams")).get("num-cpus") != "0":
        yield Refusal(f"{at}.headGroupSpec.rayStartParams.num-cpus", 'is not "0": training lands on the head', "safety")
    for place, group in _groups(below, at):
        yield from _room(group, place, is_head=place.endswith("headGroupSpec"))


def _groups(spec: Mapping[str, Any], at: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield f"{at}.headGroupSpec", _map(spec.get("headGroupSpec"))
    for number, group in enumerate(_list(spec.get("workerGroupSpecs"))):
        yield f"{at}.workerGroupSpecs[{number}]", _map(group)


def _room(group: Mapping[str, Any], at: str, *, is_head: bool) -> Iterator[Refusal]:
    """Memory, shared memory, and time to save."""
    spec = _map(_map(group.get("template")).get("spec"))
    first = _map(next(iter(_list(spec.get("containers"))), {}))
    limits = _map(_map(first.get("resources")).get("limits"))
    memory = quantity(limits.get("memory"))
    place = f"{at}.template.spec.containers[0]"
    if memory is None or "cpu" not in limits:
        yield Refusal(f"{place}.resources.limits", "lack cpu or memory: Ray takes what the whole node has", "safety")
    elif is_head and memory < LEAST_HEAD:
        yield Refusal(f"{place}.resources.limits.memory", f"{limits['memory']} is little: a head needs 4Gi", "safety")
    store = _map(group.get("rayStartParams")).get("object-store-memory")
    shm = next((m.get("name") for m in map(_map, _list(first.get("volumeMounts"))) if m.get("mountPath") == SHM), None)
    room = next((_map(v.get("emptyDir")) for v in map(_map, _list(spec.get("volumes"))) if v.get("name") == shm), {})
    size = quantity(room.get("sizeLimit"))
    if shm is None or room.get("medium") != "Memory" or size is None:
        yield Refusal(f"{place}.volumeMounts", f"lack {SHM}, an emptyDir in memory with a sizeLimit", "safety")
    elif not isinstance(store, str) or not store.isdigit():
        what = "is missing: Ray takes a share of the memory, and more than /dev/shm has only warns"
        yield Refusal(f"{at}.rayStartParams.object-store-memory", what, "safety")
    elif int(store) > size:
        yield Refusal(
            f"{at}.rayStartParams.object-store-memory", f"is more than /dev/shm has, {room['sizeLimit']}", "safety"
        )
    if memory is not None and size is not None and size >= memory:
        yield Refusal(f"{place}.volumeMounts", f"{SHM} counts as memory, and is as large as all of it", "safety")
    if _int(spec.get("terminationGracePeriodSeconds"), 30) <= POD_LIMIT_S:
        what = f"must be more than {POD_LIMIT_S}: a run that is stopped saves first"
        yield Refusal(f"{at}.template.spec.terminationGracePeriodSeconds", what, "safety")


# --- reading what may have any type -----------------------------------------------------------------------------------


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _int(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _env(group: Mapping[str, Any]) -> set[str]:
    containers = _list(_map(_map(group.get("template")).get("spec")).get("containers"))
    names = [_map(variable).get("name") for one in containers for variable in _list(_map(one).get("env"))]
    return {name for name in names if isinstance(name, str)}


def _twice(names: Sequence[Any], at: str, what: str) -> Iterator[Refusal]:
    seen: list[Any] = []
    for name in names:
        if name is not None and name in seen:
            yield Refusal(at, f"two {what} are called {name!r}", "operator")
        seen.append(name)


__all__ = ["LABEL", "MAX_NAME", "QUEUE", "operator", "quantity", "safety"]

"""What every pod must be: the Pod Security Standard `restricted`, and somewhat more.

The standard is checked as the API server's admission does it for a namespace that enforces `restricted` (also for the
containers that KubeRay adds to a head). On top of it: a root file system that cannot be written, a user and an account that
are named, no token of the API server, no floating images, requests and limits, and probes where something serves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from orchestrator.kubernetes.amounts import quantity
from orchestrator.kubernetes.workloads import SERVING, Json, Workload, items, mapping, maps

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
}
SECCOMP = ("RuntimeDefault", "Localhost")
SELINUX = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
APPARMOR = (None, "RuntimeDefault", "Localhost")
GPU = "nvidia.com/gpu"
TAINTS = ("present", "true")  # values of the taint that is on nodes with GPUs
FLOATING = ("latest", "main", "master", "nightly", "edge", "stable", "dev")
Found = Iterator[tuple[str, str, str]]  # rule, path, what


def pod(work: Workload) -> Found:
    """Everything that is wrong with a pod template."""
    at = f"{work.at}.spec" if work.at else "spec"
    yield from _host(work.spec, at)
    yield from _pod_context(work.spec, at)
    yield from _volumes(work, at)
    yield from _account(work, at)
    if not maps(work.spec.get("containers")):
        yield "containers", at, "has no containers"
    for place, container in work.containers:
        yield from _context(container, mapping(work.spec.get("securityContext")), place)
        yield from _image(container, place, may_lack=place.endswith("autoscalerOptions"))
        yield from _resources(container, place)
        yield from _writable(container, place)
    if work.document.get("kind") in SERVING:
        yield from _probes(work)
    yield from _gpu(work, at)


def _host(spec: Json, at: str) -> Found:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key) not in (None, False):
            yield "host", f"{at}.{key}", "shares the node's own"
    if "nodeName" in spec:
        yield "host", f"{at}.nodeName", "goes round the scheduler"
    if spec.get("shareProcessNamespace") not in (None, False):
        yield "host", f"{at}.shareProcessNamespace", "lets each container see the others' processes"


def _pod_context(spec: Json, at: str) -> Found:
    context = mapping(spec.get("securityContext"))
    yield from _options(context, f"{at}.securityContext")
    # A container that something else adds (the operator, a mesh) inherits these.
    if context.get("runAsNonRoot") is not True:
        yield "root", f"{at}.securityContext.runAsNonRoot", "is not true"
    if not mapping(context.get("seccompProfile")):
        yield "seccomp", f"{at}.securityContext.seccompProfile", "is missing"
    for sysctl in maps(context.get("sysctls")):
        yield "host", f"{at}.securityContext.sysctls", f"sets {sysctl.get('name')}"
    if 0 in items(context.get("supplementalGroups")) or context.get("fsGroup") == 0:
        yield "root", f"{at}.securityContext", "puts the pod into root's group"


def _options(context: Json, at: str) -> Found:
    """What the standard forbids on a pod and on a container alike."""
    if mapping(context.get("seLinuxOptions")).get("type") not in SELINUX:
        yield "host", f"{at}.seLinuxOptions.type", "is not a container's"
    for key in ("user", "role"):
        if mapping(context.get("seLinuxOptions")).get(key):
            yield "host", f"{at}.seLinuxOptions.{key}", "is set"
    if mapping(context.get("appArmorProfile")).get("type") not in APPARMOR:
        yield "host", f"{at}.appArmorProfile.type", "is unconfined"
    if mapping(context.get("windowsOptions")).get("hostProcess"):
        yield "host", f"{at}.windowsOptions.hostProcess", "is the node's own"
    seccomp = mapping(context.get("seccompProfile"))
    if seccomp and seccomp.get("type") not in SECCOMP:
        yield "seccomp", f"{at}.seccompProfile.type", f"is {seccomp.get('type')}, not RuntimeDefault"
    if context.get("runAsUser") == 0 or context.get("runAsGroup") == 0:
        yield "root", at, "runs as root"
    if context.get("runAsNonRoot") is False:
        yield "root", f"{at}.runAsNonRoot", "is false"


def _context(container: Json, above: Json, at: str) -> Found:
    context, place = mapping(container.get("securityContext")), f"{at}.securityContext"
    yield from _options(context, place)
    if context.get("privileged") not in (None, False):
        yield "privileged", f"{place}.privileged", "has every right of the node"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "escalation", f"{place}.allowPrivilegeEscalation", "is not false"
    capabilities = mapping(context.get("capabilities"))
    if "ALL" not in items(capabilities.get("drop")):
        yield "capabilities", f"{place}.capabilities.drop", "lacks ALL"
    if items(capabilities.get("add")):
        yield "capabilities", f"{place}.capabilities.add", "gives capabilities"
    if context.get("procMount") not in (None, "Default"):
        yield "host", f"{place}.procMount", "is unmasked"
    if context.get("runAsNonRoot") is not True:
        yield "root", f"{place}.runAsNonRoot", "is not true"
    if context.get("runAsUser", above.get("runAsUser")) is None:
        yield "root", f"{place}.runAsUser", "is not set: the image decides"
    if context.get("runAsGroup", above.get("runAsGroup")) is None:
        yield "root", f"{place}.runAsGroup", "is not set: root's group"
    if not mapping(context.get("seccompProfile")):
        yield "seccomp", f"{place}.seccompProfile", "is missing"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "read-only", f"{place}.readOnlyRootFilesystem", "is not true"
    for port in maps(container.get("ports")):
        if port.get("hostPort"):
            yield "host", f"{at}.ports", f"takes the node's port {port['hostPort']}"
    for key in ("startupProbe", "readinessProbe", "livenessProbe"):
        for way in ("httpGet", "tcpSocket"):
            if mapping(mapping(container.get(key)).get(way)).get("host"):
                yield "host", f"{at}.{key}.{way}.host", "makes the node ask others"
    for hook in ("postStart", "preStop"):
        for way in ("httpGet", "tcpSocket"):
            if mapping(mapping(mapping(container.get("lifecycle")).get(hook)).get(way)).get("host"):
                yield "host", f"{at}.lifecycle.{hook}.{way}.host", "makes the node ask others"


def _volumes(work: Workload, at: str) -> Found:
    for number, volume in enumerate(maps(work.spec.get("volumes"))):
        place, kinds = f"{at}.volumes[{number}]", [key for key in volume if key != "name"]
        for kind in kinds:
            if kind not in VOLUMES:
                yield "host" if kind == "hostPath" else "volumes", f"{place}.{kind}", "is not for a restricted pod"
        if len(kinds) != 1:
            yield "volumes", place, "says not what it is: it would be emptied with the pod"
        if "emptyDir" in volume and "sizeLimit" not in mapping(volume["emptyDir"]):
            yield "limits", f"{place}.emptyDir.sizeLimit", "is missing: the node is the limit"
        for source in maps(mapping(volume.get("projected")).get("sources")):
            if "serviceAccountToken" in source:
                yield from _token(work, volume, place)


def _token(work: Workload, volume: Json, place: str) -> Found:
    """A token is for the autoscaler alone: it runs no code of users."""
    name = volume.get("name")
    holders = [at for at, container in work.containers if name in _mounted(container)]
    for at in holders:
        if not at.endswith("autoscalerOptions"):
            yield "token", at, f"is given a token of the API server (volume {name})"
    if not holders:
        yield "token", place, "is a token of the API server that nobody uses"


def _mounted(container: Json) -> list[object]:
    return [mount.get("name") for mount in maps(container.get("volumeMounts"))]


def _account(work: Workload, at: str) -> Found:
    if work.spec.get("automountServiceAccountToken") is not False:
        yield "token", f"{at}.automountServiceAccountToken", "is not false"
    if work.spec.get("serviceAccountName") in (None, "", "default"):
        yield "account", f"{at}.serviceAccountName", "is not set: whatever the default account may do, this pod may"
    if work.spec.get("serviceAccount") not in (None, work.spec.get("serviceAccountName")):
        yield "account", f"{at}.serviceAccount", "names another account"
    if work.spec.get("enableServiceLinks") is not False:
        yield "links", f"{at}.enableServiceLinks", "is not false: Services would set variables such as MLFLOW_PORT"


def _image(container: Json, at: str, *, may_lack: bool) -> Found:
    image = container.get("image")
    if image is None and may_lack:
        return
    if not isinstance(image, str) or not image:
        yield "image", f"{at}.image", "is missing"
        return
    name, _, digest = image.partition("@")
    tag = name.rpartition(":")[2] if ":" in name.rpartition("/")[2] else ""
    if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        yield "image", f"{at}.image", f"{image}: no digest"
    elif not digest and (not tag or any(tag == word or tag.startswith(f"{word}-") for word in FLOATING)):
        yield "image", f"{at}.image", f"{image} may be another one tomorrow: name a version or a digest"


def _resources(container: Json, at: str) -> Found:
    resources = mapping(container.get("resources"))
    limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
    for name in ("cpu", "memory"):
        for key, values in (("limits", limits), ("requests", requests)):
            amount = quantity(values.get(name))
            if amount is None or amount <= 0:
                yield "limits", f"{at}.resources.{key}.{name}", "is missing" if name not in values else "is no amount"
    for name, asked in requests.items():
        low, high = quantity(asked), quantity(limits.get(name))
        if low is None or (name in limits and high is None):
            yield "limits", f"{at}.resources", f"{name} is no amount"
        elif high is not None and low > high:
            yield "limits", f"{at}.resources.requests.{name}", "is more than the limit"
    for name in {*limits, *requests}:
        if "/" in name and limits.get(name) != requests.get(name, limits.get(name)):
            yield "limits", f"{at}.resources", f"{name} cannot be shared: request and limit must be equal"


def _writable(container: Json, at: str) -> Found:
    paths = [str(mount.get("mountPath", "")).rstrip("/") for mount in maps(container.get("volumeMounts"))]
    if "/tmp" not in paths and "" not in paths:  # noqa: S108
        yield "read-only", f"{at}.volumeMounts", "lack /tmp, the one place that every program writes to"
    for variable in maps(container.get("env")):
        home = str(variable.get("value") or "")
        if variable.get("name") == "HOME" and home and not any(f"{home}/".startswith(f"{path}/") for path in paths):
            yield "read-only", f"{at}.env.HOME", f"{home} is in no volume: what programs keep there cannot be written"
    for path in paths:
        if path.startswith(("/var/run/docker.sock", "/run/containerd", "/proc", "/sys")):
            yield "host", f"{at}.volumeMounts", f"mount over {path}"


def _probes(work: Workload) -> Found:
    for at, container in work.containers:
        if ".initContainers[" in at or ".ephemeralContainers[" in at:
            continue
        ports = [port.get(key) for port in maps(container.get("ports")) for key in ("name", "containerPort")]
        for key in ("readinessProbe", "livenessProbe"):
            if not mapping(container.get(key)):
                yield "probes", f"{at}.{key}", "is missing"
        for key in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = mapping(container.get(key))
            if probe and not {"httpGet", "tcpSocket", "exec", "grpc"} & set(probe):
                yield "probes", f"{at}.{key}", "asks nothing"
            if "httpGet" in probe and not mapping(probe["httpGet"]).get("path"):
                yield "probes", f"{at}.{key}.httpGet.path", "is missing"
            if "exec" in probe and not items(mapping(probe["exec"]).get("command")):
                yield "probes", f"{at}.{key}.exec.command", "is missing"
            for way in ("httpGet", "tcpSocket", "grpc"):
                if way in probe and mapping(probe[way]).get("port") not in ports:
                    yield "probes", f"{at}.{key}.{way}.port", f"{mapping(probe[way]).get('port')} is no port of it"


def _gpu(work: Workload, at: str) -> Found:
    asked = [mapping(mapping(c.get("resources")).get("limits")).get(GPU) for _, c in work.containers]
    if not any((quantity(amount) or Decimal(0)) > 0 for amount in asked):
        return
    for toleration in maps(work.spec.get("tolerations")):
        taken = toleration.get("operator") == "Exists" or toleration.get("value") in TAINTS
        if toleration.get("key") in (GPU, None) and toleration.get("effect") in (None, "", "NoSchedule") and taken:
            return
    yield "gpu", f"{at}.tolerations", f"lack {GPU}: nodes with GPUs refuse other pods"

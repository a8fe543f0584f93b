"""What runs, but without an end, a guard, or room: what every RayJob and RayCluster of this project keeps to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from orchestrator.kubernetes.amounts import quantity, whole
from orchestrator.kubernetes.shapes import Refusal
from orchestrator.kubernetes.workloads import MINE, items, mapping, maps, texts

GIB = 2**30
LEAST_HEAD = 4 * GIB
LEAST_STORE = 75 * 2**20  # Ray starts with no smaller one
SHM = "/dev/shm"  # noqa: S108 - where Ray keeps its objects
POD_LIMIT_S = 25  # what a run needs to save after SIGTERM
GPU = "nvidia.com/gpu"
SIMPLE = re.compile(r"[A-Za-z0-9_@%+=:,./ -]+")
JOB = "gan-orchestrator/job"  # annotation: the verdict's name
STORAGE = "gan-orchestrator/storage"  # annotation: where it is
INSTANCE = "app.kubernetes.io/instance"


def safety(kind: str, document: Mapping[str, Any]) -> Iterator[Refusal]:
    """What runs, but without an end, a guard, or room: every document of this project keeps to it."""
    spec = mapping(document.get("spec"))
    below, at = (mapping(spec.get("rayClusterSpec")), "spec.rayClusterSpec") if kind == "RayJob" else (spec, "spec")
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
    if mapping(below.get("authOptions")).get("mode") != "token":
        yield Refusal(f"{at}.authOptions.mode", "is not token: whoever reaches the head may run code", "safety")
    if below.get("enableInTreeAutoscaling") is True:
        options = mapping(below.get("autoscalerOptions"))
        if options.get("version") != "v2":
            yield Refusal(f"{at}.autoscalerOptions.version", "is not v2", "safety")
        if not options.get("securityContext"):
            what = "is missing: the operator's own sidecar has none, which PSA restricted refuses"
            yield Refusal(f"{at}.autoscalerOptions.securityContext", what, "safety")
    head = mapping(below.get("headGroupSpec"))
    if items(below.get("workerGroupSpecs")) and mapping(head.get("rayStartParams")).get("num-cpus") != "0":
        yield Refusal(f"{at}.headGroupSpec.rayStartParams.num-cpus", 'is not "0": training lands on the head', "safety")
    for place, group in _groups(below, at):
        yield from _room(group, place, is_head=place.endswith("headGroupSpec"))
        yield from _told(group, place)
        yield from _addressed(group, place)
        yield from _first(group, place)
    yield from _exposed(head, f"{at}.headGroupSpec")
    if mapping(mapping(document.get("metadata")).get("labels")).get("app.kubernetes.io/managed-by") == "orchestrate":
        yield from _stops(head, f"{at}.headGroupSpec")
        if kind == "RayJob":
            yield from _ours(document, spec, head)


def _groups(spec: Mapping[str, Any], at: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield f"{at}.headGroupSpec", mapping(spec.get("headGroupSpec"))
    for number, group in enumerate(items(spec.get("workerGroupSpecs"))):
        yield f"{at}.workerGroupSpecs[{number}]", mapping(group)


def _room(group: Mapping[str, Any], at: str, *, is_head: bool) -> Iterator[Refusal]:
    """Memory, shared memory, and time to save."""
    spec = mapping(mapping(group.get("template")).get("spec"))
    first = mapping(next(iter(items(spec.get("containers"))), {}))
    limits = mapping(mapping(first.get("resources")).get("limits"))
    memory = quantity(limits.get("memory"))
    place = f"{at}.template.spec.containers[0]"
    if memory is None or "cpu" not in limits:
        yield Refusal(f"{place}.resources.limits", "lack cpu or memory: Ray takes what the whole node has", "safety")
    elif is_head and memory < LEAST_HEAD:
        yield Refusal(f"{place}.resources.limits.memory", f"{limits['memory']} is little: a head needs 4Gi", "safety")
    store = mapping(group.get("rayStartParams")).get("object-store-memory")
    shm = next(
        (m.get("name") for m in map(mapping, items(first.get("volumeMounts"))) if m.get("mountPath") == SHM), None
    )
    room = next(
        (mapping(v.get("emptyDir")) for v in map(mapping, items(spec.get("volumes"))) if v.get("name") == shm), {}
    )
    size = quantity(room.get("sizeLimit"))
    if shm is None or room.get("medium") != "Memory" or size is None:
        yield Refusal(f"{place}.volumeMounts", f"lack {SHM}, an emptyDir in memory with a sizeLimit", "safety")
    elif not isinstance(store, str) or not store.isdigit():
        what = "is missing: Ray takes a share of the memory, and more than /dev/shm has only warns"
        yield Refusal(f"{at}.rayStartParams.object-store-memory", what, "safety")
    elif int(store) < LEAST_STORE:
        yield Refusal(f"{at}.rayStartParams.object-store-memory", "is less than the 75 MiB that Ray needs", "safety")
    elif int(store) > size:
        yield Refusal(
            f"{at}.rayStartParams.object-store-memory", f"is more than /dev/shm has, {room['sizeLimit']}", "safety"
        )
    if memory is not None and size is not None and size >= memory:
        yield Refusal(f"{place}.volumeMounts", f"{SHM} counts as memory, and is as large as all of it", "safety")
    if whole(spec.get("terminationGracePeriodSeconds"), 30) <= POD_LIMIT_S:
        what = f"must be more than {POD_LIMIT_S}: a run that is stopped saves first"
        yield Refusal(f"{at}.template.spec.terminationGracePeriodSeconds", what, "safety")


def _told(group: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    """What Ray is told that it has is what its container may take."""
    params = mapping(group.get("rayStartParams"))
    first = mapping(next(iter(items(mapping(mapping(group.get("template")).get("spec")).get("containers"))), {}))
    limits = mapping(mapping(first.get("resources")).get("limits"))
    cpus, told = quantity(limits.get("cpu")), quantity(params.get("num-cpus"))
    if cpus is not None and told is not None and told > max(cpus, Decimal(1)):
        what = f"is more than the container's limit, {limits['cpu']}: tasks would share CPUs"
        yield Refusal(f"{at}.rayStartParams.num-cpus", what, "safety")
    has, told = quantity(limits.get(GPU)) or 0, quantity(params.get("num-gpus"))
    if told is not None and told != has:
        yield Refusal(f"{at}.rayStartParams.num-gpus", f"is not what the container has, {has} {GPU}", "safety")


def _addressed(group: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    """The network policies and `orchestrate k8s` know pods by their component."""
    wanted = "ray-head" if at.endswith("headGroupSpec") else "ray-worker"
    found = texts(mapping(mapping(group.get("template")).get("metadata")).get("labels")).get(MINE)
    if found != wanted:
        what = f"is {found or 'missing'}, not {wanted}: policies that open the network to it do not find it"
        yield Refusal(f"{at}.template.metadata.labels.{MINE}", what, "safety")


def _first(group: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    """The operator takes the first container for Ray's, and tells it what guards the cluster."""
    containers = maps(mapping(mapping(group.get("template")).get("spec")).get("containers"))
    place = f"{at}.template.spec.containers"
    if {"ray-head", "ray-worker"} & {str(one.get("name")) for one in containers[1:]}:
        yield Refusal(place, "the first one is Ray's to the operator: put the others after it", "safety")
    for variable in (one for container in containers[:1] for one in maps(container.get("env"))):
        if variable.get("name") == "RAY_AUTH_MODE" and variable.get("value") != "token":
            yield Refusal(f"{place}[0].env", "RAY_AUTH_MODE is not token: whoever reaches it may run code", "safety")


def _exposed(head: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    """Whoever reaches the head may run code there."""
    for place, kind in (
        ("serviceType", head.get("serviceType")),
        ("headService.spec.type", mapping(mapping(head.get("headService")).get("spec")).get("type")),
    ):
        if kind not in (None, "ClusterIP"):
            yield Refusal(f"{at}.{place}", f"{kind} opens the head beyond the cluster: ClusterIP", "safety")
    if head.get("enableIngress") is True:
        yield Refusal(f"{at}.enableIngress", "opens the head to the outside", "safety")


def _stops(head: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    """Ray's first process passes no signal on: only a hook tells the run in the head that it is to save."""
    first = mapping(next(iter(items(mapping(mapping(head.get("template")).get("spec")).get("containers"))), {}))
    hook = mapping(mapping(first.get("lifecycle")).get("preStop"))
    if "orchestrator.kubernetes.stop" not in items(mapping(hook.get("exec")).get("command")):
        what = "does not run orchestrator.kubernetes.stop: the run would be killed without having saved"
        yield Refusal(f"{at}.template.spec.containers[0].lifecycle.preStop", what, "safety")


def _ours(document: Mapping[str, Any], spec: Mapping[str, Any], head: Mapping[str, Any]) -> Iterator[Refusal]:
    """A job that `orchestrate k8s render` made: its command, its verdict and its submitter belong together."""
    entrypoint = spec.get("entrypoint")
    if isinstance(entrypoint, str) and entrypoint and entrypoint.split()[0] == "orchestrate":
        yield from _command(entrypoint, document, head)
    if quantity(spec.get("entrypointNumCpus")) or quantity(spec.get("entrypointNumGpus")):
        what = "would take the run to a worker, which has no pipeline and hears of no stop"
        yield Refusal("spec.entrypointNumCpus", what, "safety")
    template = mapping(spec.get("submitterPodTemplate"))
    at = "spec.submitterPodTemplate"
    if template:
        found = texts(mapping(template.get("metadata")).get("labels")).get(MINE)
        name = mapping(document.get("metadata")).get("name")
        labels = texts(mapping(template.get("metadata")).get("labels"))
        if name is not None and labels.get(INSTANCE) != name:
            what = f"is not {name}: `orchestrate k8s logs` does not find the pod"
            yield Refusal(f"{at}.metadata.labels.{INSTANCE}", what, "safety")
        if found != "submitter":
            what = f"is {found or 'missing'}, not submitter: the network and `orchestrate k8s logs` do not find it"
            yield Refusal(f"{at}.metadata.labels.{MINE}", what, "safety")
        containers = maps(mapping(template.get("spec")).get("containers"))
        named = [one.get("name") for one in containers]
        if "ray-job-submitter" in named[1:]:
            yield Refusal(f"{at}.spec.containers", "the first one is what submits: ray-job-submitter", "safety")
        if containers and (containers[0].get("command") or containers[0].get("args")):
            what = "stands in place of the operator's own command, which submits"
            yield Refusal(f"{at}.spec.containers[0].command", what, "safety")


def _command(entrypoint: str, document: Mapping[str, Any], head: Mapping[str, Any]) -> Iterator[Refusal]:
    if not SIMPLE.fullmatch(entrypoint):
        what = "KubeRay puts it into `bash -c`: simple words only, or the exit code and the signal are a shell's"
        yield Refusal("spec.entrypoint", what, "safety")
        return
    words = shlex.split(entrypoint)
    verdict = words[words.index("--verdict") + 1] if "--verdict" in words[:-1] else ""
    named = texts(mapping(document.get("metadata")).get("annotations")).get(JOB, "")
    if not verdict:
        what = "lacks --verdict: after an end that nothing changes, each new cluster would train again"
        yield Refusal("spec.entrypoint", what, "safety")
    elif named and named != verdict:
        what = f"is {named}, and the run stores its verdict as {verdict}: `orchestrate k8s` would not find it"
        yield Refusal(f"metadata.annotations.{JOB}", what, "safety")
    storage = words[words.index("--storage") + 1] if "--storage" in words[:-1] else ""
    kept = texts(mapping(document.get("metadata")).get("annotations")).get(STORAGE, storage)
    if storage and kept != storage:
        what = f"is {kept}, and the run stores in {storage}: `orchestrate k8s` would look for its verdict elsewhere"
        yield Refusal(f"metadata.annotations.{STORAGE}", what, "safety")
    first = mapping(next(iter(items(mapping(mapping(head.get("template")).get("spec")).get("containers"))), {}))
    mounts = [str(mount.get("mountPath", "")).rstrip("/") for mount in maps(first.get("volumeMounts"))]
    for word in words[1:]:
        inside = any(mount and word.startswith(f"{mount}/") for mount in mounts)
        if word.startswith("/") and word.endswith((".yaml", ".yml")) and not inside:
            yield Refusal("spec.entrypoint", f"{word} is in no volume of the head", "safety")


__all__ = ["safety"]

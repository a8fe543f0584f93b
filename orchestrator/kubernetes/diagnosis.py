"""Why a job does not run, or did not end well, in plain words: from its status, pods and events, without guessing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchestratorError
from orchestrator.kubernetes import standing
from orchestrator.kubernetes.standing import State

if TYPE_CHECKING:
    from orchestrator.kubernetes.client import Api

Json = dict[str, Any]

LAST_LINES = 15
LAST_EVENTS = 12
INSTANCE = "app.kubernetes.io/instance"
PULLS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_DIGITS = re.compile(r"\d+/(\d+) nodes are available: (.*)", re.DOTALL)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and what to do about it."""

    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.what}\n    -> {self.do}" if self.do else self.what


@dataclass(frozen=True)
class Pod:
    """A pod of the job. `state`: Running, Pending, ImagePullBackOff, OOMKilled, …"""

    name: str
    component: str  # ray-head, ray-worker, submitter
    state: str
    detail: str = ""
    restarts: int = 0
    node: str = ""


@dataclass
class Diagnosis:
    """All that is known of a job."""

    job: State
    findings: list[Finding] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    events: list[str] = field(default_factory=list)  # warnings, oldest first
    conditions: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)  # last lines of the run
    unread: list[str] = field(default_factory=list)  # what could not be asked for, and why

    def to_json(self) -> Json:
        return {**asdict(self), "state": self.job.word}


def debug(api: Api, name: str) -> Diagnosis:
    """Ask the cluster for everything about a job. Raises client.NotThere for one that does not exist, Unavailable."""
    job = api.get("RayJob", name)
    state = standing.read(job)
    found = Diagnosis(state)
    cluster: Json | None = None
    pods: list[Json] = []
    events: list[Json] = []
    with _unless(found, "its cluster"):
        cluster = api.find("RayCluster", state.cluster) if state.cluster else None
    with _unless(found, "its pods"):
        pods = [pod for pod in api.all("Pod") if _belongs(pod, state)]
    with _unless(found, "events"):
        names = {name, state.cluster, f"{name}-pipeline", *(pod["metadata"]["name"] for pod in pods)} - {""}
        events = [event for event in api.all("Event") if _about(event) in names or _about(event).startswith(f"{name}-")]
    found.pods = [describe(pod) for pod in pods]
    warnings = sorted((event for event in events if event.get("type") == "Warning"), key=_time)
    found.events = [_event(event) for event in warnings[-LAST_EVENTS:]]
    found.conditions = [*_conditions(job, "RayJob"), *_conditions(cluster or {}, "RayCluster")]
    found.findings = list(dict.fromkeys(findings(state, found.pods, [_event(event) for event in warnings])))
    with _unless(found, "the log"):
        found.log = _last_lines(api, pods)
    return found


def findings(state: State, pods: Sequence[Pod], warnings: Sequence[str]) -> Iterator[Finding]:
    """What is wrong, the cause before what follows from it."""
    yield from _of_job(state)
    for line in warnings:
        if not state.ended or not state.succeeded:
            yield from _of_event(line)
    for pod in pods:
        yield from _of_pod(pod)
    waiting = [pod for pod in pods if pod.state == "Pending"]
    if not state.ended and waiting and not any("FailedScheduling" in line for line in warnings):
        names = ", ".join(pod.name for pod in waiting[:3])
        yield Finding(
            f"{len(waiting)} pods wait for a node ({names})", "the scheduler has not said why yet; look again"
        )


def _of_job(state: State) -> Iterator[Finding]:
    if not state.deployment:
        do = "is KubeRay's operator running? kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator"
        yield Finding("the operator has not looked at this job yet", do)
    if state.deployment in ("Suspended", "Suspending") and state.queue:
        yield Finding(f"it waits in the queue {state.queue}", f"kubectl -n {state.namespace} get workloads")
    elif state.deployment in ("Suspended", "Suspending"):
        yield Finding("it is suspended", f"kubectl -n {state.namespace} patch rayjob {state.name} --type merge -p "
                      "'{\"spec\":{\"suspend\":false}}'")  # fmt: skip
    if state.ended and not state.succeeded:
        found = standing.outcome(state, None)
        yield Finding(f"it ended: {found.why}", "")
    elif state.attempts:
        many = f"{state.attempts} attempt{'s' * (state.attempts > 1)} failed so far"
        yield Finding(
            f"{many} ({_short(state.message)})" if state.message else many, "a new cluster goes on from what is saved"
        )


EVENTS: Sequence[tuple[str, str, str]] = (  # what an event says, in words, and what to do
    (r"exceeded quota", "the namespace's quota has no room for it", "delete a job, ask for less, or raise the ResourceQuota"),
    (r"violates PodSecurity", "the namespace refuses the pod: it is not `restricted`", "render it again with this version"),
    (r"maximum (cpu|memory) usage", "the namespace's LimitRange takes no pod so large", "ask for less: --memory, or `scale`"),
    (r"serviceaccount .* not found", "its ServiceAccount does not exist", "apply k8s/ first: its base has `ray`"),
    (r'persistentvolumeclaim "?([^" ]+)"? not found', "the volume claim {0} does not exist",
     "give a storage that all pods reach: --storage s3://BUCKET/runs, or --claim NAME"),
    (r"unbound immediate PersistentVolumeClaims", "its volume claim has no volume", "kubectl get pvc; is there a StorageClass?"),
    (r"Multi-Attach error", "its volume is on another node already", "a claim of ReadWriteMany, or a bucket: --storage s3://…"),
    (r"Insufficient nvidia.com/gpu", "no node has so many free GPUs", "wait, add nodes, or ask for fewer: --gpus, --workers"),
    (r"Insufficient cpu", "no node has so many free CPUs", "wait, add nodes, or ask for less: `scale`, --workers"),
    (r"Insufficient memory", "no node has so much free memory", "wait, add nodes, or ask for less: --memory"),
    (r"untolerated taint", "the nodes that have room are kept for others (a taint)", "kubectl describe node"),
    (r"didn't match Pod's node affinity/selector", "no node has the labels asked for", "kubectl get nodes --show-labels"),
    (r'MountVolume.*configmap "([^"]+)" not found', "the ConfigMap {0} does not exist",
     "apply both documents that render made, or use `orchestrate k8s submit`"),
    (r'secret "([^"]+)" not found', "the Secret {0} does not exist", "see the example files beside the overlay's secrets"),
    (r"Evicted|The node was low on resource", "its node ran out of something, and put it out", "ask for more: --memory"),
    (r"Preempted", "a pod of higher priority took its place", "nothing: it goes on from what was saved"),
    (r"FailedMount", "a volume cannot be mounted", "the event says which"),
)  # fmt: skip


def _of_event(line: str) -> Iterator[Finding]:
    found = False
    for pattern, what, do in EVENTS:
        if not found and (match := re.search(pattern, line)):
            detail = f" ({_short(line)})" if "FailedScheduling" not in line else f" ({_short(_nodes(line))})"
            yield Finding(what.format(*match.groups()) + (detail if "{0}" not in what else ""), do)
            found = "Insufficient" not in pattern


def _of_pod(pod: Pod) -> Iterator[Finding]:
    if pod.state in PULLS:
        do = "is the image there, its name right, and may the nodes read it (--pull-secret)?"
        yield Finding(f"{pod.name} gets no image: {pod.detail or pod.state}", do)
    elif pod.state == "CreateContainerConfigError":
        yield Finding(f"{pod.name} does not start: {pod.detail}", "make the ConfigMap or Secret that it names")
    elif pod.state == "OOMKilled":
        more = "more memory: --memory 8Gi, or a smaller batch"
        yield Finding(f"{pod.name} was killed: it took more memory than its limit", more)
    elif pod.state in ("CrashLoopBackOff", "RunContainerError", "CreateContainerError", "StartError"):
        yield Finding(f"{pod.name} does not stay up: {pod.detail or pod.state}", "its log says why, below")
    elif pod.state == "Evicted":
        yield Finding(f"{pod.name} was put out: {pod.detail}", "ask for more: --memory")
    elif pod.state == "Failed" and pod.component != "submitter":
        yield Finding(f"{pod.name} failed: {pod.detail or 'no reason is told'}", "")


def describe(pod: Mapping[str, Any]) -> Pod:
    """A pod in a few words: why a container waits or ended comes before the phase."""
    meta, status = pod.get("metadata") or {}, pod.get("status") or {}
    labels = meta.get("labels") or {}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    state, detail = str(status.get("phase", "Unknown")), ""
    if status.get("reason"):
        state, detail = str(status["reason"]), str(status.get("message", ""))
    for one in containers:
        now = one.get("state") or {}
        ended = now.get("terminated") or (one.get("lastState") or {}).get("terminated") or {}
        waits = now.get("waiting") or {}
        if ended.get("reason") == "OOMKilled":
            state, detail = "OOMKilled", f"container {one.get('name')}"
            break
        if waits.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            state, detail = str(waits["reason"]), str(waits.get("message", ""))
            break
        if ended.get("exitCode") and state in ("Failed", "Running"):
            detail = f"container {one.get('name')} ended with exit code {ended['exitCode']}"
    for condition in status.get("conditions") or ():
        if state == "Pending" and condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            detail = str(condition.get("message", ""))
    return Pod(
        name=str(meta.get("name", "")),
        component=str(labels.get("app.kubernetes.io/component", labels.get("ray.io/node-type", ""))),
        state=state,
        detail=_short(detail),
        restarts=sum(int(one.get("restartCount") or 0) for one in containers),
        node=str((pod.get("spec") or {}).get("nodeName", "")),
    )


def _belongs(pod: Mapping[str, Any], state: State) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return (
        labels.get(INSTANCE) == state.name
        or (bool(state.cluster) and labels.get("ray.io/cluster") == state.cluster)
        or state.name in (labels.get("job-name"), labels.get("batch.kubernetes.io/job-name"))
    )


def _last_lines(api: Api, pods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the newest submitter, which prints what the run says; else of the head."""
    for component in ("submitter", "ray-head"):
        those = [pod for pod in pods if describe(pod).component == component]
        for pod in sorted(those, key=lambda one: str(one["metadata"].get("creationTimestamp", "")), reverse=True):
            first = (pod.get("spec") or {}).get("containers") or [{}]
            with suppress(OrchestratorError):
                if lines := api.log(pod["metadata"]["name"], container=first[0].get("name"), tail=LAST_LINES):
                    return lines
    return []


class _unless:  # noqa: N801 - reads as a word
    """What may not be asked for is told, and the rest goes on."""

    def __init__(self, found: Diagnosis, what: str) -> None:
        self.found, self.what = found, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OrchestratorError):
            self.found.unread.append(f"{self.what}: {error}")
            return True
        return False


def _conditions(document: Mapping[str, Any], kind: str) -> list[str]:
    found = (document.get("status") or {}).get("conditions") or ()
    texts = ((one.get("type"), one.get("status"), one.get("reason"), one.get("message")) for one in found)
    return [
        f"{kind} {name}={value} {reason or ''} {_short(str(text or ''))}".rstrip()
        for name, value, reason, text in texts
    ]


def _about(event: Mapping[str, Any]) -> str:
    return str((event.get("involvedObject") or {}).get("name", ""))


def _time(event: Mapping[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp") or "")


def _event(event: Mapping[str, Any]) -> str:
    return f"{event.get('reason', '')} {_about(event)}: {' '.join(str(event.get('message', '')).split())}"


def _nodes(line: str) -> str:
    found = _DIGITS.search(line)
    return found[2].partition(". preemption:")[0] if found else line


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 240 else text[:239] + "…"


__all__ = ["Diagnosis", "Finding", "Pod", "debug", "describe", "findings"]

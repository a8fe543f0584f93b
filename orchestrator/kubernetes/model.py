"""RayJobs and RayClusters (`ray.io/v1`, KubeRay 1.7): what this project renders, typed, and a check for any of them.

`check(document)` tells every fault: what the API server refuses, what it accepts and the operator refuses, and what
would run without a guard. `Job.document()` and `Cluster.document()` never give one that `check` refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.kubernetes import podrules, promises, rules
from orchestrator.kubernetes.shapes import Refusal, faults
from orchestrator.kubernetes.workloads import workloads

API = "ray.io/v1"
KINDS = ("RayJob", "RayCluster")
ADVICE = ("spread", "amount")  # rules of pods that the API server lets pass
Json = dict[str, Any]


def check(document: Mapping[str, Any], *, kinds: Sequence[str] = ("schema", "operator", "safety")) -> list[Refusal]:
    """Every fault of a RayJob or RayCluster; none of another kind of document, which is not judged here."""
    kind = document.get("kind")
    if kind not in KINDS or str(document.get("apiVersion", "")).partition("/")[0] != API.partition("/")[0]:
        return []
    if document.get("apiVersion") != API:
        return [Refusal("apiVersion", f"must be {API}, not {document.get('apiVersion')!r}")]
    found = [*faults(document, str(kind)), *rules.operator(str(kind), document), *promises.safety(str(kind), document)]
    for work in workloads(document):
        found += [
            Refusal(path, what, "safety" if rule in ADVICE else "operator") for rule, path, what in podrules.pod(work)
        ]
    return [fault for fault in dict.fromkeys(found) if fault.kind in kinds]


@dataclass(frozen=True)
class Group:
    """Pods of one kind. `least` and `most` differ only where the autoscaler may choose."""

    name: str
    replicas: int
    template: Json  # of its pods
    params: Mapping[str, str] = field(default_factory=dict)  # of `ray start`
    least: int | None = None
    most: int | None = None

    def to_json(self) -> Json:
        return {
            "groupName": self.name,
            "replicas": self.replicas,
            "minReplicas": self.replicas if self.least is None else self.least,
            "maxReplicas": self.replicas if self.most is None else self.most,
            "rayStartParams": dict(self.params),
            "template": self.template,
        }


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster: a head that only coordinates, and groups of workers. `autoscaler` are its options, None for none."""

    name: str
    ray_version: str
    head: Json
    groups: Sequence[Group] = ()
    params: Mapping[str, str] = field(default_factory=lambda: {"num-cpus": "0"})  # of the head's `ray start`
    autoscaler: Json | None = None
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> Json:
        """The spec."""
        spec: Json = {"rayVersion": self.ray_version, "authOptions": {"mode": "token"}}
        if self.autoscaler is not None:
            spec |= {"enableInTreeAutoscaling": True, "autoscalerOptions": self.autoscaler}
        spec["headGroupSpec"] = {"rayStartParams": dict(self.params), "template": self.head}
        spec["workerGroupSpecs"] = [group.to_json() for group in self.groups]
        return spec

    def document(self) -> Json:
        """The whole RayCluster. Raises BadInput with every fault."""
        return _sound({"apiVersion": API, "kind": "RayCluster", "metadata": _metadata(self), "spec": self.to_json()})


@dataclass(frozen=True)
class Job:
    """A RayJob: one cluster, made for one run, and gone after it. Times in seconds."""

    name: str
    entrypoint: Sequence[str]  # simple words: KubeRay puts them into `bash -c` unquoted
    cluster: Cluster
    submitter: Json  # pod template
    deadline_s: int  # of the whole job, in one attempt
    start_within_s: int  # until the job runs
    keep_s: int = 300  # the cluster, after the job
    retries: int = 3  # with a new cluster
    submitter_retries: int = 3  # within one
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> Json:
        """The whole RayJob. Raises BadInput with every fault."""
        spec: Json = {
            "entrypoint": words(self.entrypoint),
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": self.keep_s,
            "activeDeadlineSeconds": self.deadline_s,
            "preRunningDeadlineSeconds": self.start_within_s,
            "backoffLimit": self.retries,
            "submitterConfig": {"backoffLimit": self.submitter_retries},
            "submitterPodTemplate": self.submitter,
            "rayClusterSpec": self.cluster.to_json(),
        }
        return _sound({"apiVersion": API, "kind": "RayJob", "metadata": _metadata(self), "spec": spec})


def words(parts: Sequence[str]) -> str:
    """A command line that every shell reads as these words. Raises BadInput for a word that would need quotes."""
    import re

    for part in parts:
        if not re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", part):
            hint = "KubeRay puts the entrypoint into `bash -c` unquoted: letters, digits and _@%+=:,./- only"
            raise BadInput(f"{part!r} cannot stand in a job's entrypoint", hint=hint)
    return " ".join(parts)


def _metadata(one: Job | Cluster) -> Json:
    found: Json = {"name": one.name}
    if one.namespace:
        found["namespace"] = one.namespace
    for key, values in (("labels", one.labels), ("annotations", one.annotations)):
        if values:
            found[key] = dict(values)
    return found


def _sound(document: Json) -> Json:
    if found := check(document):
        lines = "\n".join(f"  {fault}" for fault in found)
        raise BadInput(f"this {document['kind']} would not run:\n{lines}")
    return document


__all__ = ["API", "Cluster", "Group", "Job", "Refusal", "check", "words"]

"""The pods that a document makes, wherever its kind keeps their template, with the labels that they will carry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]

TEMPLATES = {  # kind: where the pod's template is ("" for the document itself)
    "Pod": "",
    "PodTemplate": "template",
    "Deployment": "spec.template",
    "ReplicaSet": "spec.template",
    "ReplicationController": "spec.template",
    "StatefulSet": "spec.template",
    "DaemonSet": "spec.template",
    "Job": "spec.template",
    "CronJob": "spec.jobTemplate.spec.template",
}
SERVING = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController")
MINE = "app.kubernetes.io/component"
KUBERAY = {  # what the operator adds where a template does not say otherwise
    "ray.io/is-ray-node": "yes",
    "app.kubernetes.io/name": "kuberay",
    "app.kubernetes.io/created-by": "kuberay-operator",
}


@dataclass(frozen=True)
class Workload:
    """One pod template. `role`: "ray-head", "ray-worker", "submitter", or "" outside of Ray."""

    document: Json
    at: str  # path of the template, "spec.template"
    role: str
    labels: Mapping[str, str]
    spec: Json
    more: tuple[tuple[str, Json], ...] = ()  # containers that the operator makes, with where they are described

    @property
    def containers(self) -> Iterator[tuple[str, Json]]:
        """Every container with its path: the main ones first, then init, ephemeral, and the operator's own."""
        below = f"{self.at}.spec." if self.at else "spec."
        for key in ("containers", "initContainers", "ephemeralContainers"):
            for number, container in enumerate(maps(self.spec.get(key))):
                yield f"{below}{key}[{number}]", container
        yield from self.more


def workloads(document: Json) -> Iterator[Workload]:
    """Every pod template of a document."""
    kind = str(document.get("kind"))
    if kind in TEMPLATES:
        at = TEMPLATES[kind]
        template = dig(document, at) if at else document
        labels = texts(mapping(template.get("metadata")).get("labels"))
        yield Workload(document, at, "", labels, mapping(template.get("spec")))
    elif kind == "RayJob":
        spec = mapping(document.get("spec"))
        if "rayClusterSpec" in spec:
            yield from _cluster(document, mapping(spec["rayClusterSpec"]), "spec.rayClusterSpec")
        if "submitterPodTemplate" in spec:
            template = mapping(spec["submitterPodTemplate"])
            labels = texts(mapping(template.get("metadata")).get("labels"))
            yield Workload(document, "spec.submitterPodTemplate", "submitter", labels, mapping(template.get("spec")))
    elif kind == "RayCluster":
        yield from _cluster(document, mapping(document.get("spec")), "spec")


def _cluster(document: Json, spec: Json, at: str) -> Iterator[Workload]:
    more: tuple[tuple[str, Json], ...] = ()
    if spec.get("enableInTreeAutoscaling") is True:
        # The operator gives it the head's image where none is named.
        more = ((f"{at}.autoscalerOptions", {"name": "autoscaler", **mapping(spec.get("autoscalerOptions"))}),)
    yield _ray(document, mapping(spec.get("headGroupSpec")), f"{at}.headGroupSpec.template", "head", more)
    for number, group in enumerate(maps(spec.get("workerGroupSpecs"))):
        yield _ray(document, group, f"{at}.workerGroupSpecs[{number}].template", "worker")


def _ray(document: Json, group: Json, at: str, role: str, more: tuple[tuple[str, Json], ...] = ()) -> Workload:
    template = mapping(group.get("template"))
    labels = ray_labels(role) | texts(mapping(template.get("metadata")).get("labels"))
    return Workload(document, at, f"ray-{role}", labels, mapping(template.get("spec")), more)


def ray_labels(role: str) -> dict[str, str]:
    """The labels that KubeRay puts on a head's or a worker's pod."""
    return {**KUBERAY, "ray.io/node-type": role}


def job_labels() -> tuple[dict[str, str], ...]:
    """The pods of any job that this project renders: they come after the installation that they run in."""
    return (
        ray_labels("head") | {MINE: "ray-head"},
        ray_labels("worker") | {MINE: "ray-worker"},
        {MINE: "submitter"},
    )


def name_of(document: Json) -> str:
    """ "RayJob ring8", for messages."""
    meta = mapping(document.get("metadata"))
    return f"{document.get('kind')} {meta.get('name') or meta.get('generateName') or '?'}"


def dig(value: Any, path: str) -> Json:
    """The mapping at `a.b.c`; an empty one where there is none."""
    for key in path.split("."):
        value = mapping(value).get(key)
    return mapping(value)


def mapping(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def maps(value: Any) -> Sequence[Json]:
    return [mapping(item) for item in items(value)]


def texts(value: Any) -> dict[str, str]:
    return {str(key): str(item) for key, item in mapping(value).items()}

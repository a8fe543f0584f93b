"""The pods of a job: as PSA `restricted` wants them, on a root that cannot be written, with room for Ray.

What Ray, torch and the run write goes to volumes that end with the pod: HOME, /tmp, /tmp/ray (whose volume has the name
that KubeRay gives it, so that the autoscaler writes its log there, too) and /dev/shm. No pod has a token for the API
server, but for the autoscaler's own container.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

UID = 1000
HOME = "/home/ray"
PIPELINE = "/etc/orchestrator"  # where the ConfigMap's file is
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a place
GIB = 2**30
MIB = 2**20
GRACE_S = 60  # a run saves within 25 s after SIGTERM; what is uploaded then takes its time
GPU = "nvidia.com/gpu"
SCRATCH = {"home": (HOME, "2Gi"), "tmp": ("/tmp", "20Gi"), "ray-logs": ("/tmp/ray", "10Gi")}  # noqa: S108
POD_SECURITY: Json = {
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": UID,
    "fsGroup": UID,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
SECURITY: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": UID,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Size:
    """What one pod gets: whole CPUs and GPUs, memory in bytes. A quarter of the memory is Ray's object store."""

    cpus: int
    memory: int
    gpus: int = 0

    @property
    def objects(self) -> int:
        """Bytes of the object store, in whole MiB."""
        return self.memory // 4 // MIB * MIB

    @property
    def resources(self) -> Json:
        own: Json = {"cpu": str(self.cpus), "memory": amount(self.memory)}
        devices: Json = {GPU: str(self.gpus)} if self.gpus else {}
        return {"requests": {**own, **devices}, "limits": {**own, **devices}}


@dataclass(frozen=True)
class Setting:
    """What all pods of one job share. `claim` is a volume that holds the storage, mounted at `storage`."""

    job: str
    image: str
    config: str  # ConfigMap with the pipeline
    claim: str = ""
    storage: str = ""
    pull_secrets: Sequence[str] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)


def labels(job: str, name: str, component: str = "") -> Json:
    """The recommended labels; `component` is what the namespace's network policies go by."""
    found = {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/instance": job,
        "app.kubernetes.io/part-of": "gan-orchestrator",
        "app.kubernetes.io/managed-by": "orchestrate",
    }
    return {**found, "app.kubernetes.io/component": component} if component else found


def head(setting: Setting, size: Size, *, scales: bool) -> Json:
    """The head: it coordinates, and the run's own process is in it."""
    container = _ray(setting, "ray-head", size)
    container["lifecycle"] = {"preStop": {"exec": {"command": ["python", "-m", "orchestrator.kubernetes.stop"]}}}
    container["env"].append({"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "30"})
    container["envFrom"].append({"secretRef": {"name": "mlflow-auth", "optional": True}})
    container["volumeMounts"].append({"name": "pipeline", "mountPath": PIPELINE, "readOnly": True})
    volumes = [*_volumes(setting, size), {"name": "pipeline", "configMap": {"name": setting.config}}]
    if scales:
        volumes.append(_token())
    spec = _pod(setting, "ray-autoscaler" if scales else "ray", [container], volumes)
    return {"metadata": {"labels": labels(setting.job, "ray", "ray-head")}, "spec": spec}


def worker(setting: Setting, size: Size) -> Json:
    """A worker: what it trains is in the storage, so it may go at any time."""
    spec = _pod(setting, "ray", [_ray(setting, "ray-worker", size)], _volumes(setting, size))
    spread = {"matchLabels": {"app.kubernetes.io/instance": setting.job, "app.kubernetes.io/component": "ray-worker"}}
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": spread,
        }
    ]
    if size.gpus:
        spec["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    if setting.node_selector:
        spec["nodeSelector"] = dict(setting.node_selector)
    return {"metadata": {"labels": labels(setting.job, "ray", "ray-worker")}, "spec": spec}


def submitter(setting: Setting) -> Json:
    """Hands the job to the head and prints its log. The operator gives it its command and the token of the cluster."""
    container = {
        "name": "ray-job-submitter",
        "image": setting.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": "HOME", "value": HOME},
            {"name": "PYTHONUNBUFFERED", "value": "1"},  # its output is a pipe: the log would come at the end
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
        ],
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": SECURITY,
        "volumeMounts": [{"name": name, "mountPath": path} for name, (path, _) in SCRATCH.items()],
    }
    volumes = [{"name": name, "emptyDir": {"sizeLimit": "1Gi"}} for name in SCRATCH]
    spec = {**_pod(setting, "ray", [container], volumes), "restartPolicy": "Never"}
    return {"metadata": {"labels": labels(setting.job, "submitter", "submitter")}, "spec": spec}


def autoscaler(setting: Setting) -> Json:
    """The autoscaler beside the head: the one container with a token, for the pods of its own cluster."""
    return {
        "version": "v2",
        "idleTimeoutSeconds": 120,
        "upscalingMode": "Default",
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "HOME", "value": HOME}],
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": SECURITY,
        "volumeMounts": [
            *({"name": name, "mountPath": path} for name, (path, _) in SCRATCH.items()),
            {"name": "autoscaler-token", "mountPath": TOKEN, "readOnly": True},
        ],
    }


def amount(size: int) -> str:
    """Bytes as Kubernetes writes them."""
    return f"{size // GIB}Gi" if size % GIB == 0 else f"{-(-size // MIB)}Mi"


def _pod(setting: Setting, account: str, containers: list[Json], volumes: list[Json]) -> Json:
    spec: Json = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": POD_SECURITY,
        "containers": containers,
        "volumes": volumes,
    }
    if setting.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in setting.pull_secrets]
    return spec


def _ray(setting: Setting, name: str, size: Size) -> Json:
    mounts = [{"name": name, "mountPath": path} for name, (path, _) in SCRATCH.items()]
    mounts.append({"name": "shared-mem", "mountPath": "/dev/shm"})  # noqa: S108
    if setting.claim:
        mounts.append({"name": "storage", "mountPath": setting.storage})
    return {
        "name": name,
        "image": setting.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": "HOME", "value": HOME},
            {"name": "OMP_NUM_THREADS", "value": str(max(size.cpus, 1))},
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
        ],
        "envFrom": [
            {"configMapRef": {"name": "orchestrator", "optional": True}},
            {"secretRef": {"name": "storage", "optional": True}},
        ],
        "resources": size.resources,
        "securityContext": SECURITY,
        "volumeMounts": mounts,
    }


def _volumes(setting: Setting, size: Size) -> list[Json]:
    volumes: list[Json] = [{"name": name, "emptyDir": {"sizeLimit": most}} for name, (_, most) in SCRATCH.items()]
    room = amount(size.objects + 256 * MIB)
    volumes.append({"name": "shared-mem", "emptyDir": {"medium": "Memory", "sizeLimit": room}})
    if setting.claim:
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": setting.claim}})
    return volumes


def _token() -> Json:
    """What a mounted service account is, for one container and for an hour at a time."""
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    return {"name": "autoscaler-token", "projected": {"sources": sources}}


__all__ = ["HOME", "PIPELINE", "Setting", "Size", "amount", "autoscaler", "head", "labels", "submitter", "worker"]

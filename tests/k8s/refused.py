"""What is wrong in one place each: of a RayJob for KubeRay, of pods for the API server, of an installation as a whole.

Each was once let through. NAME: (what is changed, which of its documents, path: value), as `changes` has it.
"""

from __future__ import annotations

import copy
from typing import Any

from tests.k8s.built import find
from tests.k8s.changes import GONE, More

SPACE = "gan-orchestrator"
RAY = "spec.rayClusterSpec"
HEAD, WORKERS, SCALER = f"{RAY}.headGroupSpec", f"{RAY}.workerGroupSpecs.0", f"{RAY}.autoscalerOptions"
HEAD_POD, WORKER_POD = f"{HEAD}.template.spec", f"{WORKERS}.template.spec"
HEAD_BOX, WORKER_BOX = f"{HEAD_POD}.containers.0", f"{WORKER_POD}.containers.0"
SUBMITTER_POD = "spec.submitterPodTemplate.spec"
SUBMITTER_BOX = f"{SUBMITTER_POD}.containers.0"
POD = "spec.template.spec"
BOX = f"{POD}.containers.0"

REFUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "HTTP mode with submitter template": ("dcgan-gpu", "RayJob", {"spec.submissionMode": "HTTPMode"}),
    "selector and cluster": (
        "dcgan-gpu",
        "RayJob",
        {"spec.clusterSelector": {"ray.io/cluster": "x"}, "spec.backoffLimit": 0},
    ),
    "selector without ray.io/cluster": (
        "dcgan-gpu",
        "RayJob",
        {"spec.clusterSelector": {"foo": "x"}, "spec.rayClusterSpec": GONE, "spec.backoffLimit": 0},
    ),
    "deletion without policy": (
        "dcgan-gpu",
        "RayJob",
        {
            "spec.shutdownAfterJobFinishes": False,
            "spec.ttlSecondsAfterFinished": GONE,
            "spec.deletionStrategy": {"onSuccess": {}, "onFailure": {"policy": "DeleteCluster"}},
        },
    ),
    "deletion rules duplicate": (
        "dcgan-gpu",
        "RayJob",
        {
            "spec.shutdownAfterJobFinishes": False,
            "spec.ttlSecondsAfterFinished": GONE,
            "spec.deletionStrategy": {
                "deletionRules": [
                    {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 1}},
                    {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 5}},
                ]
            },
        },
    ),
    "deletion rules order": (
        "dcgan-gpu",
        "RayJob",
        {
            "spec.shutdownAfterJobFinishes": False,
            "spec.ttlSecondsAfterFinished": GONE,
            "spec.deletionStrategy": {
                "deletionRules": [
                    {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 9}},
                    {"policy": "DeleteSelf", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 5}},
                ]
            },
        },
    ),
    "deletion workers with autoscaler": (
        "scaling",
        "RayJob",
        {
            "spec.shutdownAfterJobFinishes": False,
            "spec.ttlSecondsAfterFinished": GONE,
            "spec.deletionStrategy": {
                "deletionRules": [
                    {"policy": "DeleteWorkers", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 9}},
                    {"policy": "DeleteSelf", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 50}},
                ]
            },
        },
    ),
    "group labels bad": ("dcgan-gpu", "RayJob", {f"{WORKERS}.labels": {"a b": "c"}}),
    "group labels bad value": ("dcgan-gpu", "RayJob", {f"{HEAD}.labels": {"a": "c d"}}),
    "num-gpus missing": ("dcgan-gpu", "RayJob", {f"{WORKERS}.rayStartParams.num-gpus": "4"}),
    "num-gpus 0 with gpu limits": ("dcgan-gpu", "RayJob", {f"{WORKERS}.rayStartParams.num-gpus": "0"}),
    "num-cpus more than limits": ("dcgan-gpu", "RayJob", {f"{WORKERS}.rayStartParams.num-cpus": "64"}),
    "param unknown": ("dcgan-gpu", "RayJob", {f"{WORKERS}.rayStartParams.num-cpu": "1"}),
    "param address on worker": ("dcgan-gpu", "RayJob", {f"{WORKERS}.rayStartParams.address": "10.0.0.1:6379"}),
    "param block false": ("dcgan-gpu", "RayJob", {f"{WORKERS}.rayStartParams.block": "false"}),
    "param dashboard-host localhost": ("dcgan-gpu", "RayJob", {f"{HEAD}.rayStartParams.dashboard-host": "127.0.0.1"}),
    "param dashboard off": ("dcgan-gpu", "RayJob", {f"{HEAD}.rayStartParams.include-dashboard": "false"}),
    "param dashboard-port other": ("dcgan-gpu", "RayJob", {f"{HEAD}.rayStartParams.dashboard-port": "9000"}),
    "env v2 without autoscaler": (
        "dcgan-gpu",
        "RayJob",
        {f"{HEAD_BOX}.env": More([{"name": "RAY_enable_autoscaler_v2", "value": "true"}])},
    ),
    "autoscaler idle negative": ("scaling", "RayJob", {f"{RAY}.autoscalerOptions.idleTimeoutSeconds": -1}),
    "autoscaler start cmd env": (
        "scaling",
        "RayJob",
        {f"{RAY}.autoscalerOptions.env": More([{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "x"}])},
    ),
    "priority without autoscaler": ("dcgan-gpu", "RayJob", {f"{WORKERS}.priority": 5}),
    "priority old ray": ("scaling", "RayJob", {f"{WORKERS}.priority": 5, f"{RAY}.rayVersion": "2.53.0"}),
    "auth k8s token in job": ("dcgan-gpu", "RayJob", {f"{RAY}.authOptions.enableK8sTokenAuth": True}),
    "auth k8s token + secret": (
        "gpu",
        "RayCluster",
        {"spec.authOptions.enableK8sTokenAuth": True, "spec.authOptions.secretName": "x"},
    ),
    "auth k8s token old ray": (
        "gpu",
        "RayCluster",
        {"spec.authOptions.enableK8sTokenAuth": True, "spec.rayVersion": "2.53.0"},
    ),
    "gcs ft + annotation true": (
        "dcgan-gpu",
        "RayJob",
        {
            "metadata.annotations.ray~io/ft-enabled": "true",
            f"{RAY}.gcsFaultToleranceOptions": {"redisAddress": "r:6379"},
        },
    ),
    "redis env without gcs": (
        "dcgan-gpu",
        "RayJob",
        {f"{HEAD_BOX}.env": More([{"name": "RAY_REDIS_ADDRESS", "value": "r:6379"}])},
    ),
    "gcs + redis password param": (
        "dcgan-gpu",
        "RayJob",
        {f"{RAY}.gcsFaultToleranceOptions": {"redisAddress": "r:6379"}, f"{HEAD}.rayStartParams.redis-password": "$X"},
    ),
    "gcs + REDIS_PASSWORD env": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{RAY}.gcsFaultToleranceOptions": {"redisAddress": "r:6379"},
            f"{HEAD_BOX}.env": More(
                [{"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "storage", "key": "x"}}}]
            ),
        },
    ),
    "redis username": ("dcgan-gpu", "RayJob", {f"{HEAD}.rayStartParams.redis-username": "u"}),
    "REDIS_USERNAME env": (
        "dcgan-gpu",
        "RayJob",
        {f"{HEAD_BOX}.env": More([{"name": "REDIS_USERNAME", "value": "u"}])},
    ),
    "gcs ext storage annotation": (
        "dcgan-gpu",
        "RayJob",
        {
            "metadata.annotations.ray~io/external-storage-namespace": "n",
            f"{RAY}.gcsFaultToleranceOptions": {"redisAddress": "r:6379"},
        },
    ),
    "gcs rocksdb gate": ("dcgan-gpu", "RayJob", {f"{RAY}.gcsFaultToleranceOptions": {"backend": "rocksdb"}}),
    "gcs redis storage": (
        "dcgan-gpu",
        "RayJob",
        {f"{RAY}.gcsFaultToleranceOptions": {"redisAddress": "r", "storage": {"size": "1Gi"}}},
    ),
    "networkPolicy gate": ("dcgan-gpu", "RayJob", {f"{RAY}.networkPolicy": {"mode": "DenyAll"}}),
    "tls gate": ("dcgan-gpu", "RayJob", {f"{RAY}.tlsOptions": {"enabled": True}}),
    "history gate": ("dcgan-gpu", "RayJob", {f"{RAY}.historyServerOptions": {"collectorOptions": {"image": "x:1"}}}),
    "entrypoint shell": ("dcgan-gpu", "RayJob", {"spec.entrypoint": lambda v: v + " ; true"}),
    "entrypoint pipe hides exit code": ("dcgan-gpu", "RayJob", {"spec.entrypoint": lambda v: v + " | tee /tmp/x"}),
    "entrypoint subst": ("dcgan-gpu", "RayJob", {"spec.entrypoint": lambda v: v + " $(cat /x)"}),
    "entrypoint without verdict": (
        "dcgan-gpu",
        "RayJob",
        {"spec.entrypoint": "orchestrate run /etc/orchestrator/pipeline.yaml --storage s3://b/r"},
    ),
    "entrypoint pipeline not mounted": (
        "dcgan-gpu",
        "RayJob",
        {"spec.entrypoint": lambda v: v.replace("/etc/orchestrator/", "/etc/other/")},
    ),
    "entrypoint resources bad json": ("dcgan-gpu", "RayJob", {"spec.entrypointResources": "{a"}),
    "entrypointNumCpus on head 0": ("dcgan-gpu", "RayJob", {"spec.entrypointNumCpus": 1}),
    "verdict differs from annotation": ("dcgan-gpu", "RayJob", {"metadata.annotations.gan-orchestrator/job": "other"}),
    "kueue label empty": ("queue", "RayJob", {"metadata.labels.kueue~x-k8s~io/queue-name": ""}),
    "kueue label on pods only": (
        "dcgan-gpu",
        "RayJob",
        {f"{WORKERS}.template.metadata.labels.kueue~x-k8s~io/queue-name": "train"},
    ),
    "submitter two containers, sidecar first": (
        "dcgan-gpu",
        "RayJob",
        {f"{SUBMITTER_POD}.containers": lambda v: [{**copy.deepcopy(v[0]), "name": "side"}, *v]},
    ),
    "submitter command": ("dcgan-gpu", "RayJob", {f"{SUBMITTER_BOX}.command": ["sleep", "1"]}),
    "store below ray minimum": ("dcgan-gpu", "RayJob", {f"{WORKERS}.rayStartParams.object-store-memory": "1000"}),
    "preStop missing": ("dcgan-gpu", "RayJob", {f"{HEAD_BOX}.lifecycle": GONE}),
    "preStop exec empty": ("dcgan-gpu", "RayJob", {f"{HEAD_BOX}.lifecycle.preStop.exec.command": []}),
    "preStop two ways": ("dcgan-gpu", "RayJob", {f"{HEAD_BOX}.lifecycle.preStop.sleep": {"seconds": 5}}),
    "gpu fraction": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{WORKER_BOX}.resources.limits.nvidia~com/gpu": "500m",
            f"{WORKER_BOX}.resources.requests.nvidia~com/gpu": "500m",
        },
    ),
    "gpu typo": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{WORKER_BOX}.resources.limits": lambda v: {
                "nvidia.com/gpus" if "gpu" in a else a: b for a, b in v.items()
            },
            f"{WORKER_BOX}.resources.requests": lambda v: {
                "nvidia.com/gpus" if "gpu" in a else a: b for a, b in v.items()
            },
        },
    ),
    "gpu without domain": (
        "dcgan-gpu",
        "RayJob",
        {f"{WORKER_BOX}.resources.limits.gpu": "1", f"{WORKER_BOX}.resources.requests.gpu": "1"},
    ),
    "gpu toleration wrong value": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{WORKER_POD}.tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Equal", "value": "no", "effect": "NoSchedule"}
            ]
        },
    ),
    "toleration all": ("dcgan-gpu", "RayJob", {f"{WORKER_POD}.tolerations": [{"operator": "Exists"}]}),
    "toleration seconds wrong effect": ("dcgan-gpu", "RayJob", {f"{WORKER_POD}.tolerations.0.tolerationSeconds": 5}),
    "spread selects nothing": (
        "dcgan-gpu",
        "RayJob",
        {f"{WORKER_POD}.topologySpreadConstraints.0.labelSelector.matchLabels": {"app": "zzz"}},
    ),
    "spread no selector": ("dcgan-gpu", "RayJob", {f"{WORKER_POD}.topologySpreadConstraints.0.labelSelector": GONE}),
    "spread minDomains ScheduleAnyway": (
        "dcgan-gpu",
        "RayJob",
        {f"{WORKER_POD}.topologySpreadConstraints.0.minDomains": 2},
    ),
    "affinity weight 0": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{WORKER_POD}.affinity": {
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "weight": 0,
                            "podAffinityTerm": {
                                "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "ray-worker"}},
                                "topologyKey": "kubernetes.io/hostname",
                            },
                        }
                    ]
                }
            }
        },
    ),
    "affinity op typo": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{WORKER_POD}.affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Is", "values": ["b"]}]}]
                    }
                }
            }
        },
    ),
    "affinity In without values": (
        "dcgan-gpu",
        "RayJob",
        {
            f"{WORKER_POD}.affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]
                    }
                }
            }
        },
    ),
    "node selector linux/windows": ("dcgan-gpu", "RayJob", {f"{WORKER_POD}.nodeSelector": {"a b": "c"}}),
    "os windows": ("dcgan-gpu", "RayJob", {f"{WORKER_POD}.os": {"name": "windows"}}),
    "memory 512m": (
        "dcgan-gpu",
        "RayJob",
        {f"{SUBMITTER_BOX}.resources.requests.memory": "512m", f"{SUBMITTER_BOX}.resources.limits.memory": "512m"},
    ),
    "memory bytes tiny": (
        "dcgan-gpu",
        "RayJob",
        {f"{SUBMITTER_BOX}.resources.requests.memory": "512", f"{SUBMITTER_BOX}.resources.limits.memory": "1024"},
    ),
    "cpu 2Gi": ("dcgan-gpu", "RayJob", {f"{SUBMITTER_BOX}.resources.limits.cpu": "2Gi"}),
    "cpu 500 (no m)": (
        "dcgan-gpu",
        "RayJob",
        {f"{SUBMITTER_BOX}.resources.requests.cpu": "500", f"{SUBMITTER_BOX}.resources.limits.cpu": "500"},
    ),
    "sizeLimit 2m": ("dcgan-gpu", "RayJob", {f"{WORKER_POD}.volumes.0.emptyDir.sizeLimit": "2m"}),
    "mlflow memory 2m": (
        "dev-kind",
        "Deployment mlflow",
        {f"{BOX}.resources.limits.memory": "2048m", f"{BOX}.resources.requests.memory": "1024m"},
    ),
    "mlflow unknown resource": ("dev-kind", "Deployment mlflow", {f"{BOX}.resources.limits.mem": "1Gi"}),
    "pvc 20G m": ("dev-kind", "PersistentVolumeClaim mlflow", {"spec.resources.requests.storage": "20m"}),
    "pvc no unit": ("dev-kind", "PersistentVolumeClaim mlflow", {"spec.resources.requests.storage": "20"}),
    "binding pods account ray": (
        "dev-kind",
        "RoleBinding submitter",
        {"subjects": More([{"kind": "ServiceAccount", "name": "ray", "namespace": "gan-orchestrator"}])},
    ),
    "binding pods account mlflow": (
        "dev-kind",
        "RoleBinding submitter",
        {"subjects": More([{"kind": "ServiceAccount", "name": "mlflow", "namespace": "gan-orchestrator"}])},
    ),
    "binding roleRef apiGroup missing": ("dev-kind", "RoleBinding submitter", {"roleRef.apiGroup": ""}),
    "binding subject SA with apiGroup": (
        "dev-kind",
        "RoleBinding submitter",
        {"subjects.0.apiGroup": "rbac.authorization.k8s.io"},
    ),
    "binding subject user without group": (
        "dev-kind",
        "RoleBinding submitter",
        {"subjects": More([{"kind": "User", "name": "jane", "namespace": "x"}])},
    ),
    "binding kind typo": ("dev-kind", "RoleBinding submitter", {"subjects.0.kind": "serviceaccount"}),
    "sa ray gone": (
        "dev-kind",
        "",
        {"": lambda ds: [d for d in ds if (d["kind"], d["metadata"]["name"]) != ("ServiceAccount", "ray")]},
    ),
    "sa default gone": (
        "dev-kind",
        "",
        {"": lambda ds: [d for d in ds if (d["kind"], d["metadata"]["name"]) != ("ServiceAccount", "default")]},
    ),
    "ns unknown psa label": (
        "dev-kind",
        "Namespace",
        {"metadata.labels.pod-security~kubernetes~io/enforced": "restricted"},
    ),
    "namespace gone": ("dev-kind", "", {"": lambda ds: [d for d in ds if d["kind"] != "Namespace"]}),
    "np ipblock with podSelector": ("dev-kind", "NetworkPolicy autoscaler", {"spec.egress.0.to.0.podSelector": {}}),
    "np misspelt": ("dev-kind", "NetworkPolicy mlflow", {"spec.ingres": []}),
    "np ingress from wide 10/8": (
        "dev-kind",
        "NetworkPolicy mlflow",
        {"spec.ingress": More([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 5000}]}])},
    ),
    "np ipv6 all with metadata": (
        "dev-kind",
        "NetworkPolicy autoscaler",
        {"spec.egress.0.to": More([{"ipBlock": {"cidr": "::/0"}}])},
    ),
    "np metrics wrong port": ("with-prometheus", "NetworkPolicy metrics", {"spec.ingress.0.ports.0.port": 9090}),
    "svc nodePort on ClusterIP": ("dev-kind", "Service mlflow", {"spec.ports.0.nodePort": 30000}),
    "svc two ports unnamed": (
        "dev-kind",
        "Service mlflow",
        {"spec.ports": [{"port": 5000, "targetPort": "http"}, {"port": 5001, "targetPort": "http"}]},
    ),
    "svc two ports same": ("dev-kind", "Service mlflow", {"spec.ports": lambda v: [*v, {**v[0], "name": "b"}]}),
    "svc port name twice": ("dev-kind", "Service mlflow", {"spec.ports": lambda v: [*v, {**v[0], "port": 5001}]}),
    "svc protocol": ("dev-kind", "Service mlflow", {"spec.ports.0.protocol": "HTTP"}),
    "svc protocol UDP": ("dev-kind", "Service mlflow", {"spec.ports.0.protocol": "UDP"}),
    "svc loadBalancerIP": ("dev-kind", "Service mlflow", {"spec.loadBalancerIP": "1.2.3.4"}),
    "svc sessionAffinity typo": ("dev-kind", "Service mlflow", {"spec.sessionAffinity": "client"}),
    "svc misspelt": ("dev-kind", "Service mlflow", {"spec.selectors": {}}),
    "head service LB": ("gpu", "RayCluster", {"spec.headGroupSpec.serviceType": "LoadBalancer"}),
    "head service NodePort": ("gpu", "RayCluster", {"spec.headGroupSpec.serviceType": "NodePort"}),
    "head service bad": ("gpu", "RayCluster", {"spec.headGroupSpec.serviceType": "clusterip"}),
    "head ingress": ("gpu", "RayCluster", {"spec.headGroupSpec.enableIngress": True}),
    "job head service NodePort": ("dcgan-gpu", "RayJob", {f"{HEAD}.serviceType": "NodePort"}),
    "job headService spec LB": ("dcgan-gpu", "RayJob", {f"{HEAD}.headService": {"spec": {"type": "LoadBalancer"}}}),
    "deploy 0 replicas": ("dev-kind", "Deployment mlflow", {"spec.replicas": 0}),
    "deploy recreate with rollingUpdate": (
        "dev-kind",
        "Deployment mlflow",
        {"spec.strategy.rollingUpdate": {"maxSurge": 1}},
    ),
    "deploy apiVersion": ("dev-kind", "Deployment mlflow", {"apiVersion": "extensions/v1beta1"}),
    "deploy apiVersion v1": ("dev-kind", "Deployment mlflow", {"apiVersion": "v1"}),
    "deploy restart Never": ("dev-kind", "Deployment mlflow", {f"{POD}.restartPolicy": "Never"}),
    "deploy activeDeadline": ("dev-kind", "Deployment mlflow", {f"{POD}.activeDeadlineSeconds": 100}),
    "probe path wrong": ("dev-kind", "Deployment mlflow", {f"{BOX}.readinessProbe.httpGet.path": "/healthz"}),
    "probe two ways": ("dev-kind", "Deployment mlflow", {f"{BOX}.readinessProbe.tcpSocket": {"port": "http"}}),
    "probe scheme": ("dev-kind", "Deployment mlflow", {f"{BOX}.readinessProbe.httpGet.scheme": "https"}),
    "probe https": ("dev-kind", "Deployment mlflow", {f"{BOX}.readinessProbe.httpGet.scheme": "HTTPS"}),
    "startup threshold small": ("dev-kind", "Deployment mlflow", {f"{BOX}.startupProbe.failureThreshold": 1}),
    "configmap data number": ("dev-kind", "ConfigMap mlflow", {"data.X": 5}),
    "configmap data bool": ("dev-kind", "ConfigMap mlflow", {"data.MLFLOW_SERVER_ENABLE_JOB_EXECUTION": False}),
    "configmap nested": ("dev-kind", "ConfigMap mlflow", {"data.A": {"b": "c"}}),
    "configmap misspelt": ("dev-kind", "ConfigMap mlflow", {"date": {"a": "b"}}),
    "configmap both data and binaryData": (
        "dev-kind",
        "ConfigMap mlflow",
        {"binaryData": {"MLFLOW_BACKEND_STORE_URI": "YQ=="}},
    ),
    "configmap immutable text": ("dev-kind", "ConfigMap mlflow", {"immutable": "true"}),
    "volume configMap items missing key": (
        "dev-kind",
        "Deployment mlflow",
        {f"{POD}.volumes.1.configMap.items": [{"key": "nope.ini", "path": "auth.ini"}]},
    ),
    "volume defaultMode": ("dev-kind", "Deployment mlflow", {f"{POD}.volumes.1.configMap.defaultMode": 999}),
    "mount data readOnly": ("dev-kind", "Deployment mlflow", {f"{BOX}.volumeMounts.0.readOnly": True}),
    "secret optional": ("dev-kind", "Deployment mlflow", {f"{BOX}.env.1.valueFrom.secretKeyRef.optional": True}),
    "pg replicas 2": ("s3-prod", "StatefulSet postgres", {"spec.replicas": 2}),
    "pg accessMode typo": (
        "s3-prod",
        "StatefulSet postgres",
        {"spec.volumeClaimTemplates.0.spec.accessModes": ["ReadWriteonce"]},
    ),
    "pg PGDATA elsewhere": (
        "s3-prod",
        "StatefulSet postgres",
        {f"{BOX}.env": lambda v: [{**x, "value": "/tmp/pg"} if x["name"] == "PGDATA" else x for x in v]},
    ),
    "pg trust auth": (
        "s3-prod",
        "StatefulSet postgres",
        {f"{BOX}.env": More([{"name": "POSTGRES_HOST_AUTH_METHOD", "value": "trust"}])},
    ),
    "pg updateStrategy typo": ("s3-prod", "StatefulSet postgres", {"spec.updateStrategy": {"type": "Recreate"}}),
    "pg podManagement typo": ("s3-prod", "StatefulSet postgres", {"spec.podManagementPolicy": "parallel"}),
    "PGHOST other ns": ("s3-prod", "ConfigMap mlflow", {"data.PGHOST": "postgres.default.svc"}),
    "PGUSER wrong": ("s3-prod", "ConfigMap mlflow", {"data.PGUSER": "other"}),
    "pvc accessMode typo": ("dev-kind", "PersistentVolumeClaim mlflow", {"spec.accessModes": ["RWO"]}),
    "pvc limit < request": ("dev-kind", "PersistentVolumeClaim mlflow", {"spec.resources.limits": {"storage": "1Gi"}}),
    "pvc larger than LimitRange": (
        "dev-kind",
        "PersistentVolumeClaim mlflow",
        {"spec.resources.requests.storage": "300Gi"},
    ),
    "pvc larger than quota": (
        "dev-kind",
        "PersistentVolumeClaim mlflow",
        {"spec.resources.requests.storage": "199Gi", "spec.accessModes": ["ReadWriteOnce"]},
    ),
    "pvc volumeMode": ("dev-kind", "PersistentVolumeClaim mlflow", {"spec.volumeMode": "Block"}),
    "pvc volumeName bound": ("dev-kind", "PersistentVolumeClaim mlflow", {"spec.volumeMod": "Filesystem"}),
    "quota pods 0": ("dev-kind", "ResourceQuota", {"spec.hard.pods": "0"}),
    "quota pods 1 for two": ("dev-kind", "ResourceQuota", {"spec.hard.pods": "1"}),
    "quota pods 2": ("s3-prod", "ResourceQuota", {"spec.hard.pods": "2"}),
    "quota pvcs 1": ("dev-kind", "ResourceQuota", {"spec.hard.persistentvolumeclaims": "1"}),
    "quota storage": ("dev-kind", "ResourceQuota", {"spec.hard.requests~storage": "10Gi"}),
    "quota gpu 2": ("gpu+dcgan-gpu", "ResourceQuota", {"spec.hard.requests~nvidia~com/gpu": "2"}),
    "quota rayjobs 0": ("gpu+dcgan-gpu", "ResourceQuota", {"spec.hard.count/rayjobs~ray~io": "0"}),
    "quota rayclusters 0": ("gpu", "ResourceQuota", {"spec.hard.count/rayclusters~ray~io": "0"}),
    "quota gpu limits": ("gpu", "ResourceQuota", {"spec.hard.limits~nvidia~com/gpu": "8"}),
    "autoscaler max over quota": ("gpu", "RayCluster", {"spec.workerGroupSpecs.0.maxReplicas": 100}),
    "cluster replicas over quota": (
        "gpu",
        "RayCluster",
        {
            "spec.workerGroupSpecs.0.maxReplicas": 30,
            "spec.workerGroupSpecs.0.replicas": 30,
            "spec.workerGroupSpecs.0.minReplicas": 30,
        },
    ),
    "quota pods fraction": ("dev-kind", "ResourceQuota", {"spec.hard.pods": "1.5"}),
    "quota unknown": ("dev-kind", "ResourceQuota", {"spec.hard.request~cpu": "4"}),
    "quota unknown count": ("dev-kind", "ResourceQuota", {"spec.hard.count/rayjobs": "4"}),
    "quota scopes": ("dev-kind", "ResourceQuota", {"spec.scopes": ["BestEffort"]}),
    "quota misspelt": ("dev-kind", "ResourceQuota", {"spec.hards": {"pods": "1"}}),
    "two quotas": (
        "dev-kind",
        "",
        {
            "": lambda ds: [
                *ds,
                {
                    "apiVersion": "v1",
                    "kind": "ResourceQuota",
                    "metadata": {"name": "second", "namespace": SPACE},
                    "spec": {"hard": {"pods": "0"}},
                },
            ]
        },
    ),
    "limitrange min above": (
        "dev-kind",
        "LimitRange",
        {"spec.limits.0.min": {"cpu": "500m", "memory": "64Mi"}, "spec.limits.0.defaultRequest.cpu": "600m"},
    ),
    "limitrange ratio": ("dev-kind", "LimitRange", {"spec.limits.0.maxLimitRequestRatio": {"cpu": "2"}}),
    "limitrange type twice": ("dev-kind", "LimitRange", {"spec.limits": lambda v: [*v, copy.deepcopy(v[0])]}),
    "limitrange pod max": (
        "dev-kind",
        "LimitRange",
        {"spec.limits": More([{"type": "Pod", "max": {"cpu": "100m", "memory": "1Gi"}}])},
    ),
    "limitrange pvc max": ("dev-kind", "LimitRange", {"spec.limits.1.max.storage": "1Gi"}),
    "limitrange pvc min": ("dev-kind", "LimitRange", {"spec.limits.1.min": {"storage": "100Gi"}}),
    "pdb min 1 single": (
        "dev-kind",
        "PodDisruptionBudget mlflow",
        {"spec.maxUnavailable": GONE, "spec.minAvailable": 1},
    ),
    "pdb percent bad": ("dev-kind", "PodDisruptionBudget mlflow", {"spec.maxUnavailable": "50"}),
    "pdb 150%": ("dev-kind", "PodDisruptionBudget mlflow", {"spec.maxUnavailable": "150%"}),
    "pdb negative": ("dev-kind", "PodDisruptionBudget mlflow", {"spec.maxUnavailable": -1}),
    "pdb v1beta1": ("dev-kind", "PodDisruptionBudget mlflow", {"apiVersion": "policy/v1beta1"}),
    "pdb eviction typo": ("dev-kind", "PodDisruptionBudget mlflow", {"spec.unhealthyPodEvictionPolicy": "Always"}),
    "pdb head min 0": ("dev-kind", "PodDisruptionBudget ray-head", {"spec.minAvailable": 0}),
    "pdb head selects workers": (
        "dev-kind",
        "PodDisruptionBudget ray-head",
        {"spec.selector.matchLabels": {"ray.io/node-type": "worker"}},
    ),
    "pdb two over mlflow": (
        "dev-kind",
        "",
        {
            "": lambda ds: [
                *ds,
                {**find(ds, "PodDisruptionBudget", "mlflow"), "metadata": {"name": "second", "namespace": SPACE}},
            ]
        },
    ),
    "pdb gone": (
        "dev-kind",
        "",
        {"": lambda ds: [d for d in ds if (d["kind"], d["metadata"]["name"]) != ("PodDisruptionBudget", "ray-head")]},
    ),
    "annotation number": ("dev-kind", "Deployment mlflow", {"metadata.annotations": {"a": 5}}),
    "meta misspelt": ("dev-kind", "Deployment mlflow", {"metadata.label": {"a": "b"}}),
    "apiVersion missing": ("dev-kind", "Deployment mlflow", {"apiVersion": GONE}),
    "np apiVersion extensions": ("dev-kind", "NetworkPolicy dns", {"apiVersion": "extensions/v1beta1"}),
    "role apiVersion": ("dev-kind", "Role submitter", {"apiVersion": "rbac.authorization.k8s.io/v1beta1"}),
    "top misspelt": ("dev-kind", "Deployment mlflow", {"specs": {}}),
    "Secret with bad base64": ("dev-kind", "Secret mlflow-auth", {"data.A": "not base64!"}),
    "Secret data number": ("dev-kind", "Secret mlflow-auth", {"data.A": 5}),
    "job component label gone (network)": (
        "dev-kind+ring8",
        "RayJob",
        {f"{HEAD}.template.metadata.labels.app~kubernetes~io/component": "head"},
    ),
    "job submitter label gone": ("dev-kind+ring8", "RayJob", {"spec.submitterPodTemplate.metadata.labels": {}}),
    "job head name label override": (
        "dev-kind+ring8",
        "RayJob",
        {f"{HEAD}.template.metadata.labels.ray~io/node-type": "worker"},
    ),
    "job worker is-ray-node no": (
        "dev-kind+ring8",
        "RayJob",
        {f"{WORKERS}.template.metadata.labels.ray~io/is-ray-node": "no"},
    ),
    "job label gone alone": (
        "ring8",
        "RayJob",
        {"spec.submitterPodTemplate.metadata.labels.app~kubernetes~io/component": "x"},
    ),
    "job workers over quota": (
        "dev-kind+ring8",
        "RayJob",
        {f"{WORKERS}.replicas": 30, f"{WORKERS}.minReplicas": 30, f"{WORKERS}.maxReplicas": 30},
    ),
    "job pipeline key gone": ("dev-kind+ring8", "ConfigMap ring8-pipeline", {"data": {"other.yaml": "a: 1"}}),
    "job pipeline key gone alone": ("ring8", "ConfigMap ring8-pipeline", {"data": {"other.yaml": "a: 1"}}),
    "pipeline no yaml": ("ring8", "ConfigMap ring8-pipeline", {"data.pipeline~yaml": "a: ["}),
    "kueue namespaceSelector other": (
        "with-kueue",
        "ClusterQueue",
        {"spec.namespaceSelector.matchLabels": {"kubernetes.io/metadata.name": "other"}},
    ),
    "kueue localqueue dangling": ("with-kueue", "LocalQueue", {"spec.clusterQueue": "nope"}),
    "kueue flavor dangling": ("with-kueue", "ClusterQueue", {"spec.resourceGroups.0.flavors.0.name": "nope"}),
    "kueue quota amount": (
        "with-kueue",
        "ClusterQueue",
        {"spec.resourceGroups.0.flavors.0.resources.1.nominalQuota": "56gi"},
    ),
    "kueue resources not covered": (
        "with-kueue",
        "ClusterQueue",
        {"spec.resourceGroups.0.coveredResources": ["cpu", "memory"]},
    ),
    "kueue misspelt": ("with-kueue", "ClusterQueue", {"spec.namespaceSelecto": {}}),
    "role of a name with a slash": ("dev-kind", "RoleBinding", {"roleRef.name": "a/b"}),
    "account with capitals": ("dev-kind", "RoleBinding", {"subjects.0.name": "CI"}),
    "port of no name": ("dev-kind", "Service mlflow", {"spec.ports.0.targetPort": "a b"}),
    "ports that are not there": ("dev-kind", "Service mlflow", {"spec.ports": GONE}),
    "address that is none": ("s3-prod", "Service postgres", {"spec.clusterIP": "none"}),
    "label's value that is none": ("dev-kind", "Service mlflow", {"spec.selector.app~kubernetes~io/name": "a b"}),
    "policy for no label": ("dev-kind", "NetworkPolicy dns", {"spec.podSelector": {"matchLabels": {"a": "-b"}}}),
    "term without values": ("s3-prod", "NetworkPolicy storage", {"spec.podSelector.matchExpressions.0.values": []}),
    "limit of claims that says nothing": ("dev-kind", "LimitRange", {"spec.limits.1.max": {}}),
    "negative room": ("dev-kind", "Deployment mlflow", {f"{BOX}.resources.requests.ephemeral-storage": "-1"}),
    "negative emptyDir": ("dev-kind", "Deployment mlflow", {f"{POD}.volumes.2.emptyDir.sizeLimit": "-1"}),
    "token for a moment": (
        "scaling",
        "RayJob",
        {f"{HEAD_POD}.volumes.5.projected.sources.0.serviceAccountToken.expirationSeconds": 5},
    ),
    "item from nowhere": (
        "scaling",
        "RayJob",
        {f"{HEAD_POD}.volumes.5.projected.sources.2.downwardAPI.items.0.fieldRef": GONE},
    ),
    "sidecar before Ray": ("dcgan-gpu", "RayJob", {f"{HEAD_POD}.containers": lambda v: [{**v[0], "name": "side"}, *v]}),
    "Ray lets everybody in": (
        "dcgan-gpu",
        "RayJob",
        {f"{HEAD_BOX}.env": More([{"name": "RAY_AUTH_MODE", "value": "disabled"}])},
    ),
    "hook that saves nothing": ("dcgan-gpu", "RayJob", {f"{HEAD_BOX}.lifecycle.preStop.exec.command": ["sleep", "5"]}),
    "home that cannot be written": ("dcgan-gpu", "RayJob", {f"{WORKER_BOX}.volumeMounts.0.mountPath": "/elsewhere"}),
    "verdict elsewhere": ("dcgan-gpu", "RayJob", {"metadata.annotations.gan-orchestrator/storage": "s3://other/runs"}),
    "submitter of another job": (
        "dcgan-gpu",
        "RayJob",
        {"spec.submitterPodTemplate.metadata.labels.app~kubernetes~io/instance": "other"},
    ),
    "pipeline of another name": ("ring8", "ConfigMap", {"metadata.name": "other-pipeline"}),
    "pipeline in another namespace": ("ring8", "ConfigMap", {"metadata.namespace": "default"}),
    "autoscaler mount": ("scaling", "RayJob", {f"{SCALER}.volumeMounts": More([{"name": "zz", "mountPath": "/zz"}])}),
    "autoscaler pull": ("scaling", "RayJob", {f"{SCALER}.imagePullPolicy": "Sometimes"}),
    "autoscaler command without start": ("scaling", "RayJob", {f"{SCALER}.command": ["sleep"]}),
    "role empty verbs": (
        "dev-kind",
        "Role",
        {"rules": More([{"apiGroups": [""], "resources": ["pods"], "verbs": []}])},
    ),
    "role no groups": ("dev-kind", "Role", {"rules": More([{"resources": ["pods"], "verbs": ["get"]}])}),
    "role typo": ("dev-kind", "Role", {"rules": More([{"apiGroups": [""], "resources": ["pods"], "verb": ["get"]}])}),
}
TEMPLATES = {  # every kind of pod that is made: what holds it, and where
    "submitter": ("dcgan-gpu", "RayJob", SUBMITTER_POD),
    "head": ("dcgan-gpu", "RayJob", HEAD_POD),
    "worker": ("dcgan-gpu", "RayJob", WORKER_POD),
    "mlflow": ("s3-prod", "Deployment mlflow", POD),
    "database": ("s3-prod", "StatefulSet postgres", POD),
}
IN_PODS: dict[str, dict[str, Any]] = {  # below a pod's spec; of its first container where the path begins with a dot
    "seccomp Localhost without a profile": {".securityContext.seccompProfile": {"type": "Localhost"}},
    "a profile that is not Localhost": {".securityContext.seccompProfile.localhostProfile": "x.json"},
    "image with capitals": {".image": "Gan-Orchestrator:1.0"},
    "image with a space": {".image": "gan-orchestrator:1.0 "},
    "pull policy": {".imagePullPolicy": "ifNotPresent"},
    "mount path with a colon": {".volumeMounts.0.mountPath": "/a:b"},
    "path out of the volume": {".volumeMounts.0.subPath": "../x"},
    "mount to the node": {".volumeMounts.0.mountPropagation": "Bidirectional"},
    "field that pods have not": {
        ".env": More([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.nam"}}}])
    },
    "variable from nowhere": {".env": More([{"name": "A", "valueFrom": {}}])},
    "variable from two places": {
        ".env": More(
            [
                {
                    "name": "A",
                    "valueFrom": {
                        "fieldRef": {"fieldPath": "metadata.name"},
                        "configMapKeyRef": {"name": "orchestrator", "key": "ORCHESTRATOR_STORAGE"},
                    },
                }
            ]
        )
    },
    "variables from nowhere": {".envFrom": More([{}])},
    "variables of no name": {".envFrom": More([{"configMapRef": {"name": "A b"}}])},
    "key of no name": {".env": More([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "storage", "key": "a b"}}}])},
    "account of no name": {"serviceAccountName": "A b"},
    "no DNS": {"dnsPolicy": "None"},
    "the cluster's own priority": {"priorityClassName": "system-node-critical"},
    "misspelt in the pod": {"securityContext.runAsNonroot": True},
    "misspelt in the container": {".enviroment": []},
    "probe without a period": {".livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 0}},
    "life that has to be proved twice": {".livenessProbe": {"exec": {"command": ["true"]}, "successThreshold": 2}},
    "containers for debugging": {"ephemeralContainers": [{"name": "e", "image": "busybox:1.36"}]},
}

"""Every rule, broken once: a manifest that is changed for the worse is caught, and for the right reason."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.kubernetes import model, policy
from orchestrator.kubernetes.workloads import workloads
from tests.k8s.built import JOBS, OVERLAYS, Doc, find, job, overlay

Docs = list[Doc]
Change = Callable[[Docs], Any]


def pod(docs: Docs, kind: str = "Deployment", name: str = "mlflow") -> Doc:
    return find(docs, kind, name)["spec"]["template"]["spec"]


def box(docs: Docs) -> Doc:
    return pod(docs)["containers"][0]


def security(docs: Docs) -> Doc:
    return box(docs)["securityContext"]


def net(docs: Docs, name: str) -> Doc:
    return find(docs, "NetworkPolicy", name)["spec"]


def role(docs: Docs) -> list[Doc]:
    return find(docs, "Role")["rules"]


def head(docs: Docs) -> Doc:
    return find(docs, "RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]


def cluster(docs: Docs) -> Doc:
    return find(docs, "RayCluster")["spec"]


def drop(docs: Docs, kind: str, name: str = "") -> None:
    docs.remove(find(docs, kind, name))


def volume(docs: Docs, **kind: Any) -> None:
    pod(docs)["volumes"].append({"name": "more", **kind})


def env(docs: Docs, name: str, value: str) -> None:
    box(docs)["env"].append({"name": name, "value": value})


def bind(docs: Docs, **subject: str) -> None:
    find(docs, "RoleBinding")["subjects"].append(subject)


def more(docs: Docs, kind: str, api: str, name: str = "more", **fields: Any) -> None:
    docs.append(
        {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "gan-orchestrator"}, **fields}
    )


def quota(docs: Docs) -> Doc:
    return find(docs, "ResourceQuota")["spec"]["hard"]


def most(docs: Docs) -> Doc:
    return find(docs, "LimitRange")["spec"]["limits"][0]["max"]


def budget(docs: Docs) -> Doc:
    return find(docs, "PodDisruptionBudget", "mlflow")["spec"]


def settings(docs: Docs, name: str) -> Doc:
    return find(docs, "ConfigMap", name)["data"]


def token_for_head(docs: Docs) -> None:
    head(docs)["containers"][0]["volumeMounts"].append({"name": "autoscaler-token", "mountPath": "/token"})


def token_volume(docs: Docs) -> None:
    volume(docs, projected={"sources": [{"serviceAccountToken": {"path": "token"}}]})
    box(docs)["volumeMounts"].append({"name": "more", "mountPath": "/token"})


RBAC = "rbac.authorization.k8s.io/v1"
TO_ALL = {"ipBlock": {"cidr": "0.0.0.0/0"}}
KEY = "AKIA" + "ABCDEFGHIJKLMNOP"
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE"

MUTANTS: dict[str, tuple[str, str, Change]] = {  # name: rule that catches it, overlay, change
    # pods: the standard `restricted`
    "privileged": ("privileged", "dev-kind", lambda d: security(d).update(privileged=True)),
    "escalation allowed": ("escalation", "dev-kind", lambda d: security(d).update(allowPrivilegeEscalation=True)),
    "escalation unsaid": ("escalation", "dev-kind", lambda d: security(d).pop("allowPrivilegeEscalation")),
    "root user": ("root", "dev-kind", lambda d: security(d).update(runAsUser=0)),
    "root user of the pod": ("root", "dev-kind", lambda d: pod(d)["securityContext"].update(runAsUser=0)),
    "root group": ("root", "dev-kind", lambda d: pod(d)["securityContext"].update(runAsGroup=0)),
    "root files": ("root", "dev-kind", lambda d: pod(d)["securityContext"].update(fsGroup=0)),
    "root among groups": ("root", "dev-kind", lambda d: pod(d)["securityContext"].update(supplementalGroups=[0])),
    "non-root false": ("root", "dev-kind", lambda d: security(d).update(runAsNonRoot=False)),
    "non-root unsaid": ("root", "dev-kind", lambda d: security(d).pop("runAsNonRoot")),
    "non-root unsaid for the pod": ("root", "dev-kind", lambda d: pod(d)["securityContext"].pop("runAsNonRoot")),
    "group unsaid": ("root", "dev-kind", lambda d: pod(d)["securityContext"].pop("runAsGroup")),
    "user unsaid": ("root", "dev-kind", lambda d: pod(d)["securityContext"].pop("runAsUser")),
    "no seccomp": ("seccomp", "dev-kind", lambda d: security(d).pop("seccompProfile")),
    "no seccomp for the pod": ("seccomp", "dev-kind", lambda d: pod(d)["securityContext"].pop("seccompProfile")),
    "seccomp unconfined": ("seccomp", "dev-kind", lambda d: security(d).update(seccompProfile={"type": "Unconfined"})),
    "capabilities kept": ("capabilities", "dev-kind", lambda d: security(d).pop("capabilities")),
    "some capabilities kept": (
        "capabilities",
        "dev-kind",
        lambda d: security(d).update(capabilities={"drop": ["NET_RAW"]}),
    ),
    "capability added": ("capabilities", "dev-kind", lambda d: security(d)["capabilities"].update(add=["SYS_ADMIN"])),
    "writable root": ("read-only", "dev-kind", lambda d: security(d).update(readOnlyRootFilesystem=False)),
    "writable root unsaid": ("read-only", "dev-kind", lambda d: security(d).pop("readOnlyRootFilesystem")),
    "no /tmp": ("read-only", "dev-kind", lambda d: box(d)["volumeMounts"].pop()),
    "host network": ("host", "dev-kind", lambda d: pod(d).update(hostNetwork=True)),
    "host processes": ("host", "dev-kind", lambda d: pod(d).update(hostPID=True)),
    "host IPC": ("host", "dev-kind", lambda d: pod(d).update(hostIPC=True)),
    "host path": ("host", "dev-kind", lambda d: volume(d, hostPath={"path": "/"})),
    "host port": ("host", "dev-kind", lambda d: box(d)["ports"][0].update(hostPort=5000)),
    "fixed node": ("host", "dev-kind", lambda d: pod(d).update(nodeName="node-1")),
    "unmasked proc": ("host", "dev-kind", lambda d: security(d).update(procMount="Unmasked")),
    "SELinux type": ("host", "dev-kind", lambda d: security(d).update(seLinuxOptions={"type": "spc_t"})),
    "SELinux user": ("host", "dev-kind", lambda d: security(d).update(seLinuxOptions={"user": "system_u"})),
    "AppArmor off": ("host", "dev-kind", lambda d: security(d).update(appArmorProfile={"type": "Unconfined"})),
    "sysctl": (
        "host",
        "dev-kind",
        lambda d: pod(d)["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
    ),
    "Windows host process": ("host", "dev-kind", lambda d: security(d).update(windowsOptions={"hostProcess": True})),
    "probe of another host": (
        "host",
        "dev-kind",
        lambda d: box(d)["livenessProbe"]["httpGet"].update(host="169.254.169.254"),
    ),
    "NFS": ("volumes", "dev-kind", lambda d: volume(d, nfs={"server": "x", "path": "/"})),
    "memory without limit": ("limits", "dev-kind", lambda d: volume(d, emptyDir={"medium": "Memory"})),
    "root init container": (
        "root",
        "dev-kind",
        lambda d: pod(d).update(initContainers=[{**box(d), "name": "init", "securityContext": {"runAsUser": 0}}]),
    ),
    # pods: what else they must be
    "latest": ("image", "dev-kind", lambda d: box(d).update(image="gan-orchestrator:latest")),
    "latest of a kind": ("image", "dev-kind", lambda d: box(d).update(image="gan-orchestrator:latest-cuda")),
    "no tag": ("image", "dev-kind", lambda d: box(d).update(image="gan-orchestrator")),
    "no tag behind a port": (
        "image",
        "dev-kind",
        lambda d: box(d).update(image="registry.example.com:5000/gan-orchestrator"),
    ),
    "half a digest": ("image", "dev-kind", lambda d: box(d).update(image="gan-orchestrator@sha256:abc")),
    "no image": ("image", "dev-kind", lambda d: box(d).pop("image")),
    "no limits": ("limits", "dev-kind", lambda d: box(d)["resources"].pop("limits")),
    "no memory limit": ("limits", "dev-kind", lambda d: box(d)["resources"]["limits"].pop("memory")),
    "no requests": ("limits", "dev-kind", lambda d: box(d)["resources"].pop("requests")),
    "requests over limits": ("limits", "dev-kind", lambda d: box(d)["resources"]["requests"].update(memory="1Ti")),
    "no amount": ("amount", "dev-kind", lambda d: box(d)["resources"]["limits"].update(memory="two")),
    "token": ("token", "dev-kind", lambda d: pod(d).update(automountServiceAccountToken=True)),
    "token unsaid": ("token", "dev-kind", lambda d: pod(d).pop("automountServiceAccountToken")),
    "token volume": ("token", "dev-kind", token_volume),
    "token for the head": ("token", "gpu", token_for_head),
    "account's token": (
        "token",
        "dev-kind",
        lambda d: find(d, "ServiceAccount", "ray").pop("automountServiceAccountToken"),
    ),
    "default account's token": (
        "token",
        "dev-kind",
        lambda d: find(d, "ServiceAccount", "default").update(automountServiceAccountToken=True),
    ),
    "eternal token": (
        "token",
        "dev-kind",
        lambda d: more(d, "Secret", "v1", type="kubernetes.io/service-account-token"),
    ),
    "default account": ("account", "dev-kind", lambda d: pod(d).pop("serviceAccountName")),
    "service links": ("links", "dev-kind", lambda d: pod(d).pop("enableServiceLinks")),
    "no readiness": ("probes", "dev-kind", lambda d: box(d).pop("readinessProbe")),
    "no liveness": (
        "probes",
        "s3-prod",
        lambda d: pod(d, "StatefulSet", "postgres")["containers"][0].pop("livenessProbe"),
    ),
    "probe of no port": ("probes", "dev-kind", lambda d: box(d)["readinessProbe"]["httpGet"].update(port="web")),
    "GPU without toleration": (
        "gpu",
        "gpu",
        lambda d: cluster(d)["workerGroupSpecs"][0]["template"]["spec"].pop("tolerations"),
    ),
    "half a GPU": (
        "limits",
        "gpu",
        lambda d: cluster(d)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"][
            "requests"
        ].update({"nvidia.com/gpu": "0"}),
    ),
    # secrets
    "password in a variable": ("secrets", "dev-kind", lambda d: env(d, "DATABASE_PASSWORD", "hunter2")),
    "key in a variable": ("secrets", "dev-kind", lambda d: env(d, "AWS_SECRET_ACCESS_KEY", "abc")),
    "key by its look": ("secrets", "dev-kind", lambda d: env(d, "SOMETHING", KEY)),
    "password in an address": ("secrets", "dev-kind", lambda d: env(d, "URL", "postgresql://mlflow:hunter2@db/mlflow")),
    "password as an argument": ("secrets", "dev-kind", lambda d: box(d)["args"].append("--password=hunter2")),
    "secret in a ConfigMap": (
        "secrets",
        "dev-kind",
        lambda d: settings(d, "orchestrator").update(MLFLOW_TRACKING_PASSWORD="x"),
    ),
    "private key in a ConfigMap": (
        "secrets",
        "dev-kind",
        lambda d: settings(d, "orchestrator").update(file=PEM),
    ),
    "password in MLflow's file": (
        "secrets",
        "dev-kind",
        lambda d: settings(d, "mlflow-auth-config").update(
            {"auth.ini": "[mlflow]\ndefault_permission = READ\nadmin_password = x"}
        ),
    ),
    "whole Secret": (
        "secrets",
        "dev-kind",
        lambda d: box(d)["envFrom"].append({"secretRef": {"name": "mlflow-server"}}),
    ),
    # rights
    "wildcard verb": ("rbac", "dev-kind", lambda d: role(d)[0].update(verbs=["*"])),
    "wildcard resource": ("rbac", "dev-kind", lambda d: role(d)[0].update(resources=["*"])),
    "wildcard group": ("rbac", "dev-kind", lambda d: role(d)[0].update(apiGroups=["*"])),
    "reading Secrets": ("rbac", "dev-kind", lambda d: role(d)[1]["resources"].append("secrets")),
    "making pods": ("rbac", "dev-kind", lambda d: role(d)[3]["verbs"].append("create")),
    "commands in pods": ("rbac", "dev-kind", lambda d: role(d)[3]["resources"].append("pods/exec")),
    "deleting all": ("rbac", "dev-kind", lambda d: role(d)[0]["verbs"].append("deletecollection")),
    "giving rights": (
        "rbac",
        "dev-kind",
        lambda d: role(d).append(
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["bind"]}
        ),
    ),
    "tokens of others": (
        "rbac",
        "dev-kind",
        lambda d: role(d).append({"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}),
    ),
    "ClusterRole": ("rbac", "dev-kind", lambda d: more(d, "ClusterRole", RBAC, rules=[])),
    "cluster-admin": (
        "rbac",
        "dev-kind",
        lambda d: more(d, "ClusterRoleBinding", RBAC, roleRef={"kind": "ClusterRole", "name": "cluster-admin"}),
    ),
    "binding of cluster-admin": (
        "rbac",
        "dev-kind",
        lambda d: find(d, "RoleBinding")["roleRef"].update(kind="ClusterRole", name="cluster-admin"),
    ),
    "rights for everybody": ("rbac", "dev-kind", lambda d: bind(d, kind="Group", name="system:authenticated")),
    "rights for the default account": (
        "rbac",
        "dev-kind",
        lambda d: bind(d, kind="ServiceAccount", name="default", namespace="gan-orchestrator"),
    ),
    "role of nobody": ("reference", "dev-kind", lambda d: find(d, "RoleBinding")["roleRef"].update(name="submiter")),
    "account of nowhere": (
        "reference",
        "dev-kind",
        lambda d: find(d, "RoleBinding")["subjects"][0].update(namespace="default"),
    ),
    # namespace, exposure
    "baseline": (
        "namespace",
        "dev-kind",
        lambda d: find(d, "Namespace")["metadata"]["labels"].update({"pod-security.kubernetes.io/enforce": "baseline"}),
    ),
    "not enforced": (
        "namespace",
        "dev-kind",
        lambda d: find(d, "Namespace")["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce"),
    ),
    "old standard": (
        "namespace",
        "dev-kind",
        lambda d: find(d, "Namespace")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce-version": "v1.20"}
        ),
    ),
    "elsewhere": ("namespace", "dev-kind", lambda d: find(d, "Service")["metadata"].update(namespace="default")),
    "node port": ("exposure", "dev-kind", lambda d: find(d, "Service")["spec"].update(type="NodePort")),
    "load balancer": ("exposure", "dev-kind", lambda d: find(d, "Service")["spec"].update(type="LoadBalancer")),
    "external address": (
        "exposure",
        "dev-kind",
        lambda d: find(d, "Service")["spec"].update(externalIPs=["192.0.2.1"]),
    ),
    "ingress": ("exposure", "dev-kind", lambda d: more(d, "Ingress", "networking.k8s.io/v1")),
    # references and selectors
    "Service of no pod": (
        "selector",
        "dev-kind",
        lambda d: find(d, "Service")["spec"].update(selector={"app": "mlflow"}),
    ),
    "Service of no port": (
        "selector",
        "dev-kind",
        lambda d: find(d, "Service")["spec"]["ports"][0].update(targetPort="web"),
    ),
    "Deployment of no pod": (
        "selector",
        "dev-kind",
        lambda d: find(d, "Deployment")["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/name": "mlfow"}),
    ),
    "policy of no pod": (
        "selector",
        "dev-kind",
        lambda d: net(d, "ray-nodes").update(podSelector={"matchLabels": {"ray.io/is-ray-node": "true"}}),
    ),
    "policy to no pod": (
        "selector",
        "dev-kind",
        lambda d: net(d, "ray-to-mlflow")["egress"][0]["to"][0]["podSelector"]["matchLabels"].update(
            {"app.kubernetes.io/name": "mlfow"}
        ),
    ),
    "budget of no pod": (
        "selector",
        "dev-kind",
        lambda d: budget(d)["selector"].update(matchLabels={"app": "x"}),
    ),
    "account that is not": ("reference", "dev-kind", lambda d: pod(d).update(serviceAccountName="mlfow")),
    "Secret that is not": ("reference", "dev-kind", lambda d: drop(d, "Secret", "mlflow-auth")),
    "key that is not": (
        "reference",
        "dev-kind",
        lambda d: box(d)["env"][1]["valueFrom"]["secretKeyRef"].update(key="USERNAME"),
    ),
    "ConfigMap that is not": ("reference", "dev-kind", lambda d: drop(d, "ConfigMap", "mlflow")),
    "claim that is not": ("reference", "dev-kind", lambda d: drop(d, "PersistentVolumeClaim", "mlflow")),
    # traffic
    "nothing denied": ("network", "dev-kind", lambda d: drop(d, "NetworkPolicy", "default-deny")),
    "default allow": ("network", "dev-kind", lambda d: net(d, "default-deny").update(ingress=[{}])),
    "egress not denied": ("network", "dev-kind", lambda d: net(d, "default-deny").update(policyTypes=["Ingress"])),
    "open to the world": ("network", "dev-kind", lambda d: net(d, "ray-head")["ingress"][0]["from"].append(TO_ALL)),
    "open to the cluster": (
        "network",
        "dev-kind",
        lambda d: net(d, "mlflow")["ingress"][0]["from"].append({"namespaceSelector": {}}),
    ),
    "open to anyone": ("network", "dev-kind", lambda d: net(d, "mlflow")["ingress"][0].pop("from")),
    "every port": ("network", "dev-kind", lambda d: net(d, "mlflow")["ingress"][0].pop("ports")),
    "metadata service": (
        "network",
        "s3-prod",
        lambda d: net(d, "storage")["egress"][0]["to"][0]["ipBlock"].pop("except"),
    ),
    "type not said": ("network", "dev-kind", lambda d: net(d, "submitter").update(policyTypes=["Ingress"])),
    "no DNS": ("network", "dev-kind", lambda d: drop(d, "NetworkPolicy", "dns")),
    "DNS by TCP alone": ("network", "dev-kind", lambda d: net(d, "dns")["egress"][0]["ports"].pop(0)),
    "no way to MLflow": ("network", "dev-kind", lambda d: drop(d, "NetworkPolicy", "ray-to-mlflow")),
    "MLflow lets nobody in": ("network", "dev-kind", lambda d: drop(d, "NetworkPolicy", "mlflow")),
    "wrong port to the head": (
        "network",
        "dev-kind",
        lambda d: net(d, "ray-head")["ingress"][0]["ports"][0].update(port=8266),
    ),
    "operator elsewhere": (
        "network",
        "dev-kind",
        lambda d: net(d, "ray-head")["ingress"][0]["from"][1]["namespaceSelector"].update(
            matchLabels={"kubernetes.io/metadata.name": "default"}
        ),
    ),
    "workers apart": ("network", "dev-kind", lambda d: drop(d, "NetworkPolicy", "ray-nodes")),
    "no way to the storage": ("network", "s3-prod", lambda d: drop(d, "NetworkPolicy", "storage")),
    "no way to the database": ("network", "s3-prod", lambda d: drop(d, "NetworkPolicy", "mlflow-to-postgres")),
    "database for all": (
        "network",
        "s3-prod",
        lambda d: net(d, "postgres")["ingress"][0]["from"].append(
            {"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}}
        ),
    ),
    "autoscaler cut off": ("network", "dev-kind", lambda d: drop(d, "NetworkPolicy", "autoscaler")),
    # room
    "no quota": ("missing", "dev-kind", lambda d: drop(d, "ResourceQuota")),
    "no limit range": ("missing", "dev-kind", lambda d: drop(d, "LimitRange")),
    "quota without memory": (
        "missing",
        "dev-kind",
        lambda d: quota(d).pop("limits.memory"),
    ),
    "quota too small": (
        "room",
        "dev-kind",
        lambda d: quota(d).update({"requests.memory": "512Mi"}),
    ),
    "range too small": (
        "room",
        "dev-kind",
        lambda d: most(d).update(memory="1536Mi"),
    ),
    "default over the most": (
        "amount",
        "dev-kind",
        lambda d: most(d).update(cpu="500m"),
    ),
    "quota of nothing": ("amount", "dev-kind", lambda d: quota(d).update(pods="many")),
    "no budget": (
        "missing",
        "dev-kind",
        lambda d: [drop(d, "PodDisruptionBudget", "mlflow"), drop(d, "PodDisruptionBudget", "ray-head")],
    ),
    "budget that nobody can count": (
        "budget",
        "dev-kind",
        lambda d: find(d, "PodDisruptionBudget", "ray-head").update(
            spec={"maxUnavailable": 0, "selector": {"matchLabels": {"ray.io/node-type": "head"}}}
        ),
    ),
    "node never drained": (
        "budget",
        "dev-kind",
        lambda d: budget(d).update(maxUnavailable=0),
    ),
    "budget of both": (
        "budget",
        "dev-kind",
        lambda d: budget(d).update(minAvailable=1),
    ),
    # MLflow
    "MLflow without accounts": ("tracking", "dev-kind", lambda d: box(d)["args"].remove("--app-name=basic-auth")),
    "MLflow for any host": (
        "tracking",
        "dev-kind",
        lambda d: settings(d, "mlflow").update(MLFLOW_SERVER_ALLOWED_HOSTS="*"),
    ),
    "MLflow under another name": (
        "tracking",
        "dev-kind",
        lambda d: settings(d, "orchestrator").update(MLFLOW_TRACKING_URI="http://tracking:5000"),
    ),
    "MLflow without a proxy": ("tracking", "dev-kind", lambda d: box(d)["args"].remove("--serve-artifacts")),
    "anyone may edit": (
        "tracking",
        "dev-kind",
        lambda d: settings(d, "mlflow-auth-config").update({"auth.ini": "[mlflow]\ndefault_permission = MANAGE"}),
    ),
    # what serves can start, and keeps its data
    "no MLflow": ("tracking", "dev-kind", lambda d: box(d).pop("command")),
    "MLflow on loopback": ("tracking", "dev-kind", lambda d: box(d)["args"].remove("--host=0.0.0.0")),
    "MLflow on another port": ("tracking", "dev-kind", lambda d: box(d)["args"].remove("--port=5000")),
    "MLflow without its key": ("tracking", "dev-kind", lambda d: box(d)["env"].pop()),
    "accounts of MLflow's own": (
        "tracking",
        "dev-kind",
        lambda d: settings(d, "mlflow").pop("MLFLOW_AUTH_CONFIG_PATH"),
    ),
    "accounts' file gone": ("tracking", "dev-kind", lambda d: settings(d, "mlflow-auth-config").pop("auth.ini")),
    "tables lost with the pod": (
        "tracking",
        "dev-kind",
        lambda d: settings(d, "mlflow").update(MLFLOW_BACKEND_STORE_URI="sqlite:////tmp/mlflow.db"),
    ),
    "files lost with the pod": (
        "tracking",
        "dev-kind",
        lambda d: settings(d, "mlflow").update(MLFLOW_ARTIFACTS_DESTINATION="/tmp/artifacts"),
    ),
    "variable that is not": ("reference", "dev-kind", lambda d: settings(d, "mlflow").pop("MLFLOW_BACKEND_STORE_URI")),
    "MLflow's Service elsewhere": (
        "reference",
        "dev-kind",
        lambda d: find(d, "Service")["spec"]["ports"][0].update(port=80),
    ),
    "MLflow that nobody finds": (
        "reference",
        "dev-kind",
        lambda d: settings(d, "orchestrator").update(MLFLOW_TRACKING_URI="http://mlfow:5000"),
    ),
    "jobs are not told": ("missing", "dev-kind", lambda d: settings(d, "orchestrator").pop("ORCHESTRATOR_STORAGE")),
    "database elsewhere": (
        "reference",
        "s3-prod",
        lambda d: settings(d, "mlflow").update(PGHOST="postgre.gan-orchestrator.svc"),
    ),
    "database's port": ("reference", "s3-prod", lambda d: settings(d, "mlflow").update(PGPORT="5433")),
    "database's password": (
        "tracking",
        "s3-prod",
        lambda d: box(d).update(env=[v for v in box(d)["env"] if v["name"] != "PGPASSWORD"]),
    ),
    "database without a password": (
        "tracking",
        "s3-prod",
        lambda d: pod(d, "StatefulSet", "postgres")["containers"][0]["env"].pop(2),
    ),
    "database lost with the pod": (
        "tracking",
        "s3-prod",
        lambda d: pod(d, "StatefulSet", "postgres")["containers"][0]["env"].pop(),
    ),
    "no key to the storage": ("tracking", "s3-prod", lambda d: box(d)["env"].pop(0)),
    "database of no Service": (
        "reference",
        "s3-prod",
        lambda d: find(d, "StatefulSet")["spec"].update(serviceName="db"),
    ),
    "rolling update": ("rollout", "dev-kind", lambda d: find(d, "Deployment")["spec"].pop("strategy")),
    "two on one volume": ("rollout", "dev-kind", lambda d: find(d, "Deployment")["spec"].update(replicas=2)),
    "volume of root": ("files", "dev-kind", lambda d: pod(d)["securityContext"].pop("fsGroup")),
    "volume of nothing": ("volumes", "dev-kind", lambda d: pod(d)["volumes"][0].pop("persistentVolumeClaim")),
    "volume that nobody mounts": ("mount", "dev-kind", lambda d: volume(d, emptyDir={"sizeLimit": "1Gi"})),
    "endless files": ("limits", "dev-kind", lambda d: pod(d)["volumes"][2]["emptyDir"].pop("sizeLimit")),
    "empty variable": ("env", "dev-kind", lambda d: box(d)["env"][1].update(valueFrom={})),
    "probe of the front page": ("probes", "dev-kind", lambda d: box(d)["livenessProbe"]["httpGet"].pop("path")),
    # less than is needed
    "submitter without its cluster": ("rbac", "dev-kind", lambda d: role(d)[1]["verbs"].remove("get")),
    "submitter without logs": ("rbac", "dev-kind", lambda d: role(d)[4]["resources"].remove("pods/log")),
    "submitter is nobody": ("rbac", "dev-kind", lambda d: find(d, "RoleBinding").update(subjects=[])),
    "no default limits": ("missing", "dev-kind", lambda d: find(d, "LimitRange")["spec"]["limits"][0].pop("default")),
    "any number of volumes": ("missing", "dev-kind", lambda d: quota(d).pop("persistentvolumeclaims")),
    "node ports by quota": ("missing", "dev-kind", lambda d: quota(d).pop("services.nodeports")),
    "policy for all": (
        "network",
        "dev-kind",
        lambda d: net(d, "ray-to-mlflow").update(podSelector={"matchLabels": {}}),
    ),
    "peer is all": (
        "network",
        "dev-kind",
        lambda d: net(d, "dns")["egress"][0]["to"][0]["namespaceSelector"].update(matchLabels={}),
    ),
    "operator's whole namespace": (
        "network",
        "dev-kind",
        lambda d: net(d, "ray-head")["ingress"][0]["from"][1].pop("podSelector"),
    ),
    "no address": ("network", "s3-prod", lambda d: net(d, "storage")["egress"][0]["to"][0]["ipBlock"].pop("cidr")),
    # what the API server refuses behind its schema
    "bad name": ("name", "dev-kind", lambda d: find(d, "Deployment")["metadata"].update(name="MLflow_server")),
    "bad label": (
        "label",
        "dev-kind",
        lambda d: find(d, "Deployment")["metadata"]["labels"].update({"a": "not a value"}),
    ),
    "port name too long": ("port", "dev-kind", lambda d: box(d)["ports"][0].update(name="a-name-that-is-too-long")),
    "port out of range": ("port", "dev-kind", lambda d: box(d)["ports"][0].update(containerPort=70000)),
    "variable twice": ("twice", "dev-kind", lambda d: env(d, "HOME", "/")),
    "mount of nothing": ("mount", "dev-kind", lambda d: box(d)["volumeMounts"][0].update(name="dat")),
    "document twice": ("twice", "dev-kind", lambda d: d.append(copy.deepcopy(find(d, "Service")))),
    "claim of nothing": (
        "amount",
        "dev-kind",
        lambda d: find(d, "PersistentVolumeClaim", "runs")["spec"]["resources"]["requests"].update(storage="much"),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    rule, where, change = MUTANTS[name]
    docs = overlay(where)
    change(docs)
    assert docs != overlay(where), "nothing was changed"
    assert rule in {v.rule for v in policy.check_bundle(docs)}


def test_every_rule_has_a_mutant() -> None:
    """A rule that no change can set off would be no rule."""
    source = "".join(p.read_text() for p in Path(policy.__file__).parent.glob("*.py") if p.name in SOURCES)
    rules = set(re.findall(r'yield \(?"([a-z-]+)", ', source))
    assert len(rules) > 25
    assert rules - {rule for rule, _, _ in MUTANTS.values()} == {"containers", "size", "syntax"}, "tested below"


SOURCES = ("serving.py", "access.py", "bundle.py", "hardening.py", "traffic.py", "wellformed.py")


def test_rules_of_odd_documents() -> None:
    docs = overlay("dev-kind")
    pod(docs)["containers"] = []
    assert "containers" in {v.rule for v in policy.check(docs)}
    docs = overlay("dev-kind")
    box(docs)["env"].append({"name": "X", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
    find(docs, "ConfigMap", "mlflow")["data"] |= {"big": "x" * 2**20, "a.yaml": "a: ["}
    assert {"env", "size", "syntax"} <= {v.rule for v in policy.check(docs)}


def hardened(docs: Docs) -> Iterator[tuple[str, Doc]]:
    """Every container of every pod, those of Ray and its operator, too."""
    for document in docs:
        for work in workloads(document):
            for at, _ in work.containers:
                real: Any = document
                for key in at.replace("[", ".[").split("."):
                    real = real[int(key[1:-1])] if key.startswith("[") else real[key]
                yield f"{document['kind']} {document['metadata']['name']} {at}", real


WORSE: dict[str, Change] = {
    "privileged": lambda c: c["securityContext"].update(privileged=True),
    "escalation": lambda c: c["securityContext"].update(allowPrivilegeEscalation=True),
    "capabilities": lambda c: c["securityContext"].pop("capabilities"),
    "root": lambda c: c["securityContext"].update(runAsNonRoot=False),
    "seccomp": lambda c: c["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    "read-only": lambda c: c["securityContext"].pop("readOnlyRootFilesystem"),
    "limits": lambda c: c["resources"].pop("limits"),
    "image": lambda c: c.update(image="gan-orchestrator:latest"),
    "secrets": lambda c: c.setdefault("env", []).append({"name": "API_TOKEN", "value": "x"}),
}


@pytest.mark.parametrize("rule", WORSE)
def test_no_container_is_forgotten(rule: str) -> None:
    """The same change, in each container of all overlays and jobs: head, workers, submitter, autoscaler, MLflow, database."""
    every = [d for name in OVERLAYS for d in overlay(name)]
    every += [d for names in JOBS.values() for n in names for d in job(n)]
    count = 0
    for original in every:
        for number in range(len(list(hardened([original])))):
            document = copy.deepcopy(original)
            place, container = list(hardened([document]))[number]
            WORSE[rule](container)
            assert rule in {v.rule for v in policy.check([document])}, place
            count += 1
    assert count >= 15


RAY: dict[str, Change] = {
    "no context for the autoscaler": lambda d: d["spec"]["autoscalerOptions"].pop("securityContext"),
    "no token": lambda d: d["spec"].pop("authOptions"),
    "max under min": lambda d: d["spec"]["workerGroupSpecs"][0].update(minReplicas=9),
    "unknown field": lambda d: d["spec"].update(workerGroups=[]),
    "name too long": lambda d: d["metadata"].update(name="x" * 48),
    "restarts with autoscaler v2": lambda d: d["spec"]["workerGroupSpecs"][0]["template"]["spec"].update(
        restartPolicy="Always"
    ),
}
JOB: dict[str, Change] = {
    "no submitter template": lambda d: d["spec"].pop("submitterPodTemplate"),
    "no deadline": lambda d: d["spec"].pop("activeDeadlineSeconds"),
    "ttl without shutdown": lambda d: d["spec"].update(shutdownAfterJobFinishes=False),
    "unknown mode": lambda d: d["spec"].update(submissionMode="Bogus"),
    "submitter restarts": lambda d: d["spec"]["submitterPodTemplate"]["spec"].update(restartPolicy="Always"),
}


@pytest.mark.parametrize("name", [*RAY, *JOB])
def test_mutant_of_a_ray_document_is_caught(name: str) -> None:
    document = find(overlay("gpu"), "RayCluster") if name in RAY else find(job("ring8"), "RayJob")
    assert model.check(document) == []
    (RAY | JOB)[name](document)
    assert model.check(document)

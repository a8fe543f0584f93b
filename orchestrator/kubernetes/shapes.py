"""The fields of a RayJob, a RayCluster (`ray.io/v1`, KubeRay 1.7) and the pods in them, with their types.

As strict as the API server with `fieldValidation=Strict`: an unknown field, another type, a missing or unlisted value is
told with its path. One line a field in `SHAPES`: `name type`, `name! type` where it is required. A type is `str`, `bool`,
`int` (32 bits), `long`, `num`, `quantity`, `port` (a number or a name), `any`, the name of another shape, `[T]`, `{T}` (a
mapping by text) or `a|b|c` (one of these texts). Kinds of volume that PSA `restricted` forbids are not among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?(\d+(\.\d*)?|\.\d+))?")
UNIQUE = {  # lists that are mappings to the API server: it refuses two items with the same values of these
    "containers": ("name",),
    "env": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ports": ("containerPort", "port", "protocol"),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
    "workerGroups": ("groupName",),
}
_BITS = {"int": 31, "long": 63}

SHAPES: dict[str, str] = {
    "RayJob": "apiVersion! ray.io/v1; kind! RayJob; metadata! Meta; spec! RayJobSpec; status any",
    "RayCluster": "apiVersion! ray.io/v1; kind! RayCluster; metadata! Meta; spec! RayClusterSpec; status any",
    "Meta": """
        name str; generateName str; namespace str; labels {str}; annotations {str}; finalizers [str]; uid str
        ownerReferences [any]; managedFields any; creationTimestamp any; generation any; resourceVersion any; selfLink any
        deletionTimestamp any; deletionGracePeriodSeconds any""",
    "RayJobSpec": """
        activeDeadlineSeconds int; backoffLimit int; clusterSelector {str}; deletionStrategy DeletionStrategy
        entrypoint str; entrypointNumCpus num; entrypointNumGpus num; entrypointResources str; jobId str
        managedBy ray.io/kuberay-operator|kueue.x-k8s.io/multikueue; metadata {str}; preRunningDeadlineSeconds int
        rayClusterSpec RayClusterSpec; runtimeEnvYAML str; shutdownAfterJobFinishes bool; submissionMode str
        submitterConfig SubmitterConfig; submitterPodTemplate Template; suspend bool; ttlSecondsAfterFinished int""",
    "SubmitterConfig": "backoffLimit int",
    "DeletionStrategy": "deletionRules [DeletionRule]; onFailure DeletionPolicy; onSuccess DeletionPolicy",
    "DeletionPolicy": "policy DeleteCluster|DeleteWorkers|DeleteSelf|DeleteNone",
    "DeletionRule": "condition! DeletionCondition; policy! DeleteCluster|DeleteWorkers|DeleteSelf|DeleteNone",
    "DeletionCondition": "jobDeploymentStatus Failed|; jobStatus SUCCEEDED|FAILED; ttlSeconds int",
    "RayClusterSpec": """
        authOptions AuthOptions; autoscalerOptions AutoscalerOptions; enableInTreeAutoscaling bool
        gcsFaultToleranceOptions GcsOptions; headGroupSpec! HeadGroup; headServiceAnnotations {str}
        historyServerOptions HistoryServerOptions; managedBy ray.io/kuberay-operator|kueue.x-k8s.io/multikueue
        networkPolicy NetworkPolicy; rayVersion str; suspend bool; tlsOptions TlsOptions; upgradeStrategy UpgradeStrategy
        workerGroupSpecs [WorkerGroup]""",
    "AuthOptions": "enableK8sTokenAuth bool; mode disabled|token; secretName str",
    "AutoscalerOptions": """
        args [str]; command [str]; env [Env]; envFrom [EnvFrom]; idleTimeoutSeconds int; image str; imagePullPolicy str
        resources Resources; securityContext ContainerSecurity; upscalingMode Default|Aggressive|Conservative
        version v1|v2; volumeMounts [VolumeMount]""",
    "GcsOptions": """
        backend redis|rocksdb; externalStorageNamespace str; redisAddress str; redisPassword Value; redisUsername Value
        storage GcsStorage""",
    "GcsStorage": """
        accessModes [str]; claimName str; deletionPolicy DeleteWithCluster|Retain; size quantity; storageClassName str
        subPath str""",
    "NetworkPolicy": """
        head Traffic; mode DenyAll|DenyAllIngress|DenyAllEgress; worker Traffic; workerGroups [GroupTraffic]""",
    "Traffic": "egressRules [EgressRule]; ingressRules [IngressRule]",
    "GroupTraffic": "egressRules [EgressRule]; groupName! str; ingressRules [IngressRule]",
    "EgressRule": "ports [PolicyPort]; to [Peer]",
    "IngressRule": "from [Peer]; ports [PolicyPort]",
    "PolicyPort": "endPort int; port port; protocol TCP|UDP|SCTP",
    "Peer": "ipBlock IpBlock; namespaceSelector Selector; podSelector Selector",
    "IpBlock": "cidr! str; except [str]",
    "Ingress": "host str; path str; pathType Exact|Prefix|ImplementationSpecific; tls [IngressTls]",
    "IngressTls": "hosts [str]; secretName str",
    "HeadService": "apiVersion str; kind str; metadata TemplateMeta; spec ServiceSpec; status any",
    "ServiceSpec": """
        allocateLoadBalancerNodePorts bool; clusterIP str; clusterIPs [str]; externalIPs [str]; externalName str
        externalTrafficPolicy str; healthCheckNodePort int; internalTrafficPolicy str; ipFamilies [str]
        ipFamilyPolicy str; loadBalancerClass str; loadBalancerIP str; loadBalancerSourceRanges [str]
        ports [ServicePort]; publishNotReadyAddresses bool; selector {str}; sessionAffinity str
        sessionAffinityConfig any; trafficDistribution str; type ClusterIP|NodePort|LoadBalancer|ExternalName""",
    "ServicePort": "appProtocol str; name str; nodePort int; port! int; protocol TCP|UDP|SCTP; targetPort port",
    "HistoryServerOptions": "collectorOptions CollectorOptions",
    "CollectorOptions": "env [Env]; image str; imagePullPolicy str; resources Resources",
    "TlsOptions": "enabled bool",
    "UpgradeStrategy": "type Recreate|None",
    "HeadGroup": """
        enableIngress bool; headService HeadService; ingressOptions Ingress; labels {str}; rayStartParams {str}
        resources {quantity}
        serviceType str; template! Template""",
    "WorkerGroup": """
        groupName! str; idleTimeoutSeconds int; labels {str}; maxReplicas int; minReplicas int; numOfHosts int
        priority int; rayStartParams {str}; replicas int; resources {quantity}; scaleStrategy ScaleStrategy
        suspend bool; template! Template""",
    "ScaleStrategy": "workersToDelete [str]",
    "Template": "metadata TemplateMeta; spec! PodSpec",
    "TemplateMeta": "annotations {str}; finalizers [str]; labels {str}; name str; namespace str",
    "PodSpec": """
        activeDeadlineSeconds long; affinity Affinity; automountServiceAccountToken bool; containers! [Container]
        dnsConfig DnsConfig; dnsPolicy ClusterFirst|ClusterFirstWithHostNet|Default|None; enableServiceLinks bool
        ephemeralContainers [any]; hostAliases [HostAlias]; hostIPC bool; hostNetwork bool; hostPID bool; hostUsers bool
        hostname str; hostnameOverride str; imagePullSecrets [Named]; initContainers [Container]; nodeName str
        nodeSelector {str}; os NameRequired; overhead {quantity}; preemptionPolicy Never|PreemptLowerPriority
        priority int; priorityClassName str; readinessGates [any]; resourceClaims [any]; resources Resources
        restartPolicy Always|OnFailure|Never; runtimeClassName str; schedulerName str; schedulingGates [NameRequired]
        schedulingGroup any; securityContext PodSecurity; serviceAccount str; serviceAccountName str
        setHostnameAsFQDN bool; shareProcessNamespace bool; subdomain str; terminationGracePeriodSeconds long
        tolerations [Toleration]; topologySpreadConstraints [TopologySpread]; volumes [Volume]""",
    "DnsConfig": "nameservers [str]; options [DnsOption]; searches [str]",
    "DnsOption": "name str; value str",
    "HostAlias": "hostnames [str]; ip! str",
    "Named": "name str",
    "NameRequired": "name! str",
    "Toleration": """
        effect NoSchedule|PreferNoSchedule|NoExecute; key str; operator Exists|Equal|Lt|Gt; tolerationSeconds long
        value str""",
    "TopologySpread": """
        labelSelector Selector; matchLabelKeys [str]; maxSkew! int; minDomains int; nodeAffinityPolicy Honor|Ignore
        nodeTaintsPolicy Honor|Ignore; topologyKey! str; whenUnsatisfiable! DoNotSchedule|ScheduleAnyway""",
    "Selector": "matchExpressions [SelectorTerm]; matchLabels {str}",
    "SelectorTerm": "key! str; operator! str; values [str]",
    "Affinity": "nodeAffinity NodeAffinity; podAffinity PodAffinity; podAntiAffinity PodAffinity",
    "NodeAffinity": """
        preferredDuringSchedulingIgnoredDuringExecution [PreferredNode]
        requiredDuringSchedulingIgnoredDuringExecution NodeSelector""",
    "PreferredNode": "preference! NodeTerm; weight! int",
    "NodeSelector": "nodeSelectorTerms! [NodeTerm]",
    "NodeTerm": "matchExpressions [SelectorTerm]; matchFields [SelectorTerm]",
    "PodAffinity": """
        preferredDuringSchedulingIgnoredDuringExecution [PreferredPod]
        requiredDuringSchedulingIgnoredDuringExecution [PodTerm]""",
    "PreferredPod": "podAffinityTerm! PodTerm; weight! int",
    "PodTerm": """
        labelSelector Selector; matchLabelKeys [str]; mismatchLabelKeys [str]; namespaceSelector Selector
        namespaces [str]; topologyKey! str""",
    "Container": """
        args [str]; command [str]; env [Env]; envFrom [EnvFrom]; image str; imagePullPolicy Always|IfNotPresent|Never
        lifecycle Lifecycle; livenessProbe Probe; name! str; ports [ContainerPort]; readinessProbe Probe
        resizePolicy [any]; resources Resources; restartPolicy str; restartPolicyRules [any]
        securityContext ContainerSecurity; startupProbe Probe; stdin bool; stdinOnce bool; terminationMessagePath str
        terminationMessagePolicy File|FallbackToLogsOnError; tty bool; volumeDevices [any]; volumeMounts [VolumeMount]
        workingDir str""",
    "ContainerPort": "containerPort! int; hostIP str; hostPort int; name str; protocol TCP|UDP|SCTP",
    "Env": "name! str; value str; valueFrom ValueFrom",
    "Value": "value str; valueFrom ValueFrom",
    "ValueFrom": """
        configMapKeyRef KeyRef; fieldRef FieldRef; fileKeyRef any; resourceFieldRef ResourceRef; secretKeyRef KeyRef""",
    "KeyRef": "key! str; name str; optional bool",
    "FieldRef": "apiVersion str; fieldPath! str",
    "ResourceRef": "containerName str; divisor quantity; resource! str",
    "EnvFrom": "configMapRef SourceRef; prefix str; secretRef SourceRef",
    "SourceRef": "name str; optional bool",
    "Lifecycle": "postStart Hook; preStop Hook; stopSignal str",
    "Hook": "exec Exec; httpGet HttpGet; sleep Sleep; tcpSocket TcpSocket",
    "Exec": "command [str]",
    "HttpGet": "host str; httpHeaders [HttpHeader]; path str; port! port; scheme HTTP|HTTPS",
    "HttpHeader": "name! str; value! str",
    "Sleep": "seconds! long",
    "TcpSocket": "host str; port! port",
    "Grpc": "port! int; service str",
    "Probe": """
        exec Exec; failureThreshold int; grpc Grpc; httpGet HttpGet; initialDelaySeconds int; periodSeconds int
        successThreshold int; tcpSocket TcpSocket; terminationGracePeriodSeconds long; timeoutSeconds int""",
    "Resources": "claims [ResourceClaim]; limits {quantity}; requests {quantity}",
    "ResourceClaim": "name! str; request str",
    "AppArmor": "localhostProfile str; type! RuntimeDefault|Unconfined|Localhost",
    "Seccomp": "localhostProfile str; type! RuntimeDefault|Unconfined|Localhost",
    "SeLinux": "level str; role str; type str; user str",
    "Windows": "gmsaCredentialSpec str; gmsaCredentialSpecName str; hostProcess bool; runAsUserName str",
    "Capabilities": "add [str]; drop [str]",
    "ContainerSecurity": """
        allowPrivilegeEscalation bool; appArmorProfile AppArmor; capabilities Capabilities; privileged bool
        procMount Default|Unmasked; readOnlyRootFilesystem bool; runAsGroup long; runAsNonRoot bool; runAsUser long
        seLinuxOptions SeLinux; seccompProfile Seccomp; windowsOptions Windows""",
    "PodSecurity": """
        appArmorProfile AppArmor; fsGroup long; fsGroupChangePolicy OnRootMismatch|Always; runAsGroup long
        runAsNonRoot bool; runAsUser long; seLinuxChangePolicy str; seLinuxOptions SeLinux; seccompProfile Seccomp
        supplementalGroups [long]; supplementalGroupsPolicy Merge|Strict; sysctls [Sysctl]; windowsOptions Windows""",
    "Sysctl": "name! str; value! str",
    "VolumeMount": """
        mountPath! str; mountPropagation None|HostToContainer|Bidirectional; name! str; readOnly bool
        recursiveReadOnly Disabled|IfPossible|Enabled; subPath str; subPathExpr str""",
    "Volume": """
        name! str; configMap ConfigMapVolume; csi Csi; downwardAPI DownwardVolume; emptyDir EmptyDir; ephemeral any
        hostPath HostPath; image ImageVolume; nfs Nfs; persistentVolumeClaim Claim; projected Projected
        secret SecretVolume""",
    "KeyToPath": "key! str; mode int; path! str",
    "ConfigMapVolume": "defaultMode int; items [KeyToPath]; name str; optional bool",
    "SecretVolume": "defaultMode int; items [KeyToPath]; optional bool; secretName str",
    "Csi": "driver! str; fsType str; nodePublishSecretRef Named; readOnly bool; volumeAttributes {str}",
    "DownwardVolume": "defaultMode int; items [DownwardItem]",
    "DownwardItem": "fieldRef FieldRef; mode int; path! str; resourceFieldRef ResourceRef",
    "EmptyDir": "medium str; sizeLimit quantity",
    "HostPath": "path! str; type str",
    "ImageVolume": "pullPolicy str; reference str",
    "Nfs": "path! str; readOnly bool; server! str",
    "Claim": "claimName! str; readOnly bool",
    "Projected": "defaultMode int; sources [ProjectedSource]",
    "ProjectedSource": """
        clusterTrustBundle any; configMap ProjectedMap; downwardAPI ProjectedDownward; podCertificate any
        secret ProjectedMap; serviceAccountToken ProjectedToken""",
    "ProjectedMap": "items [KeyToPath]; name str; optional bool",
    "ProjectedDownward": "items [DownwardItem]",
    "ProjectedToken": "audience str; expirationSeconds long; path! str",
}


@dataclass(frozen=True)
class Refusal:
    """What is wrong with a document, and where.

    `kind`: "schema" the API server refuses it; "operator" it is accepted, and KubeRay (or the pods' creation) refuses it;
    "safety" it runs, but not as this project promises.
    """

    path: str  # spec.workerGroupSpecs[0].minReplicas
    what: str
    kind: str = "schema"

    def __str__(self) -> str:
        return f"{self.path or 'the document'}: {self.what}"


def faults(value: Any, shape: str, path: str = "") -> Iterator[Refusal]:
    """Every place where `value` has not this shape."""
    fields = _fields(shape)
    if not isinstance(value, Mapping):
        yield Refusal(path, f"must be a mapping, not {_told(value)}")
        return
    for name, (required, _) in fields.items():
        if required and name not in value:
            yield Refusal(path, f"`{name}` is missing")
    for name, item in value.items():
        below = f"{path}.{name}" if path else str(name)
        if name not in fields:
            near = get_close_matches(str(name), fields, n=1)
            yield Refusal(below, "no such field" + (f"; did you mean {near[0]}?" if near else ""))
        else:
            yield from _typed(item, fields[name][1], below)
            if name in UNIQUE and isinstance(item, list):
                yield from _twice(item, UNIQUE[name], below)


def _twice(items: list[Any], keys: tuple[str, ...], path: str) -> Iterator[Refusal]:
    seen: list[Any] = []
    for number, item in enumerate(items):
        if isinstance(item, Mapping):
            values = [item.get(key, "TCP" if key == "protocol" else None) for key in keys]
            if values in seen:
                named = ", ".join(str(value) for value in values if value is not None)
                yield Refusal(f"{path}[{number}]", f"{named} stands here twice")
            seen.append(values)


@cache
def _fields(shape: str) -> dict[str, tuple[bool, str]]:
    """Name -> whether it is required, and its type."""
    found = {}
    for line in re.split(r"[;\n]", SHAPES[shape]):
        if line.strip():
            name, kind = line.split()
            found[name.rstrip("!")] = (name.endswith("!"), kind)
    return found


def _typed(value: Any, kind: str, path: str) -> Iterator[Refusal]:
    if kind == "any":
        return
    if kind in SHAPES and kind not in ("RayJob", "RayCluster"):
        yield from faults(value, kind, path)
    elif kind.startswith("["):
        if not isinstance(value, list):
            yield Refusal(path, f"must be a list, not {_told(value)}")
            return
        for number, item in enumerate(value):
            yield from _typed(item, kind[1:-1], f"{path}[{number}]")
    elif kind.startswith("{"):
        if not isinstance(value, Mapping):
            yield Refusal(path, f"must be a mapping, not {_told(value)}")
            return
        for name, item in value.items():
            if not isinstance(name, str):
                yield Refusal(path, f"its key {_told(name)} must be a text")
            yield from _typed(item, kind[1:-1], f"{path}.{name}")
    elif what := _scalar(value, kind):
        yield Refusal(path, what)


def _scalar(value: Any, kind: str) -> str:
    """What is wrong with a value that holds no others, "" where nothing is."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind in _BITS:
        if not whole:
            return f"must be an integer, not {_told(value)}"
        return "" if -(2 ** _BITS[kind]) <= value < 2 ** _BITS[kind] else f"{value} is out of range"
    if kind == "num":
        return "" if whole or isinstance(value, float) else f"must be a number, not {_told(value)}"
    if kind == "bool":
        return "" if isinstance(value, bool) else f"must be true or false, not {_told(value)}"
    if kind == "quantity":
        if not whole and not (isinstance(value, str) and QUANTITY.fullmatch(value)):
            return f"must be a quantity as 500m or 4Gi, not {_told(value)}"
        return ""
    if kind == "port":
        return "" if whole or isinstance(value, str) else f"must be a port's number or name, not {_told(value)}"
    if not isinstance(value, str):
        return f"must be a text, not {_told(value)}" + ("; quote it" if whole or isinstance(value, bool) else "")
    if kind == "str":
        return ""
    choices = [choice for choice in kind.split("|") if choice]
    if value in choices:
        return ""
    return f"must be {' or '.join(choices)}, not {_told(value)}"


def _told(value: Any) -> str:
    text = repr(value) if not isinstance(value, Mapping | list) else type(value).__name__
    text = {"dict": "a mapping", "list": "a list", "None": "nothing"}.get(text, text)
    return text if len(text) <= 60 else text[:59] + "…"


__all__ = ["QUANTITY", "Refusal", "faults"]

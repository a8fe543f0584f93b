"""The fields of the Kubernetes objects that an installation is made of, beside pods and Ray: in the language of `shapes`.

`KINDS` says which version of each kind is meant; another version of a kind that stands here is a fault.
"""

from __future__ import annotations

KINDS: dict[str, str] = {
    "ClusterQueue": "kueue.x-k8s.io/v1beta1",
    "ClusterRole": "rbac.authorization.k8s.io/v1",
    "ClusterRoleBinding": "rbac.authorization.k8s.io/v1",
    "ConfigMap": "v1",
    "CronJob": "batch/v1",
    "DaemonSet": "apps/v1",
    "Deployment": "apps/v1",
    "Ingress": "networking.k8s.io/v1",
    "Job": "batch/v1",
    "LimitRange": "v1",
    "LocalQueue": "kueue.x-k8s.io/v1beta1",
    "Namespace": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PersistentVolumeClaim": "v1",
    "Pod": "v1",
    "PodDisruptionBudget": "policy/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PodTemplate": "v1",
    "ReplicaSet": "apps/v1",
    "ResourceFlavor": "kueue.x-k8s.io/v1beta1",
    "ResourceQuota": "v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "Secret": "v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "StatefulSet": "apps/v1",
}
_HEAD = "apiVersion! str; kind! str; metadata! Meta; "
_PODS = "minReadySeconds int; replicas int; revisionHistoryLimit int; selector! Selector; template! Template; "
_MODES = "[ReadWriteOnce|ReadOnlyMany|ReadWriteMany|ReadWriteOncePod]"

SHAPES: dict[str, str] = {
    "Namespace": _HEAD + "spec NamespaceSpec; status any",
    "NamespaceSpec": "finalizers [str]",
    "ServiceAccount": _HEAD + "automountServiceAccountToken bool; imagePullSecrets [Named]; secrets [any]",
    "ConfigMap": _HEAD + "binaryData {str}; data {str}; immutable bool",
    "Secret": _HEAD + "data {base64}; immutable bool; stringData {str}; type str",
    "Role": _HEAD + "rules [Rule]",
    "ClusterRole": _HEAD + "aggregationRule any; rules [Rule]",
    "Rule": "apiGroups [str]; nonResourceURLs [str]; resourceNames [str]; resources [str]; verbs! [str]",
    "RoleBinding": _HEAD + "roleRef! RoleRef; subjects [Subject]",
    "ClusterRoleBinding": _HEAD + "roleRef! RoleRef; subjects [Subject]",
    "RoleRef": "apiGroup! rbac.authorization.k8s.io|; kind! Role|ClusterRole; name! part",
    "Subject": "apiGroup str; kind! ServiceAccount|User|Group; name! str; namespace str",
    "Service": _HEAD + "spec! ServiceSpec; status any",
    "PersistentVolumeClaim": _HEAD + "spec! ClaimSpec; status any",
    "ClaimTemplate": "apiVersion str; kind str; metadata! Meta; spec! ClaimSpec; status any",
    "ClaimSpec": f"""
        accessModes {_MODES}; dataSource any; dataSourceRef any; resources Resources; selector Selector
        storageClassName str; volumeAttributesClassName str; volumeMode Filesystem|Block; volumeName str""",
    "Pod": _HEAD + "spec! PodSpec; status any",
    "PodTemplate": _HEAD + "template! Template",
    "Deployment": _HEAD + "spec! DeploymentSpec; status any",
    "DeploymentSpec": _PODS + "paused bool; progressDeadlineSeconds int; strategy DeploymentStrategy",
    "DeploymentStrategy": "rollingUpdate any; type RollingUpdate|Recreate",
    "ReplicaSet": _HEAD + "spec! ReplicaSetSpec; status any",
    "ReplicaSetSpec": "minReadySeconds int; replicas int; selector! Selector; template Template",
    "StatefulSet": _HEAD + "spec! StatefulSetSpec; status any",
    "StatefulSetSpec": _PODS
    + """
        ordinals any; persistentVolumeClaimRetentionPolicy any; podManagementPolicy OrderedReady|Parallel
        serviceName str; updateStrategy StatefulSetStrategy; volumeClaimTemplates [ClaimTemplate]""",
    "StatefulSetStrategy": "rollingUpdate any; type RollingUpdate|OnDelete",
    "DaemonSet": _HEAD + "spec! DaemonSetSpec; status any",
    "DaemonSetSpec": """
        minReadySeconds int; revisionHistoryLimit int; selector! Selector; template! Template
        updateStrategy StatefulSetStrategy""",
    "Job": _HEAD + "spec! JobSpec; status any",
    "JobSpec": """
        activeDeadlineSeconds long; backoffLimit int; backoffLimitPerIndex int; completionMode NonIndexed|Indexed
        completions int; manualSelector bool; maxFailedIndexes int; parallelism int; podFailurePolicy any
        podReplacementPolicy str; selector Selector; successPolicy any; suspend bool; template! Template
        ttlSecondsAfterFinished int; managedBy str""",
    "CronJob": _HEAD + "spec! CronJobSpec; status any",
    "CronJobSpec": """
        concurrencyPolicy Allow|Forbid|Replace; failedJobsHistoryLimit int; jobTemplate! JobTemplate; schedule! str
        startingDeadlineSeconds long; successfulJobsHistoryLimit int; suspend bool; timeZone str""",
    "JobTemplate": "metadata TemplateMeta; spec! JobSpec",
    "NetworkPolicy": _HEAD + "spec! PolicySpec; status any",
    "PolicySpec": """
        egress [EgressRule]; ingress [IngressRule]; podSelector Selector; policyTypes [Ingress|Egress]""",
    "Ingress": _HEAD + "spec any; status any",
    "ResourceQuota": _HEAD + "spec! QuotaSpec; status any",
    "QuotaSpec": """
        hard {quantity}; scopeSelector any
        scopes [BestEffort|NotBestEffort|Terminating|NotTerminating|PriorityClass|CrossNamespacePodAffinity]""",
    "LimitRange": _HEAD + "spec! LimitRangeSpec",
    "LimitRangeSpec": "limits! [Limit]",
    "Limit": """
        default {quantity}; defaultRequest {quantity}; max {quantity}; maxLimitRequestRatio {quantity}
        min {quantity}; type! Container|Pod|PersistentVolumeClaim""",
    "PodDisruptionBudget": _HEAD + "spec! BudgetSpec; status any",
    "BudgetSpec": """
        maxUnavailable share; minAvailable share; selector Selector
        unhealthyPodEvictionPolicy IfHealthyBudget|AlwaysAllow""",
    "PodMonitor": _HEAD + "spec! PodMonitorSpec; status any",
    "PodMonitorSpec": """
        attachMetadata any; fallbackScrapeProtocol str; jobLabel str; labelLimit long; namespaceSelector any
        podMetricsEndpoints! [any]; podTargetLabels [str]; sampleLimit long; scrapeClass str; scrapeProtocols [str]
        selector! Selector; selectorMechanism str; targetLimit long""",
    "ResourceFlavor": _HEAD + "spec FlavorSpec",
    "FlavorSpec": "nodeLabels {str}; nodeTaints [any]; tolerations [Toleration]; topologyName str",
    "ClusterQueue": _HEAD + "spec ClusterQueueSpec; status any",
    "ClusterQueueSpec": """
        admissionChecks [str]; admissionChecksStrategy any; admissionScope any; cohort str; fairSharing any
        flavorFungibility any; namespaceSelector Selector; preemption any; queueingStrategy StrictFIFO|BestEffortFIFO
        resourceGroups [ResourceGroup]; stopPolicy None|Hold|HoldAndDrain""",
    "ResourceGroup": "coveredResources! [str]; flavors! [Flavor]",
    "Flavor": "name! str; resources! [FlavorResource]",
    "FlavorResource": "borrowingLimit quantity; lendingLimit quantity; name! str; nominalQuota! quantity",
    "LocalQueue": _HEAD + "spec LocalQueueSpec; status any",
    "LocalQueueSpec": "clusterQueue str; fairSharing any; stopPolicy None|Hold|HoldAndDrain",
}

__all__ = ["KINDS", "SHAPES"]

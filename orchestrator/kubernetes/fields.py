"""The fields of RayJob and RayCluster (`ray.io/v1`, KubeRay 1.7) and of the pods in them, in the language of `shapes`."""

from __future__ import annotations

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
        networkPolicy RayNetworkPolicy; rayVersion str; suspend bool; tlsOptions TlsOptions; upgradeStrategy UpgradeStrategy
        workerGroupSpecs [WorkerGroup]""",
    "AuthOptions": "enableK8sTokenAuth bool; mode disabled|token; secretName str",
    "AutoscalerOptions": """
        args [str]; command [str]; env [Env]; envFrom [EnvFrom]; idleTimeoutSeconds int; image str
        imagePullPolicy Always|IfNotPresent|Never
        resources Resources; securityContext ContainerSecurity; upscalingMode Default|Aggressive|Conservative
        version v1|v2; volumeMounts [VolumeMount]""",
    "GcsOptions": """
        backend redis|rocksdb; externalStorageNamespace str; redisAddress str; redisPassword Value; redisUsername Value
        storage GcsStorage""",
    "GcsStorage": """
        accessModes [str]; claimName str; deletionPolicy DeleteWithCluster|Retain; size quantity; storageClassName str
        subPath str""",
    "RayNetworkPolicy": """
        head Traffic; mode DenyAll|DenyAllIngress|DenyAllEgress; worker Traffic; workerGroups [GroupTraffic]""",
    "Traffic": "egressRules [EgressRule]; ingressRules [IngressRule]",
    "GroupTraffic": "egressRules [EgressRule]; groupName! str; ingressRules [IngressRule]",
    "EgressRule": "ports [PolicyPort]; to [Peer]",
    "IngressRule": "from [Peer]; ports [PolicyPort]",
    "PolicyPort": "endPort int; port port; protocol TCP|UDP|SCTP",
    "Peer": "ipBlock IpBlock; namespaceSelector Selector; podSelector Selector",
    "IpBlock": "cidr! str; except [str]",
    "RayIngress": "host str; path str; pathType Exact|Prefix|ImplementationSpecific; tls [IngressTls]",
    "IngressTls": "hosts [str]; secretName str",
    "HeadService": "apiVersion str; kind str; metadata TemplateMeta; spec ServiceSpec; status any",
    "ServiceSpec": """
        allocateLoadBalancerNodePorts bool; clusterIP address; clusterIPs [str]; externalIPs [str]; externalName str
        externalTrafficPolicy str; healthCheckNodePort int; internalTrafficPolicy str; ipFamilies [str]
        ipFamilyPolicy str; loadBalancerClass str; loadBalancerIP str; loadBalancerSourceRanges [str]
        ports [ServicePort]; publishNotReadyAddresses bool; selector {label}; sessionAffinity ClientIP|None
        sessionAffinityConfig any; trafficDistribution str; type ClusterIP|NodePort|LoadBalancer|ExternalName""",
    "ServicePort": "appProtocol str; name dns; nodePort int; port! int; protocol TCP|UDP|SCTP; targetPort port",
    "HistoryServerOptions": "collectorOptions CollectorOptions",
    "CollectorOptions": "env [Env]; image str; imagePullPolicy str; resources Resources",
    "TlsOptions": "enabled bool",
    "UpgradeStrategy": "type Recreate|None",
    "HeadGroup": """
        enableIngress bool; headService HeadService; ingressOptions RayIngress; labels {str}; rayStartParams {str}
        resources {quantity}
        serviceType ClusterIP|NodePort|LoadBalancer; template! Template""",
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
        nodeSelector {label}; os NameRequired; overhead {quantity}; preemptionPolicy Never|PreemptLowerPriority
        priority int; priorityClassName str; readinessGates [any]; resourceClaims [any]; resources Resources
        restartPolicy Always|OnFailure|Never; runtimeClassName str; schedulerName str; schedulingGates [NameRequired]
        schedulingGroup any; securityContext PodSecurity; serviceAccount str; serviceAccountName name
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
        nodeTaintsPolicy Honor|Ignore; topologyKey! qualified; whenUnsatisfiable! DoNotSchedule|ScheduleAnyway""",
    "Selector": "matchExpressions [SelectorTerm]; matchLabels {label}",
    "SelectorTerm": "key! qualified; operator! In|NotIn|Exists|DoesNotExist; values [label]",
    "NodeSelectorTerm": "key! str; operator! In|NotIn|Exists|DoesNotExist|Gt|Lt; values [str]",
    "Affinity": "nodeAffinity NodeAffinity; podAffinity PodAffinity; podAntiAffinity PodAffinity",
    "NodeAffinity": """
        preferredDuringSchedulingIgnoredDuringExecution [PreferredNode]
        requiredDuringSchedulingIgnoredDuringExecution NodeSelector""",
    "PreferredNode": "preference! NodeTerm; weight! int",
    "NodeSelector": "nodeSelectorTerms! [NodeTerm]",
    "NodeTerm": "matchExpressions [NodeSelectorTerm]; matchFields [NodeSelectorTerm]",
    "PodAffinity": """
        preferredDuringSchedulingIgnoredDuringExecution [PreferredPod]
        requiredDuringSchedulingIgnoredDuringExecution [PodTerm]""",
    "PreferredPod": "podAffinityTerm! PodTerm; weight! int",
    "PodTerm": """
        labelSelector Selector; matchLabelKeys [str]; mismatchLabelKeys [str]; namespaceSelector Selector
        namespaces [str]; topologyKey! qualified""",
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
    "KeyRef": "key! key; name! name; optional bool",
    "FieldRef": "apiVersion str; fieldPath! own",
    "ResourceRef": "containerName str; divisor quantity; resource! str",
    "EnvFrom": "configMapRef SourceRef; prefix str; secretRef SourceRef",
    "SourceRef": "name! name; optional bool",
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
    "KeyToPath": "key! key; mode int; path! relative",
    "ConfigMapVolume": "defaultMode int; items [KeyToPath]; name! name; optional bool",
    "SecretVolume": "defaultMode int; items [KeyToPath]; optional bool; secretName! name",
    "Csi": "driver! str; fsType str; nodePublishSecretRef Named; readOnly bool; volumeAttributes {str}",
    "DownwardVolume": "defaultMode int; items [DownwardItem]",
    "DownwardItem": "fieldRef FieldRef; mode int; path! relative; resourceFieldRef ResourceRef",
    "EmptyDir": "medium str; sizeLimit quantity",
    "HostPath": "path! str; type str",
    "ImageVolume": "pullPolicy str; reference str",
    "Nfs": "path! str; readOnly bool; server! str",
    "Claim": "claimName! name; readOnly bool",
    "Projected": "defaultMode int; sources [ProjectedSource]",
    "ProjectedSource": """
        clusterTrustBundle any; configMap ProjectedMap; downwardAPI ProjectedDownward; podCertificate any
        secret ProjectedMap; serviceAccountToken ProjectedToken""",
    "ProjectedMap": "items [KeyToPath]; name! name; optional bool",
    "ProjectedDownward": "items [DownwardItem]",
    "ProjectedToken": "audience str; expirationSeconds long; path! relative",
}

__all__ = ["SHAPES"]

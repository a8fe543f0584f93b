"""Why each rule is there, and what to do where it is broken. Keys are the rules of `policy` and the kinds of `shapes.Refusal`."""

from __future__ import annotations

RESTRICTED = "the API server refuses the pod in a namespace that enforces `restricted`"
REFUSED = "the API server refuses the document"

ADVICE: dict[str, tuple[str, str]] = {  # rule: why, what to do
    "account": ("a pod may do what its account may", "give it an account of its own that may do nothing"),
    "amount": (
        "it would not be the amount that was meant, or be refused",
        "write 500m for CPUs, 512Mi or 4Gi for bytes",
    ),
    "budget": (
        "draining a node would hang, or end what must go on",
        "set minAvailable or maxUnavailable for these pods",
    ),
    "capabilities": (RESTRICTED, "set capabilities: {drop: [ALL]} and add none"),
    "containers": (REFUSED, "name a container"),
    "env": ("the process would start with another value, or not at all", "give it one `value` or one `valueFrom`"),
    "escalation": (RESTRICTED, "set allowPrivilegeEscalation: false"),
    "exposure": ("whoever reaches it may use it, or run code", "use type ClusterIP, and kubectl port-forward"),
    "files": ("the process could not write there", "set the pod's fsGroup to its group"),
    "gpu": ("the pod would wait for ever", "tolerate nvidia.com/gpu with operator Exists"),
    "host": (RESTRICTED, "take it out: it opens the node to the pod"),
    "image": ("nodes could run different code, or find none", "name a version or a digest: NAME:0.1.0, NAME@sha256:…"),
    "label": (REFUSED, "use letters, digits, - _ . and quotes around numbers, 63 characters at most"),
    "limits": (
        "one pod could take all of its node",
        "set requests and limits for cpu and memory, sizeLimit for emptyDir",
    ),
    "links": ("other Services would become settings of this pod", "set enableServiceLinks: false"),
    "missing": ("the installation would lack a guard", "take it from k8s/base"),
    "mount": ("the pod would not start", "let each mount name a volume of the pod"),
    "name": (REFUSED, "use small letters, digits and dashes"),
    "namespace": (
        "other pods than `restricted` ones could run there",
        "keep k8s/base/namespace.yaml, one for everything",
    ),
    "network": (
        "traffic that is needed stops, or what must not pass does",
        "name pods, namespaces and ports in both directions",
    ),
    "operator": (
        "the API server takes it, and KubeRay or the creation of its pods fails later",
        "change or remove the field",
    ),
    "pod": ("the API server refuses the pods, or no node can run them", "change or remove the field"),
    "port": (REFUSED, "give each port a number from 1 to 65535 and a name of its own, 15 characters at most"),
    "privileged": (RESTRICTED, "take it out"),
    "probes": (
        "the pod would be killed, or get traffic before it can answer",
        "ask one thing, at a port and path that it has",
    ),
    "rbac": ("whoever has the role could do more, or less, than submit jobs", "keep to k8s/base/accounts.yaml"),
    "read-only": (
        "what breaks in could change the program",
        "set readOnlyRootFilesystem: true and mount an emptyDir to write to",
    ),
    "reference": ("the pod would wait for it for ever, or find nothing", "name one that stands here, or add it"),
    "rollout": (
        "the next version would never start, or two would write at once",
        "set replicas: 1, strategy: {type: Recreate}",
    ),
    "room": ("pods would be refused when they are made", "raise the quota or the LimitRange, or ask for less"),
    "root": (RESTRICTED, "set runAsNonRoot: true, runAsUser and runAsGroup: 1000"),
    "safety": ("it would run without an end, a guard or room", "do as `orchestrate k8s render` does"),
    "schema": ("the API server refuses it with strict validation", "change or remove the field"),
    "seccomp": (RESTRICTED, "set seccompProfile: {type: RuntimeDefault}"),
    "secrets": ("whoever reads the manifest has it", "put it into a Secret by a secretGenerator, and name its keys"),
    "selector": ("it would have no effect, or be refused", "use labels that the pods have"),
    "size": (REFUSED, "put less into it, or into the storage"),
    "spread": ("pods would not be placed as it says", "select these pods by their own labels"),
    "syntax": ("nothing can read it", "mend the YAML"),
    "token": ("code in the pod could ask the API server with it", "set automountServiceAccountToken: false"),
    "tracking": ("MLflow would not start, lose data, or let anybody in", "compare it with k8s/base/mlflow.yaml"),
    "twice": ("the API server refuses it, or takes the last one only", "keep one"),
    "volumes": (RESTRICTED, "use emptyDir, configMap, secret, projected, persistentVolumeClaim or csi"),
}

__all__ = ["ADVICE"]

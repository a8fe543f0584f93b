"""What only the documents of an installation together show: selectors that match, references that lead somewhere, room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.kubernetes import room, serving, traffic
from orchestrator.kubernetes.workloads import (
    Json,
    Workload,
    dig,
    items,
    job_labels,
    mapping,
    maps,
    name_of,
    texts,
    workloads,
)

Found = Iterator[tuple[str, str, str]]  # rule, path beginning with the document, what
EVERYWHERE = {
    "Namespace",
    "ClusterQueue",
    "ResourceFlavor",
    "CustomResourceDefinition",
    "PriorityClass",
    "StorageClass",
}
MADE_BY_KUBERNETES = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}
INSTANCE = "app.kubernetes.io/instance"
SECRET_MAKERS = ("ExternalSecret", "SealedSecret")  # other operators' kinds, which make Secrets of their name
CAPPED = (
    *("requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "pods", "requests.nvidia.com/gpu"),
    *("persistentvolumeclaims", "requests.storage", "services.nodeports", "services.loadbalancers"),
)
SUBMITS: dict[tuple[str, str], set[str]] = {  # what `orchestrate k8s` asks the API server for
    ("ray.io", "rayjobs"): {"create", "get", "list", "patch", "delete"},
    ("ray.io", "rayclusters"): {"get"},
    ("", "configmaps"): {"create", "patch", "delete"},
    ("", "pods"): {"list"},
    ("", "pods/log"): {"get"},
    ("", "events"): {"list"},
}
PODS_OWN = ("ray", "ray-autoscaler")  # accounts of the pods that jobs bring


def installation(documents: Sequence[Json]) -> Found:
    """Rules of a whole overlay: one Namespace, and everything in it."""
    spaces = [str(mapping(d.get("metadata")).get("name")) for d in documents if d.get("kind") == "Namespace"]
    if not spaces:
        yield "namespace", "the installation", "has no Namespace: nothing tells the API server to refuse other pods"
        spaces = sorted({str(mapping(d.get("metadata")).get("namespace")) for d in _of(documents, "NetworkPolicy")})[:1]
    if len(spaces) != 1:
        yield "namespace", "", f"has {len(spaces)} Namespaces, not one"
        return
    works = [work for document in documents for work in workloads(document)]
    yield from _places(documents, spaces[0])
    yield from _references(documents, works)
    yield from _bindings(documents, works)
    yield from _submitter(documents)
    yield from _services(documents, works)
    yield from _selections(documents, works)
    yield from _network(documents, spaces[0])
    yield from room.check(documents, works, spaces[0])
    yield from _needed(documents)
    yield from serving.check(documents, works, spaces[0])


def jobs(documents: Sequence[Json]) -> Found:
    """The file that a job's command names is in the ConfigMap that is mounted there, where that ConfigMap is among these."""
    named = _named(documents)
    for job in _of(documents, "RayJob"):
        yield from _own(job, named)
        head = dig(job, "spec.rayClusterSpec.headGroupSpec.template.spec")
        volumes = {str(one.get("name")): dig(one, "configMap").get("name") for one in maps(head.get("volumes"))}
        for word in str(dig(job, "spec").get("entrypoint", "")).split():
            folder, _, name = word.rpartition("/")
            for mount in maps(next(iter(maps(head.get("containers"))), {}).get("volumeMounts")):
                config = named.get(("ConfigMap", str(volumes.get(str(mount.get("name"))))))
                here = folder and folder == str(mount.get("mountPath", "")).rstrip("/")
                if here and config is not None and name not in mapping(config.get("data")):
                    yield "reference", f"{name_of(job)} spec.entrypoint", f"{word}: {name_of(config)} has no {name}"


def _own(job: Json, named: dict[tuple[str, str], Json]) -> Found:
    """A job and the ConfigMap that was rendered with it: the one that has its instance's label."""
    instance = texts(dig(job, "metadata.labels")).get(INSTANCE)
    for (kind, name), config in named.items():
        labels = texts(dig(config, "metadata.labels"))
        if kind != "ConfigMap" or not instance or labels.get(INSTANCE) != instance:
            continue
        pods = dig(job, "spec.rayClusterSpec.headGroupSpec.template.spec")
        if name not in {str(dig(volume, "configMap").get("name")) for volume in maps(pods.get("volumes"))}:
            yield (
                "reference",
                f"{name_of(job)} spec.rayClusterSpec",
                f"mounts no ConfigMap {name}, which was made for it",
            )
        space = dig(job, "metadata").get("namespace")
        if dig(config, "metadata").get("namespace") != space:
            yield "namespace", f"{name_of(config)} metadata.namespace", f"is not {space}, where its job is"


def _of(documents: Sequence[Json], kind: str) -> list[Json]:
    return [document for document in documents if document.get("kind") == kind]


def _named(documents: Sequence[Json]) -> dict[tuple[str, str], Json]:
    return {(str(d.get("kind")), str(mapping(d.get("metadata")).get("name"))): d for d in documents}


def _places(documents: Sequence[Json], space: str) -> Found:
    seen: set[tuple[str, str]] = set()
    for document in documents:
        meta, kind = mapping(document.get("metadata")), str(document.get("kind"))
        if kind not in EVERYWHERE and meta.get("namespace") != space:
            yield "namespace", f"{name_of(document)} metadata.namespace", f"is {meta.get('namespace')}, not {space}"
        if (key := (kind, str(meta.get("name")))) in seen:
            yield "twice", name_of(document), "stands twice"
        seen.add(key)


def _references(documents: Sequence[Json], works: Sequence[Workload]) -> Found:
    named = _named(documents)

    def has(kind: str, name: object, *keys: object) -> bool:
        if (kind, str(name)) in MADE_BY_KUBERNETES:
            return True
        if kind == "Secret" and any((maker, str(name)) in named for maker in SECRET_MAKERS):
            return True
        there = named.get((kind, str(name)))
        held = {**mapping(there.get("data")), **mapping(there.get("stringData"))} if there else {}
        return there is not None and all(key in held for key in keys)

    for work in works:
        where = f"{name_of(work.document)} {work.at}.spec"
        account = work.spec.get("serviceAccountName")
        if account is not None and not has("ServiceAccount", account):
            yield "reference", f"{where}.serviceAccountName", f"{account} is no account here"
        for volume in maps(work.spec.get("volumes")):
            config, secret = mapping(volume.get("configMap")), mapping(volume.get("secret"))
            claim = mapping(volume.get("persistentVolumeClaim"))
            keys = [one.get("key") for one in maps(config.get("items"))]
            if config and not config.get("optional") and not has("ConfigMap", config.get("name"), *keys):
                yield (
                    "reference",
                    f"{where}.volumes",
                    f"ConfigMap {config.get('name')}{' with ' + ', '.join(map(str, keys)) if keys else ''} is not here",
                )
            if secret and not secret.get("optional") and not has("Secret", secret.get("secretName")):
                yield "reference", f"{where}.volumes", f"Secret {secret.get('secretName')} is not here"
            if claim and not has("PersistentVolumeClaim", claim.get("claimName")):
                yield "reference", f"{where}.volumes", f"claim {claim.get('claimName')} is not here"
        for at, container in work.containers:
            for source in maps(container.get("envFrom")):
                for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                    found = mapping(source.get(key))
                    if found and not found.get("optional") and not has(kind, found.get("name")):
                        yield "reference", f"{name_of(work.document)} {at}", f"{kind} {found.get('name')} is not here"
            for variable in maps(container.get("env")):
                for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                    found = mapping(mapping(variable.get("valueFrom")).get(key))
                    if found and not found.get("optional") and not has(kind, found.get("name"), found.get("key")):
                        what = f"{kind} {found.get('name')} with {found.get('key')} is not here"
                        yield "reference", f"{name_of(work.document)} {at}.env.{variable.get('name')}", what


def _bindings(documents: Sequence[Json], works: Sequence[Workload]) -> Found:
    named, used = _named(documents), {str(work.spec.get("serviceAccountName")) for work in works}
    for binding in _of(documents, "RoleBinding"):
        role = mapping(binding.get("roleRef"))
        if role.get("kind") == "Role" and ("Role", str(role.get("name"))) not in named:
            yield "reference", f"{name_of(binding)} roleRef", f"Role {role.get('name')} is not here"
        for subject in maps(binding.get("subjects")):
            if subject.get("kind") != "ServiceAccount":
                continue
            if str(subject.get("name")) in {*PODS_OWN, *used}:
                what = f"{subject.get('name')} is the account of pods: they ask the API server for nothing"
                yield "rbac", f"{name_of(binding)} subjects", what
            account = named.get(("ServiceAccount", str(subject.get("name"))))
            if account is None or subject.get("namespace") != mapping(account.get("metadata")).get("namespace"):
                yield "reference", f"{name_of(binding)} subjects", f"account {subject.get('name')} is not here"


def _submitter(documents: Sequence[Json]) -> Found:
    """Some account may do what `orchestrate k8s submit` does: no less."""
    named = _named(documents)
    for binding in _of(documents, "RoleBinding"):
        role = named.get(("Role", str(mapping(binding.get("roleRef")).get("name"))), {})
        if any(maps(binding.get("subjects"))) and not list(_lacking(role)):
            return
    yield (
        "rbac",
        "Role",
        "nobody may do all that submitting a job takes: "
        + "; ".join(dict.fromkeys(lack for role in _of(documents, "Role") for lack in _lacking(role))),
    )


def _lacking(role: Json) -> Iterator[str]:
    for (group, resource), verbs in SUBMITS.items():
        has = {
            str(verb)
            for rule in maps(role.get("rules"))
            if group in items(rule.get("apiGroups")) and resource in items(rule.get("resources"))
            for verb in items(rule.get("verbs"))
        }
        if verbs - has:
            yield f"{', '.join(sorted(verbs - has))} on {resource}"


def _services(documents: Sequence[Json], works: Sequence[Workload]) -> Found:
    for service in _of(documents, "Service"):
        selector = texts(dig(service, "spec.selector"))
        behind = [work for work in works if selector and all(work.labels.get(k) == v for k, v in selector.items())]
        if not behind:
            yield "selector", f"{name_of(service)} spec.selector", "matches no pod"
        if not maps(mapping(service.get("spec")).get("ports")):
            yield "selector", f"{name_of(service)} spec.ports", "are missing"
        for port in maps(mapping(service.get("spec")).get("ports")):
            target = port.get("targetPort", port.get("port"))
            for work in behind:
                ports = [one for _, container in work.containers for one in maps(container.get("ports"))]
                kind = port.get("protocol", "TCP")
                if not any(
                    target in (one.get("name"), one.get("containerPort")) and one.get("protocol", "TCP") == kind
                    for one in ports
                ):
                    yield (
                        "selector",
                        f"{name_of(service)} spec.ports",
                        f"{target} ({kind}) is no port of {name_of(work.document)}",
                    )


def _selections(documents: Sequence[Json], works: Sequence[Workload]) -> Found:
    """Jobs come later: what selects their pods selects something."""
    pods = [work.labels for work in works] + list(job_labels())
    for kind, path in (
        ("NetworkPolicy", "spec.podSelector"),
        ("PodDisruptionBudget", "spec.selector"),
        ("PodMonitor", "spec.selector"),
    ):
        for document in _of(documents, kind):
            if not any(traffic.selects(dig(document, path), labels) for labels in pods):
                yield "selector", f"{name_of(document)} {path}", "selects no pod"
    for document in _of(documents, "NetworkPolicy"):
        for way, ends in (("ingress", "from"), ("egress", "to")):
            for rule in maps(mapping(document.get("spec")).get(way)):
                for peer in maps(rule.get(ends)):
                    near = "podSelector" in peer and "namespaceSelector" not in peer
                    if near and not any(traffic.selects(mapping(peer["podSelector"]), labels) for labels in pods):
                        yield "selector", f"{name_of(document)} spec.{way}", "lets in or out to no pod"


def _network(documents: Sequence[Json], space: str) -> Found:
    policies = _of(documents, "NetworkPolicy")
    closed = any(
        traffic.wide(dig(policy, "spec.podSelector"))
        and {"Ingress", "Egress"} <= set(items(mapping(policy.get("spec")).get("policyTypes")))
        and not {"ingress", "egress"} & set(mapping(policy.get("spec")))
        for policy in policies
    )
    if not closed:
        yield "network", "NetworkPolicy", "none denies everything to every pod"
    settings = _named(documents).get(("ConfigMap", "orchestrator"), {})
    remote = str(mapping(settings.get("data")).get("ORCHESTRATOR_STORAGE", "")).startswith("s3://")
    database = ("StatefulSet", "postgres") in _named(documents)
    watched = any(document.get("kind") == "PodMonitor" for document in documents)
    for rule, _, what in traffic.flows(policies, space, database=database, storage=remote, watched=watched):
        yield rule, "NetworkPolicy", what


def _needed(documents: Sequence[Json]) -> Found:
    kinds = {str(document.get("kind")) for document in documents}
    for kind in ("ResourceQuota", "LimitRange", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount", "Role"):
        if kind not in kinds:
            yield "missing", kind, "is not here"
    accounts = {str(mapping(d.get("metadata")).get("name")) for d in _of(documents, "ServiceAccount")}
    for name in (*PODS_OWN, "default"):
        if name not in accounts:
            told = (
                "jobs' pods name it" if name in PODS_OWN else "Kubernetes' own gives every pod that names none a token"
            )
            yield "missing", f"ServiceAccount {name}", f"is not here: {told}"
    held = [
        set(map(str, limit))
        for d in _of(documents, "LimitRange")
        for limit in maps(dig(d, "spec").get("limits"))
        if limit.get("type") == "Container"
        and all({"cpu", "memory"} <= set(mapping(limit.get(key))) for key in ("default", "defaultRequest", "max"))
    ]
    if not held:
        yield "missing", "LimitRange spec.limits", "say nothing of a container's default, defaultRequest and max"
    hard = {str(key) for document in _of(documents, "ResourceQuota") for key in dig(document, "spec.hard")}
    for key in CAPPED:
        if key not in hard:
            yield "missing", "ResourceQuota spec.hard", f"lacks {key}"

"""What only the documents of an installation together show: selectors that match, references that lead somewhere, room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from orchestrator.kubernetes import serving, traffic
from orchestrator.kubernetes.amounts import quantity
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
CAPPED = (
    *("requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "pods", "requests.nvidia.com/gpu"),
    *("persistentvolumeclaims", "requests.storage", "services.nodeports", "services.loadbalancers"),
)
SUBMITS: dict[tuple[str, str], set[str]] = {  # what `orchestrate k8s` asks the API server for
    ("ray.io", "rayjobs"): {"create", "get", "list", "watch", "patch", "delete"},
    ("", "configmaps"): {"create", "get", "patch", "delete"},
    ("", "pods"): {"get", "list"},
    ("", "pods/log"): {"get"},
    ("", "events"): {"list"},
}
SCALED = (
    "Deployment",
    "StatefulSet",
    "ReplicaSet",
    "ReplicationController",
)  # the disruption controller knows their size


def installation(documents: Sequence[Json]) -> Found:
    """Rules of a whole overlay: one Namespace, and everything in it."""
    spaces = [str(mapping(d.get("metadata")).get("name")) for d in documents if d.get("kind") == "Namespace"]
    if len(spaces) != 1:
        yield "namespace", "", f"has {len(spaces)} Namespaces, not one"
        return
    works = [work for document in documents for work in workloads(document)]
    yield from _places(documents, spaces[0])
    yield from _references(documents, works)
    yield from _bindings(documents)
    yield from _submitter(documents)
    yield from _services(documents, works)
    yield from _selections(documents, works)
    yield from _network(documents, spaces[0])
    yield from _budgets(documents, works)
    yield from _room(documents, works)
    yield from _needed(documents)
    yield from serving.check(documents, works, spaces[0])


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
            if config and not config.get("optional") and not has("ConfigMap", config.get("name")):
                yield "reference", f"{where}.volumes", f"ConfigMap {config.get('name')} is not here"
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


def _bindings(documents: Sequence[Json]) -> Found:
    named = _named(documents)
    for binding in _of(documents, "RoleBinding"):
        role = mapping(binding.get("roleRef"))
        if role.get("kind") == "Role" and ("Role", str(role.get("name"))) not in named:
            yield "reference", f"{name_of(binding)} roleRef", f"Role {role.get('name')} is not here"
        for subject in maps(binding.get("subjects")):
            if subject.get("kind") != "ServiceAccount":
                continue
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
                ports = [port for _, container in work.containers for port in maps(container.get("ports"))]
                if not any(target in (one.get("name"), one.get("containerPort")) for one in ports):
                    yield (
                        "selector",
                        f"{name_of(service)} spec.ports",
                        f"{target} is no port of {name_of(work.document)}",
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
    for rule, _, what in traffic.flows(policies, space, database=database, storage=remote):
        yield rule, "NetworkPolicy", what


def _budgets(documents: Sequence[Json], works: Sequence[Workload]) -> Found:
    for budget in _of(documents, "PodDisruptionBudget"):
        spec = mapping(budget.get("spec"))
        selector, at = mapping(spec.get("selector")), f"{name_of(budget)} spec"
        if ("minAvailable" in spec) == ("maxUnavailable" in spec):
            yield "budget", at, "needs minAvailable or maxUnavailable"
        if traffic.wide(selector):
            yield "budget", f"{at}.selector", "is every pod of the namespace"
        owners = {str(work.document.get("kind")) for work in works if traffic.selects(selector, work.labels)}
        ray = any(traffic.selects(selector, labels) for labels in job_labels()) or owners - set(SCALED)
        if ray and not isinstance(spec.get("minAvailable"), int):
            yield "budget", at, "must be a number in minAvailable: nobody can tell how many pods a RayCluster has"
        if not ray and (spec.get("maxUnavailable") in (0, "0%") or spec.get("minAvailable") == "100%"):
            yield "budget", at, "never lets a node be drained"


def _room(documents: Sequence[Json], works: Sequence[Workload]) -> Found:
    """Every container within the LimitRange, and all that stands here within the quota."""
    largest: dict[str, Decimal] = {}
    for document in _of(documents, "LimitRange"):
        for limit in maps(mapping(document.get("spec")).get("limits")):
            if limit.get("type") == "Container":
                largest |= {k: a for k, v in mapping(limit.get("max")).items() if (a := quantity(v)) is not None}
    total: dict[str, Decimal] = {}
    for work in works:
        pod: dict[str, Decimal] = {}
        for at, container in work.containers:
            for group in ("requests", "limits"):
                for name, value in dig(container, f"resources.{group}").items():
                    amount = quantity(value) or Decimal(0)
                    if ".containers[" in at or at.endswith("autoscalerOptions"):
                        pod[f"{group}.{name}"] = pod.get(f"{group}.{name}", Decimal(0)) + amount
                    if amount > largest.get(name, amount):
                        what = f"{value} is more than the LimitRange lets a container have"
                        yield "room", f"{name_of(work.document)} {at}.resources.{group}.{name}", what
        for name, amount in pod.items():
            total[name] = total.get(name, Decimal(0)) + amount
    for document in _of(documents, "ResourceQuota"):
        for name, value in dig(document, "spec.hard").items():
            if (most := quantity(value)) is not None and total.get(str(name), Decimal(0)) > most:
                yield "room", f"{name_of(document)} spec.hard.{name}", "is less than what stands here takes"


def _needed(documents: Sequence[Json]) -> Found:
    kinds = {str(document.get("kind")) for document in documents}
    for kind in ("ResourceQuota", "LimitRange", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount", "Role"):
        if kind not in kinds:
            yield "missing", kind, "is not here"
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

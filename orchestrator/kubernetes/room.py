"""Whether an installation admits what stands in it: LimitRanges, quotas, disruption budgets, and Kueue's queues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from orchestrator.kubernetes import traffic
from orchestrator.kubernetes.amounts import quantity, whole
from orchestrator.kubernetes.workloads import Json, Workload, dig, items, job_labels, mapping, maps, name_of, workloads

Found = Iterator[tuple[str, str, str]]  # rule, path beginning with the document, what
Amounts = dict[str, Decimal]
NONE = Decimal(0)
SCALED = (
    "Deployment",
    "StatefulSet",
    "ReplicaSet",
    "ReplicationController",
)  # the disruption controller knows their size
RAY = ("RayJob", "RayCluster")
ONE_JOB = {"pods": 3, "count/rayjobs.ray.io": 1, "count/rayclusters.ray.io": 1}  # a head, a worker, a submitter


def check(documents: Sequence[Json], works: Sequence[Workload], space: str) -> Found:
    for limits in _of(documents, "LimitRange"):
        for limit in maps(dig(limits, "spec").get("limits")):
            yield from _range(limit, documents, works)
    yield from _quotas(documents)
    yield from _budgets(documents, works)
    yield from _queues(documents, space)


def _of(documents: Sequence[Json], *kinds: str) -> list[Json]:
    return [document for document in documents if document.get("kind") in kinds]


# --- limits -----------------------------------------------------------------------------------------------------------


def _range(limit: Json, documents: Sequence[Json], works: Sequence[Workload]) -> Found:
    least, most, ratio = (_amounts(limit.get(key)) for key in ("min", "max", "maxLimitRequestRatio"))
    if limit.get("type") == "PersistentVolumeClaim":
        for name, asked in _claims(documents):
            if not least.get("storage", asked) <= asked <= most.get("storage", asked):
                yield "room", f"{name} storage", "is not what the LimitRange lets a claim have"
    for work in works:
        if limit.get("type") == "Pod":
            total = pod(work)
            for name, amount in most.items():
                if total.get(f"limits.{name}", NONE) > amount:
                    what = "is more than the LimitRange lets a pod have"
                    yield "room", f"{name_of(work.document)} {work.at}.spec limits.{name}", what
        for at, container in work.containers if limit.get("type") == "Container" else ():
            place = f"{name_of(work.document)} {at}.resources"
            limits, requests = (_amounts(dig(container, f"resources.{key}")) for key in ("limits", "requests"))
            for key, values in (("requests", requests), ("limits", limits)):
                for name, amount in values.items():
                    if amount > most.get(name, amount):
                        yield "room", f"{place}.{key}.{name}", "is more than the LimitRange lets a container have"
                    if key == "requests" and amount < least.get(name, amount):
                        yield "room", f"{place}.{key}.{name}", "is less than the LimitRange lets a container have"
            for name, times in ratio.items():
                if requests.get(name) and limits.get(name, NONE) > times * requests[name]:
                    yield "room", f"{place}.limits.{name}", f"is more than {times} times what is requested (LimitRange)"


def _amounts(values: object) -> Amounts:
    return {name: amount for name, value in mapping(values).items() if (amount := quantity(value)) is not None}


def _claims(documents: Sequence[Json]) -> Iterator[tuple[str, Decimal]]:
    for document in documents:
        claims = [document] if document.get("kind") == "PersistentVolumeClaim" else []
        claims += maps(dig(document, "spec").get("volumeClaimTemplates"))
        for claim in claims:
            yield name_of(document), quantity(dig(claim, "spec.resources.requests").get("storage")) or NONE


# --- quotas -----------------------------------------------------------------------------------------------------------


def pod(work: Workload) -> Amounts:
    """What one pod takes, as a quota counts it."""
    total: Amounts = {"pods": Decimal(1)}
    for at, container in work.containers:
        if ".containers[" not in at and not at.endswith("autoscalerOptions"):
            continue
        limits, requests = (_amounts(dig(container, f"resources.{key}")) for key in ("limits", "requests"))
        for group, values in (("requests", {**limits, **requests}), ("limits", limits)):
            for name, amount in values.items():
                total[f"{group}.{name}"] = total.get(f"{group}.{name}", NONE) + amount
                if group == "requests" and "/" not in name:
                    total[name] = total[f"{group}.{name}"]
    return total


def _quotas(documents: Sequence[Json]) -> Found:
    total: Amounts = {}
    alone: list[tuple[Json, Amounts]] = []
    for document in documents:
        _add(total, _taken(document, most=False), 1)
        if document.get("kind") in RAY:
            alone.append((document, _taken(document, most=True)))
    for quota in _of(documents, "ResourceQuota"):
        if items(dig(quota, "spec").get("scopes")):
            continue
        for name, value in dig(quota, "spec.hard").items():
            has, at = quantity(value), f"{name_of(quota)} spec.hard.{name}"
            if has is None:
                continue
            if (more := ONE_JOB.get(str(name))) and total.get(str(name), NONE) + more > has:
                yield "room", at, f"is {value}: no room for a job beside what stands here"
            elif total.get(str(name), NONE) > has:
                yield "room", at, f"is {value}, less than what stands here takes: {total[str(name)]:f}"
                continue
            for document, taken in alone:
                if taken.get(str(name), NONE) > has:
                    what = (
                        f"is {value}, less than {name_of(document)} takes with all of its workers: {taken[str(name)]:f}"
                    )
                    yield "room", at, what


def _taken(document: Json, *, most: bool) -> Amounts:
    """What a document takes of a quota. `most`: with as many workers as the autoscaler may start."""
    total: Amounts = {}
    for work in workloads(document):
        _add(total, pod(work), _times(document, work, most))
    for _, asked in _claims([document]):
        times = whole(dig(document, "spec").get("replicas"), 1) if document.get("kind") == "StatefulSet" else 1
        _add(total, {"requests.storage": asked, "persistentvolumeclaims": Decimal(1)}, times)
    if document.get("kind") == "RayJob":
        _add(total, {"count/rayjobs.ray.io": Decimal(1)}, 1)
    if document.get("kind") in RAY and not dig(document, "spec").get("clusterSelector"):
        _add(total, {"count/rayclusters.ray.io": Decimal(1)}, 1)
    return total


def _times(document: Json, work: Workload, most: bool) -> int:
    if work.role != "ray-worker":
        return whole(dig(document, "spec").get("replicas"), 1) if document.get("kind") in SCALED else 1
    spec = dig(document, "spec.rayClusterSpec") if document.get("kind") == "RayJob" else dig(document, "spec")
    group = maps(spec.get("workerGroupSpecs"))[int(work.at.rpartition("workerGroupSpecs[")[2].partition("]")[0])]
    count = max(whole(group.get("replicas"), 0), whole(group.get("minReplicas"), 0))
    if most and spec.get("enableInTreeAutoscaling") is True:
        count = max(count, whole(group.get("maxReplicas"), 0))
    return count * whole(group.get("numOfHosts"), 1)


def _add(total: Amounts, more: Amounts, times: int) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, NONE) + amount * times


# --- budgets ----------------------------------------------------------------------------------------------------------


def _budgets(documents: Sequence[Json], works: Sequence[Workload]) -> Found:
    budgets = _of(documents, "PodDisruptionBudget")
    for budget in budgets:
        yield from _budget(budget, works)
    for labels in [work.labels for work in works] + list(job_labels()):
        over = [name_of(one) for one in budgets if traffic.selects(dig(one, "spec.selector"), labels)]
        if len(over) > 1:
            yield "budget", over[1], f"is over pods that {over[0]} is over, too: none of them could be moved"
    heads = [one for one in budgets if traffic.selects(dig(one, "spec.selector"), job_labels()[0])]
    if budgets and not any(whole(dig(one, "spec").get("minAvailable"), 0) > 0 for one in heads):
        yield "budget", "PodDisruptionBudget", "none keeps a Ray head: a node that is drained would end its job"


def _budget(budget: Json, works: Sequence[Workload]) -> Found:
    spec = mapping(budget.get("spec"))
    selector, at = mapping(spec.get("selector")), f"{name_of(budget)} spec"
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if (least is None) == (most is None):
        yield "budget", at, "needs minAvailable or maxUnavailable"
    if traffic.wide(selector):
        yield "budget", f"{at}.selector", "is every pod of the namespace"
    under = [work for work in works if traffic.selects(selector, work.labels)]
    owners = {str(work.document.get("kind")) for work in under}
    ray = any(traffic.selects(selector, labels) for labels in job_labels()) or owners - set(SCALED)
    if ray:
        if not isinstance(least, int):
            yield "budget", at, "must be a number in minAvailable: nobody can tell how many pods a RayCluster has"
        return
    pods = sum(whole(dig(work.document, "spec").get("replicas"), 1) for work in under)
    if most in (0, "0%") or least == "100%" or (under and whole(least, 0) >= pods > 0):
        yield "budget", at, "never lets a node be drained"


# --- queues -----------------------------------------------------------------------------------------------------------


def _queues(documents: Sequence[Json], space: str) -> Found:
    """Kueue: a queue of the namespace leads to one of the cluster, which admits the namespace and has flavors."""
    flavors = {name_of(flavor) for flavor in _of(documents, "ResourceFlavor")}
    whole_ones = {name_of(queue): queue for queue in _of(documents, "ClusterQueue")}
    for queue in _of(documents, "LocalQueue"):
        wanted = f"ClusterQueue {dig(queue, 'spec').get('clusterQueue')}"
        if whole_ones and wanted not in whole_ones:
            yield "reference", f"{name_of(queue)} spec.clusterQueue", f"{wanted} is not here"
    for name, queue in whole_ones.items():
        selector = dig(queue, "spec").get("namespaceSelector")
        if selector is None or not traffic.selects(mapping(selector), {"kubernetes.io/metadata.name": space}):
            yield "selector", f"{name} spec.namespaceSelector", f"does not admit {space}"
        for group in maps(dig(queue, "spec").get("resourceGroups")):
            covered = {str(one) for one in items(group.get("coveredResources"))}
            for flavor in maps(group.get("flavors")):
                if flavors and f"ResourceFlavor {flavor.get('name')}" not in flavors:
                    yield "reference", f"{name} spec.resourceGroups", f"ResourceFlavor {flavor.get('name')} is not here"
                if {str(one.get("name")) for one in maps(flavor.get("resources"))} != covered:
                    what = f"{flavor.get('name')} has other resources than coveredResources"
                    yield "amount", f"{name} spec.resourceGroups", what


__all__ = ["check", "pod"]

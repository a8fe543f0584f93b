"""What the API server refuses in quotas, limits, claims and budgets, each by itself, and what in them means nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.kubernetes.amounts import quantity, strange, whole
from orchestrator.kubernetes.workloads import Json, dig, items, maps

Found = Iterator[tuple[str, str, str]]  # rule, path, what
COUNTED = {
    *("pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps"),
    *("persistentvolumeclaims", "services.nodeports", "services.loadbalancers"),
}
BUILT_IN = {"pods", "services", "secrets", "configmaps", "persistentvolumeclaims", "replicationcontrollers"}
OF_PODS = re.compile(r"((requests|limits)\.)?(cpu|memory|ephemeral-storage)|requests\.storage|hugepages-\w+")
OF_CLASSES = re.compile(r"[\w.-]+\.storageclass\.storage\.k8s\.io/(requests\.storage|persistentvolumeclaims)")


def document(found: Json) -> Found:
    kind = found.get("kind")
    if kind == "ResourceQuota":
        yield from _quota(found)
    elif kind == "LimitRange":
        for number, limit in enumerate(maps(dig(found, "spec").get("limits"))):
            claims = limit.get("type") == "PersistentVolumeClaim"
            if claims and not any("storage" in dig(limit, key) for key in ("min", "max")):
                yield "amount", f"spec.limits[{number}]", "says neither the least nor the most storage of a claim"
        types = [limit.get("type") for limit in maps(dig(found, "spec").get("limits"))]
        for one in sorted({str(one) for one in types if types.count(one) > 1}):
            yield "twice", "spec.limits", f"say twice what a {one} may have"
    elif kind == "PersistentVolumeClaim":
        yield from _claim(found)
    elif kind == "PodDisruptionBudget":
        for key in ("minAvailable", "maxUnavailable"):
            value = dig(found, "spec").get(key)
            share = re.fullmatch(r"(\d+)%", value) if isinstance(value, str) else None
            if whole(value, 0) < 0 or (share and int(share[1]) > 100):
                yield "budget", f"spec.{key}", f"{value} is no number of pods and no share of them"


def _quota(found: Json) -> Found:
    for key, value in dig(found, "spec.hard").items():
        at, amount = f"spec.hard.{key}", quantity(value)
        if odd := strange(str(key).rpartition(".")[2], value):
            yield "amount", at, odd
        if amount is None:
            continue  # told by its type
        if amount < 0:
            yield "amount", at, "must be at least 0"
        if str(key) in COUNTED or str(key).startswith("count/"):
            if amount != amount.to_integral_value():
                yield "amount", at, f"{value} is no whole number"
            known = str(key) in COUNTED or str(key).removeprefix("count/") in BUILT_IN
            if not known and not re.fullmatch(r"count/[a-z]+\.[a-z0-9.-]+", str(key)):
                yield "amount", at, "counts nothing: count/RESOURCE.GROUP, as count/rayjobs.ray.io"
        elif not (OF_PODS.fullmatch(str(key)) or OF_CLASSES.fullmatch(str(key))):
            device = re.fullmatch(r"(requests|limits)\.[a-z0-9.-]+\.[a-z]+/[\w.-]+", str(key))
            if not device:
                yield "amount", at, "limits nothing that a quota knows"
            elif device[1] == "limits":
                yield "amount", at, "is refused: of devices a quota takes requests.NAME alone"
    if items(dig(found, "spec").get("scopes")) or dig(found, "spec.scopeSelector"):
        yield (
            "missing",
            "spec.scopes",
            "leave every other pod without a limit: say the amounts in a quota without scopes",
        )


def _claim(found: Json) -> Found:
    asked, most = (dig(found, f"spec.resources.{key}").get("storage") for key in ("requests", "limits"))
    low, high = quantity(asked), quantity(most)
    if odd := strange("storage", asked):
        yield "amount", "spec.resources.requests.storage", odd
    if low is not None and high is not None and low > high:
        yield "amount", "spec.resources.limits.storage", f"{most} is less than what is asked for, {asked}"
    if dig(found, "spec").get("volumeMode") == "Block":
        yield "mount", "spec.volumeMode", "is Block: a raw device cannot be mounted as a folder"


__all__ = ["document"]

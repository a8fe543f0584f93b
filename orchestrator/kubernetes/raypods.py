"""A pod template that KubeRay takes, and whose pods the API server then refuses: names, volumes, mounts, variables, amounts.

`podrules` has what holds for pods of any document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.kubernetes.amounts import quantity, whole
from orchestrator.kubernetes.shapes import Refusal
from orchestrator.kubernetes.workloads import items, mapping

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
ENV_NAME = re.compile(r"[ -<>-~]+")  # printable, without =
MADE = {"ray-logs", "shared-mem"}  # volumes that KubeRay adds where it needs them


def labels(values: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    for key, value in values.items():
        if not isinstance(key, str) or not LABEL_KEY.fullmatch(key) or len(key.rpartition("/")[2]) > 63:
            yield Refusal(f"{at}.{key}", "is no label's name", "schema")
        if isinstance(value, str) and (len(value) > 63 or not LABEL_VALUE.fullmatch(value)):
            yield Refusal(f"{at}.{key}", f"{value!r} is no label's value", "schema")


def pod(template: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    """A pod template that KubeRay takes, and whose pods the API server then refuses."""
    spec = mapping(template.get("spec"))
    yield from labels(mapping(mapping(template.get("metadata")).get("labels")), f"{at}.metadata.labels")
    containers = [
        (f"{at}.spec.{kind}[{number}]", mapping(one))
        for kind in ("initContainers", "containers")
        for number, one in enumerate(items(spec.get(kind)))
    ]
    if "spec" in template and not items(spec.get("containers")):
        yield Refusal(f"{at}.spec.containers", "has no container", "operator")
    if whole(spec.get("terminationGracePeriodSeconds"), 0) < 0:
        yield Refusal(f"{at}.spec.terminationGracePeriodSeconds", "must be at least 0", "operator")
    volumes = [mapping(one) for one in items(spec.get("volumes"))]
    yield from _volumes(volumes, f"{at}.spec.volumes")
    known = {str(one.get("name")) for one in volumes} | MADE
    yield from _twice([one.get("name") for _, one in containers], f"{at}.spec.containers", "containers")
    for below, one in containers:
        yield from _container(one, below, known)
    for number, one in enumerate(map(mapping, items(spec.get("topologySpreadConstraints")))):
        if whole(one.get("maxSkew"), 1) < 1:
            yield Refusal(f"{at}.spec.topologySpreadConstraints[{number}].maxSkew", "must be at least 1", "operator")
    for number, one in enumerate(map(mapping, items(spec.get("tolerations")))):
        if one.get("operator", "Equal") == "Exists" and one.get("value"):
            yield Refusal(
                f"{at}.spec.tolerations[{number}].value", "must be empty where operator is Exists", "operator"
            )


def _volumes(volumes: Sequence[Mapping[str, Any]], at: str) -> Iterator[Refusal]:
    for number, one in enumerate(volumes):
        kinds = [name for name in one if name != "name"]
        if len(kinds) > 1:
            yield Refusal(f"{at}[{number}]", f"is {' and '.join(kinds)} at once", "operator")
        if isinstance(one.get("name"), str) and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", one["name"]):
            yield Refusal(f"{at}[{number}].name", f"{one['name']!r} is no volume's name", "operator")
        if "configMap" in one and not mapping(one["configMap"]).get("name"):
            yield Refusal(f"{at}[{number}].configMap.name", "is missing", "operator")
        if "secret" in one and not mapping(one["secret"]).get("secretName"):
            yield Refusal(f"{at}[{number}].secret.secretName", "is missing", "operator")
        if mapping(one.get("emptyDir")).get("medium", "") not in ("", "Memory"):
            yield Refusal(f"{at}[{number}].emptyDir.medium", "must be Memory or left out", "operator")


def _container(one: Mapping[str, Any], at: str, volumes: set[str]) -> Iterator[Refusal]:
    name = one.get("name")
    if isinstance(name, str) and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        yield Refusal(f"{at}.name", f"{name!r} is no container's name", "operator")
    if not one.get("image"):
        yield Refusal(f"{at}.image", "is missing", "operator")
    mounts = [mapping(mount) for mount in items(one.get("volumeMounts"))]
    for number, mount in enumerate(mounts):
        if str(mount.get("name")) not in volumes:
            what = f"the pod has no volume {mount.get('name')!r}"
            yield Refusal(f"{at}.volumeMounts[{number}].name", what, "operator")
        if not str(mount.get("mountPath", "/")).startswith("/"):
            yield Refusal(f"{at}.volumeMounts[{number}].mountPath", "must begin with /", "operator")
    for number, variable in enumerate(map(mapping, items(one.get("env")))):
        text = variable.get("name")
        if isinstance(text, str) and not ENV_NAME.fullmatch(text):
            yield Refusal(f"{at}.env[{number}].name", f"{text!r} is no variable's name", "operator")
        if variable.get("value") and "valueFrom" in variable:
            yield Refusal(f"{at}.env[{number}]", "has a value and a valueFrom", "operator")
    yield from _resources(mapping(one.get("resources")), f"{at}.resources")


def _resources(resources: Mapping[str, Any], at: str) -> Iterator[Refusal]:
    limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
    for name in {**limits, **requests}:
        most, asked = quantity(limits.get(name)), quantity(requests.get(name))
        if (most is not None and most < 0) or (asked is not None and asked < 0):
            yield Refusal(f"{at}.{name}", "must be at least 0", "operator")
        if most is not None and asked is not None and asked > most:
            yield Refusal(
                f"{at}.requests.{name}", f"{requests[name]} is more than its limit, {limits[name]}", "operator"
            )
        if "/" in str(name) and name in requests and asked != most:
            yield Refusal(f"{at}.requests.{name}", "devices are limited to what is requested", "operator")


def _twice(names: Sequence[Any], at: str, what: str) -> Iterator[Refusal]:
    seen: list[Any] = []
    for name in names:
        if name is not None and name in seen:
            yield Refusal(at, f"two {what} are called {name!r}", "operator")
        seen.append(name)


__all__ = ["LABEL_KEY", "LABEL_VALUE", "MADE", "labels", "pod"]

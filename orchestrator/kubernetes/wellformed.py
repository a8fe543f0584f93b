"""What the API server refuses although a document fits its schema: names, labels, amounts, and entries that stand twice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from orchestrator.kubernetes.amounts import quantity, whole
from orchestrator.kubernetes.raypods import LABEL_KEY, LABEL_VALUE, MADE
from orchestrator.kubernetes.workloads import SERVING, Json, Workload, dig, items, mapping, maps, texts

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
PATH_NAME = re.compile(r"[^/%]+")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9]|-(?!-))*[a-z0-9]|[a-z]")
ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
MAX_CONFIG = 2**20
Found = Iterator[tuple[str, str, str]]  # rule, path, what


def document(found: Json) -> Found:
    meta, kind = mapping(found.get("metadata")), str(found.get("kind"))
    name = str(meta.get("name") or "")
    form, most = SUBDOMAIN, 253
    if kind == "Namespace":
        form, most = LABEL_NAME, 63
    elif kind == "Service":
        form, most = SERVICE_NAME, 63
    elif kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
        form = PATH_NAME
    if (name or "generateName" not in meta) and (len(name) > most or not form.fullmatch(name)):
        yield "name", "metadata.name", f"{name!r} is no name of a {kind}"
    for key in ("labels", "annotations"):
        for label, value in mapping(meta.get(key)).items():
            yield from _label(str(label), value if key == "labels" else "", f"metadata.{key}")
    if kind in ("ConfigMap", "Secret"):
        held = [*texts(found.get("data")).items(), *texts(found.get("binaryData")).items()]
        if sum(len(key) + len(value) for key, value in held) > MAX_CONFIG:
            yield "size", "data", "is more than 1 MiB"
        for key in set(mapping(found.get("data"))) & set(mapping(found.get("binaryData"))):
            yield "twice", f"data.{key}", "stands in binaryData, too"
        for key, value in texts(found.get("data")).items() if kind == "ConfigMap" else ():
            if key.endswith((".yaml", ".yml", ".json")) and (why := _unreadable(value)):
                yield "syntax", f"data.{key}", f"is no YAML: {why}"
        for key, _ in held:
            if not CONFIG_KEY.fullmatch(key):
                yield "name", f"data.{key}", "is no key"
    if kind in SERVING or kind == "Job":
        yield from _selector(found, kind)
    yield from _amounts(found, kind)


def _unreadable(text: str) -> str:
    """Why a text cannot be read as YAML (of which JSON is a part), "" where it can."""
    import yaml

    try:
        for _ in yaml.safe_load_all(text):
            pass
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (its line {mark.line + 1})" if mark else ""
        return f"{getattr(error, 'problem', None) or 'it ends too early'}{where}"
    return ""


def _label(key: str, value: object, at: str) -> Found:
    if not LABEL_KEY.fullmatch(key) or len(key.rpartition("/")[2]) > 63:
        yield "label", f"{at}.{key}", "is no label's name"
    if not isinstance(value, str) or len(value) > 63 or not LABEL_VALUE.fullmatch(value):
        yield "label", f"{at}.{key}", f"{value!r} is no label's value"


def _selector(found: Json, kind: str) -> Found:
    strategy = dig(found, "spec.strategy")
    if strategy.get("type") == "Recreate" and strategy.get("rollingUpdate") is not None:
        yield "rollout", "spec.strategy.rollingUpdate", "is for the type RollingUpdate alone"
    if whole(mapping(found.get("spec")).get("replicas"), 0) < 0:
        yield "amount", "spec.replicas", "must be at least 0"
    wanted = texts(dig(found, "spec.selector").get("matchLabels"))
    labels = texts(dig(found, "spec.template.metadata").get("labels"))
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet") and not wanted:
        yield "selector", "spec.selector", "selects by nothing"
    if any(labels.get(key) != value for key, value in wanted.items()):
        yield "selector", "spec.selector", "does not select the pods of its own template"


def _amounts(found: Json, kind: str) -> Found:
    if kind == "ResourceQuota":
        for key, value in dig(found, "spec.hard").items():
            if quantity(value) is None:
                yield "amount", f"spec.hard.{key}", f"{value!r} is no amount"
    if kind == "PersistentVolumeClaim" and not items(mapping(found.get("spec")).get("accessModes")):
        yield "amount", "spec.accessModes", "are missing"
    if kind == "PersistentVolumeClaim" and (quantity(dig(found, "spec.resources.requests").get("storage")) or 0) <= 0:
        yield "amount", "spec.resources.requests.storage", "is missing, or no amount"
    if kind == "LimitRange":
        for number, limit in enumerate(maps(mapping(found.get("spec")).get("limits"))):
            at = f"spec.limits[{number}]"
            for key in ("min", "max", "default", "defaultRequest"):
                for name, value in mapping(limit.get(key)).items():
                    if quantity(value) is None:
                        yield "amount", f"{at}.{key}.{name}", f"{value!r} is no amount"
            for low, high in (("defaultRequest", "default"), ("default", "max"), ("min", "max")):
                for name, value in mapping(limit.get(low)).items():
                    least, most = quantity(value), quantity(mapping(limit.get(high)).get(name))
                    if least is not None and most is not None and least > most:
                        yield "amount", f"{at}.{low}.{name}", f"is more than {high}"


def pod(work: Workload) -> Found:
    """Names, ports and mounts of a pod template; an entry that stands twice is refused by server-side apply."""
    at = f"{work.at}.spec" if work.at else "spec"
    volumes = [str(volume.get("name", "")) for volume in maps(work.spec.get("volumes"))]
    claims = maps(mapping(work.document.get("spec")).get("volumeClaimTemplates"))
    volumes += [str(mapping(claim.get("metadata")).get("name")) for claim in claims]
    yield from _twice(volumes, f"{at}.volumes")
    yield from _twice([str(c.get("name")) for _, c in work.containers], f"{at}.containers")
    used = {str(mount.get("name")) for _, c in work.containers for mount in maps(c.get("volumeMounts"))}
    for volume in sorted(set(volumes) - used):
        yield "mount", f"{at}.volumes", f"{volume} is mounted by no container"
    for place, container in work.containers:
        if not LABEL_NAME.fullmatch(str(container.get("name", ""))) or len(str(container.get("name"))) > 63:
            yield "name", f"{place}.name", f"{container.get('name')!r} is no name of a container"
        yield from _container(container, volumes, place)
    for key, value in work.labels.items():
        yield from _label(key, value, f"{work.at}.metadata.labels" if work.at else "metadata.labels")
    for volume in volumes:
        if not LABEL_NAME.fullmatch(volume) or len(volume) > 63:
            yield "name", f"{at}.volumes", f"{volume!r} is no name of a volume"


def _container(container: Json, volumes: Sequence[str], at: str) -> Found:
    mounts, env, ports = (maps(container.get(key)) for key in ("volumeMounts", "env", "ports"))
    for mount in mounts:
        if str(mount.get("name")) not in {*volumes, *MADE}:
            yield "mount", f"{at}.volumeMounts", f"{mount.get('name')} is no volume of the pod"
        if not str(mount.get("mountPath", "")).startswith("/"):
            yield "mount", f"{at}.volumeMounts", f"{mount.get('mountPath')!r} is no absolute path"
    yield from _twice([str(mount.get("mountPath")) for mount in mounts], f"{at}.volumeMounts")
    yield from _twice([str(variable.get("name")) for variable in env], f"{at}.env")
    yield from _twice([f"{port.get('containerPort')}/{port.get('protocol', 'TCP')}" for port in ports], f"{at}.ports")
    yield from _twice([str(port["name"]) for port in ports if "name" in port], f"{at}.ports")
    for variable in env:
        if not ENV_NAME.fullmatch(str(variable.get("name", ""))):
            yield "name", f"{at}.env", f"{variable.get('name')!r} is no variable's name"
        if "value" in variable and "valueFrom" in variable and variable["value"]:
            yield "env", f"{at}.env.{variable.get('name')}", "has a value and a source"
    for port in ports:
        number, name = port.get("containerPort"), port.get("name")
        if not isinstance(number, int) or not 0 < number < 65536:
            yield "port", f"{at}.ports", f"{number!r} is no port"
        if name is not None and (len(str(name)) > 15 or not PORT_NAME.fullmatch(str(name))):
            yield "port", f"{at}.ports", f"{name!r} is no port's name"
    for key, values in mapping(container.get("resources")).items():
        for name, value in mapping(values).items() if key in ("limits", "requests") else ():
            if quantity(value) is None:
                yield "amount", f"{at}.resources.{key}.{name}", f"{value!r} is no amount"
    for key in ("command", "args"):
        if any(not isinstance(word, str) for word in items(container.get(key))):
            yield "env", f"{at}.{key}", "has words that are no text"


def _twice(names: Sequence[str], at: str) -> Found:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "twice", at, f"{name} stands twice"

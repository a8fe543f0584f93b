"""The fields of documents, with their types: what the API server refuses with `fieldValidation=Strict`.

An unknown field, another type, a missing or unlisted value is told with its path. The tables are `fields` (Ray, and pods)
and `objects` (everything else): `name type`, `name! type` where it is required. A type is `str`, `bool`, `int` (32 bits),
`long`, `num`, `quantity`, `port` (a number or a name), `share` (a number or a percentage), one of `TEXTS`, `any`, the name of
another shape, `[T]`, `{T}` (a mapping by text) or `a|b|c` (one of these texts). Kinds of volume that PSA `restricted`
forbids are not among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from orchestrator.kubernetes import fields, objects
from orchestrator.kubernetes.amounts import QUANTITY

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

SHAPES: dict[str, str] = {**fields.SHAPES, **objects.SHAPES}
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_VALUE = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_NAME = rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*"
PORT_NAME = r"(?=.{1,15}$)(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]*[a-z0-9])?"
TEXTS: dict[str, tuple[str, str]] = {  # type: what a text of it looks like, and what it is called
    "address": (r"(None|[0-9.]{7,15}|[0-9a-f:.]*:[0-9a-f:.]*)?", "address"),
    "base64": (r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", "base64 (stringData takes plain text)"),
    "dns": (_LABEL, "name of small letters, digits and dashes"),
    "key": (r"[-._a-zA-Z0-9]{1,253}", "key of a ConfigMap or Secret"),
    "label": (rf"({_VALUE})?", "value of a label"),
    "name": (_NAME, "name of an object"),
    "own": (
        (
            r"metadata\.(name|namespace|uid|labels|annotations|labels\['[^']+'\]|annotations\['[^']+'\])"
            r"|spec\.(nodeName|serviceAccountName)|status\.(hostIP|hostIPs|podIP|podIPs)"
        ),
        "field that a pod can ask for",
    ),
    "relative": (r"(?!/)(?!(.*/)?\.\.(/|$)).+", "path within a volume"),
    "part": (r"(?!\.\.?$)[^/%]+", "name of an object"),
    "qualified": (rf"({_NAME}/)?{_VALUE}", "name of a label"),
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


def misfits(document: Mapping[str, Any]) -> Iterator[Refusal]:
    """Every fault in the shape of a document that is none of Ray's; a field that is null is as if it were not there."""
    kind = str(document.get("kind"))
    wanted = objects.KINDS.get(kind)
    if wanted is None:
        near = get_close_matches(kind, objects.KINDS, n=1, cutoff=0.8)
        if near or not document.get("apiVersion"):
            told = f"{kind!r} is no kind" + (f"; did you mean {near[0]}?" if near else ": apiVersion is missing")
            yield Refusal("kind", told)
        return
    if document.get("apiVersion") != wanted:
        yield Refusal("apiVersion", f"of a {kind} must be {wanted}, not {document.get('apiVersion')!r}")
        return
    yield from faults(_pruned(document), kind)


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _pruned(item) for name, item in value.items() if item is not None}
    return [_pruned(item) for item in value] if isinstance(value, list) else value


def faults(value: Any, shape: str, path: str = "") -> Iterator[Refusal]:
    """Every place where `value` has not this shape."""
    known = _fields(shape)
    if not isinstance(value, Mapping):
        yield Refusal(path, f"must be a mapping, not {_told(value)}")
        return
    for name, (required, _) in known.items():
        if required and name not in value:
            yield Refusal(path, f"`{name}` is missing")
    for name, item in value.items():
        below = f"{path}.{name}" if path else str(name)
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            yield Refusal(below, "no such field" + (f"; did you mean {near[0]}?" if near else ""))
        else:
            yield from _typed(item, known[name][1], below)
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
    if kind == "share":
        good = whole or (isinstance(value, str) and re.fullmatch(r"\d+%", value))
        return "" if good else f"must be a number or a percentage as 50%, not {_told(value)}"
    if kind == "port":
        good = 0 < value < 65536 if whole else isinstance(value, str) and re.fullmatch(PORT_NAME, value)
        return "" if good else f"must be a port's number or name, not {_told(value)}"
    if not isinstance(value, str):
        return f"must be a text, not {_told(value)}" + ("; quote it" if whole or isinstance(value, bool) else "")
    if kind in TEXTS:
        form, called = TEXTS[kind]
        text = re.sub(r"\s", "", value) if kind == "base64" else value
        return "" if re.fullmatch(form, text) else f"{_told(value)} is no {called}"
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


__all__ = ["QUANTITY", "Refusal", "faults", "misfits"]

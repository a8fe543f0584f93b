"""Changes of documents, written as paths: `spec.template.spec.containers.0.image`; `~` stands for a dot in a key."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

from orchestrator.kubernetes.render import Wish, render
from tests.k8s.built import OPTIONAL, OVERLAYS, ROOT, Doc, documents, find, job, overlay

GONE: Any = object()  # the field is taken out
PIPELINE = str(ROOT / "pipelines" / "dcgan.yaml")
WISHES = {
    "scaling": Wish(PIPELINE, max_workers=8, storage="s3://b/r"),
    "queue": Wish(PIPELINE, profile="gpu", storage="s3://b/r", queue="train"),
}


@cache
def _sound(name: str) -> list[Doc]:
    if name in WISHES:
        return documents(render(WISHES[name]).text)
    if name in OVERLAYS or name.removeprefix("with-") in OPTIONAL:
        return overlay(name)
    return [document for part in name.split("+") for document in (overlay(part) if part in OVERLAYS else job(part))]


def sound(name: str) -> list[Doc]:
    """A fresh copy of an overlay ("gpu"), a kept job ("ring8"), both ("gpu+dcgan-gpu") or one of `WISHES`."""
    return copy.deepcopy(_sound(name))


class More(list[Any]):
    """Items that are added to a list."""


def put(document: Any, path: str, value: Any) -> None:
    """Set, take out (`GONE`), lengthen (`More`) or replace by what a function makes of it, one field."""
    parts: list[Any] = [int(part) if part.isdigit() else part.replace("~", ".") for part in path.split(".")]
    last = parts.pop()
    for part in parts:
        document = document[part] if isinstance(document, list) else document.setdefault(part, {})
    if value is GONE:
        del document[last]
    elif isinstance(value, More):
        document[last] = [*document.get(last, []), *copy.deepcopy(list(value))]
    else:
        document[last] = value(document[last]) if callable(value) else value


def changed(base: str, which: str, changes: dict[str, Any]) -> list[Doc]:
    """`which`: "Deployment mlflow", or "" where the one change, under "", makes new documents of all of them."""
    docs = sound(base)
    if not which:
        made: Sequence[Doc] = changes[""](docs)
        return list(made)
    kind, _, name = which.partition(" ")
    for path, value in changes.items():
        put(find(docs, kind, name), path, value)
    return docs

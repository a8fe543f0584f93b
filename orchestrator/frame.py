"""The frame of a spec: its keys, types and ranges, as the JSON Schema that editors get too, and the check against it.

One table serves the check, the editors' schema and the documentation, so they cannot drift apart. The check reads the
part of JSON Schema that the table uses. (pydantic would do it too, and costs 0.14 s of every command to import.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.credentials import Secret
from orchestrator.document import Path
from orchestrator.wording import quote, suggest

Schema = dict[str, Any]

NAME = "^[a-z][a-z0-9_]{0,39}$"
REFERENCE = r"^[a-z][a-z0-9_]{0,39}(\.[a-z][a-z0-9_]{0,39})?$"
CELL = r"^[A-Za-z0-9_.+-]{1,40}$"
AXIS = r"^[a-z][a-z0-9_]{0,39}(\.[a-z0-9_]{1,40})*$"
_PATTERNS = {
    NAME: "a name: a lower-case letter, then lower-case letters, digits or underscores, 40 characters at most",
    REFERENCE: "a stage, or stage.output",
    CELL: "true, false, a number or a short text of letters, digits and _ . + -",
    AXIS: "`seed` or a parameter of the stage",
}

SCALE: Schema = {
    "type": ["object", "null"],
    "description": "How wide the stage runs. Never part of the cache key, except whether GPUs are asked for.",
    "additionalProperties": False,
    "properties": {
        "num_workers": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 1},
        "cpus_per_worker": {"type": "number", "exclusiveMinimum": 0, "maximum": 1024, "default": 1.0},
        "gpus_per_worker": {"type": "number", "minimum": 0, "maximum": 64, "default": 0.0},
        "max_concurrent": {
            "type": ["integer", "null"],
            "minimum": 1,
            "default": None,
            "description": "Trials or tasks at once; null: as many as the cluster holds.",
        },
    },
}
RETRY: Schema = {
    "type": ["object", "null"],
    "description": "How often a stage is tried again after a failure that may pass (a worker's death, the store away).",
    "additionalProperties": False,
    "properties": {
        "max_failures": {"type": "integer", "minimum": 0, "maximum": 1000, "default": 0},
        "backoff_s": {"type": "number", "minimum": 0, "maximum": 3600, "default": 1.0},
        "backoff_factor": {"type": "number", "minimum": 1, "maximum": 10, "default": 2.0},
        "max_backoff_s": {"type": "number", "minimum": 0, "maximum": 86_400, "default": 60.0},
    },
}
STAGE: Schema = {
    "type": "object",
    "required": ["uses"],
    "additionalProperties": False,
    "properties": {
        "uses": {"type": "string", "pattern": NAME, "description": "The kind of stage: `orchestrate list stages`."},
        "inputs": {
            "type": ["object", "null"],
            "description": "Where each input comes from: port: stage, or port: stage.output.",
            "propertyNames": {"pattern": NAME},
            "additionalProperties": {"type": "string", "pattern": REFERENCE},
        },
        "with": {"type": ["object", "null"], "description": "The stage's own parameters."},
        "scale": SCALE,
        "retry": RETRY,
        "timeout_s": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 31_536_000, "default": None},
        "matrix": {
            "type": ["object", "null"],
            "description": "One instance of the stage for each cell, over `seed` or parameters of the stage.",
            "propertyNames": {"pattern": AXIS},
            "additionalProperties": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1000,
                "items": {"type": ["boolean", "integer", "number", "string"], "pattern": CELL},
            },
        },
    },
}
SPEC: Schema = {
    "type": "object",
    "required": ["version", "name", "stages"],
    "additionalProperties": False,
    "properties": {
        "version": {"const": 1, "description": "Of the spec's format."},
        "name": {"type": "string", "pattern": NAME, "description": "The pipeline's name."},
        "description": {"type": ["string", "null"], "default": ""},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "default": 0},
        "storage": {
            "type": "string",
            "minLength": 1,
            "default": "runs",
            "description": "Where artifacts and records are kept: a directory or any fsspec URL.",
        },
        "storage_options": {
            "type": ["object", "null"],
            "description": "Options of the file system; ${env:NAME} may stand here.",
        },
        "tracking": {
            "type": ["string", "null"],
            "default": None,
            "description": "MLflow's tracking URI. Left out: sqlite in the local storage.",
        },
        "timeout_s": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "maximum": 31_536_000,
            "default": None,
            "description": "Seconds that a whole run may take; then it saves and ends, and the same command goes on.",
        },
        "stages": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": NAME},
            "additionalProperties": STAGE,
        },
        "profiles": {
            "type": ["object", "null"],
            "description": "Values to replace with --profile NAME: dotted path: value.",
            "propertyNames": {"pattern": NAME},
            "additionalProperties": {"type": "object"},
        },
    },
}

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str, Secret),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "greater than", "maximum": "at most"}


@dataclass(frozen=True)
class Flaw:
    """A mistake at a path of the document. `key`: the key is meant. `drop`: what to leave out to go on checking."""

    path: Path
    error_id: str
    what: str
    hint: str = ""
    why: str = ""
    key: bool = False
    drop: Path | None = None


def check(value: Any, schema: Schema, path: Path = ()) -> Iterator[Flaw]:
    """Every mistake in `value`."""
    if "const" in schema:
        if type(value) is not type(schema["const"]) or value != schema["const"]:
            yield Flaw(path, "wrong-value", f"{called(path)} must be {schema['const']}, not {quote(value)}")
    elif not _fits(value, schema["type"]):
        hint = _hint(value, schema)
        yield Flaw(path, "wrong-type", f"{called(path)} must be {words(schema)}, not {quote(value)}", hint, drop=path)
    elif isinstance(value, dict):
        yield from _check_mapping(value, schema, path)
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", len(value)):
            what = f"{called(path)} must have 1 to {schema['maxItems']} values, not {len(value)}"
            yield Flaw(path, "wrong-length", what, drop=path)
        for i, item in enumerate(value):
            yield from check(item, schema.get("items", {"type": list(_TYPES)}), (*path, i))
    elif isinstance(value, str):
        if not _matches(schema.get("pattern"), value) or len(value) < schema.get("minLength", 0):
            needed = _PATTERNS.get(schema.get("pattern", ""), "no empty text")
            what = f"{called(path)} must be {needed}, not {quote(value)}"
            yield Flaw(path, "bad-name", what, _spelled(value, schema), drop=path)
    elif value is not None and not isinstance(value, bool) and not _in_range(value, schema):
        yield Flaw(path, "out-of-range", f"{called(path)} must be {words(schema)}, not {quote(value)}", drop=path)


def _check_mapping(value: dict[str, Any], schema: Schema, path: Path) -> Iterator[Flaw]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key in schema.get("required", ()):
        if key not in value:
            what = f"{called(path) if path else 'the spec'} has no `{key}`"
            yield Flaw(path, "missing-key", what, f"add `{key}:`", key=True, drop=path)
    if len(value) < schema.get("minProperties", 0):
        yield Flaw(path, "empty", f"{called(path)} is empty", drop=path)
    for key, item in value.items():
        below = (*path, key)
        if key in known:
            yield from check(item, known[key], below)
        elif others is False:
            what = f"{called(path) if path else 'a spec'} has no key {quote(key)}"
            yield Flaw(below, "unknown-key", what, misplaced(key, schema) or suggest(key, known), key=True, drop=below)
        else:
            pattern = schema.get("propertyNames", {}).get("pattern")
            if not _matches(pattern, key):
                what = f"{quote(key)} must be {_PATTERNS[pattern]}"
                yield Flaw(below, "bad-name", what, _spelled(key, {"pattern": pattern}), key=True, drop=below)
            if isinstance(others, dict):
                yield from check(item, others, below)


def misplaced(key: str, schema: Schema) -> str:
    """Advice for a key that is known elsewhere in the frame."""
    if schema is STAGE and key in SCALE["properties"]:
        return f"write scale: {{{key}: …}}"
    if schema is STAGE and key in RETRY["properties"]:
        return f"write retry: {{{key}: …}}"
    near = suggest(key, schema.get("properties", {}))
    return "a stage's own parameters stand under `with`" if schema is STAGE and not near.startswith("did") else ""


def words(schema: Schema) -> str:
    """What a value must be, for a message."""
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kinds = [_WORDS[kind] for kind in types if kind != "null" and not (kind == "integer" and "number" in types)]
    bounds = [f"{text} {schema[sign]}" for sign, text in _BOUNDS.items() if sign in schema]
    if schema.get("maximum", 0) > 10**15:
        bounds = bounds[:-1]
    if schema.get("pattern") in _PATTERNS:
        return _PATTERNS[schema["pattern"]]
    return " or ".join(kinds) + (" " + " and ".join(bounds) if bounds else "")


def called(path: Path) -> str:
    """The last name of a path, with positions: `seed[1]`."""
    if not path:
        return "the spec"
    tail = ""
    for part in reversed(path):
        if isinstance(part, str):
            return f"`{part[:60]}{tail}`" if part.isprintable() else f"{quote(part)}{tail}"
        tail = f"[{part}]{tail}"
    return tail


def _fits(value: Any, types: str | list[str]) -> bool:
    kinds = [types] if isinstance(types, str) else types
    return any(isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in kinds)


def _matches(pattern: str | None, value: str) -> bool:
    return pattern is None or bool(re.fullmatch(pattern, value))  # fullmatch: `$` alone lets a line break pass


def _in_range(value: float, schema: Schema) -> bool:
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    return (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high)


def _hint(value: Any, schema: Schema) -> str:
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if isinstance(value, float) and "integer" in types and value.is_integer() and abs(value) < 1e15:
        return f"write {int(value)}"
    if (
        isinstance(value, str)
        and re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", value)
        and {"integer", "number"} & set(types)
    ):
        return "remove the quotes"
    if "string" in types and isinstance(value, int | float) and "pattern" not in schema:
        return f'write "{quote(value)}"'
    return "an input comes from one stage" if schema.get("pattern") == REFERENCE and isinstance(value, list) else ""


def _spelled(value: str, schema: Schema) -> str:
    """A name that would do, for one that does not."""
    if schema.get("pattern") != NAME:
        return ""
    name = re.sub(r"[^a-z0-9_]+", "_", value.lower()).strip("_")[:40]
    return f"write {name}" if _matches(NAME, name) else ""

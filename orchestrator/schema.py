"""The JSON Schema (draft 2020-12) of a spec, for editors: the frame, and each stage's `with` by its `uses`.

Built from the same tables that check a spec: `frame.SPEC`, and the descriptions of the plugins. Nothing is imported.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from orchestrator.frame import SPEC, Schema
from trainers import plugins
from trainers.forms import Form

_TYPES = {"bool": "boolean", "int": "integer", "float": "number", "str": "string", "none": "null", "dict": "object"}
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def schema() -> Schema:
    """The schema of a whole spec."""
    whole = deepcopy(SPEC)
    stage = whole["properties"]["stages"].pop("additionalProperties")
    names = plugins.names("stages")
    stage["properties"]["uses"]["enum"] = list(names)
    stage["allOf"] = [_by_use(name) for name in names]
    whole["properties"]["stages"]["additionalProperties"] = {"$ref": "#/$defs/stage"}
    choices = {kind: _choice(kind) for kind in plugins.KINDS if kind != "stages"}
    each = {f"{kind}.{name}": _parameters(kind, name) for kind in plugins.KINDS for name in plugins.names(kind)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of the GAN orchestrator",
        **whole,
        "$defs": {"stage": stage, **choices, **each},
    }


def _by_use(name: str) -> Schema:
    """What `uses: name` says of a stage's `with` and ports."""
    description = plugins.describe("stages", name)
    ports: dict[str, str] = description.attributes.get("inputs", {})
    required = [port for port, kind in ports.items() if not kind.endswith(("?", "*"))]
    with_ = {"anyOf": [{"$ref": f"#/$defs/stages.{name}"}, {"type": "null"}], "description": description.summary}
    inputs = {
        "properties": {
            port: {"description": f"a stage that makes: {kind.rstrip('?*')}"} for port, kind in ports.items()
        },
        "propertyNames": {"enum": list(ports)},
        "required": required,
    }
    then: Schema = {"properties": {"with": with_, "inputs": inputs}}
    needed = [key for key, keys in (("inputs", required), ("with", _required("stages", name))) if keys]
    if needed:
        then["required"] = needed
    return {"if": {"properties": {"uses": {"const": name}}}, "then": then}


def _choice(kind: str) -> Schema:
    """One plugin of a kind: its name, or a mapping of its name to its parameters."""
    return {"anyOf": [{"enum": list(plugins.names(kind))}, {**_several(kind), "minProperties": 1, "maxProperties": 1}]}


def _several(kind: str) -> Schema:
    """A mapping of names to parameters."""
    each = {name: {"anyOf": [{"$ref": f"#/$defs/{kind}.{name}"}, {"type": "null"}]} for name in plugins.names(kind)}
    return {"type": "object", "properties": each, "additionalProperties": False}


def _parameters(kind: str, name: str) -> Schema:
    description = plugins.describe(kind, name)
    made: Schema = {
        "type": "object",
        "description": description.summary,
        "additionalProperties": False,
        "properties": {param.name: _parameter(param) for param in description.params},
    }
    required = _required(kind, name)
    return {**made, "required": required} if required else made


def _required(kind: str, name: str) -> list[str]:
    return [param.name for param in plugins.describe(kind, name).params if param.required]


def _parameter(param: plugins.Param) -> Schema:
    made = _named(param.name) if _holds_any(param.form) else of(param.form)
    if param.doc:
        made["description"] = param.doc
    if not param.required:
        made["default"] = _plain(param.default)
    return made


def _holds_any(form: Form) -> bool:
    return form.name == "any" or any(_holds_any(arg) for arg in form.args if form.name != "dict")


def _named(name: str) -> Schema:
    """What a free parameter holds, by its name: `dataset` one plugin, `metrics` several, anything else anything."""
    if name == "backbone":
        one = {"$ref": "#/$defs/backbones"}
        sides = {"type": "object", "properties": {"generator": one, "critic": one}, "additionalProperties": False}
        return {"anyOf": [one, sides, {"type": "null"}]}
    if f"{name}s" in plugins.KINDS:
        return {"anyOf": [{"$ref": f"#/$defs/{name}s"}, {"type": "null"}]}
    if name in plugins.KINDS:
        several = {"type": "array", "items": {"$ref": f"#/$defs/{name}"}}
        return {"anyOf": [several, _several(name), {"type": "null"}]}
    return {}


def of(form: Form) -> Schema:
    """The schema of one parameter's type."""
    if form.name == "any":
        return {}
    if form.name == "union":
        return {"anyOf": [of(arg) for arg in form.args]}
    if form.name == "literal":
        return {"enum": list(form.choices)}
    if form.name in ("list", "tuple"):
        if form.many:
            return {"type": "array", "items": of(form.args[0])}
        size = len(form.args)
        fixed = {"prefixItems": [of(arg) for arg in form.args], "minItems": size, "maxItems": size} if size else {}
        return {"type": "array", **fixed}
    made: Schema = {"type": _TYPES[form.name]}
    if form.name == "dict" and form.args:
        made["additionalProperties"] = of(form.args[1])
    return {**made, **{_BOUNDS[sign]: bound for sign, bound in form.bounds}}


def _plain(value: Any) -> Any:
    """A default as JSON."""
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value

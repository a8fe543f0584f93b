"""Names, descriptions and classes of the plugins: variants, hacks, backbones, data sets, metrics and stages.

A plugin is one file that defines one frozen dataclass; its fields are its YAML parameters. `describe` parses the file
and never imports it, so planning knows every parameter, range and compatibility without torch; `load` and `build`
import it. There is no registry: a new file is a new plugin.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from trainers import syntax
from trainers.forms import Fault, Form, UnreadableError, form, literal, show, suggest

__all__ = [
    "KINDS",
    "BadParametersError",
    "Description",
    "Fault",
    "Param",
    "PluginError",
    "build",
    "check",
    "complete",
    "describe",
    "file",
    "load",
    "names",
    "once",
    "steady",
    "suggest",
]

KINDS = {
    "variants": "trainers.variants",
    "hacks": "trainers.hacks",
    "backbones": "trainers.backbones",
    "datasets": "trainers.datasets",
    "metrics": "trainers.metrics",
    "stages": "orchestrator.stages",
}
_BASES = {
    "variants": "Variant",
    "hacks": "Hack",
    "backbones": "Backbone",
    "datasets": "Dataset",
    "metrics": "Metric",
    "stages": "Stage",
}
T = TypeVar("T")
MISSING: Any = object()  # the default of a required parameter


class PluginError(ValueError):
    """An unknown plugin, or a plugin file that breaks the rules of its kind."""


class BadParametersError(PluginError):
    """Parameters that a plugin does not take; `faults` says which and why."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


@dataclass(frozen=True)
class Param:
    """One YAML parameter. `type` is its annotation with ranges in words; `bounds` maps ge, gt, le, lt to numbers."""

    name: str
    type: str
    default: Any
    required: bool
    bounds: Mapping[str, float]
    choices: tuple[Any, ...]
    doc: str
    form: Form = field(repr=False)


@dataclass(frozen=True)
class Description:
    """What a plugin's file says of it. `attributes` are its class attributes, its base's defaults included."""

    kind: str
    name: str
    cls: str
    summary: str  # first line of the docstring
    doc: str
    params: tuple[Param, ...]
    attributes: Mapping[str, Any]

    def param(self, name: str) -> Param | None:
        return next((param for param in self.params if param.name == name), None)


_steady: ContextVar[dict[Any, Any] | None] = ContextVar("steady", default=None)


@contextmanager
def steady() -> Iterator[None]:
    """Within it the plugins' files are taken to stay as they are: planning asks thousands of times for the same answers."""
    token = _steady.set({}) if _steady.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _steady.reset(token)


def once(key: object, make: Callable[[], T]) -> T:
    """`make()`; within `steady` once for each key, and the answer is shared: it must not be changed."""
    known = _steady.get()
    if known is None:
        return make()
    if key not in known:
        known[key] = make()
    found: T = known[key]
    return found


def names(kind: str) -> tuple[str, ...]:
    """Every plugin of a kind, sorted. A file whose name starts with an underscore is none."""
    return once(("names", kind), lambda: _names(kind))


def _names(kind: str) -> tuple[str, ...]:
    stems = (entry[:-3] for entry in os.listdir(_folder(KINDS[kind])) if entry.endswith(".py"))
    return tuple(sorted(stem for stem in stems if not stem.startswith("_")))


def file(kind: str, name: str) -> Path:
    """The plugin's source file. Raises PluginError for an unknown name."""
    path = _folder(KINDS[kind]) / f"{name}.py"
    if not name.isidentifier() or name.startswith("_") or not path.is_file():
        raise PluginError(f"unknown {kind[:-1]} {show(name)}; {suggest(name, names(kind))}")
    return path


def describe(kind: str, name: str) -> Description:
    """What the plugin's file says of it, without importing it. Raises PluginError for an unknown or unreadable one."""
    # One tree for each version of the file, so this caches too.
    return once(("describe", kind, name), lambda: _describe(kind, name, _tree(file(kind, name))))


def load(kind: str, name: str) -> type[Any]:
    """Import the plugin's class."""
    description = describe(kind, name)
    cls: type[Any] = getattr(importlib.import_module(f"{KINDS[kind]}.{name}"), description.cls)
    return cls


def check(kind: str, name: str, params: object, path: tuple[str | int, ...] = ()) -> list[Fault]:
    """Every mistake in `params` (None: no parameters given), without importing the plugin.

    Fault paths start with `path`; an unknown name is a fault at `path` itself.
    """
    if not isinstance(name, str) or name not in names(kind):
        return [
            Fault(path, f"unknown-{kind[:-1]}", f"there is no {kind[:-1]} {show(name)}", "", suggest(name, names(kind)))
        ]
    try:
        description = describe(kind, name)
    except PluginError as error:
        return [Fault(path, "broken-plugin", str(error))]
    if params is None:
        params = {}
    if not isinstance(params, Mapping):
        return [Fault(path, "wrong-type", f"the parameters of {name} must be a mapping, not {show(params)}")]
    known = {param.name: param for param in description.params}
    faults = []
    for key, value in params.items():
        if key in known:
            faults += known[key].form.check(value, (*path, key))
        else:
            why = "" if known else "it takes no parameters"
            what = f"{kind[:-1]} {name} has no parameter {show(key)}"
            faults.append(Fault((*path, key), "unknown-key", what, why, suggest(key, known)))
    for param in description.params:
        if param.required and param.name not in params:
            what = f"{kind[:-1]} {name} needs `{param.name}` ({param.form.words})"
            faults.append(Fault(path, "missing-key", what, "", param.doc))
    return faults


def complete(kind: str, name: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every parameter in the order of the fields, defaults filled in, converted as the class wants them.

    Two spellings of the same parameters give equal results. Raises BadParametersError.
    """
    if faults := check(kind, name, params, (name,)):
        raise BadParametersError(faults)
    given = params or {}
    return {
        param.name: param.form.convert(given[param.name]) if param.name in given else deepcopy(param.default)
        for param in describe(kind, name).params
    }


def build(kind: str, name: str, params: Mapping[str, Any] | None = None) -> Any:
    """An instance of the plugin. Raises BadParametersError before importing anything."""
    given = complete(kind, name, params)
    return load(kind, name)(**{key: value for key, value in given.items() if key in (params or {})})


# --- reading a file ---------------------------------------------------------------------------------------------------


@cache
def _folder(package: str) -> Path:
    """Where a package lies. Only the top package is looked up: looking up a nested one would run its parents."""
    top, *rest = package.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(f"package {top} is not installed")
    return Path(next(iter(spec.submodule_search_locations)), *rest)


def _tree(path: Path) -> ast.Module:
    stat = path.stat()
    return _parse(path, (stat.st_mtime_ns, stat.st_size))


@cache
def _parse(path: Path, _version: tuple[int, int]) -> ast.Module:
    """A file's syntax tree, once a process unless the file changes."""
    try:
        return syntax.module(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise PluginError(f"{path.name}:{error.lineno}: {error.msg}") from error


@cache
def _describe(kind: str, name: str, tree: ast.Module) -> Description:
    node = _the_class(kind, name, tree)
    doc = ast.get_docstring(node) or ast.get_docstring(tree) or ""
    try:
        params, attributes = _fields(node), {**_inherited(node, tree), **_attributes(node)}
    except UnreadableError as error:
        raise PluginError(f"{name}.py: {error}") from error
    return Description(kind, name, node.name, doc.split("\n", 1)[0].strip(), doc, params, attributes)


def _the_class(kind: str, name: str, tree: ast.Module) -> ast.ClassDef:
    """The one class that the file defines for its kind."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    frozen = [node for node in classes if _is_frozen_dataclass(node)]
    found = [node for node in frozen if _BASES[kind] in map(_last_name, node.bases)] or [n for n in frozen if n.bases]
    if len(found) > 1:
        found = [node for node in found if node.name.lower() == name.replace("_", "")]
    if len(found) != 1:
        raise PluginError(f"{name}.py must define one `@dataclass(frozen=True) class …({_BASES[kind]})`")
    return found[0]


def _is_frozen_dataclass(node: ast.ClassDef) -> bool:
    return any(
        isinstance(decorator, ast.Call)
        and _last_name(decorator.func) == "dataclass"
        and any(k.arg == "frozen" and isinstance(k.value, ast.Constant) and k.value.value for k in decorator.keywords)
        for decorator in node.decorator_list
    )


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_class_var(annotation: ast.expr) -> bool:
    return _last_name(annotation) == "ClassVar"


def _fields(node: ast.ClassDef) -> tuple[Param, ...]:
    params = []
    for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or _is_class_var(statement.annotation):
            continue
        name, type_ = ast.unparse(statement.target), form(statement.annotation)
        default = MISSING if statement.value is None else _default(statement.value)
        doc = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            doc = " ".join(after.value.value.split())
        inner = next((arg for arg in type_.args if arg.name != "none"), type_) if type_.name == "union" else type_
        bounds = dict(inner.bounds)
        params.append(Param(name, str(type_), default, default is MISSING, bounds, inner.choices, doc, type_))
    return tuple(params)


def _default(node: ast.expr) -> Any:
    """A literal, or `field(default=…)`, `field(default_factory=dict)`, `field(default_factory=lambda: …)`."""
    if not (isinstance(node, ast.Call) and _last_name(node.func) == "field"):
        return literal(node)
    for keyword in node.keywords:
        if keyword.arg == "default":
            return literal(keyword.value)
        if keyword.arg == "default_factory":
            made = keyword.value
            if isinstance(made, ast.Lambda):
                return literal(made.body)
            return literal(ast.Call(func=made, args=[], keywords=[], lineno=made.lineno))
    return MISSING


def _attributes(node: ast.ClassDef) -> dict[str, Any]:
    return {
        ast.unparse(statement.target): literal(statement.value)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and statement.value and _is_class_var(statement.annotation)
    }


def _inherited(node: ast.ClassDef, tree: ast.Module) -> dict[str, Any]:
    """Class attributes of the bases that this module defines or imports from our own packages."""
    found: dict[str, Any] = {}
    for base in reversed(node.bases):
        name, home = _last_name(base), tree
        modules = [s.module for s in tree.body if isinstance(s, ast.ImportFrom) and not s.level and _imports(s, name)]
        if modules and modules[0] and modules[0].split(".")[0] in ("trainers", "orchestrator"):
            home = _tree(_folder(modules[0]).with_suffix(".py"))
        for other in home.body:
            if isinstance(other, ast.ClassDef) and other.name == name and other is not node:
                found |= {**_inherited(other, home), **_attributes(other)}
    return found


def _imports(statement: ast.ImportFrom, name: str) -> bool:
    return any((alias.asname or alias.name) == name for alias in statement.names)

"""The type of a plugin's parameter, read from its annotation without evaluating it, and the check of a value.

`float | None`, `Literal["a", "b"]`, `tuple[int, ...]`, `Annotated[float, Interval(ge=0, le=1)]` and their nestings.
An int is accepted where a float stands; a bool is never a number.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainers import syntax

Path = tuple[str | int, ...]

_WORDS = {
    "bool": "true or false",
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "none": "null",
    "any": "anything",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
}
_SIGNS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "ge": ("at least", lambda value, bound: value >= bound),
    "gt": ("greater than", lambda value, bound: value > bound),
    "le": ("at most", lambda value, bound: value <= bound),
    "lt": ("less than", lambda value, bound: value < bound),
}


@dataclass(frozen=True)
class Fault:
    """A mistake in a plugin's parameters. `path` leads to the value; the other fields are those of an error message."""

    path: Path
    id: str  # "unknown-key", stable, kebab-case
    what: str
    why: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = ".".join(str(part) for part in self.path)
        text = "; ".join(part for part in (self.what, self.why, self.hint) if part)
        return f"{place}: {text}" if place else text


class UnreadableError(ValueError):
    """A literal or an annotation that cannot be read without importing its file."""


def show(value: object) -> str:
    """A value as it may stand in a message: one line, at most 60 characters, control and bidi characters escaped."""
    words = {"True": "true", "False": "false", "None": "null"}
    text = words.get(repr(value), repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def suggest(name: object, valid: Iterable[str]) -> str:
    """'did you mean …?' where a valid name is near, else the valid names."""
    from difflib import get_close_matches  # only on the way to an error

    known = list(valid)
    near = get_close_matches(str(name).lower().replace("-", "_").replace(" ", "_"), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(known)}" if known else ""


@dataclass(frozen=True)
class Form:
    """One type. `name` is a key of `_WORDS`, "literal" or "union"; a tuple of any length has one argument, `many`."""

    name: str
    args: tuple[Form, ...] = ()
    choices: tuple[Any, ...] = ()
    bounds: tuple[tuple[str, float], ...] = ()
    many: bool = False

    def __str__(self) -> str:
        """As in the annotation, with ranges: "float (at least 0) | None"."""
        if self.name == "union":
            return " | ".join(str(arg) for arg in self.args)
        if self.name == "literal":
            return " | ".join(show(choice) for choice in self.choices)
        text = {"none": "None", "any": "Any"}.get(self.name, self.name)
        if self.args:
            text += f"[{', '.join(map(str, self.args))}{', ...' if self.many else ''}]"
        if self.bounds:
            text += f" ({self.range})"
        return text

    @property
    def range(self) -> str:
        return " and ".join(f"{_SIGNS[sign][0]} {bound:g}" for sign, bound in self.bounds)

    @property
    def words(self) -> str:
        """What a value must be, for a message."""
        if self.name == "union":
            return " or ".join(dict.fromkeys(arg.words for arg in self.args))
        if self.name == "literal":
            return "one of " + ", ".join(show(choice) for choice in self.choices)
        if self.name == "tuple" and not self.many and self.args:
            return f"a list of {len(self.args)}"
        return _WORDS[self.name] + (f" {self.range}" if self.bounds else "")

    def check(self, value: object, path: Path = ()) -> list[Fault]:
        """Every mistake in `value`."""
        if self.name == "union":
            return self._check_union(value, path)
        if not self._is_one(value):
            return [self._mismatch(value, path)]
        if self.name in ("int", "float"):
            return self._check_range(value, path)
        if self.name == "dict" and self.args and isinstance(value, Mapping):
            return [fault for key, item in value.items() for fault in self.args[1].check(item, (*path, key))]
        if isinstance(value, list | tuple) and self.args:
            if not self.many and len(value) != len(self.args):
                what = f"{_called(path)} must be {self.words} values, not of {len(value)}"
                return [Fault(path, "wrong-length", what)]
            args = self.args * len(value) if self.many else self.args
            pairs = zip(args, value, strict=True)
            return [fault for i, (arg, item) in enumerate(pairs) for fault in arg.check(item, (*path, i))]
        return []

    def convert(self, value: Any) -> Any:
        """An accepted YAML value as the class wants it: int to float, list to tuple."""
        if self.name == "float":
            return float(value)
        if self.name == "union":
            exact = [arg for arg in self.args if not arg.check(value)]
            keep = [arg for arg in exact if not (arg.name == "float" and isinstance(value, int))]
            return (keep or exact)[0].convert(value)
        if self.name == "dict":
            inner = self.args[1] if self.args else Form("any")
            return {key: inner.convert(item) for key, item in value.items()}
        if self.name in ("tuple", "list"):
            args = self.args * len(value) if self.many else self.args or (Form("any"),) * len(value)
            items = [arg.convert(item) for arg, item in zip(args, value, strict=True)]
            return tuple(items) if self.name == "tuple" else items
        return value

    def _is_one(self, value: object) -> bool:
        """Whether the outermost type of `value` fits."""
        match self.name:
            case "any":
                return True
            case "none":
                return value is None
            case "bool":
                return isinstance(value, bool)
            case "int":
                return isinstance(value, int) and not isinstance(value, bool)
            case "float":
                return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
            case "str":
                return isinstance(value, str)
            case "literal":
                return any(type(value) is type(choice) and value == choice for choice in self.choices)
            case "dict":
                return isinstance(value, Mapping)
            case _:
                return isinstance(value, list | tuple)

    def _check_range(self, value: Any, path: Path) -> list[Fault]:
        if all(_SIGNS[sign][1](value, bound) for sign, bound in self.bounds):
            return []
        return [Fault(path, "out-of-range", f"{_called(path)} must be {self.range}, not {show(value)}")]

    def _check_union(self, value: object, path: Path) -> list[Fault]:
        found = [arg.check(value, path) for arg in self.args]
        if not all(found):
            return []
        fitting = [faults for arg, faults in zip(self.args, found, strict=True) if arg._is_one(value)]
        return fitting[0] if fitting else [self._mismatch(value, path)]

    def _mismatch(self, value: object, path: Path) -> Fault:
        names = {arg.name for arg in self.args} if self.name == "union" else {self.name}
        hint = ""
        if names == {"literal"}:
            hint = suggest(value, [str(choice) for choice in self.choices]) if isinstance(value, str) else ""
            hint = hint if hint.startswith("did") else ""
            return Fault(path, "not-a-choice", f"{_called(path)} must be {self.words}, not {show(value)}", hint=hint)
        if isinstance(value, str):
            hint = _hint_for_text(value, names)
        elif "int" in names and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
            hint = f"write {int(value)}"
        elif "tuple" in names or "list" in names:
            hint = f"write [{show(value)}]" if isinstance(value, int | float) else ""
        return Fault(path, "wrong-type", f"{_called(path)} must be {self.words}, not {show(value)}", hint=hint)


def _called(path: Path) -> str:
    """The last name of a path, with positions: `betas[1]`."""
    names = [part for part in path if isinstance(part, str)]
    tail = ""
    for part in reversed(path):
        if isinstance(part, str):
            break
        tail = f"[{part}]" + tail
    return f"`{names[-1]}{tail}`" if names else "the value"


def _hint_for_text(value: str, names: set[str]) -> str:
    if "bool" in names and value.lower() in ("yes", "on", "true", "no", "off", "false"):
        return f"write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'}"
    if names & {"int", "float"}:
        try:
            float(value)
        except ValueError:
            return ""
        return "remove the quotes"
    if names & {"tuple", "list"}:
        return f"write [{value}]" if len(value) < 40 else ""
    return ""


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


# --- reading ----------------------------------------------------------------------------------------------------------


def literal(node: ast.expr) -> Any:
    """The value of a literal, including `frozenset({...})`, `-1`, `2 / 3`, `math.inf` and tuples of these.

    Raises `UnreadableError` for anything that would have to be run.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=elts):
            return tuple(literal(item) for item in elts)
        case ast.List(elts=elts):
            return [literal(item) for item in elts]
        case ast.Set(elts=elts):
            return {literal(item) for item in elts}
        case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
            return {literal(key): literal(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -literal(operand)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow(), right=right):
            return _arithmetic(node.op, literal(left), literal(right))
        case ast.Call(func=ast.Name(id="frozenset" | "tuple" | "dict" | "list" as name), args=args, keywords=[]):
            made: Any = {"frozenset": frozenset, "tuple": tuple, "dict": dict, "list": list}[name]
            return made(*(literal(arg) for arg in args))
        case ast.Attribute(value=ast.Name(id="math"), attr="inf" | "pi" as name):
            return getattr(math, name)
        case _:
            raise UnreadableError(f"line {node.lineno}: `{ast.unparse(node)[:60]}` is not a literal")


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Any:
    numbers = (int, float)
    if not (isinstance(left, numbers) and isinstance(right, numbers)) or abs(right) > 1e6:
        raise UnreadableError("only small numbers are computed in a literal")
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Pow():
            return left**right
        case _:
            return left / right


def form(node: ast.expr) -> Form:
    """The type that an annotation names. Raises `UnreadableError` for one that no parameter may have."""
    match node:
        case ast.Constant(value=None):
            return Form("none")
        case ast.Constant(value=str(text)):
            return form(syntax.expression(text))
        case ast.Name(id="bool" | "int" | "float" | "str" as name):
            return Form(name)
        case ast.Name(id="dict" | "list" | "tuple" as name):
            return Form(name)
        case ast.Name(id="Any" | "object") | ast.Attribute(attr="Any"):
            return Form("any")
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            sides = (form(left), form(right))
            return _union(arg for side in sides for arg in (side.args if side.name == "union" else (side,)))
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            return _subscript(name, inner.elts if isinstance(inner, ast.Tuple) else [inner], node)
        case _:
            raise UnreadableError(f"line {node.lineno}: `{ast.unparse(node)}` is no type of a parameter")


def _union(args: Iterable[Form]) -> Form:
    """Literals in a union become one literal."""
    kept: list[Form] = []
    for arg in args:
        if arg.name == "literal" and kept and kept[-1].name == "literal":
            kept[-1] = Form("literal", choices=kept[-1].choices + arg.choices)
        else:
            kept.append(arg)
    return kept[0] if len(kept) == 1 else Form("union", tuple(kept))


def _subscript(name: str, inner: list[ast.expr], node: ast.expr) -> Form:
    if name == "Literal":
        return Form("literal", choices=tuple(literal(item) for item in inner))
    if name == "Annotated":
        return _bounded(form(inner[0]), [bound for item in inner[1:] for bound in _bounds(item)])
    if name in ("Optional", "Union"):
        return _union([*(form(item) for item in inner), *([Form("none")] if name == "Optional" else [])])
    if name in ("list", "Sequence"):
        return Form("list", (form(inner[0]),), many=True)
    if name == "tuple":
        many = len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...
        return Form("tuple", tuple(form(item) for item in (inner[:1] if many else inner)), many=many)
    if name in ("dict", "Mapping") and len(inner) == 2:
        return Form("dict", (form(inner[0]), form(inner[1])))
    raise UnreadableError(f"line {node.lineno}: `{ast.unparse(node)}` is no type of a parameter")


def _bounded(of: Form, bounds: list[tuple[str, float]]) -> Form:
    if of.name == "union":
        return Form("union", tuple(_bounded(arg, bounds) if arg.name in ("int", "float") else arg for arg in of.args))
    return Form(of.name, of.args, of.choices, (*of.bounds, *bounds), of.many)


def _bounds(node: ast.expr) -> list[tuple[str, float]]:
    """`Interval(ge=0, lt=1)`, `Ge(0)`, `annotated_types.Gt(0)`."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "Interval" and not node.args:
            pairs = [(keyword.arg or "", literal(keyword.value)) for keyword in node.keywords]
            return [(sign, bound) for sign, bound in pairs if sign in _SIGNS and bound is not None]
        if name.lower() in _SIGNS and len(node.args) + len(node.keywords) == 1:
            value = node.args[0] if node.args else node.keywords[0].value
            return [(name.lower(), literal(value))]
    raise UnreadableError(f"line {node.lineno}: `{ast.unparse(node)}` is no range (Interval, Ge, Gt, Le, Lt)")

"""A YAML file as plain values that remember where they stand.

YAML 1.2's core schema: `2e-4` is a number; `on`, `no` and `1_000` are texts. What could silently mean something else is
refused where it stands: duplicate keys, tags, merge keys, several documents, `.nan`, integers beyond 64 bits. Sizes are
bounded before anything is built: 1 MiB, depth 32, 10,000 nodes after aliases.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any, NamedTuple

import yaml

from orchestrator.errors import Problem, SpecError
from orchestrator.wording import mask, printable, quote

Path = tuple[str | int, ...]

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_PROBLEMS = 100

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None} | {
    word: value
    for text, value in (("null", None), ("true", True), ("false", False))
    for word in (text, text.capitalize(), text.upper())
}


class Place(NamedTuple):
    """Where a value stands: 1-based line and column of the file, or 0 and the command-line text it came from."""

    line: int
    col: int
    origin: str = ""


@dataclass
class Document:
    """`value` is the whole file; `places` and `keys` say where each value and each mapping key stands, by path."""

    file: str
    lines: list[str]
    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[Path] = field(default_factory=set)  # values told in `problems`, here None

    def place(self, path: Path, *, key: bool = False) -> Place:
        """The place of a value (or of its key); of the nearest enclosing value where `path` stands nowhere."""
        for end in range(len(path), -1, -1):
            near = path[:end]
            found = self.keys.get(near) if key or end < len(path) else None
            if found := found or self.places.get(near):
                return found
        return Place(1, 1)

    def source(self, line: int) -> str:
        """A line of the file as it may be printed."""
        return mask(self.lines[line - 1]) if 0 < line <= len(self.lines) else ""

    def problem(
        self, path: Path, error_id: str, what: str, why: str = "", hint: str = "", *, key: bool = False
    ) -> Problem:
        """A mistake at a path, with the position that belongs to it."""
        return self.problem_at(self.place(path, key=key), error_id, what, why, hint)

    def problem_at(self, place: Place, error_id: str, what: str, why: str = "", hint: str = "") -> Problem:
        if place.origin:
            return Problem(error_id, what, why, hint, file=place.origin)
        source = self.source(place.line)
        if len(source) > 160:  # a file of one long line: no caret can be followed there
            source = source[:160] + "…" if place.col <= 160 else ""
        return Problem(error_id, what, why, hint, printable(self.file), place.line, place.col, source)

    def put(self, path: Path, value: Any, places: dict[Path, Place], keys: dict[Path, Place]) -> None:
        """Replace what stands at a path (its parent exists); `places` and `keys` are relative to the path."""
        size = len(path)
        for table in (self.places, self.keys):
            for old in [old for old in table if old[:size] == path]:
                del table[old]
        self.places |= {path + tail: place for tail, place in places.items()}
        self.keys |= {path + tail: place for tail, place in keys.items()}
        parent = self.value
        for part in path[:-1]:
            parent = parent[part]
        parent[path[-1]] = value

    def below(self, path: Path) -> tuple[dict[Path, Place], dict[Path, Place]]:
        """`places` and `keys` under a path, relative to it."""
        size = len(path)
        places, keys = (
            {old[size:]: place for old, place in table.items() if old[:size] == path}
            for table in (self.places, self.keys)
        )
        return places, keys


def read(path: str | File) -> Document:
    """The document of a file. Raises SpecError when it cannot be read or parsed; other mistakes are in `problems`."""
    name = str(path)
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        what = f"cannot read the spec: {(error.strerror or str(error)).lower()}"
        raise SpecError([Problem("no-file", what, file=printable(name))]) from error
    if len(data) > MAX_BYTES:
        raise SpecError([Problem("too-large", f"the spec is larger than {MAX_BYTES} bytes", file=printable(name))])
    try:
        return parse(data.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        col = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        what = "the spec is not UTF-8 text"
        raise SpecError([Problem("not-utf8", what, file=printable(name), line=line, col=col)]) from error


def parse(text: str, file: str) -> Document:
    """The document of a YAML text. Raises SpecError for a text that is no YAML or too big."""
    document = Document(file, _BREAKS.split(text))
    if found := _FORBIDDEN.search(text):
        before = _BREAKS.split(text[: found.start()])
        place = Place(len(before), len(before[-1]) + 1)
        what = f"character U+{ord(found[0]):04X} is not allowed in YAML"
        raise SpecError([document.problem_at(place, "control-character", what)])
    try:
        root = _compose(text, document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark and error.context_mark and mark.index >= len(text):  # a bracket that is never closed: show it
            mark = error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        raise SpecError([*document.problems, _syntax_problem(document, place, error)]) from error
    except yaml.YAMLError as error:
        raise SpecError([document.problem_at(Place(1, 1), "syntax", printable(str(error)))]) from error
    _Builder(document).build(root)
    return document


def scalar(text: str, file: str) -> tuple[Any, dict[Path, Place], dict[Path, Place]]:
    """A command-line value, by the rules of the file: its value and places, all of which say `file`.

    Raises SpecError.
    """
    place = Place(0, 0, file)
    try:
        document = parse(text, file)
    except SpecError as error:
        raise SpecError([_moved(problem, file) for problem in error.problems]) from error
    if document.problems:
        raise SpecError([_moved(problem, file) for problem in document.problems])
    return document.value, dict.fromkeys(document.places, place), dict.fromkeys(document.keys, place)


def _moved(problem: Problem, file: str) -> Problem:
    return Problem(problem.id, problem.what, problem.why, problem.hint, file=file)


def _syntax_problem(document: Document, place: Place, error: yaml.MarkedYAMLError) -> Problem:
    line = document.lines[place.line - 1] if place.line <= len(document.lines) else ""
    hint = "indent with spaces, not tabs" if "\t" in line[: place.col] else ""
    if not hint and ": " in line[: place.col - 1] and "mapping values" in (error.problem or ""):
        hint = "quote a text that contains ': '"
    return document.problem_at(
        place, "syntax", printable(error.problem or "not YAML"), printable(error.context or ""), hint
    )


# --- from events to nodes ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    kind: str  # scalar | sequence | mapping
    line: int
    col: int
    text: str = ""
    plain: bool = False
    items: list[_Node] = field(default_factory=list)  # a mapping's keys and values alternate


def _compose(text: str, document: Document) -> _Node:
    """Nodes from parser events, without recursion, so that nesting cannot exhaust the stack."""
    root = _Node("scalar", 1, 1, plain=True)
    stack: list[_Node] = []
    anchors: dict[str, _Node] = {}
    open_anchors: list[str | None] = []
    count = documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        mark = event.start_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise SpecError([document.problem_at(place, "several-documents", "a spec is one YAML document")])
            if event.version not in (None, (1, 2)) or event.tags:
                document.problems.append(document.problem_at(place, "directive", "YAML directives are not allowed"))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, node = open_anchors.pop(), stack.pop()
            if anchor:
                anchors[anchor] = node
        elif isinstance(event, yaml.NodeEvent):
            node = _node(event, place, anchors, document)
            count += 1
            if count > MAX_NODES:
                raise SpecError([_too_many(document, place)])
            if stack:
                stack[-1].items.append(node)
            else:
                root = node
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append(node)
                open_anchors.append(event.anchor)
                if len(stack) > MAX_DEPTH:
                    what = f"nested deeper than {MAX_DEPTH} levels"
                    raise SpecError([document.problem_at(place, "too-deep", what)])
            elif isinstance(event, yaml.ScalarEvent) and event.anchor:
                anchors[event.anchor] = node
    return root


def _node(event: Any, place: Place, anchors: dict[str, _Node], document: Document) -> _Node:
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in anchors:
            what = f"alias *{printable(str(event.anchor))} stands for nothing before it"
            raise SpecError([document.problem_at(place, "unknown-alias", what)])
        return anchors[event.anchor]
    if event.tag is not None:
        hint = "write the value without it"
        document.problems.append(document.problem_at(place, "tag", "YAML tags are not allowed", "", hint))
    if isinstance(event, yaml.ScalarEvent):
        return _Node("scalar", *place[:2], text=event.value, plain=not event.style)
    kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence"
    return _Node(kind, *place[:2])


def _too_many(document: Document, place: Place) -> Problem:
    return document.problem_at(place, "too-many-nodes", f"more than {MAX_NODES} nodes, aliases written out")


# --- from nodes to values ---------------------------------------------------------------------------------------------


class _Builder:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def build(self, root: _Node) -> None:
        self.document.value = self._value(root, ())

    def _refuse(self, place: Place, error_id: str, what: str, why: str = "", hint: str = "") -> None:
        self.document.problems.append(self.document.problem_at(place, error_id, what, why, hint))
        if len(self.document.problems) >= MAX_PROBLEMS:
            raise SpecError(self.document.problems)

    def _value(self, node: _Node, path: Path) -> Any:
        place = Place(node.line, node.col)
        self.document.places[path] = place
        self.count += 1
        if self.count > MAX_NODES:
            raise SpecError([_too_many(self.document, place)])
        if len(path) > MAX_DEPTH:
            raise SpecError([self.document.problem_at(place, "too-deep", f"nested deeper than {MAX_DEPTH} levels")])
        if node.kind == "scalar":
            return self._scalar(node, place, path)
        if node.kind == "sequence":
            return [self._value(item, (*path, i)) for i, item in enumerate(node.items)]
        return {key: self._value(item, (*path, key)) for key, item in self._entries(node, path)}

    def _entries(self, node: _Node, path: Path) -> Iterator[tuple[str, _Node]]:
        """A mapping's keys and value nodes, less those that are refused."""
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            self.count += 1
            place = Place(key.line, key.col)
            if key.kind != "scalar":
                self._refuse(place, "key-not-text", "a key must be a text", "", "move the collection into the value")
            elif key.plain and key.text == "<<":
                self._refuse(place, "merge-key", "merge keys are not allowed", "", "write the values out")
            elif key.plain and not isinstance(_resolve(key.text), str):
                what = f"a key must be a text, and {key.text or 'an empty one'} is none"
                self._refuse(place, "key-not-text", what, "", f'write "{key.text}"')
            elif (*path, key.text) in self.document.keys:
                first = self.document.keys[*path, key.text]
                what = f"{quote(key.text)} stands here twice"
                self._refuse(place, "duplicate-key", what, f"the first is in line {first.line}", "remove one")
            else:
                self.document.keys[*path, key.text] = place
                yield key.text, value

    def _scalar(self, node: _Node, place: Place, path: Path) -> Any:
        if not node.plain:
            return node.text
        value = _resolve(node.text)
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(
                place, "not-finite", f"{quote(node.text)} is no finite number", "", "leave the limit out, or null"
            )
        elif value is _HUGE:
            self._refuse(place, "huge-integer", "an integer must fit into 64 bits")
        else:
            return value
        self.document.refused.add(path)
        return None


_HUGE = object()


def _resolve(text: str) -> Any:
    """The value of a plain scalar by YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) or _BASED.fullmatch(text):
        if len(text) > 70:
            return _HUGE
        value = int(text, 0) if _BASED.fullmatch(text) else int(text)
        return value if -(2**63) <= value < 2**63 else _HUGE
    if _FLOAT.fullmatch(text):
        return float(text)
    return math.nan if _NOT_FINITE.fullmatch(text) else text

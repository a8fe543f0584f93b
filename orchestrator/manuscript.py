"""A YAML file as its author wrote it: entries are taken out, added or replaced, and every other byte stays.

Comments that stand right above an entry, or that are indented below it, go with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.document import scalar

Path = tuple[str, ...]
WIDTH = 110  # a value that is longer in one line is written over several

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unwritable(Exception):
    """The text is written in a way that cannot be changed in place (an alias, a document that is one scalar)."""


@dataclass
class Manuscript:
    """The text of a YAML document whose top is a mapping."""

    text: str

    def remove(self, path: Path) -> None:
        """Take an entry of a mapping out; a mapping that would be empty goes as a whole. Raises KeyError, Unwritable."""
        parent, index = self._entry(path)
        if len(parent.value) == 1 and len(path) > 1:
            self.remove(path[:-1])
        elif parent.flow_style:
            self._remove_in_line(parent, index)
        else:
            self._remove_lines(parent, index)

    def put(self, path: Path, value: Any, *, note: str = "") -> None:
        """Set a value; mappings that are missing on the way are made, and those that are there are kept as far as they agree.

        `note` becomes a comment above the entry where it stands on a line of its own. Raises Unwritable.
        """
        try:
            parent, index = self._entry(path)
        except KeyError:
            self._add(path, value, note)
            return
        node = parent.value[index][1]
        if isinstance(value, Mapping) and value and isinstance(node, yaml.MappingNode) and node.value:
            self._merge(path, node, value)
        elif _value(node) != value:
            self._replace(parent, index, value)
        if note and not parent.flow_style:
            self._note(path, note)

    # --- finding -----------------------------------------------------------------------------------------------

    def _root(self) -> yaml.MappingNode:
        try:
            root = yaml.compose(self.text, Loader=_LOADER)
        except yaml.YAMLError as error:  # an edit took an anchor out that is used elsewhere
            raise Unwritable("what an alias stands for was taken out") from error
        if not isinstance(root, yaml.MappingNode):
            raise Unwritable("the document is no mapping")
        return root

    def _entry(self, path: Path) -> tuple[yaml.MappingNode, int]:
        """The mapping that holds an entry, and the entry's place in it. Raises KeyError where there is none."""
        node: Any = self._root()
        for depth, part in enumerate(path):
            if not isinstance(node, yaml.MappingNode):
                raise KeyError(path[:depth])
            index = next((i for i, (key, _) in enumerate(node.value) if key.value == part), None)
            if index is None:
                raise KeyError(path[: depth + 1])
            if depth + 1 == len(path):
                return node, index
            child = node.value[index][1]
            if child.start_mark.index < node.value[index][0].end_mark.index:
                raise Unwritable(f"`{'.'.join(path[: depth + 1])}` is an alias")
            node = child
        raise KeyError(path)

    # --- taking out --------------------------------------------------------------------------------------------

    def _remove_in_line(self, parent: yaml.MappingNode, index: int) -> None:
        entries = parent.value
        if len(entries) == 1:
            start, end = entries[0][0].start_mark.index, entries[0][1].end_mark.index
        elif index + 1 < len(entries):
            start, end = entries[index][0].start_mark.index, entries[index + 1][0].start_mark.index
        else:
            start, end = entries[index - 1][1].end_mark.index, entries[index][1].end_mark.index
        self.text = self.text[:start] + self.text[end:]

    def _remove_lines(self, parent: yaml.MappingNode, index: int) -> None:
        key, value = parent.value[index]
        lines = self.text.splitlines(keepends=True)
        column = key.start_mark.column
        first, last = key.start_mark.line, max(key.start_mark.line, _last(value))
        if lines[first][:column].strip():
            raise Unwritable("an entry begins in the middle of a line")
        while first and lines[first - 1].startswith(" " * column + "#") and first > _top(lines):
            first -= 1
        while last + 1 < len(lines) and _comment_column(lines[last + 1]) > column:
            last += 1
        if last + 1 < len(lines) and not lines[last + 1].strip() and (not first or not lines[first - 1].strip()):
            last += 1
        self.text = "".join([*lines[:first], *lines[last + 1 :]])

    # --- writing -----------------------------------------------------------------------------------------------

    def _merge(self, path: Path, node: yaml.MappingNode, value: Mapping[str, Any]) -> None:
        for name, item in value.items():
            self.put((*path, name), item)
        for name in [key.value for key, _ in node.value if key.value not in value]:
            self.remove((*path, name))

    def _replace(self, parent: yaml.MappingNode, index: int, value: Any) -> None:
        key, node = parent.value[index]
        start, end = node.start_mark.index, node.end_mark.index
        if start < key.end_mark.index:
            raise Unwritable(f"`{key.value}` is an alias")
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            start, end = key.end_mark.index + 1, self._end_of_line(_last(node))
            lines = list(_entry_lines(key.value, value, key.start_mark.column))
            self.text = self.text[: key.start_mark.index] + "\n".join(lines).lstrip() + self.text[end:]
            return
        if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
            raise Unwritable(f"`{key.value}` is a block of text")
        space = "" if self.text[start - 1 : start].isspace() else " "
        self.text = self.text[:start] + space + in_line(value) + self.text[end:]

    def _add(self, path: Path, value: Any, note: str) -> None:
        above = path[:-1]
        if not above:
            parent: Any = self._root()
        else:
            try:
                holder, index = self._entry(above)
            except KeyError:
                self._add(above, {path[-1]: value}, note)
                return
            parent = holder.value[index][1]
            if not isinstance(parent, yaml.MappingNode) or not parent.value:
                self._replace(holder, index, {path[-1]: value})
                return
        if parent.flow_style:
            end = parent.value[-1][1].end_mark.index
            self.text = f"{self.text[:end]}, {_key(path[-1])}: {in_line(value)}{self.text[end:]}"
            return
        column = parent.value[0][0].start_mark.column
        end = self._end_of_line(_last(parent))
        lines = [*([f"{' ' * column}# {note}"] if note else []), *_entry_lines(path[-1], value, column)]
        self.text = self.text[:end] + "\n" + "\n".join(lines) + self.text[end:]

    def _note(self, path: Path, note: str) -> None:
        parent, index = self._entry(path)
        mark = parent.value[index][0].start_mark
        start = mark.index - mark.column
        self.text = f"{self.text[:start]}{' ' * mark.column}# {note}\n{self.text[start:]}"

    def _end_of_line(self, line: int) -> int:
        """Where a line ends, its comment included."""
        lines = self.text.splitlines(keepends=True)
        return len("".join(lines[:line])) + len(lines[line].rstrip("\r\n"))


def _last(node: yaml.Node) -> int:
    """The last line of a value (an end mark stands behind the comments and blank lines that follow a block)."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return max((max(key.end_mark.line, _last(value)) for key, value in node.value), default=node.start_mark.line)
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return max((_last(item) for item in node.value), default=node.start_mark.line)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return int(node.end_mark.line) - (node.end_mark.column == 0)
    return int(node.end_mark.line)


def _top(lines: list[str]) -> int:
    """Lines of the comment at the head of a file: they belong to the whole."""
    return next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))


def _comment_column(line: str) -> int:
    """Where a line that is nothing but a comment begins, -1 for any other."""
    return len(line) - len(line.lstrip()) if line.lstrip().startswith("#") else -1


def _value(node: yaml.Node) -> Any:
    """A scalar's value by the rules of a spec; anything else is unlike every value."""
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.style else scalar(node.value, "")[0]
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    return {key.value: _value(value) for key, value in node.value}


# --- values as text -----------------------------------------------------------------------------------------------------


def in_line(value: Any) -> str:
    """A value in one line, as a spec reads it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)}: {in_line(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(in_line(item) for item in value) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and scalar(value, "")[0] == value else json.dumps(value)
    return json.dumps(value, allow_nan=False)


def _key(name: str) -> str:
    return in_line(str(name))


def _entry_lines(name: str, value: Any, column: int) -> Iterator[str]:
    """An entry of a block: in one line where it fits."""
    line = f"{' ' * column}{_key(name)}: {in_line(value)}"
    if len(line) <= WIDTH or not isinstance(value, Mapping) or not value:
        yield line
        return
    yield f"{' ' * column}{_key(name)}:"
    for inner, item in value.items():
        yield from _entry_lines(inner, item, column + 2)


__all__ = ["Manuscript", "Unwritable", "in_line"]

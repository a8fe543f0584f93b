"""Documents as YAML that everybody reads alike: readers of 1.1 and of 1.2, Go's and ours.

Keys keep their order. A text that some reader could take for something else (`on`, `12e3`, `0x1f`) is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

TEXT = "tag:yaml.org,2002:str"
_SAFE = re.compile(r"[A-Za-z/][A-Za-z0-9_./@%+-]*(:[A-Za-z0-9_./@%+-]+)*( [A-Za-z0-9_./@%+=,;()-]+)*")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _bare(dumper: Any, value: str) -> Any:
    """The tag that a reader of YAML 1.1 gives a text without quotes."""
    return dumper.resolve(yaml.ScalarNode, value, (True, False))


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None
    if "\n" in value:
        style = "|"
    elif len(value) == 1 or not _SAFE.fullmatch(value) or _bare(dumper, value) != TEXT:
        style = '"'
    return dumper.represent_scalar(TEXT, value, style=style)


_Dumper.add_representer(str, _text)


def dump(value: Mapping[str, Any]) -> str:
    """One document."""
    return yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)


def dump_all(documents: Iterable[Mapping[str, Any]], head: str = "") -> str:
    """Several, after a comment."""
    return head + "---\n".join(dump(document) for document in documents)


__all__ = ["dump", "dump_all"]

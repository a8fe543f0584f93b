"""Values replaced before validation: `--set a.b.c=value` and profiles, by the same dotted paths.

A path goes through mappings by key and through lists by position. A key that holds dots itself
(`space: {optimizers.generator.lr: …}`) is found when it is there, and may be quoted: `space."optimizers.generator.lr"`.
The value replaces what stood there, whole.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

from orchestrator.credentials import MAY_HOLD
from orchestrator.document import Document, Path, Place, scalar
from orchestrator.errors import Problem, SpecError
from orchestrator.frame import SPEC, Schema, misplaced
from orchestrator.wording import PASSWORD_IN_URL, printable, quote, suggest

Places = dict[Path, Place]

_SEGMENT = re.compile(r"\"([^\"]*)\"|'([^']*)'|([^.\"']+)")


class _PathError(Exception):
    """A path that leads nowhere."""

    def __init__(self, error_id: str, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.error_id, self.what, self.hint = error_id, what, hint


def apply_set(document: Document, text: str) -> None:
    """`text` is `a.b.c=value`, the value in YAML. A mistake is added to `document.problems`."""
    path, equals, value = text.partition("=")
    hidden = path.strip().startswith(MAY_HOLD)
    shown = "***" if hidden else PASSWORD_IN_URL.sub(r"\g<before>***@", value)[:100]
    origin = printable(f"--set {path}={shown}" if equals else f"--set {path[:100]}")
    if not equals or not path.strip():
        problem = Problem("bad-set", "expected PATH=VALUE", "", "such as stages.train.with.total_steps=100", origin)
        document.problems.append(problem)
        return
    try:
        made, places, keys = scalar(value, origin)
        _put(document, path.strip(), made, (places, keys), Place(0, 0, origin))
    except SpecError as error:
        document.problems += error.problems
    except _PathError as error:
        document.problems.append(Problem(error.error_id, error.what, "", error.hint, origin))


def apply_profile(document: Document, name: str) -> None:
    """Replace the values that the profile names. Mistakes are added to `document.problems`, where they stand."""
    profiles = document.value.get("profiles")
    profile = profiles.get(name) if isinstance(profiles, dict) else None
    if not isinstance(profile, dict):
        return  # told by the check of the frame
    for text in profile:
        source: Path = ("profiles", name, text)
        places, keys = document.below(source)
        try:
            _put(document, text, deepcopy(profile[text]), (places, keys), document.keys[source])
        except _PathError as error:
            problem = document.problem(source, error.error_id, error.what, f"in profile {name}", error.hint, key=True)
            document.problems.append(problem)


def with_profile(document: Document, name: str) -> Document:
    """A copy of the document with a profile applied; its problems are the profile's only."""
    copy = replace(
        document, value=deepcopy(document.value), places=dict(document.places), keys=dict(document.keys), problems=[]
    )
    apply_profile(copy, name)
    return copy


def _put(document: Document, text: str, value: Any, where: tuple[Places, Places], at: Place) -> None:
    places, keys = where
    path = _resolve(document, _segments(text), at, whole=isinstance(value, dict))
    document.put(path, value, {**places, (): places.get((), at)}, {**keys, (): at})


def _segments(text: str) -> list[str]:
    """`a."b.c".0` -> ["a", "b.c", "0"]. Raises _PathError."""
    found, at = [], 0
    while True:
        match = _SEGMENT.match(text, at)
        if not match:
            raise _PathError("bad-path", f"{quote(text)} is no dotted path")
        found.append(next(group for group in match.groups() if group is not None).strip())
        at = match.end()
        if at == len(text):
            return found
        if text[at] != ".":
            raise _PathError("bad-path", f"{quote(text)} is no dotted path")
        at += 1


def _resolve(document: Document, segments: list[str], at: Place, *, whole: bool) -> Path:
    """The path that the segments name. Mappings that are missing or null on the way are made; lists and texts are not."""
    path: Path = ()
    value, schema = document.value, SPEC
    rest = list(segments)
    while True:
        if isinstance(value, list):
            part: str | int = _position(rest.pop(0), value, path)
        elif isinstance(value, dict):
            part, taken = _key(rest, value)
            rest = rest[taken:]
            _check_key(part, value, schema, path, new=not (whole and not rest))
        else:
            what = f"`{'.'.join(map(str, path))}` is {quote(value)}, which has nothing inside"
            inner = "".join(f"{{{segment}: " for segment in rest) + "…" + "}" * len(rest)
            raise _PathError("no-such-path", what, f"set `{'.'.join(map(str, path))}` as a whole: {inner}")
        path = (*path, part)
        if not rest:
            return path
        schema = _below(schema, part)
        if isinstance(part, str) and value.get(part) is None:
            document.put(path, {}, {(): at}, {(): at})
        value = value[part]


def _key(rest: list[str], value: dict[str, Any]) -> tuple[str, int]:
    """The key that the first segments spell: the longest that is there, else the first segment."""
    for count in range(len(rest), 0, -1):
        if (joined := ".".join(rest[:count])) in value:
            return joined, count
    return rest[0], 1


def _position(segment: str, value: list[Any], path: Path) -> int:
    if segment.isdecimal() and len(segment) < 6 and int(segment) < len(value):
        return int(segment)
    what = f"`{'.'.join(map(str, path))}` is a list of {len(value)}, and {quote(segment)} is no position in it"
    raise _PathError("no-such-path", what, f"write 0 to {len(value) - 1}" if value else "")


def _check_key(key: str, value: dict[str, Any], schema: Schema, path: Path, *, new: bool) -> None:
    """Refuse keys that the frame does not know, and parts of stages that do not exist."""
    known = schema.get("properties", {})
    if path == () and key == "profiles":
        raise _PathError("no-such-path", "profiles cannot be changed here")
    if schema.get("additionalProperties") is False and key not in known:
        where = f"`{'.'.join(map(str, path))}`" if path else "a spec"
        hint = misplaced(key, schema) or suggest(key, known)
        raise _PathError("unknown-key", f"{where} has no key {quote(key)}", hint)
    if path == ("stages",) and key not in value and new:
        raise _PathError("unknown-stage", f"there is no stage {quote(key)}", suggest(key, value))


def _below(schema: Schema, part: str | int) -> Schema:
    inner = schema.get("properties", {}).get(part, schema.get("additionalProperties", {}))
    return inner if isinstance(inner, dict) else {}

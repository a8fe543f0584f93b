"""Credentials in a spec: `${env:NAME}` where they may stand, and values that never show.

They may stand in `storage_options` and `tracking` only. A variable's name must be on the allow-list below, so that a
spec from elsewhere cannot read whatever the environment holds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.document import Document, Path
from orchestrator.wording import PASSWORD_IN_URL, quote

ALLOWED = re.compile(r"(AWS|AZURE|GCS|GOOGLE|MINIO|MLFLOW|ORCHESTRATE|S3|SFTP|STORAGE|TRACKING)_[A-Z0-9_]{1,80}")
MAY_HOLD = ("storage_options", "tracking")
_REFERENCE = re.compile(r"\$\{env:([^}]*)\}")
_SECRET_NAME = re.compile(r"pass|secret|token|key|credential|auth|sas", re.IGNORECASE)


class Secret:
    """A text that shows as `***` everywhere; `reveal()` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def reveal(value: Any) -> Any:
    """`value` with every Secret in it as plain text: for the call that needs it, never for a message or a record."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {key: reveal(item) for key, item in value.items()}
    return [reveal(item) for item in value] if isinstance(value, list) else value


def hide(value: Any) -> Any:
    """`value` as JSON, with `***` for every Secret in it."""
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, Mapping):
        return {key: hide(item) for key, item in value.items()}
    return [hide(item) for item in value] if isinstance(value, list | tuple) else value


def secrets(value: Any) -> Iterator[Secret]:
    """Every Secret in `value`."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from secrets(item)


def settle(document: Document) -> None:
    """Replace the references of `storage_options` and `tracking` by Secrets; tell of every other one as a problem."""
    if isinstance(document.value, dict):
        for key in document.value:
            if key != "profiles":  # a profile's values are settled once they stand where they apply
                document.value[key] = _settle(document, (key,), document.value[key])


def _settle(document: Document, path: Path, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _settle(document, (*path, key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [_settle(document, (*path, i), item) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    bare = _REFERENCE.sub("", value)
    if "${" in bare or (bare != value and path[0] not in MAY_HOLD):
        why = "only ${env:NAME} is, and only in " + " and ".join(MAY_HOLD)
        document.problems.append(document.problem(path, "reference", "references are not replaced here", why))
    elif bare != value:
        return Secret(_REFERENCE.sub(lambda found: _variable(document, path, found[1]), value))
    elif PASSWORD_IN_URL.search(value):
        hint = "write ${env:NAME} in `storage_options` or `tracking`"
        what = "a password stands in this URL"
        document.problems.append(document.problem(path, "password-in-url", what, "specs are shared and stored", hint))
    elif path[0] == "storage_options" and any(_SECRET_NAME.search(str(part)) for part in path[1:]):
        return Secret(value)
    return value


def _variable(document: Document, path: Path, name: str) -> str:
    value = os.environ.get(name, "")
    if not ALLOWED.fullmatch(name):
        what = f"the environment variable {quote(name)} may not be read"
        hint = "allowed: names that start with " + ", ".join(
            f"{p}_" for p in ALLOWED.pattern[1:].split(")")[0].split("|")
        )
        document.problems.append(document.problem(path, "env-not-allowed", what, "", hint))
    elif not value:
        what = f"the environment variable {name} is not set"
        document.problems.append(document.problem(path, "env-not-set", what, "", f"export {name}=…"))
    return value

"""Stored bytes that can be told whole from altered: canonical JSON, digests, and reading that judges only after a second look.

A flip on the way (a bad cable, a faulty filesystem) is not a flip in the store: what looks wrong is read again before
anything is called damaged.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.errors import IntegrityError
from orchestrator.files import Files

T = TypeVar("T")
LOOKS = 3  # how often bytes are read before they are called damaged
MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)  # what altered JSON raises


class Damaged(IntegrityError):
    """A stored file's bytes do not match their digest, or it is gone. The engine makes it again where it can."""


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes. NaN and other non-JSON values are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def digest_json(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(value: Mapping[str, Any]) -> bytes:
    """A JSON object that carries the digest of the rest of it."""
    return canonical({**value, "digest": digest_json(value)})


def unsealed(data: bytes, *, always: bool = True) -> dict[str, Any]:
    """The object of `sealed`. Raises one of MALFORMED for altered bytes; `always=False` takes one without a digest, too."""
    value = json.loads(data)
    if not isinstance(value, dict):
        raise TypeError("not an object")
    if (always or "digest" in value) and value.pop("digest") != digest_json(value):
        raise ValueError("altered")
    return value


def read_whole(files: Files, path: str, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of a stored file; bytes that it refuses (MALFORMED) are read again.

    Raises FileNotFoundError, and Damaged where they stay so.
    """
    for _ in range(LOOKS):
        data = files.read(path)
        try:
            return parse(data)
        except MALFORMED:
            continue
    raise Damaged(f"{files.url}/{path} is damaged")


def quarantine(files: Files, path: str) -> str:
    """Move a damaged file out of the way; its new path, "" when it is gone already."""
    target = f"quarantine/{path.rsplit('/', 1)[-1]}.{secrets.token_hex(4)}"
    try:
        files.rename(path, target)
    except FileNotFoundError:
        return ""
    return target


__all__ = [
    "LOOKS",
    "MALFORMED",
    "Damaged",
    "canonical",
    "digest_file",
    "digest_json",
    "quarantine",
    "read_whole",
    "sealed",
    "unsealed",
]

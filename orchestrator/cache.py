"""Results by cache key, shared by every pipeline of a storage: `keys/ab/<key>.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.seals import Damaged, canonical, digest_json, read_whole


@dataclass(frozen=True)
class Entry:
    """One computed result: a stage's outputs, by artifact digest, and how they came about."""

    key: str
    outputs: dict[str, str]
    ingredients: dict[str, Any]
    run: str
    pipeline: str
    stage: str  # instance id
    started: float
    seconds: float
    attempts: int = 1
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Entry:
        """Raises TypeError for anything else."""
        return cls(**value)


class Cache:
    """Entries of one storage."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store

    def get(self, key: str) -> Entry | None:
        """The entry of a key; a damaged one is told, quarantined and absent."""
        path = entry_path(key)
        try:
            return read_whole(self.store.files, path, lambda data: parse_entry(data, key))
        except FileNotFoundError:
            return None
        except Damaged:
            self.store.quarantine(path, f"cache entry {key[:12]} is damaged")
            return None

    def put(self, entry: Entry) -> None:
        body = entry.to_json()
        self.store.files.write(entry_path(entry.key), canonical({"entry": body, "digest": digest_json(body)}))

    def claim(self, entry: Entry) -> Entry:
        """Make this the key's result; of several who compute the same at once the first wins: then that one's entry.

        An entry with the same outputs, or whose artifacts are gone, is replaced: it was computed again.
        """
        body = entry.to_json()
        if not self.store.files.create(entry_path(entry.key), canonical({"entry": body, "digest": digest_json(body)})):
            found = self.get(entry.key)
            if found is not None and found.outputs != entry.outputs and not self.open(found)[1]:
                return found
            self.put(entry)
        return entry

    def open(self, entry: Entry) -> tuple[dict[str, Artifact], str]:
        """The entry's artifacts, or why one of them cannot be used."""
        found: dict[str, Artifact] = {}
        for output, digest in entry.outputs.items():
            artifact, reason = self.store.look(digest)
            if artifact is None:
                return {}, f"artifact {output} {reason}"
            found[output] = artifact
        return found, ""


def entry_path(key: str) -> str:
    return f"keys/{key[:2]}/{key}.json"


def parse_entry(data: bytes, key: str) -> Entry:
    """Raises one of seals.MALFORMED for bytes that are not this key's entry."""
    value = json.loads(data)
    if value["digest"] != digest_json(value["entry"]) or value["entry"]["key"] != key:
        raise ValueError("altered")
    return Entry.from_json(value["entry"])


__all__ = ["Cache", "Entry", "entry_path", "parse_entry"]

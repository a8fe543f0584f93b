"""Committed checkpoints of one training lineage, in the store.

    checkpoints/<lineage>/<step>-<nonce>/<file>   the bytes
    checkpoints/<lineage>/<step>.json             written last: names, digests and sizes; only now the checkpoint exists

A lineage is a cache key without the parameter that may grow, so that a finished training goes on when it is extended.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.artifacts import ArtifactStore, canonical, digest_file, digest_json
from orchestrator.files import scratch_cache

KEEP = 2


class StoredCheckpoints:
    """`stage.Checkpoints` over an ArtifactStore. Picklable: Ray workers save through their own copy."""

    def __init__(self, store: ArtifactStore, lineage: str) -> None:
        self.store = store
        self.lineage = lineage

    @property
    def folder(self) -> str:
        return f"checkpoints/{self.lineage}"

    def save(self, step: int, files: Mapping[str, bytes | Path]) -> None:
        """Commit a checkpoint (visible only when whole), then drop all but the newest two."""
        folder = f"{step:010d}-{secrets.token_hex(4)}"
        refs: dict[str, list[Any]] = {}
        for name, data in files.items():
            if isinstance(data, Path):
                refs[name] = [digest_file(data), data.stat().st_size]
            else:
                refs[name] = [hashlib.sha256(data).hexdigest(), len(data)]
            self.store.files.write(f"{self.folder}/{folder}/{name}", data)
        body = {"step": step, "folder": folder, "files": refs}
        self.store.files.write(f"{self.folder}/{step:010d}.json", canonical({**body, "digest": digest_json(body)}))
        self._prune()

    def latest(self, *, at_most: int | None = None) -> tuple[int, dict[str, Path]] | None:
        """The newest whole checkpoint (step <= at_most) as verified local files; damaged ones are told and skipped."""
        for step in reversed(self.steps()):
            if at_most is not None and step > at_most:
                continue
            files = self._open(step)
            if files is not None:
                return step, files
        return None

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending."""
        names = self.store.files.names(self.folder)
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())

    def _open(self, step: int) -> dict[str, Path] | None:
        manifest = f"{self.folder}/{step:010d}.json"
        try:
            body = json.loads(self.store.files.read(manifest))
            digest = body.pop("digest")
            if digest == digest_json(body):
                return {name: self._verified(body["folder"], name, ref[0]) for name, ref in body["files"].items()}
            why = "its manifest is damaged"
        except (FileNotFoundError, _Wrong) as error:
            why = str(error) or "a file is missing"
        except (ValueError, KeyError, TypeError):
            why = "its manifest is damaged"
        self.store.told(f"checkpoint at step {step} is damaged and skipped: {why}")
        self._quarantine(manifest)
        return None

    def _verified(self, folder: str, name: str, digest: str) -> Path:
        stored = f"{self.folder}/{folder}/{name}"
        local = self.store.files.local
        path = local / stored if local else scratch_cache() / stored
        if local is None and not (path.exists() and digest_file(path) == digest):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.store.files.fetch(stored, path)
        if digest_file(path) != digest:
            raise _Wrong(f"{name} does not match its digest")
        return path

    def _quarantine(self, manifest: str) -> None:
        name = f"{self.lineage[:12]}-{manifest.rsplit('/', 1)[-1]}.{secrets.token_hex(4)}"
        try:
            self.store.files.rename(manifest, f"quarantine/{name}")
        except FileNotFoundError:
            return

    def _prune(self) -> None:
        """Drop superseded checkpoints, and folders that a killed process left without a manifest."""
        kept = self.steps()[-KEEP:]
        oldest = kept[0] if kept else 0
        names = self.store.files.names(self.folder)
        for name in names:  # manifests first: a checkpoint disappears whole
            if name.endswith(".json") and name[:-5].isdigit() and int(name[:-5]) < oldest:
                self.store.files.remove(f"{self.folder}/{name}")
        for name in names:
            if "-" in name and int(name.split("-", 1)[0]) < oldest:
                self.store.files.remove(f"{self.folder}/{name}")


class _Wrong(Exception):
    """A checkpoint file whose bytes are not those of its manifest."""


__all__ = ["StoredCheckpoints"]

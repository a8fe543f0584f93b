"""What a remote storage could not take, kept on this machine until it answers again.

    <cache>/outbox/<storage>/checkpoints/<lineage>/…   the newest checkpoint of a training
    <cache>/outbox/<storage>/artifacts, sha256, keys   what a stage made, and its cache entry

The layout is that of a storage, so delivering is copying: bytes first, then the name that makes them count. Everything is
named by its content or its key, so delivering twice, or from two processes, is delivering once.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.files import Files, LocalFiles, folder, scratch_cache
from orchestrator.seals import MALFORMED, Damaged, digest_file, read_whole, unsealed

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore, FileRef
    from orchestrator.cache import Entry


class Outbox:
    """The outbox of one remote storage on this machine. Safe to share between threads and processes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = scratch_cache() / "outbox" / hashlib.sha256(url.encode()).hexdigest()[:16]
        self.files = LocalFiles(self.root)

    @property
    def empty(self) -> bool:
        """Whether nothing waits. Costs next to nothing."""
        return not any((self.root / name).is_dir() for name in ("checkpoints", "keys", "artifacts"))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Of several processes one works on the outbox."""
        folder(self.root.parent)
        with open(self.root.with_suffix(".lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # --- checkpoints -------------------------------------------------------------------------------------------

    def steps(self, lineage: str) -> list[int]:
        """Steps of the checkpoints that wait, ascending."""
        names = self.files.names(f"checkpoints/{lineage}")
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())

    def drop(self, lineage: str, up_to: int) -> None:
        """Forget the checkpoints of a training that something newer has superseded."""
        for step in self.steps(lineage):
            if step <= up_to:
                self.files.remove(f"checkpoints/{lineage}/{step:010d}.json")
        for name in self.files.names(f"checkpoints/{lineage}"):
            if "-" in name and int(name.split("-", 1)[0]) <= up_to:
                self.files.remove(f"checkpoints/{lineage}/{name}")
        if not self.steps(lineage):
            self.files.remove(f"checkpoints/{lineage}")
            self._fold("checkpoints")

    def deliver_checkpoints(self, store: ArtifactStore, lineage: str) -> list[int]:
        """Bring a training's checkpoints into the storage; the steps brought. Raises errors.Unavailable."""
        if not (self.root / "checkpoints" / lineage).is_dir():
            return []
        brought = []
        with self.held():
            for step in self.steps(lineage):
                name = f"checkpoints/{lineage}/{step:010d}.json"
                if self._deliver_checkpoint(store.files, name, lineage):
                    brought.append(step)
                self.files.remove(name)
            self.files.remove(f"checkpoints/{lineage}")
            self._fold("checkpoints")
        return brought

    def _deliver_checkpoint(self, files: Files, name: str, lineage: str) -> bool:
        try:
            body = read_whole(self.files, name, unsealed)
            local = {file: self.root / f"checkpoints/{lineage}/{body['folder']}/{file}" for file in body["files"]}
            if any(digest_file(local[file]) != ref[0] for file, ref in body["files"].items()):
                return False
        except (Damaged, FileNotFoundError, *MALFORMED):
            return False  # an older one stands in the storage
        for file, path in local.items():
            files.write(f"checkpoints/{lineage}/{body['folder']}/{file}", path)
        files.write(name, self.files.read(name))
        return True

    # --- what a stage made -------------------------------------------------------------------------------------

    @property
    def store(self) -> ArtifactStore:
        """The outbox as a store."""
        from orchestrator.artifacts import ArtifactStore

        return ArtifactStore(str(self.root))

    def keep(
        self, kind: str, files: Mapping[str, bytes | Path | FileRef], metadata: Mapping[str, Any] | None
    ) -> Artifact:
        """Keep an artifact. Raises Damaged for bytes that are elsewhere, errors.Unavailable when there is no room."""
        with self.held():
            return self.store.put(kind, files, metadata)

    def keep_entry(self, entry: Entry) -> None:
        """Keep the result of a stage, whose artifacts are in the storage or here."""
        from orchestrator.cache import Cache

        with self.held():
            Cache(self.store).put(entry)

    def deliver(self, store: ArtifactStore) -> list[str]:
        """Bring everything into the storage; what was brought, in words. Raises errors.Unavailable."""
        if self.empty:
            return []
        told = []
        for lineage in self.files.names("checkpoints"):
            told += [f"the checkpoint of step {step}" for step in self.deliver_checkpoints(store, lineage)]
        with self.held():
            for name in self._manifests():
                self._deliver_artifact(store, name.removesuffix(".json"))
            told += [f"the result of {entry.stage}" for entry in self._entries() if self._deliver_entry(store, entry)]
            for name in ("keys", "artifacts", "sha256", "tmp", "quarantine", "format.json"):
                self.files.remove(name)
        return told

    def _manifests(self) -> list[str]:
        found = self.files.names("artifacts")
        return [name for part in found for name in self.files.names(f"artifacts/{part}")]

    def _deliver_artifact(self, store: ArtifactStore, digest: str) -> None:
        own = self.store
        try:
            artifact = own.get(digest)
            files = {name: own.open(artifact, name) for name in artifact.files}
        except Damaged:
            return  # its maker runs again
        store.put_there(artifact.kind, files, artifact.metadata)

    def _entries(self) -> Iterator[Entry]:
        from orchestrator.cache import Cache

        cache = Cache(self.store)
        for part in self.files.names("keys"):
            for name in self.files.names(f"keys/{part}"):
                if (entry := cache.get(name.removesuffix(".json"))) is not None:
                    yield entry

    def _deliver_entry(self, store: ArtifactStore, entry: Entry) -> bool:
        from orchestrator.cache import Cache

        if any(store.lacks(digest) for digest in entry.outputs.values()):
            return False
        Cache(store).put(entry)
        return True

    def _fold(self, name: str) -> None:
        if not self.files.names(name):
            self.files.remove(name)


def outbox(store: ArtifactStore) -> Outbox | None:
    """The outbox of a remote storage; a local one needs none."""
    return None if store.files.local is not None else Outbox(store.url)


__all__ = ["Outbox", "outbox"]

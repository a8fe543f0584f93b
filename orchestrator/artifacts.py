"""Artifacts: immutable named files with metadata, stored by content.

    format.json                 the version of this layout
    sha256/ab/<digest>          one blob for each content
    artifacts/ab/<digest>.json  one manifest for each artifact: kind, files, metadata (and, beside them, times)
    quarantine/                 what no longer matched its name or its digest
    views/<digest>/             links to an artifact's files, for code that wants a directory

An artifact's digest covers its kind, the digests of its files and its metadata; provenance and times never. Blobs are
hashed when a process first opens them. Bytes that look wrong are read again, since they may have been flipped on their
way; what stays wrong is renamed away, told, and from then on treated as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import IntegrityError, OrchestratorError, Unavailable
from orchestrator.files import CHUNK, Files, open_files, scratch_cache, seen
from orchestrator.outbox import outbox
from orchestrator.seals import (
    LOOKS,
    Damaged,
    canonical,
    digest_file,
    digest_json,
    quarantine,
    read_whole,
    sealed,
    unsealed,
)
from orchestrator.trouble import Outage

FORMAT = 1
FOLDERS = ("artifacts", "checkpoints", "keys", "pipelines", "runs", "sha256")  # of every storage of format 1


@dataclass(frozen=True)
class FileRef:
    """One file of an artifact: SHA-256 of its bytes (hex) and its size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class Artifact:
    """What a stage made: `kind`, `files` by name, JSON `metadata`. `digest` identifies all three."""

    kind: str
    digest: str
    files: dict[str, FileRef]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(ref.size for ref in self.files.values())

    def to_json(self) -> dict[str, Any]:
        files = {name: [ref.digest, ref.size] for name, ref in sorted(self.files.items())}
        return {"kind": self.kind, "files": files, "metadata": self.metadata}

    @classmethod
    def of(cls, kind: str, files: Mapping[str, FileRef], metadata: Mapping[str, Any]) -> Artifact:
        """The artifact of these contents; metadata is brought to its JSON form (tuples become lists)."""
        plain = json.loads(canonical(metadata))
        bare = cls(kind, "", dict(sorted(files.items())), plain)
        return cls(kind, digest_json(bare.to_json()), bare.files, plain)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Artifact:
        refs = {name: FileRef(digest, size) for name, (digest, size) in value["files"].items()}
        return cls.of(value["kind"], refs, value["metadata"])


def blob_path(digest: str) -> str:
    return f"sha256/{digest[:2]}/{digest}"


def manifest_path(digest: str) -> str:
    return f"artifacts/{digest[:2]}/{digest}.json"


def warn(line: str) -> None:
    """Where damage is told when nobody else listens."""
    print(line, file=sys.stderr)


class ArtifactStore:
    """Content-addressed artifacts over any fsspec URL. Picklable (Ray workers open their own connection)."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.options = dict(options or {})
        self.files: Files = open_files(url, self.options)
        self.told: Callable[[str], None] = warn
        self._verified: dict[str, int | None] = {}  # digest -> modification time when its bytes were last hashed
        self._known: dict[str, Artifact] = {}  # by digest, as last read
        self._prepared = False
        self.files.told = self._tell

    def _tell(self, line: str) -> None:
        self.told(line)

    def __reduce__(self) -> tuple[Any, ...]:
        local = self.files.local
        return (type(self), (str(local) if local else self.url, self.options))

    # --- writing -----------------------------------------------------------------------------------------------

    def put(
        self, kind: str, files: Mapping[str, bytes | Path | FileRef], metadata: Mapping[str, Any] | None = None
    ) -> Artifact:
        """Store files under their names; the artifact is visible only when every byte is.

        A FileRef stands for bytes that a worker has already stored with `blob`.

        Where a remote storage does not answer, the artifact is kept in this machine's outbox: the commit waits for it.
        Raises ValueError for a name that leaves its folder or metadata that is not JSON, errors.Unavailable when the
        storage fails.
        """
        for name in files:
            if not _plain(name):
                raise ValueError(f"not a plain relative file name: {name!r}")
        try:
            return self.put_there(kind, files, metadata)
        except Outage as error:
            if (box := outbox(self)) is None:
                raise
            try:
                return box.keep(kind, files, metadata)
            except OrchestratorError:  # parts of it are elsewhere, or there is no room
                raise error from None

    def put_there(
        self, kind: str, files: Mapping[str, bytes | Path | FileRef], metadata: Mapping[str, Any] | None
    ) -> Artifact:
        """`put` into the storage itself. Raises errors.Unavailable when it does not answer."""
        self.prepare()
        refs = {name: self._put_blob(data) for name, data in files.items()}
        artifact = Artifact.of(kind, refs, metadata or {})
        self._put_manifest(artifact)
        return artifact

    def blob(self, data: bytes | Path) -> FileRef:
        """Store bytes that belong to no artifact yet: workers store their shares, and one `put` names them all."""
        self.prepare()
        return self._put_blob(data)

    def prepare(self) -> None:
        """Make the storage ready to be written (its format file), once. Raises errors.Unavailable."""
        if self._prepared:
            return
        if self.format() is None:
            self.quarantine("format.json", "format.json is damaged")  # where it is there at all
            self.files.create("format.json", sealed({"format": FORMAT}))
        self._prepared = True

    def format(self) -> int | None:
        """The layout version of this storage, None where it is empty or its format file must be written again.

        This is the first contact with it. Raises IntegrityError where the format file is damaged and nothing else tells
        what this is, errors.Unavailable.
        """
        try:
            found = read_whole(self.files, "format.json", lambda data: int(unsealed(data, always=False)["format"]))
        except FileNotFoundError:
            return None
        except Damaged as error:
            # Every storage so far has format 1, so its folders say as much as the file did.
            there = set(self.files.names("")) - {"format.json", "tmp", "quarantine"}
            if there and not there & set(FOLDERS):
                hint = "choose another folder, or remove the file if this is meant to be a storage"
                raise IntegrityError(f"{self.url}/format.json is no format of ours", hint=hint) from error
            return None
        if found > FORMAT:
            raise Unavailable(
                f"storage {self.url} has format {found}, this version knows up to {FORMAT}", hint="upgrade"
            )
        return found

    def _put_blob(self, data: bytes | Path | FileRef) -> FileRef:
        if isinstance(data, FileRef):
            if self.files.size(blob_path(data.digest)) != data.size:
                raise Damaged(f"blob {data.digest[:12]} is not in {self.url}")
            return data
        if isinstance(data, Path):
            ref = FileRef(digest_file(data), data.stat().st_size)
        else:
            ref = FileRef(hashlib.sha256(data).hexdigest(), len(data))
        path = blob_path(ref.digest)
        # An existing blob is never replaced: its time stands in the manifests of those who wrote it at the same moment.
        while self.files.size(path) is None or not self._whole(ref):
            if self.files.add(path, data):
                self._verified[ref.digest] = self.files.modified(path)
                break
        return ref

    def _put_manifest(self, artifact: Artifact) -> None:
        digests = {ref.digest for ref in artifact.files.values()}
        modified = {digest: self.files.modified(blob_path(digest)) for digest in sorted(digests)}
        beside = {"written": time.time(), "modified": modified}
        self.files.write(manifest_path(artifact.digest), sealed({"artifact": artifact.to_json(), "beside": beside}))

    # --- reading -----------------------------------------------------------------------------------------------

    def get(self, digest: str) -> Artifact:
        """The artifact of a digest. Raises Damaged when its manifest is absent or altered."""
        found = self._manifest(digest)
        if found is None:
            raise Damaged(f"artifact {digest[:12]} is not in {self.url}")
        return found[0]

    def _manifest(self, digest: str) -> tuple[Artifact, dict[str, Any]] | None:
        try:
            return read_whole(self.files, manifest_path(digest), lambda data: parse_manifest(data, digest))
        except FileNotFoundError:
            return None
        except Damaged:
            self.quarantine(manifest_path(digest), f"manifest of artifact {digest[:12]} is damaged")
            return None

    def peek(self, digest: str) -> Artifact | None:
        """The artifact as its manifest describes it, usable or not; one that this process knows is not read again."""
        if digest not in self._known:
            found = self._manifest(digest)
            if found is None:
                return None
            self._known[digest] = found[0]
        return self._known[digest]

    def look(self, digest: str) -> tuple[Artifact | None, str]:
        """The artifact, or why it cannot be used. Looks at manifest, sizes and times; reads no bytes."""
        found = self._manifest(digest)
        if found is None:
            return None, "is missing"
        self._known[digest] = found[0]
        why = self._lacks(*found)
        return (None, why) if why else (found[0], "")

    def lacks(self, digest: str) -> str:
        """Why an artifact cannot be used, "" when it can (see `look`)."""
        return self.look(digest)[1]

    def _lacks(self, artifact: Artifact, beside: Mapping[str, Any]) -> str:
        for name, ref in artifact.files.items():
            path = blob_path(ref.digest)
            size = self.files.size(path)
            if size is None:
                return f"lacks {name}"
            if size != ref.size:
                return f"was altered ({name} has {size} bytes instead of {ref.size})"
            written = beside.get("modified", {}).get(ref.digest)
            if written is not None and self.files.modified(path) != written:
                return f"was touched ({name})"
        return ""

    def find(self, digest: str) -> Artifact | None:
        """The artifact when it is usable (see `look`), else None."""
        return self.look(digest)[0]

    def verify(self, artifact: Artifact) -> list[str]:
        """Hash every file again, as it is in the store; the names of the damaged ones (now quarantined)."""
        for ref in artifact.files.values():
            self._verified.pop(ref.digest, None)
            if self.files.local is None:  # a copy from before tells nothing
                self._local(ref).unlink(missing_ok=True)
        return [name for name, ref in artifact.files.items() if not self._whole(ref)]

    def open(self, artifact: Artifact, name: str) -> Path:
        """A verified local file; for local storage the blob itself: never write to it.

        Raises KeyError for an unknown name, Damaged when the bytes are gone or wrong.
        """
        if name not in artifact.files:
            raise KeyError(f"artifact {artifact.kind} {artifact.digest[:12]} has no file {name!r}")
        ref = artifact.files[name]
        if not self._whole(ref):
            raise Damaged(f"{name} of {artifact.kind} {artifact.digest[:12]} is damaged or missing in {self.url}")
        return self._local(ref)

    def read(self, artifact: Artifact, name: str) -> bytes:
        """A file's verified bytes. Raises as `open`."""
        return self.open(artifact, name).read_bytes()

    def directory(self, artifact: Artifact) -> Path:
        """A local directory with every file under its name (links to verified blobs): never write to it."""
        paths = {name: self.open(artifact, name) for name in artifact.files}
        local = self.files.local
        base = (local if local else scratch_cache()) / "views"
        target = base / artifact.digest
        links = {name: os.path.relpath(path, (target / name).parent) for name, path in paths.items()}
        if _shows(target, links):
            return target
        nonce = secrets.token_hex(4)
        partial, old = base / f".{artifact.digest}-{nonce}", base / f".{artifact.digest}-{nonce}-old"
        seen("mkdir", "views")
        partial.mkdir(parents=True)
        for name, link in links.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            seen("symlink", "views")
            (partial / name).symlink_to(link)
        try:
            _show(partial, target, links, old)
        finally:
            for left in (partial, old):
                shutil.rmtree(left, ignore_errors=True)
        return target

    def _local(self, ref: FileRef) -> Path:
        local = self.files.local
        return local / blob_path(ref.digest) if local else scratch_cache() / blob_path(ref.digest)

    def _whole(self, ref: FileRef) -> bool:
        """Whether the blob's bytes match its name: hashed once a process, and again when its time changed."""
        path = self._local(ref)
        if self.files.local is None and not self._fetched(ref, path):
            return False
        modified = _modified(path)
        if modified is None:
            return False
        if self._verified.get(ref.digest) == modified:
            return True
        for look in range(LOOKS):
            if look and self.files.local is None:  # the copy here rotted, or was fetched wrong
                path.unlink(missing_ok=True)
                if not self._fetched(ref, path):
                    return False
            modified = _modified(path)
            if modified is not None and digest_file(path) == ref.digest:
                self._verified[ref.digest] = modified
                return True
        if self.files.local is None:
            path.unlink(missing_ok=True)
        self.quarantine(blob_path(ref.digest), f"blob {ref.digest[:12]} is damaged")
        self._verified.pop(ref.digest, None)
        return False

    def _fetched(self, ref: FileRef, path: Path) -> bool:
        if path.exists():
            return self.files.exists(blob_path(ref.digest))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        try:
            self.files.fetch(blob_path(ref.digest), partial)
            partial.replace(path)
        except FileNotFoundError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        return True

    def quarantine(self, path: str, what: str) -> None:
        """Move a damaged file away and tell; nothing where it is gone already."""
        if target := quarantine(self.files, path):
            self.told(f"{what}; moved to {self.url}/{target}")


def parse_manifest(data: bytes, digest: str) -> tuple[Artifact, dict[str, Any]]:
    """An artifact and what stands beside it. Raises one of MALFORMED for bytes that are not this artifact's manifest."""
    value = unsealed(data, always=False)
    artifact = Artifact.from_json(value["artifact"])
    if artifact.digest != digest:
        raise ValueError("another artifact's")
    return artifact, dict(value["beside"])


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _show(partial: Path, target: Path, links: Mapping[str, str], old: Path) -> None:
    """Give a view its name. One that another process made meanwhile is the same and in use: only a broken one is replaced."""
    seen("rename", "views")
    try:
        partial.rename(target)
    except OSError:  # something is there
        if _shows(target, links):
            return
        with suppress(FileNotFoundError):
            target.rename(old)
        try:
            partial.rename(target)
        except OSError:
            if not _shows(target, links):
                raise
    seen("renamed", "views")


def _shows(view: Path, links: Mapping[str, str]) -> bool:
    """Whether a view has exactly these links."""
    if not view.is_dir():
        return False
    there = {p.relative_to(view).as_posix(): os.readlink(p) for p in view.rglob("*") if p.is_symlink()}
    return there == links


def _plain(name: str) -> bool:
    parts = name.split("/")
    return bool(name) and not any(part in ("", ".", "..") for part in parts) and "\\" not in name and "\0" not in name


__all__ = [
    "CHUNK",
    "Artifact",
    "ArtifactStore",
    "Damaged",
    "FileRef",
    "canonical",
    "digest_file",
    "digest_json",
    "quarantine",
    "read_whole",
    "sealed",
    "unsealed",
]

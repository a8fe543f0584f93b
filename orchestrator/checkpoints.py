"""Committed checkpoints of one training lineage, in the store.

    checkpoints/<lineage>/<step>-<nonce>/<file>   the bytes
    checkpoints/<lineage>/<step>.json             written last: names, digests and sizes; only now the checkpoint exists

A lineage is a cache key without the parameter that may grow, so that a finished training goes on when it is extended.

A remote storage that does not answer does not stop a training: the newest checkpoint waits in the outbox of this machine.
A full disk does, once dropping an older checkpoint does not help; the newest that is whole stays.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.artifacts import ArtifactStore
from orchestrator.errors import Unavailable
from orchestrator.files import Files, scratch_cache, size_of
from orchestrator.outbox import outbox
from orchestrator.seals import LOOKS, Damaged, digest_file, quarantine, read_whole, sealed, unsealed
from orchestrator.trouble import DiskFull, Outage, disk_full

KEEP = 2
SAVE_PATIENCE_S = 5.0  # for a storage that does not answer; then the checkpoint is kept here, and training goes on


class StoredCheckpoints:
    """`stage.Checkpoints` over an ArtifactStore. Picklable: Ray workers save through their own copy."""

    def __init__(self, store: ArtifactStore, lineage: str, *, keep: int = KEEP) -> None:
        self.store = store
        self.lineage = lineage
        self.keep = keep
        self._away = False  # the last checkpoint went into the outbox

    @property
    def folder(self) -> str:
        return f"checkpoints/{self.lineage}"

    def save(self, step: int, files: Mapping[str, bytes | Path]) -> None:
        """Commit a checkpoint (visible only when whole), then drop all but the newest `keep`.

        One that a remote storage does not take now is kept in the outbox. Raises errors.Unavailable where that would not
        help: for a full disk, or where nothing may be written.
        """
        body = _described(step, files)
        try:
            with self.store.files.brief(SAVE_PATIENCE_S):
                self._commit(self.store.files, body, files)
                self._prune()
        except DiskFull:
            self._save_in_less_room(body, files)
        except Outage as error:
            self._keep_here(body, files, error)
            return
        if (box := outbox(self.store)) is not None and not box.empty:
            box.drop(self.lineage, step)
        self._away = False

    def _commit(self, where: Files, body: Mapping[str, Any], files: Mapping[str, bytes | Path]) -> None:
        folder = f"{self.folder}/{body['folder']}"
        try:
            for name, data in files.items():
                where.write(f"{folder}/{name}", data)
            where.write(f"{self.folder}/{body['step']:010d}.json", sealed(body))
        except DiskFull:
            with suppress(Unavailable):
                where.remove(folder)
            raise

    def _save_in_less_room(self, body: Mapping[str, Any], files: Mapping[str, bytes | Path]) -> None:
        """Once more, with all but the newest checkpoint gone."""
        needed = sum(size_of(data) for data in files.values())
        try:
            self._prune(keep=1)
            self._commit(self.store.files, body, files)
            self._prune()
        except DiskFull as error:
            place: Path | str = self.store.files.local or self.store.url
            self.store.told(f"there is no room for the checkpoint of step {body['step']}; the one before is kept")
            raise disk_full(place, needed) from error

    def _keep_here(self, body: Mapping[str, Any], files: Mapping[str, bytes | Path], why: Outage) -> None:
        box, step = outbox(self.store), body["step"]
        if box is None:
            raise why
        try:
            with box.held():
                self._commit(box.files, body, files)
                box.drop(self.lineage, step - 1)
        except Unavailable as error:
            self.store.told(f"the checkpoint of step {step} is lost: {error}")
            return
        if not self._away:
            self._away = True
            self.store.told(f"the checkpoint of step {step} is kept in {box.root} until {self.store.url} answers")

    def latest(self, *, at_most: int | None = None) -> tuple[int, dict[str, Path]] | None:
        """The newest whole checkpoint (step <= at_most) as verified local files; damaged ones are told and skipped."""
        if (box := outbox(self.store)) is not None:
            box.deliver_checkpoints(self.store, self.lineage)
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
            body = read_whole(self.store.files, manifest, _parse)
            found = {name: self._verified(body["folder"], name, ref[0]) for name, ref in body["files"].items()}
        except Damaged:
            why = "its manifest is damaged"
        except (FileNotFoundError, _Wrong) as error:
            why = str(error) if isinstance(error, _Wrong) else "a file is missing"
        else:
            self._forget_copies(body["folder"])
            return found
        self.store.told(f"checkpoint at step {step} is damaged and skipped: {why}")
        quarantine(self.store.files, manifest)
        return None

    def _verified(self, folder: str, name: str, digest: str) -> Path:
        stored = f"{self.folder}/{folder}/{name}"
        local = self.store.files.local
        path = local / stored if local else scratch_cache() / stored
        for _ in range(LOOKS):
            if local is None and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self.store.files.fetch(stored, path)
            if digest_file(path) == digest:
                return path
            if local is None:  # cut off or altered on the way
                path.unlink(missing_ok=True)
        raise _Wrong(f"{name} does not match its digest")

    def _forget_copies(self, folder: str) -> None:
        """Copies here of older checkpoints of a remote storage."""
        if self.store.files.local is not None:
            return
        copies = scratch_cache() / self.folder
        for copy in copies.iterdir() if copies.is_dir() else ():
            if copy.name < folder[: folder.index("-")]:
                shutil.rmtree(copy, ignore_errors=True)

    def _prune(self, keep: int | None = None) -> None:
        """Drop superseded checkpoints, and folders that a killed process left without a manifest."""
        kept = self.steps()[-(keep or self.keep) :]
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


def _described(step: int, files: Mapping[str, bytes | Path]) -> dict[str, Any]:
    """A checkpoint's manifest."""
    refs = {
        name: [digest_file(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest(), size_of(data)]
        for name, data in files.items()
    }
    return {"step": step, "folder": f"{step:010d}-{secrets.token_hex(4)}", "files": refs}


def _parse(data: bytes) -> dict[str, Any]:
    """A manifest. Raises one of MALFORMED for anything else."""
    body = unsealed(data)
    return {"folder": str(body["folder"]), "files": {str(name): list(ref) for name, ref in body["files"].items()}}


__all__ = ["StoredCheckpoints"]

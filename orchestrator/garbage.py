"""What a storage holds that nothing needs: everything that `reach` does not name, in the order in which it may go.

What a dropped run named goes at once. What no record knows of goes only when it is older than the grace time, by the
storage's own clock: somebody may be about to name it. Looking changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import verdicts
from orchestrator.artifacts import ArtifactStore, blob_path, manifest_path
from orchestrator.cache import entry_path, parse_entry
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.earlier import parse_finished
from orchestrator.files import scratch_cache
from orchestrator.log import Log
from orchestrator.reach import Reach, Wish, manifest, reach
from orchestrator.seals import Damaged, read_whole

FOLDER = "collection"  # the log of who sweeps
QUARANTINE_S = 7 * 86_400.0
VERDICT_S = 30 * 86_400.0  # longer than any job is tried again
KINDS = ("runs", "cache keys", "checkpoints", "artifacts", "files", "left-overs")  # as told


@dataclass(frozen=True)
class Item:
    """Something to remove: paths in the order in which they go, and its bytes."""

    kind: str
    name: str
    paths: tuple[str, ...]
    size: int = 0
    local: Path | None = None  # a copy of a remote file that lies on this machine


@dataclass
class Findings:
    """What would go, in the order of removal, and what stays."""

    items: list[Item] = field(default_factory=list)
    kept_runs: list[str] = field(default_factory=list)
    dropped_runs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    waiting: int = 0  # orphans too young to go

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)

    def count(self, kind: str) -> tuple[int, int]:
        """How many of a kind, and their bytes."""
        those = [item for item in self.items if item.kind == kind]
        return len(those), sum(item.size for item in those)

    def to_json(self) -> dict[str, Any]:
        kinds = {kind: dict(zip(("count", "bytes"), self.count(kind), strict=True)) for kind in KINDS}
        return {
            "bytes": self.size,
            "kinds": kinds,
            "kept_runs": self.kept_runs,
            "dropped_runs": self.dropped_runs,
            "too_young": self.waiting,
            "notes": self.notes,
        }


def log_of(store: ArtifactStore) -> Log:
    """Of who sweeps a storage."""
    log = Log(store.files, "gc")
    log.folder = FOLDER
    log.told = store.told
    return log


class Survey:
    """One look at everything that is stored. `now` by the storage's own clock, None where it has none."""

    def __init__(self, store: ArtifactStore, wish: Wish, now: float | None) -> None:
        self.store, self.wish, self.now = store, wish, now
        self.files = store.files
        self.reach: Reach = reach(store, wish, now=now)
        self.found = Findings(notes=self.reach.notes)
        self.doomed_artifacts: set[str] = set()  # named by what goes
        self.unsure = False  # a kept manifest cannot be read: which files it needs is unknown

    def findings(self) -> Findings:
        self.found.kept_runs, self.found.dropped_runs = sorted(self.reach.runs), sorted(self.reach.dropped)
        self._runs()
        self._keys()
        self._checkpoints()
        self._artifacts()
        self._leftovers()
        return self.found

    def _add(self, kind: str, name: str, *paths: str, size: int = 0, local: Path | None = None) -> None:
        self.found.items.append(Item(kind, name, paths, size, local))

    def _old(self, path: str, age_s: float | None = None) -> bool:
        """Whether an orphan may go."""
        written = self.files.written(path)
        age_s = self.wish.grace_s if age_s is None else age_s
        old = written is not None and self.now is not None and self.now - written >= age_s
        self.found.waiting += not old
        return old

    def _all_old(self, paths: Sequence[str]) -> bool:
        return all(self._old(path) for path in paths)

    def _size(self, *paths: str) -> int:
        return sum(self.files.size(path) or 0 for path in paths)

    # --- runs --------------------------------------------------------------------------------------------------------

    def _runs(self) -> None:
        for pipeline in self.reach.states:
            for name in self.files.names(f"pipelines/{pipeline}/finished"):
                path = f"pipelines/{pipeline}/finished/{name}"
                with suppress(FileNotFoundError, Damaged):  # which `fsck` tells of
                    if read_whole(self.files, path, parse_finished) in self.reach.dropped:
                        self._add("left-overs", path, path)
        for run_id, record in self.reach.dropped.items():
            self.doomed_artifacts |= {digest for stage in record.stages for digest in stage.outputs.values()}
            folder = f"runs/{run_id}"
            # Events first: without them a folder that lost its record is a left-over, with them it is damage.
            paths = (f"{folder}/events.jsonl", f"{folder}/run.json", folder)
            self._add("runs", run_id, *paths, size=self._size(*self._below(folder)))
        for name in self.files.names("runs"):  # a run killed before its first record, a removal that was cut off
            if name not in self.reach.runs and name not in self.reach.dropped:
                inside = self._below(f"runs/{name}")
                if f"runs/{name}/run.json" not in inside and self._all_old(inside):
                    self._add("left-overs", f"runs/{name}", f"runs/{name}", size=self._size(*inside))

    def _below(self, folder: str) -> list[str]:
        """Files of a folder and of its folders."""
        found = []
        for name in self.files.names(folder):
            path = f"{folder}/{name}"
            inner = [] if self.files.names(path) == [name] else self._below(path)  # some list a file as its own content
            found += inner or [path]
        return found

    # --- cache keys --------------------------------------------------------------------------------------------------

    def _keys(self) -> None:
        for key in self._named("keys", ".json"):
            if key in self.reach.keys:
                continue
            try:
                entry = read_whole(self.files, entry_path(key), lambda data, key=key: parse_entry(data, key))  # type: ignore[misc]
            except (FileNotFoundError, Damaged):  # the next run that meets it, or fsck, tells of it
                continue
            outputs = set(entry.outputs.values())
            if entry.run in self.reach.runs:
                self.reach.artifacts |= outputs
            elif not outputs <= self.reach.artifacts and (
                entry.run in self.reach.dropped or self._old(entry_path(key))
            ):
                self.doomed_artifacts |= outputs
                self._add("cache keys", key, entry_path(key), size=self._size(entry_path(key)))
            else:
                self.reach.artifacts |= outputs

    def _named(self, folder: str, suffix: str = "") -> Iterator[str]:
        """Digests under a folder that is split by their first two characters."""
        for part in self.files.names(folder):
            for name in self.files.names(f"{folder}/{part}"):
                if name.endswith(suffix) and len(name) == 64 + len(suffix):
                    yield name.removesuffix(suffix)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _checkpoints(self) -> None:
        dropped = {stage.lineage for record in self.reach.dropped.values() for stage in record.stages}
        for name in self.files.names("checkpoints"):
            base, _, trial = name.partition(".")
            stored = StoredCheckpoints(self.store, name)
            finished = base in self.reach.lineages and base not in self.reach.unfinished
            if base not in self.reach.lineages:
                inside = self._below(stored.folder)
                if base in dropped or self._all_old(inside):
                    self._lineage(stored, inside)
            elif finished and trial:  # a search that is over needs its trials no more
                self._lineage(stored, self._below(stored.folder))
            elif finished:
                self._superseded(stored)

    def _lineage(self, stored: StoredCheckpoints, inside: Sequence[str]) -> None:
        manifests = [path for path in inside if path.endswith(".json") and path.count("/") == 2]
        self._add("checkpoints", stored.lineage, *manifests, stored.folder, size=self._size(*inside))

    def _superseded(self, stored: StoredCheckpoints) -> None:
        """An extension needs the last checkpoint of a finished training only."""
        steps = stored.steps()
        if not steps or not self._complete(stored, steps[-1]):
            return
        by_step: dict[int, list[str]] = {}
        for name in self.files.names(stored.folder):
            number = name.removesuffix(".json").partition("-")[0]
            if number.isdigit() and int(number) < steps[-1]:
                by_step.setdefault(int(number), []).append(f"{stored.folder}/{name}")
        for step, paths in by_step.items():
            paths.sort(key=lambda path: not path.endswith(".json"))  # manifests first: it disappears whole
            inside = [path for one in paths for path in self._below(one) or [one]]
            self._add("checkpoints", f"{stored.lineage} step {step}", *paths, size=self._size(*inside))

    def _complete(self, stored: StoredCheckpoints, step: int) -> bool:
        try:
            body = json.loads(self.files.read(f"{stored.folder}/{step:010d}.json"))
            sizes = {f"{stored.folder}/{body['folder']}/{name}": ref[1] for name, ref in body["files"].items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return False
        return all(self.files.size(path) == size for path, size in sizes.items())

    # --- artifacts and their files -----------------------------------------------------------------------------------

    def _artifacts(self) -> None:
        needed: dict[str, bool] = {}  # blob -> whether something that stays names it
        sizes: dict[str, int] = {}
        views = set(self._views())
        for digest in self._named("artifacts", ".json"):
            path = manifest_path(digest)
            stays = digest in self.reach.artifacts or not (digest in self.doomed_artifacts or self._old(path))
            try:
                artifact = manifest(self.store, digest)
            except Damaged:
                self.unsure |= stays
                artifact = None
            for ref in artifact.files.values() if artifact else ():
                needed[ref.digest] = needed.get(ref.digest, False) or stays
                sizes[ref.digest] = ref.size
            if not stays:
                view = [f"views/{digest}"] if digest in views else []
                self._add("artifacts", digest, *view, path, size=self._size(path))
        if self.unsure:
            self.found.notes.append("a manifest that is kept is damaged, so no file is removed; run `orchestrate fsck`")
            return
        for digest in self._named("sha256"):
            path = blob_path(digest)
            if needed.get(digest, False) or (digest not in needed and not self._old(path)):
                continue
            copy = None if self.files.local else scratch_cache() / path
            size = sizes[digest] if digest in sizes else self._size(path)
            self._add("files", digest, path, size=size, local=copy)

    def _views(self) -> list[str]:
        return self.files.names("views") if self.files.local else []

    # --- what was left lying -----------------------------------------------------------------------------------------

    def _leftovers(self) -> None:
        for name in self._views():
            if name.startswith(".") and self._old(f"views/{name}"):
                self._leftover(f"views/{name}")
        sweeper = log_of(self.store).state().lease
        for name in self.files.names(f"{FOLDER}/beat"):
            if sweeper is None or name != f"{sweeper.epoch}.json":
                self._leftover(f"{FOLDER}/beat/{name}")
        for name in self.files.names("quarantine"):
            if self._old(f"quarantine/{name}", max(QUARANTINE_S, self.wish.grace_s)):
                self._leftover(f"quarantine/{name}")
        for job in verdicts.jobs(self.store):
            if self._over(job):
                self._leftover(f"{verdicts.FOLDER}/{job}")
        for name in self.files.names("tmp"):
            if self._old(f"tmp/{name}"):
                self._leftover(f"tmp/{name}")
        for pipeline, state in self.reach.states.items():
            for name in self.files.names(f"pipelines/{pipeline}/beat"):
                if state.lease is None or name != f"{state.lease.epoch}.json":
                    self._leftover(f"pipelines/{pipeline}/beat/{name}")
            if state.lease is None and self.files.local and self.files.names(f"scratch/{pipeline}"):
                self._leftover(f"scratch/{pipeline}")

    def _over(self, job: str) -> bool:
        """Whether nobody will ask again how a job ended: its run goes, or it ended long ago."""
        verdict = verdicts.read(self.store, job)
        if verdict is not None and verdict.run in self.reach.runs:
            return False
        if verdict is not None and verdict.run in self.reach.dropped:
            return True
        written = [time for path in verdicts.paths(job) if (time := self.files.written(path)) is not None]
        return self.now is not None and bool(written) and self.now - max(written) >= max(VERDICT_S, self.wish.grace_s)

    def _leftover(self, path: str) -> None:
        self._add("left-overs", path, path, size=self._size(*(self._below(path) or [path])))


__all__ = ["FOLDER", "KINDS", "Findings", "Item", "Survey", "log_of"]

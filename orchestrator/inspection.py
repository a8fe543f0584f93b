"""Reading everything that a storage holds, and saying what is wrong with it (`orchestrate fsck`). Changes nothing.

Safe beside a running pipeline: what is written whole is looked at, what is still on its way (temporary files, blobs without a
manifest) is told apart. Names are listed before what they name, so that what comes or goes meanwhile is no finding.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator import log as logs
from orchestrator import runs, verdicts
from orchestrator.artifacts import FORMAT, Artifact, ArtifactStore, blob_path, manifest_path, parse_manifest
from orchestrator.cache import Entry, entry_path, parse_entry
from orchestrator.earlier import parse_finished
from orchestrator.errors import Unavailable
from orchestrator.files import Files
from orchestrator.seals import LOOKS, MALFORMED, Damaged, digest_file, read_whole, unsealed

HEX = re.compile(r"[0-9a-f]{64}")
STEP = re.compile(r"\d{10,}\.json")
EPOCH = re.compile(r"\d+\.json")
SHOWN_MOST = 3  # names that one finding lists
OWN = {"format.json", "quarantine", "scratch", "tmp"}

DAMAGED = "damaged"  # bytes that are not what was written
DANGLING = "dangling"  # names something that is gone
NOTE = "note"  # worth knowing; nothing is wrong
LEFT = "left over"  # of killed processes, or superseded; gc removes it

Progress = Callable[[str, int, int, int], None]  # kind of object, how many of how many, bytes read so far


@dataclass(frozen=True)
class Finding:
    """Something to tell of one stored file. `mend` names how `mending` puts it right ("": it does not)."""

    kind: str
    path: str
    what: str
    mend: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        return self.kind in (DAMAGED, DANGLING)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "path": self.path, "what": self.what}


@dataclass
class Inspection:
    """What was found, and how much was looked at."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # objects by kind
    bytes: int = 0  # read

    @property
    def damage(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.wrong]

    def of(self, kind: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == kind]


def inspect(store: ArtifactStore, *, quick: bool = False, progress: Progress | None = None) -> Inspection:
    """Look at every object. `quick` believes the bytes of blobs and checkpoints, and looks at their sizes only.

    Raises Unavailable where the storage cannot be read or has a newer format.
    """
    return _Inspector(store, quick, progress or (lambda *_: None)).run()


class _Inspector:
    """One walk over a storage."""

    def __init__(self, store: ArtifactStore, quick: bool, progress: Progress) -> None:
        self.store, self.files = store, store.files
        self.quick, self.progress = quick, progress
        self.found = Inspection()
        self.entries: dict[str, Entry | None] = {}  # by key
        self.artifacts: dict[str, Artifact | None] = {}  # by digest
        self.sizes: dict[str, int] = {}  # of the blobs that a manifest names
        self.commits: list[Entry] = []  # of every pipeline's log, but for those of a run that holds it
        self.roots: set[str] = set()  # artifacts that an entry, a commit or a run names

    def run(self) -> Inspection:
        self._format()
        self._records()
        for folder in self._logs():
            self._log(folder)
            self._pulse(folder)
            self._finished(folder)
        self._verdicts()
        self._keys()
        self._manifests()
        self._dangling()
        self._blobs()
        self._checkpoints()
        self._views()
        self._spool()
        self._left()
        return self.found

    # --- telling -----------------------------------------------------------------------------------------------

    def _say(self, kind: str, path: str, what: str, mend: str = "", **facts: Any) -> None:
        self.found.findings.append(Finding(kind, path, what, mend, facts))

    def _each(self, kind: str, paths: list[str]) -> Iterator[str]:
        self.found.counts[kind] = self.found.counts.get(kind, 0) + len(paths)
        for count, path in enumerate(paths):
            self.progress(kind, count, len(paths), self.found.bytes)
            yield path
        if paths:
            self.progress(kind, len(paths), len(paths), self.found.bytes)

    def _whole(self, path: str, parse: Callable[[bytes], Any]) -> Any:
        """What `parse` makes of a file; None for one that is gone. Raises Damaged."""

        def counted(data: bytes) -> Any:
            self._count(data)
            return parse(data)

        try:
            return read_whole(self.files, path, counted)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def _count(self, data: bytes) -> None:
        self.found.bytes += len(data)

    def _spread(self, folder: str, name: re.Pattern[str]) -> list[str]:
        """Paths like `folder/ab/abc…`; what else lies there is told."""
        found = []
        for prefix in self.files.names(folder):
            for one in self.files.names(f"{folder}/{prefix}"):
                if name.fullmatch(one) and one.startswith(prefix):
                    found.append(f"{folder}/{prefix}/{one}")
                else:
                    self._say(LEFT, f"{folder}/{prefix}/{one}", "is no file of ours")
        return found

    # --- what there is -----------------------------------------------------------------------------------------

    def _format(self) -> None:
        there = [name for name in self.files.names("") if name not in OWN]
        try:
            number = self._whole("format.json", lambda data: int(unsealed(data, always=False)["format"]))
        except Damaged:
            self._say(DAMAGED, "format.json", "is damaged", "format")
            return
        if number is None and there:
            self._say(DAMAGED, "format.json", "is gone", "format")
        if number is not None and number > FORMAT:
            hint = f"this version knows up to {FORMAT}; upgrade"
            raise Unavailable(f"storage {self.store.url} has format {number}", hint=hint)

    def _records(self) -> None:
        folders = [f"runs/{name}" for name in self.files.names("runs")]
        for folder in self._each("runs", folders):
            name = folder.removeprefix("runs/")
            if not runs.RUN_ID.fullmatch(name):
                self._say(LEFT, folder, "is no run of ours")
                continue
            try:
                record = self._whole(f"{folder}/run.json", runs.parse_record)
            except Damaged:
                self._say(DAMAGED, f"{folder}/run.json", "the run's record is damaged", "record", run=name)
            else:
                if record is None:
                    self._lost_record(folder, name)
                else:
                    self.roots |= {digest for stage in record.stages for digest in stage.outputs.values()}
            self._events(f"{folder}/events.jsonl")

    def _lost_record(self, folder: str, name: str) -> None:
        if self.files.exists(f"{folder}/events.jsonl"):  # begun after the first record was saved
            self._say(DAMAGED, f"{folder}/run.json", "the run's record is gone", "record", run=name)
        else:
            self._say(LEFT, folder, "a run that was killed before its first record")

    def _events(self, path: str) -> None:
        bad = 0
        for _ in range(LOOKS):
            try:
                data = self.files.read(path)
            except FileNotFoundError:
                return
            lines = data.split(b"\n")[:-1]  # what follows the last end of line was cut off, or is being written
            bad = sum(runs.parsed(line.decode(errors="replace")) is None for line in lines)
            if not bad:
                break
        self._count(data)
        if bad:
            what = f"{bad} of {len(lines)} events cannot be read"
            self._say(DAMAGED, path, what, "lines")

    def _logs(self) -> list[str]:
        folders = [f"pipelines/{name}" for name in self.files.names("pipelines")]
        return [*folders, "collection"] if self.files.names("collection/log") else folders

    def _log(self, folder: str) -> None:
        try:
            head = self._whole(f"{folder}/head.json", logs.parse_head)
        except Damaged:
            head = None
            self._say(DAMAGED, f"{folder}/head.json", "is damaged", "head", folder=folder)
        names = self.files.names(f"{folder}/log")
        numbers = sorted(int(name[:-5]) for name in names if logs.ENTRY.fullmatch(name))
        for name in names:
            if not logs.ENTRY.fullmatch(name):
                self._say(LEFT, f"{folder}/log/{name}", "is no entry")
        entries = self._read_log(folder, numbers)
        self._follow(folder, entries, head)

    def _read_log(self, folder: str, numbers: list[int]) -> list[dict[str, Any]]:
        """Every entry from the first to the last; unreadable and lost ones are told."""
        entries: list[dict[str, Any]] = []
        there = set(numbers)
        paths = [f"{folder}/log/{n:08d}.json" for n in range(1, (numbers or [0])[-1] + 1)]
        for n, path in enumerate(self._each("log entries", paths), start=1):
            entry = None
            with suppress(Damaged):
                entry = self._whole(path, partial(logs.parse_entry, n=n))
            if entry is None:
                what = "this entry of the log is " + ("damaged" if n in there else "gone")
                self._say(DAMAGED, path, what, "entry", folder=folder, n=n)
            entries.append(entry or {"n": n, "type": "damaged"})
        return entries

    def _follow(self, folder: str, entries: list[dict[str, Any]], head: logs.State | None) -> None:
        """Each holder's entries stand between its own acquisition and the next one's; the head says the same."""
        state, whole = logs.State(), True
        lost: set[int] = set()  # entries that may have been an acquisition, since the last one that is known
        for entry in entries:
            path = f"{folder}/log/{entry['n']:08d}.json"
            epoch = entry.get("epoch")
            holder = state.lease.epoch if state.lease else 0
            if entry["type"] != "acquire" and epoch is not None and epoch not in lost | {holder}:
                self._say(DAMAGED, path, f"is by the holder of epoch {epoch}, who had lost the pipeline then")
            try:
                state.fold(entry)
            except MALFORMED:
                self._say(DAMAGED, path, "has not the fields of its kind", "entry", folder=folder, n=entry["n"])
                whole = False
            if entry["type"] in ("damaged", "void"):
                lost.add(entry["n"])
                whole = False
            elif entry["type"] == "acquire":
                lost.clear()
            if head is not None and head.n == state.n and whole and head.to_json() != state.to_json():
                self._say(DAMAGED, f"{folder}/head.json", "says something else than the log", "head", folder=folder)
        for n in range(len(entries) + 1, head.n + 1 if head is not None else 0):
            self._say(
                DAMAGED, f"{folder}/log/{n:08d}.json", "this entry of the log is gone", "entry", folder=folder, n=n
            )
        for commit in {**(head.commits if head else {}), **state.commits}.values():
            with suppress(*MALFORMED):
                committed = Entry.from_json(commit)
                self.roots |= set(committed.outputs.values())
                if not (state.lease and state.lease.run == committed.run and state.lease.fate != "dead"):
                    self.commits.append(committed)  # a running pipeline shares what it commits a moment later

    def _pulse(self, folder: str) -> None:
        for name in self.files.names(f"{folder}/beat"):
            path = f"{folder}/beat/{name}"
            try:
                if not EPOCH.fullmatch(name) or self._whole(path, lambda data: int(unsealed(data)["count"])) is None:
                    continue
            except Damaged:
                self._say(DAMAGED, path, "a holder's sign of life is damaged", "drop")

    def _finished(self, folder: str) -> None:
        for path in self._each(
            "finished runs", [f"{folder}/finished/{n}" for n in self.files.names(f"{folder}/finished")]
        ):
            try:
                run_id = self._whole(path, parse_finished)
            except Damaged:
                self._say(DAMAGED, path, "does not name a run", "drop")
                continue
            if run_id is not None and not self.files.exists(f"runs/{run_id}/run.json"):
                self._say(LEFT, path, f"names run {run_id}, which is gone", "drop")

    def _verdicts(self) -> None:
        folder, there = verdicts.FOLDER, []
        for job in self.files.names(folder):
            names = self.files.names(f"{folder}/{job}") if verdicts.JOB.fullmatch(job) else [""]
            for path in [f"{folder}/{job}/{name}".rstrip("/") for name in names]:
                if names != [""] and path in verdicts.paths(job):
                    there.append((path, job))
                else:
                    self._say(LEFT, path, "is no verdict of ours")
        jobs = dict(there)
        for path in self._each("verdicts", list(jobs)):
            try:
                self._whole(path, partial(verdicts.parse_verdict, job=jobs[path]))
            except Damaged:
                self._say(DAMAGED, path, "how a job ended is damaged: its next attempt runs again", "drop")

    def _keys(self) -> None:
        for path in self._each("cache entries", self._spread("keys", re.compile(HEX.pattern + r"\.json"))):
            key = path.rsplit("/", 1)[-1][:-5]
            try:
                entry = self._whole(path, partial(parse_entry, key=key))
            except Damaged:
                self._say(DAMAGED, path, "the cache entry is damaged", "drop")
                continue
            if entry is not None:
                self.entries[key] = entry
                self.roots |= set(entry.outputs.values())

    def _manifests(self) -> None:
        for path in self._each("artifacts", self._spread("artifacts", re.compile(HEX.pattern + r"\.json"))):
            digest = path.rsplit("/", 1)[-1][:-5]
            try:
                found = self._whole(path, partial(parse_manifest, digest=digest))
            except Damaged:
                self._say(DAMAGED, path, "the artifact's manifest is damaged", "drop", artifact=digest)
                self.artifacts[digest] = None
                continue
            if found is not None:
                self.artifacts[digest] = found[0]
                self._files_of(path, *found)

    def _files_of(self, path: str, artifact: Artifact, beside: Mapping[str, Any]) -> None:
        """Whether everything that a manifest names is there, as long as it says and untouched."""
        lacking, touched = [], []
        for name, ref in artifact.files.items():
            self.sizes[ref.digest] = ref.size
            size = self.files.size(blob_path(ref.digest))
            if size is None:
                lacking.append(name)
            elif size != ref.size:
                pass  # its bytes cannot be right: told with the blobs
            elif (written := beside.get("modified", {}).get(ref.digest)) is not None:
                touched += [name] if self.files.modified(blob_path(ref.digest)) != written else []
        if lacking and self.files.exists(path):  # a collection may have taken both meanwhile
            what = f"{artifact.kind} {artifact.digest[:12]} lacks {_some(lacking)}"
            self._say(DANGLING, path, what, "drop", artifact=artifact.digest)
            self.artifacts[artifact.digest] = None
        elif touched:
            what = f"{_some(touched)} was touched: the next run would make {artifact.kind} {artifact.digest[:12]} again"
            self._say(NOTE, path, what, "times", artifact=artifact.digest)

    def _dangling(self) -> None:
        for key, entry in self.entries.items():
            if entry is None:
                continue
            gone = [name for name, digest in entry.outputs.items() if self._absent(digest)]
            if gone and self.files.exists(entry_path(key)):
                what = f"{entry.stage} of {entry.pipeline}: its {_some(gone)} is gone"
                self._say(DANGLING, entry_path(key), what, "drop", stage=entry.stage, pipeline=entry.pipeline)

        for entry in self.commits:
            if entry.key not in self.entries and not any(map(self._absent, entry.outputs.values())):
                what = (
                    f"{entry.stage} of {entry.pipeline} stands in its log only: other pipelines would compute it again"
                )
                self._say(NOTE, entry_path(entry.key), what, "key", entry=entry)

    def _absent(self, digest: str) -> bool:
        if digest in self.artifacts:
            return self.artifacts[digest] is None
        return not self.files.exists(manifest_path(digest))  # written since the manifests were listed

    def _blobs(self) -> None:
        for path in self._each("files", self._spread("sha256", HEX)):
            digest = path.rsplit("/", 1)[-1]
            if not self._hashes(path, digest, self.sizes.get(digest)):
                self._say(DAMAGED, path, "does not match its name", "drop", blob=digest)
            elif digest not in self.sizes:
                self._say(LEFT, path, "belongs to no artifact", size=self.files.size(path))
        for digest, artifact in self.artifacts.items():
            if artifact is not None and digest not in self.roots:
                self._say(LEFT, manifest_path(digest), f"no result names this {artifact.kind}")

    def _hashes(self, path: str, name: str, size: int | None) -> bool:
        """Whether a file's bytes have this digest (quick: the size); a file that is gone by now has."""
        try:
            if self.quick:
                return size is None or self.files.size(path) in (size, None)
            return any(self._digest(path) == name for _ in range(LOOKS))
        except FileNotFoundError:
            return True

    def _digest(self, path: str) -> str:
        self.found.bytes += self.files.size(path) or 0
        return digest(self.files, path)

    def _checkpoints(self) -> None:
        lineages = [f"checkpoints/{name}" for name in self.files.names("checkpoints")]
        for folder in self._each("lineages", lineages):
            there = self.files.names(folder)
            kept = set()
            for name in there:
                if STEP.fullmatch(name):
                    kept.add(self._checkpoint(folder, name))
            for name in there:
                if "-" in name and name not in kept and self.files.names(f"{folder}/{name}"):
                    self._say(LEFT, f"{folder}/{name}", "a checkpoint that was not committed, or is superseded")

    def _checkpoint(self, folder: str, name: str) -> str:
        """Look at one checkpoint; the name of the folder with its files."""
        path = f"{folder}/{name}"
        try:
            body = self._whole(path, unsealed)
        except Damaged:
            self._say(DAMAGED, path, "the checkpoint's manifest is damaged", "drop")
            return ""
        if body is None:
            return ""
        wrong = []
        for file, (digest, size) in body["files"].items():
            stored = f"{folder}/{body['folder']}/{file}"
            if not self.files.exists(stored) or not self._hashes(stored, digest, size):
                wrong.append(file)
        if wrong and self.files.exists(path):
            self._say(DAMAGED, path, f"the checkpoint at step {body['step']} lost {_some(wrong)}", "drop")
        return str(body["folder"])

    # --- beside the objects ------------------------------------------------------------------------------------

    def _views(self) -> None:
        local = self.files.local
        if local is None:
            return
        for name in self.files.names("views"):
            view = local / "views" / name
            if name.startswith("."):
                self._say(LEFT, f"views/{name}", "a view that was not finished", "view")
            elif any(link.is_symlink() and not link.exists() for link in view.rglob("*")):
                self._say(LEFT, f"views/{name}", "shows files that are gone", "view")

    def _spool(self) -> None:
        for name in self.files.names("spool"):
            if not name.endswith(".jsonl"):
                continue
            with suppress(FileNotFoundError):
                lines = self.files.read(f"spool/{name}").split(b"\n")[:-1]
                bad = sum(bool(line.strip()) and not _is_object(line) for line in lines)
                if bad:
                    what = f"{bad} of {len(lines)} lines for MLflow cannot be read; the others are sent"
                    self._say(NOTE, f"spool/{name}", what)

    def _left(self) -> None:
        if count := len(self.files.names("tmp")):
            self._say(LEFT, "tmp", f"{count} temporary files; a run removes those older than a day")
        if count := len(self.files.names("quarantine")):
            self._say(NOTE, "quarantine", f"{count} damaged files were moved here earlier")


def digest(files: Files, path: str) -> str:
    """SHA-256 (hex) of a stored file's bytes, read from the storage itself. Raises FileNotFoundError."""
    if files.local is not None:
        return digest_file(files.local / path)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "file"
        files.fetch(path, target)
        return digest_file(target)


def _is_object(line: bytes) -> bool:
    try:
        unsealed(line, always=False)
    except MALFORMED:
        return False
    return True


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN_MOST])
    return shown if len(names) <= SHOWN_MOST else f"{shown} and {len(names) - SHOWN_MOST} more"


__all__ = ["DAMAGED", "DANGLING", "LEFT", "NOTE", "Finding", "Inspection", "Progress", "digest", "inspect"]

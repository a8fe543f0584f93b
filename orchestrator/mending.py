"""Putting right what `inspection` found: damaged files go to quarantine, names of what is gone are dropped, and what
something else still tells (heads, run records, cache entries, the format file) is made again.

Safe beside running pipelines: a log is mended by its holder only, so one that is held is left alone, and said so. What is
dropped was unusable before; the next run computes it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator import runs
from orchestrator.artifacts import FORMAT, ArtifactStore, blob_path, manifest_path, parse_manifest
from orchestrator.cache import Cache, parse_entry
from orchestrator.errors import Busy
from orchestrator.inspection import DANGLING, Finding, Inspection, Progress, digest, inspect
from orchestrator.log import Log
from orchestrator.log import parse_entry as parse_log_entry
from orchestrator.runs import RunRecord, StageRecord
from orchestrator.seals import MALFORMED, Damaged, quarantine, read_whole, sealed

ROUNDS = 5  # what is dropped leaves others without what they name, and so on: blob, manifest, cache entry


@dataclass
class Mended:
    """What was done, what could not be, and the storage as it is now."""

    done: list[tuple[Finding, str]] = field(default_factory=list)  # and what was done about it
    refused: list[tuple[Finding, str]] = field(default_factory=list)  # and why
    recomputed: list[str] = field(default_factory=list)  # "train of dcgan": what the next run computes again
    left: Inspection = field(default_factory=Inspection)


def mend(store: ArtifactStore, inspection: Inspection, *, progress: Progress | None = None) -> Mended:
    """Put right what can be. Raises Unavailable where the storage cannot be written."""
    mended = Mended(left=inspection)
    mender = _Mender(store, mended)
    tried: set[tuple[str, str]] = set()
    for _ in range(ROUNDS):
        todo = [f for f in mended.left.findings if f.mend and (f.path, f.what) not in tried]
        if not todo:
            break
        for finding in sorted(todo, key=lambda found: ORDER.index(found.mend)):
            tried.add((finding.path, finding.what))
            mender.mend(finding)
        mended.left = inspect(store, quick=True, progress=progress)  # bytes were read already
    mended.recomputed = sorted(mender.lost - mender.kept())
    return mended


class _Mender:
    def __init__(self, store: ArtifactStore, mended: Mended) -> None:
        self.store, self.files, self.mended = store, store.files, mended
        self.lost: set[str] = set()
        self._logs: dict[str, str] = {}  # folder -> why it cannot be mended, "" when it was

    def mend(self, finding: Finding) -> None:
        if finding.kind == DANGLING and "stage" in finding.facts:
            self.lost.add(f"{finding.facts['stage']} of {finding.facts['pipeline']}")
        action: Callable[[Finding], str] = getattr(self, f"_{finding.mend}")
        try:
            self.mended.done.append((finding, action(finding)))
        except (_Refused, Busy) as error:
            self.mended.refused.append((finding, str(error)))

    def kept(self) -> set[str]:
        """Stages of which the storage has a usable result after all."""
        found = set()
        for folder in self.files.names("pipelines"):
            log = self._log(f"pipelines/{folder}")
            for stage, commit in log.state().commits.items():
                if not any(self.store.lacks(digest) for digest in commit["outputs"].values()):
                    found.add(f"{stage} of {folder}")
        return found

    # --- one way of mending each -------------------------------------------------------------------------------

    def _format(self, finding: Finding) -> str:
        quarantine(self.files, "format.json")
        self.files.create("format.json", sealed({"format": FORMAT}))
        return "written again"

    def _drop(self, finding: Finding) -> str:
        if self._made_again(finding.path):
            return "whole by now: a run made it again"
        target = quarantine(self.files, finding.path)
        return f"moved to {target}" if target else "gone by now"

    def _made_again(self, path: str) -> bool:
        """Whether a result is whole after all: a run may have met the damage first."""
        folder, name = path.split("/", 1)[0], path.rsplit("/", 1)[-1].removesuffix(".json")
        try:
            if folder == "sha256":
                return digest(self.files, path) == name
            if folder == "artifacts":
                artifact, _ = read_whole(self.files, path, partial(parse_manifest, digest=name))
                return all(self.files.size(blob_path(ref.digest)) == ref.size for ref in artifact.files.values())
            if folder == "keys":
                outputs = read_whole(self.files, path, partial(parse_entry, key=name)).outputs.values()
                return all(self.files.exists(manifest_path(digest)) for digest in outputs)
        except (FileNotFoundError, Damaged):
            pass
        return False

    def _times(self, finding: Finding) -> str:
        """The bytes were read and are right: they count as the artifact's again."""
        path, name = finding.path, finding.facts["artifact"]
        try:
            artifact, beside = read_whole(self.files, path, partial(parse_manifest, digest=name))
        except (FileNotFoundError, Damaged) as error:
            raise _Refused("its manifest is gone by now") from error
        if names := self.store.verify(artifact):
            raise _Refused(f"{', '.join(names)} is damaged")
        blobs = sorted({ref.digest for ref in artifact.files.values()})
        times = {blob: self.files.modified(blob_path(blob)) for blob in blobs}
        value = {"artifact": artifact.to_json(), "beside": {**beside, "modified": times}}
        self.files.write(path, sealed(value))
        return "its bytes are right and count again"

    def _key(self, finding: Finding) -> str:
        Cache(self.store).put(finding.facts["entry"])
        return "written again from the log"

    def _head(self, finding: Finding) -> str:
        self.files.remove(finding.path)
        log = self._log(finding.facts["folder"])
        log.state()
        log.save_head()
        return "made again from the log"

    def _entry(self, finding: Finding) -> str:
        """What the entry said is lost; a void one keeps its place. Only the holder of a pipeline may say so."""
        folder = finding.facts["folder"]
        if folder not in self._logs:
            self._logs[folder] = self._void(folder)
        if self._logs[folder]:
            raise _Refused(self._logs[folder])
        return "its place was filled with a void entry"

    def _void(self, folder: str) -> str:
        log = self._log(folder)
        try:
            lease = log.acquire(runs.new_id("fsck"))
        except Busy as error:
            return str(error)
        try:
            for finding in self.mended.left.findings:
                if finding.mend == "entry" and finding.facts["folder"] == folder:
                    self._fill(finding.path, finding.facts["n"])
        finally:
            lease.release({"status": "succeeded", "exit_code": 0}, {})
        return ""

    def _fill(self, path: str, n: int) -> None:
        """Never is the slot free: a copy goes to quarantine, then the file is replaced."""
        void = sealed({"n": n, "type": "void", "time": 0.0})
        try:
            data = self.files.read(path)
        except FileNotFoundError:
            self.files.create(path, void)
            return
        with suppress(*MALFORMED):
            parse_log_entry(data, n)
            return  # it was read wrong before
        self.files.write(f"quarantine/{path.replace('/', '-')}", data)
        self.files.write(path, void)

    def _record(self, finding: Finding) -> str:
        record = recovered(self.store, finding.facts["run"])
        quarantine(self.files, finding.path)
        if record is None:
            return "moved away; the log does not know this run"
        self.files.write(finding.path, sealed(record.to_json()))
        return "made again from the log; the spec it ran is lost"

    def _lines(self, finding: Finding) -> str:
        run_id = finding.path.split("/")[1]
        state = self._log(f"pipelines/{run_id.rsplit('-', 3)[0]}").state()
        if state.lease is not None and state.lease.run == run_id and state.lease.fate != "dead":
            raise _Refused("the run is writing to it")
        data = self.files.read(finding.path)
        lines = [line for line in data.split(b"\n") if runs.parsed(line.decode(errors="replace")) is not None]
        self.files.write(f"quarantine/{run_id}-events.jsonl", data)
        self.files.write(finding.path, b"".join(line + b"\n" for line in lines))
        return "unreadable lines were left out"

    def _view(self, finding: Finding) -> str:
        local = self.files.local
        assert local is not None  # views are local
        shutil.rmtree(local / finding.path, ignore_errors=True)
        return "removed; it is made when it is needed"

    def _log(self, folder: str) -> Log:
        return _open_log(self.store, folder)


ORDER = ("format", "drop", "entry", "head", "record", "key", "times", "lines", "view")


class _Refused(Exception):
    """Why something stays as it is."""


def _open_log(store: ArtifactStore, folder: str) -> Log:
    log = Log(store.files, folder.rsplit("/", 1)[-1])
    log.folder = folder  # a collection's log lies elsewhere
    log.told = lambda line: None  # the inspection told it
    return log


def recovered(store: ArtifactStore, run_id: str) -> RunRecord | None:
    """What the pipeline's log still knows of a run; None when it knows nothing."""
    pipeline = run_id.rsplit("-", 3)[0]
    log = _open_log(store, f"pipelines/{pipeline}")
    state = log.state()
    known = state.runs.get(run_id)
    if known is None:
        return None
    ended = "exit_code" in known  # else it runs, or was killed: who asks for its status looks at the lease
    record = RunRecord(
        run_id=run_id,
        pipeline=pipeline,
        status=str(known["status"]) if ended else "running",
        exit_code=known.get("exit_code"),
        started=float(known.get("started", 0.0)),
        ended=known.get("ended"),
    )
    record.stages = _stages(store, log.folder, run_id)
    return record


def _stages(store: ArtifactStore, folder: str, run_id: str) -> list[StageRecord]:
    """What a run committed or used, in the order of the log."""
    found: dict[str, StageRecord] = {}
    maker: dict[str, str] = {}  # of an artifact: the stage
    for name in store.files.names(f"{folder}/log"):
        with suppress(FileNotFoundError, Damaged, *MALFORMED):
            n = int(name[:-5])
            entry = read_whole(store.files, f"{folder}/log/{name}", partial(parse_log_entry, n=n))
            if entry.get("run") != run_id:
                continue
            commits = {entry["stage"]: entry["commit"]} if entry["type"] == "commit" else entry.get("used", {})
            for stage, commit in commits.items():
                found[stage] = _stage(stage, commit, run_id)
                fed = commit["ingredients"]["inputs"]
                found[stage].inputs = {port: [maker[d] for d in digests if d in maker] for port, digests in fed.items()}
                maker |= dict.fromkeys(commit["outputs"].values(), stage)
    return list(found.values())


def _stage(stage: str, commit: Mapping[str, Any], run_id: str) -> StageRecord:
    own = commit["run"] == run_id
    return StageRecord(
        stage=stage,
        name=stage.split(".", 1)[0],
        uses=commit["ingredients"]["stage"],
        state="succeeded" if own else "cached",
        reason="" if own else f"from run {commit['run']}",
        key=commit["key"],
        outputs=dict(commit["outputs"]),
        run=commit["run"],
        started=commit["started"],
        seconds=commit["seconds"],
        attempts=commit["attempts"] if own else 0,
    )


__all__ = ["Mended", "mend", "recovered"]

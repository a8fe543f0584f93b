"""Run records: what a run was asked, did and made, readable by anybody who has the storage.

runs/<run>/run.json        the record with its digest, replaced as the run goes on
runs/<run>/events.jsonl    what happened when, one JSON object a line, each with a checksum
runs/<run>/logs/<stage>.log
runs/<run>/report.html
"""

from __future__ import annotations

import calendar
import json
import re
import secrets
import shutil
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.errors import BadInput, IntegrityError, Unavailable
from orchestrator.files import folder, scratch_cache, seen
from orchestrator.seals import MALFORMED, Damaged, read_whole, sealed, unsealed

if TYPE_CHECKING:
    from orchestrator.loaded import LoadedRun

RUN_ID = re.compile(r"[a-z][a-z0-9_]{0,39}-\d{8}-\d{6}-[0-9a-f]{4}")
REPORT = "report.html"
UPLOAD_EVERY_S = 5.0  # logs to a remote storage, for those who follow them there


def new_id(pipeline: str, after: Iterable[str] = ()) -> str:
    """`dcgan-20261122-013000-ab12`: sorts by time (UTC) within a pipeline.

    It sorts after the runs `after`, also where a clock was set back or theirs was ahead of ours.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    last = max((_second(run) for run in after if RUN_ID.fullmatch(run)), default="")
    if stamp <= last:
        moment = calendar.timegm(time.strptime(last, "%Y%m%d-%H%M%S")) + 1
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(moment))
    return f"{pipeline}-{stamp}-{secrets.token_hex(2)}"


@dataclass
class StageRecord:
    """One stage instance of a run. `outputs` maps output names to artifact digests."""

    stage: str  # instance id: "train.seed-0"
    name: str  # the stage's name in the spec: "train"
    uses: str
    state: str = "pending"  # pending | running | cached | succeeded | failed | interrupted | skipped
    reason: str = ""  # why it ran, or what it was served from
    key: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, list[str]] = field(default_factory=dict)  # port -> stage instances
    run: str = ""  # the run that computed the outputs
    started: float = 0.0
    seconds: float = 0.0  # of the computation, also when it was served from the cache
    attempts: int = 0
    error: str = ""
    kind: str = ""  # kind of the failure
    notes: dict[str, Any] = field(default_factory=dict)  # how it came about: a smaller microbatch, since memory ran out
    lineage: str = ""  # whose checkpoints it went on from and left behind
    size: int = 0  # bytes of the outputs
    worked: float = 0.0  # steps that `seconds` were spent on, of a stage whose steps may grow in number; else 0


@dataclass
class RunRecord:
    """What `run.json` holds. Times are seconds since 1970 (UTC)."""

    run_id: str
    pipeline: str
    status: str = "running"  # running | succeeded | failed | interrupted | cancelled | refused | diverged
    exit_code: int | None = None
    error: str = ""
    started: float = 0.0
    ended: float | None = None
    spec: dict[str, Any] = field(default_factory=dict)  # as resolved, without credentials
    spec_file: str = ""
    profile: str | None = None
    sets: list[str] = field(default_factory=list)
    tracking_uri: str = ""
    mlflow_run: str = ""
    host: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)

    def stage(self, name: str) -> StageRecord:
        """By instance id, or by the spec's name where it has one instance. Raises KeyError."""
        found = [s for s in self.stages if s.stage == name] or [s for s in self.stages if s.name == name]
        if len(found) != 1:
            instances = ", ".join(s.stage for s in found or self.stages)
            raise KeyError(f"run {self.run_id} has {'no' if not found else 'several'} {name!r}: {instances}")
        return found[0]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        stages = [StageRecord(**_known(StageRecord, stage)) for stage in value["stages"]]
        return cls(**{**_known(cls, value), "stages": stages})


@dataclass
class Run:
    """A run in its storage: its record, artifacts, events and files."""

    store: ArtifactStore
    record: RunRecord
    cached: bool = False  # every stage was served from the cache; the record is the earlier run's

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def pipeline(self) -> str:
        return self.record.pipeline

    @property
    def status(self) -> str:
        return self.record.status

    @property
    def exit_code(self) -> int:
        return 70 if self.record.exit_code is None else self.record.exit_code

    @property
    def folder(self) -> str:
        return f"runs/{self.run_id}"

    def artifact(self, stage: str, output: str | None = None) -> Artifact:
        """What a stage made; its first output unless named. Raises KeyError, artifacts.Damaged."""
        outputs = self.record.stage(stage).outputs
        if not outputs:
            raise KeyError(f"stage {stage} of run {self.run_id} made nothing yet")
        return self.store.get(outputs[output] if output else next(iter(outputs.values())))

    def artifacts(self, kind: str) -> list[tuple[StageRecord, Artifact]]:
        """Every artifact of a kind, with the stage that made it, in the order of the stages."""
        found = []
        for stage in self.record.stages:
            for digest in stage.outputs.values():
                known = self.store.peek(digest)
                if known is not None and known.kind == kind and (artifact := self.store.find(digest)) is not None:
                    found.append((stage, artifact))
        return found

    def events(self) -> list[dict[str, Any]]:
        """What happened, in order; a line that was cut off or altered is left out."""
        try:
            text = self.store.files.read(f"{self.folder}/events.jsonl").decode(errors="replace")
        except FileNotFoundError:
            return []
        return [event for line in text.split("\n") if (event := parsed(line)) is not None]

    def log(self, stage: str) -> str:
        """A stage's log, "" when it has none."""
        try:
            return self.store.files.read(f"{self.folder}/logs/{stage}.log").decode(errors="replace")
        except FileNotFoundError:
            return ""

    def log_place(self, stage: str) -> str:
        """Where a stage's log is, as a user would open it."""
        return place(self.store, f"{self.folder}/logs/{stage}.log")

    @property
    def report(self) -> str | None:
        """Where the report is (a path, or a URL in a remote storage), None when there is none."""
        path = f"{self.folder}/{REPORT}"
        return place(self.store, path) if self.store.files.exists(path) else None

    def load(self) -> LoadedRun:
        """The run's model, ready to sample from."""
        from orchestrator.loaded import load

        return load(self.store, self.run_id)


def parsed(line: str) -> dict[str, Any] | None:
    """An event of a line of events.jsonl; None for a line that was altered, or that a crash or a full disk cut off."""
    try:
        event = json.loads(line)
        checksum = event.pop("crc", None)
    except MALFORMED:
        return None
    if checksum is not None and checksum != _checksum(event):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("time"), float) and "event" in event else None


def place(store: ArtifactStore, path: str) -> str:
    """A stored file as a user would open it."""
    local = store.files.local
    return str(local / path) if local else f"{store.url.rstrip('/')}/{path}"


def read(store: ArtifactStore, run_id: str) -> Run:
    """One run. Raises BadInput for an unknown one, IntegrityError for one whose record is damaged."""
    if RUN_ID.fullmatch(run_id):
        try:
            return Run(store, _record(store, run_id))
        except FileNotFoundError:
            pass
        except Damaged as error:
            hint = "`orchestrate fsck --repair` makes it again from the log"
            raise IntegrityError(f"the record of run {run_id} is damaged", hint=hint) from error
    known = ids(store)
    hint = f"the newest is {known[0]}" if known else "there is no run yet"
    raise BadInput(f"there is no run {run_id!r} in {store.url}", hint=hint)


def ids(store: ArtifactStore, pipeline: str | None = None) -> list[str]:
    """Run ids, newest first."""
    found = [name for name in store.files.names("runs") if RUN_ID.fullmatch(name)]
    chosen = [name for name in found if pipeline is None or name.rsplit("-", 3)[0] == pipeline]
    return sorted(chosen, key=lambda name: name.split("-", 1)[1], reverse=True)


def records(store: ArtifactStore, pipeline: str | None = None) -> Iterator[Run]:
    """Every run with a record, newest first. A folder without one (killed while it began, or being removed) is none."""
    for _, together in groupby(ids(store, pipeline), key=_second):
        found = []
        for run_id in together:
            try:
                found.append(Run(store, _record(store, run_id)))
            except FileNotFoundError:
                continue
            except Damaged:
                store.told(
                    f"the record of run {run_id} is damaged and passed over; `orchestrate fsck --repair` mends it"
                )
        yield from sorted(found, key=lambda run: run.record.started, reverse=True)


def _second(run_id: str) -> str:
    """What a run id tells of the time: runs of one second are told apart by their records."""
    return run_id.split("-", 1)[1].rsplit("-", 1)[0]


def recent(store: ArtifactStore, pipeline: str | None = None, *, limit: int = 20) -> list[Run]:
    """The newest runs, newest first."""
    return list(islice(records(store, pipeline), limit))


def latest(store: ArtifactStore, pipeline: str | None = None) -> Run:
    """The newest run. Raises BadInput when there is none."""
    found = next(records(store, pipeline), None)
    if found is None:
        raise BadInput(f"there is no run {f'of {pipeline} ' if pipeline else ''}in {store.url}")
    return found


def _record(store: ArtifactStore, run_id: str) -> RunRecord:
    return read_whole(store.files, f"runs/{run_id}/run.json", parse_record)


def parse_record(data: bytes) -> RunRecord:
    """Raises one of seals.MALFORMED for bytes that are not a whole record."""
    return RunRecord.from_json(unsealed(data, always=False))


class Diary:
    """Writes a run's record, events and logs. Those of a remote storage are uploaded every few seconds."""

    def __init__(self, store: ArtifactStore, record: RunRecord) -> None:
        self.store = store
        self.record = record
        local = store.files.local
        self.folder = (local if local else scratch_cache()) / "runs" / record.run_id
        self.remote = local is None
        folder(self.folder / "logs")
        self._lock = threading.Lock()
        self._uploading = threading.Lock()
        self._uploaded: dict[str, int] = {}  # name -> size when last stored
        self._end = threading.Event()
        if self.remote:
            threading.Thread(target=self._keep, daemon=True, name="diary").start()

    def save(self) -> None:
        """Store the record as it stands, and what was appended since in a remote storage."""
        with self._lock:
            body = sealed(self.record.to_json())
        self.store.files.write(f"runs/{self.record.run_id}/run.json", body)
        if self.remote:
            self._upload()

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        event = json.loads(json.dumps({"time": time.time(), "event": kind, **fields}, default=str))
        self._append("events.jsonl", json.dumps({**event, "crc": _checksum(event)}))

    def log(self, stage: str, text: str) -> None:
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
        self._append(f"logs/{stage}.log", f"{stamp} {text}")

    def log_place(self, stage: str) -> str:
        return place(self.store, f"runs/{self.record.run_id}/logs/{stage}.log")

    def close(self) -> None:
        self._end.set()
        self.save()
        if self.remote:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, name: str, line: str) -> None:
        # A full disk must not stop a training for the sake of its diary: the next checkpoint or commit tells of it.
        seen("append", f"runs/{self.record.run_id}/{name}")
        with suppress(OSError), self._lock, open(self.folder / name, "a", encoding="utf-8") as out:
            out.write(line + "\n")

    def _upload(self) -> None:
        with self._uploading:
            for path in (self.folder / "events.jsonl", *sorted((self.folder / "logs").iterdir())):
                name = path.relative_to(self.folder).as_posix()
                size = path.stat().st_size if path.exists() else 0
                if size != self._uploaded.get(name, 0):
                    self.store.files.write(f"runs/{self.record.run_id}/{name}", path)
                    self._uploaded[name] = size

    def _keep(self) -> None:
        while not self._end.wait(UPLOAD_EVERY_S):
            # A storage that is away is met, and told, by the next commit; the folder goes when the run ends.
            with suppress(Unavailable, OSError):
                self._upload()


def _checksum(event: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(event, sort_keys=True).encode()):08x}"


def _known(cls: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields this version knows."""
    return {name: item for name, item in value.items() if name in cls.__dataclass_fields__}


__all__ = [
    "Diary",
    "Run",
    "RunRecord",
    "StageRecord",
    "ids",
    "latest",
    "new_id",
    "parsed",
    "place",
    "read",
    "recent",
    "records",
]

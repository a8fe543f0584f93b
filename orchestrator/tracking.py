"""MLflow behind one small protocol: a run for each pipeline run, its stages nested in it, trials nested in their stage.

Nothing here waits for a server or raises into training: every call appends to a local spool, a background thread sends
it, and `sync` sends what an outage left behind. A run in which no stage runs is never told, so that a fully cached run
does not even import mlflow.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import latecomers, registry, untold
from orchestrator.errors import OrchestratorError
from orchestrator.files import Files, open_files
from orchestrator.sender import Delivery, Sender, drain, never
from orchestrator.spool import Spool, spools

PARAM_LENGTH = 6000  # MLflow cuts longer ones; ours then stand in full in an artifact
TAG_LENGTH = 8000
CLOSE_S = 8.0  # what an outage may cost a run at its end
ANSWERING_CLOSE_S = 60.0  # for an MLflow that takes in what it is told, slowly
STRUCTURE = ("open", "run", "end")  # entries without which others mean nothing
_UNFIT = re.compile(r"[^\w./ :-]")  # what MLflow takes in no name
_STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
_log = logging.getLogger(__name__)


def spool_directory(storage: str) -> Path:
    """Where the spools of a storage lie: inside a local one, else in this user's state directory."""
    root = registry.local_root(storage)
    if root is not None:
        return root / "spool"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "gan-orchestrator" / hashlib.sha256(storage.encode()).hexdigest()[:16] / "spool"


class Tracker:
    """Starts runs that are told to one MLflow. `uri` carries no credentials."""

    def __init__(
        self, storage: str, uri: str, spool_dir: Path, notice: Callable[[str], None], busy: Callable[[], bool] = never
    ) -> None:
        self.storage, self.uri, self.spool_dir, self.notice, self.busy = storage, uri, spool_dir, notice, busy

    @classmethod
    def open(
        cls,
        storage: str,
        tracking_uri: str | None = None,
        spool_dir: Path | None = None,
        *,
        notice: Callable[[str], None] = _log.warning,
        busy: Callable[[], bool] = never,
    ) -> Tracker:
        """`tracking_uri` None: the database in the local storage. `notice` gets one line for an outage, from a thread.

        While `busy` says so, MLflow has to wait (for half a minute, at most) unless the run ends.

        Raises BadInput for a remote storage without `tracking_uri`. No server is contacted.
        """
        uri = registry.plain_uri(registry.tracking_uri(storage, tracking_uri))
        return cls(storage, uri, spool_dir or spool_directory(storage), notice, busy)

    def start_run(
        self,
        pipeline: str,
        run_id: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> RunTracker:
        """The run of a pipeline run; the same `run_id` goes on in the same MLflow run."""
        spool = Spool(self.spool_dir, run_id)
        writer = _Writer(spool, Sender(spool, self.notice, self.busy), self.notice)
        known = {"orchestrator.run_id": run_id, "orchestrator.pipeline": pipeline}
        writer.hold({"op": "open", "pipeline": pipeline, "storage": self.storage, "uri": self.uri})
        run = RunTracker(writer, run_id)
        run.open({**known, **(tags or {})})
        if params:
            run.params(params)
        return run


class _Writer:
    """Appends to the spool; what it is told before the first `release` waits in memory. Thread-safe, never raises."""

    def __init__(self, spool: Spool, sender: Sender, notice: Callable[[str], None]) -> None:
        self.spool, self.sender, self.notice = spool, sender, notice
        self.lost = 0
        self._waiting: list[dict[str, Any]] | None = []
        self._unwritten: list[dict[str, Any]] = []  # what gives the rest its meaning: written once there is room
        self._points: set[int] = set()
        self._lock = threading.RLock()

    def hold(self, entry: dict[str, Any]) -> None:
        """Write an entry now, or at the first `release`."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.append(entry)
                return
        self._append(entry)

    def write(self, entry: dict[str, Any]) -> None:
        self.release()
        self._append(entry)

    def release(self) -> None:
        """Something happens in this run: it is worth telling."""
        with self._lock:
            if self._waiting is None:
                return
            with self.guarded():
                self.spool.acquire()  # before the first line, so that no `sync` takes it for one left behind
            waiting, self._waiting = self._waiting, None
            for entry in waiting:
                self._append(entry)
            self.sender.start()

    def new_point(self, key: str, name: str, step: int, value: float) -> bool:
        """Whether a metric's point is told for the first time: a training that goes on from a checkpoint repeats some."""
        point = hash((key, name, step, value))
        if point in self._points:
            return False
        self._points.add(point)
        return True

    def _append(self, entry: dict[str, Any]) -> None:
        with self._lock:
            if entry["op"] in STRUCTURE:
                self._unwritten.append(entry)
            with self.guarded():
                while self._unwritten:
                    self.spool.append(self._unwritten[0])
                    del self._unwritten[0]
                if entry["op"] not in STRUCTURE:
                    self.spool.append(entry)
        self.sender.wake()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What cannot be written is counted and told once; training goes on."""
        try:
            yield
        except (OSError, TypeError, ValueError) as error:
            self.lost += 1
            if self.lost == 1:
                self.notice(f"something was not logged to {self.spool.path}: {error}")

    @property
    def idle(self) -> bool:
        return self._waiting is not None


class Branch:
    """One MLflow run: a stage of a pipeline run, or a trial of a stage. A StageTracker."""

    def __init__(self, writer: _Writer, key: str) -> None:
        self.key = key
        self._writer = writer
        self._write = writer.write

    def open(self, tags: Mapping[str, str] | None = None) -> None:
        values = {_name(name): str(value)[:TAG_LENGTH] for name, value in (tags or {}).items()}
        self._write({"op": "run", "run": self.key, "time": _now_ms(), "tags": values})

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters by name; a mapping becomes dotted names, other values their text or JSON."""
        with self._writer.guarded():
            texts = {_name(name): _text(value) for name, value in _flat(values)}
            for name, text in texts.items():
                if len(text) > PARAM_LENGTH:
                    self.artifact(f"params/{name}.txt", text.encode())
                    texts[name] = text[: PARAM_LENGTH - 1] + "…"
            if texts:
                self._write({"op": "params", "run": self.key, "values": texts})

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        with self._writer.guarded():
            given = [(_name(name), float(value)) for name, value in values.items()]
            pairs = [(name, value) for name, value in given if self._writer.new_point(self.key, name, int(step), value)]
            if pairs:
                now = _now_ms()
                self._write({"op": "metrics", "run": self.key, "time": now, "step": int(step), "values": pairs})

    def figure(self, name: str, png: bytes) -> None:
        """A picture, shown under `figures/`."""
        self.artifact(f"figures/{name.removesuffix('.png')}.png", png)

    def artifact(self, name: str, content: bytes | Path) -> None:
        """A file under this name ("report.html", "params/config.json"), replacing an earlier one."""
        with self._writer.guarded():
            folder, _, last = name.strip("/").rpartition("/")
            data = content.read_bytes() if isinstance(content, Path) else content
            file = self._writer.spool.keep(last, data)
            self._write({"op": "file", "run": self.key, "folder": folder, "file": file})

    def tags(self, values: Mapping[str, str]) -> None:
        with self._writer.guarded():
            texts = {_name(name): str(value)[:TAG_LENGTH] for name, value in values.items()}
            if texts:
                self._write({"op": "tags", "run": self.key, "values": texts})

    def child(self, name: str) -> Branch:
        """A nested run; the same name again goes on in the same run."""
        self._writer.release()
        branch = Branch(self._writer, f"{self.key}/{name.replace('/', '_')}")
        branch.open()
        return branch

    def end(self, status: str = "FINISHED") -> None:
        known = status if status in _STATUSES else "FAILED"
        self._write({"op": "end", "run": self.key, "status": known, "time": _now_ms()})


class RunTracker(Branch):
    """The run of a whole pipeline run. What it is told is kept back until the first `child`."""

    def __init__(self, writer: _Writer, key: str) -> None:
        super().__init__(writer, key)
        self._write = writer.hold

    def artifact(self, name: str, content: bytes | Path) -> None:
        if not self._writer.idle:
            super().artifact(name, content)

    @property
    def mlflow_run(self) -> str:
        """MLflow's id of this run, "" as long as MLflow has not been told of it."""
        return self._writer.sender.id_of(self.key)

    def leave(self, files: Files) -> None:
        """After `close`: what waits goes to a remote storage, from where any machine's `sync` sends it. Raises Unavailable."""
        if files.local is None and not self._writer.idle:
            untold.leave(files, self._writer.spool)

    def close(self, timeout_s: float = CLOSE_S, answering_s: float = ANSWERING_CLOSE_S) -> int:
        """Send what is left; returns how many entries wait for `sync`.

        It takes `timeout_s` at most, but up to `answering_s` where MLflow goes on taking things in.
        """
        if self._writer.idle:
            return 0
        if self._writer.lost > 1:
            self._writer.notice(f"{self._writer.lost} records were not logged to {self._writer.spool.path}")
        try:
            return self._writer.sender.close(timeout_s, answering_s)
        except OSError as error:
            self._writer.notice(f"the spool {self._writer.spool.path} cannot be read: {error}")
            return 1


class NullTracker:
    """Tells nobody. A StageTracker, and what `Tracker.start_run` returns."""

    mlflow_run = ""

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None: ...
    def figure(self, name: str, png: bytes) -> None: ...
    def artifact(self, name: str, content: bytes | Path) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...
    def end(self, status: str = "FINISHED") -> None: ...

    def child(self, name: str) -> NullTracker:
        return self

    def close(self, timeout_s: float = CLOSE_S, answering_s: float = ANSWERING_CLOSE_S) -> int:
        return 0

    def leave(self, files: Files) -> None: ...


@dataclass
class Synced:
    """What `sync` did: entries sent and left, spools that a running process holds, why some are left, what was refused.

    `removed` are runs and model versions that MLflow made when nobody waited for them any more.
    """

    sent: int = 0
    left: int = 0
    busy: int = 0
    removed: int = 0
    errors: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sync(
    storage: str,
    tracking_uri: str | None = None,
    spool_dir: Path | None = None,
    *,
    progress: Callable[[str, int, int], None] = lambda name, sent, total: None,
) -> Synced:
    """Send what outages left in the spools of a storage; `tracking_uri` instead of where each was meant to go.

    What MLflow did after its request had been given up is removed: a second run, a second version.

    `progress` hears a spool's name, and how many of how many of its entries have arrived.
    """
    counts, away = Synced(), set[str]()
    given = registry.plain_uri(registry.tracking_uri(storage, tracking_uri)) if tracking_uri else None
    for spool in spools(spool_dir or spool_directory(storage)):
        try:
            if not spool.acquire():
                counts.busy += 1
                continue
            try:
                _sync(spool, given, counts, away, progress)
            finally:
                spool.release()
        except OSError as error:
            counts.errors.append(f"{spool.path}: {error}")
            counts.left += 1
    if registry.local_root(storage) is None:
        send_left(open_files(storage), counts, given, away, progress)
    late = latecomers.remove(storage, away)
    counts.removed, counts.notes = late.runs + late.versions, late.notes
    return counts


def send_left(
    files: Files,
    counts: Synced,
    given: str | None = None,
    away: set[str] | None = None,
    progress: Callable[[str, int, int], None] = lambda name, sent, total: None,
    within_s: float = float("inf"),
) -> None:
    """Send what runs on other machines left in a remote storage, into `counts`; begins with none after `within_s`."""
    away = set[str]() if away is None else away
    deadline = time.monotonic() + within_s
    try:
        for name in untold.names(files):
            if time.monotonic() < deadline:
                with suppress(FileNotFoundError), untold.borrowed(files, name) as spool:
                    _sync(spool, given, counts, away, progress)
    except (OrchestratorError, OSError) as error:
        counts.errors.append(str(error))
        counts.left += 1


def _sync(
    spool: Spool, given: str | None, counts: Synced, away: set[str], progress: Callable[[str, int, int], None]
) -> None:
    total, uri, sent = spool.pending(), given or Delivery(spool).uri, 0

    def told(count: int) -> None:
        nonlocal sent
        sent += count
        counts.sent += count
        progress(spool.name, sent, total)

    try:
        if uri in away:  # it was asked a moment ago
            counts.left += total
            return
        _, refused = drain(spool, given, told)
        counts.refused += refused
    except Exception as error:  # noqa: BLE001  # whatever a server or what stands in for one may do
        away.add(uri)
        counts.errors.append(str(registry.unavailable(uri, error)))
        counts.left += spool.pending()


def _now_ms() -> int:
    return int(time.time() * 1000)


def _name(text: str) -> str:
    return _UNFIT.sub("_", text)[:250]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value

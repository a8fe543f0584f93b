"""The append-only log of one pipeline: who holds it, what was committed, how runs ended.

    pipelines/<name>/log/00000001.json   entry n, created exclusively: of two writers one finds its slot taken
    pipelines/<name>/head.json           a folded copy of the log up to some n, so that reading stays fast; never needed
    pipelines/<name>/beat/<epoch>.json   a counter that the holder moves while it lives

A lease is an `acquire` entry; each has a higher epoch than the one before. A holder that was taken over (fenced) finds
a foreign `acquire` in the slot it wants, so its late commit is refused without any compare-and-set.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.artifacts import canonical, digest_json, warn
from orchestrator.errors import Busy, Unavailable
from orchestrator.files import Files

BEAT_S = 2.0  # the holder moves its counter this often
STALE_S = 20.0  # a holder elsewhere whose counter stands still for this long is dead
FOLD_EVERY = 64  # entries between two folded copies


@dataclass(frozen=True)
class Owner:
    """A process: where it runs, and what tells it from a later process with the same id."""

    run: str
    epoch: int
    host: str
    boot: str  # boot id and pid namespace: within one of them, a process id and start time name a process
    pid: int
    started: float
    user: str
    since: float

    @classmethod
    def here(cls, run: str, epoch: int) -> Owner:
        pid = os.getpid()
        return cls(run, epoch, socket.gethostname(), _boot(), pid, _process_start(pid) or 0.0, _user(), time.time())

    @property
    def here_too(self) -> bool:
        """Whether this process can see the owner's process table."""
        return self.boot == _boot() and self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Only meaningful where `here_too`."""
        return _process_start(self.pid) == self.started

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"run {self.run} (process {self.pid} of {self.user} on {self.host}, since {since})"


@dataclass
class State:
    """What all entries up to `n` add up to."""

    n: int = 0
    epoch: int = 0
    lease: Owner | None = None
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)  # stage -> its last commit (or cached use)
    counts: dict[str, int] = field(default_factory=dict)  # key -> how often it was computed
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)  # key -> how it failed for good
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)  # run -> status, exit code
    cancelled: tuple[str, ...] = ()

    def fold(self, entry: Mapping[str, Any]) -> None:
        """Take one entry in. Entries of a fenced owner cannot exist; unknown types are for later versions."""
        self.n = entry["n"]
        kind = entry["type"]
        if kind == "acquire":
            self.lease = Owner(**entry["owner"])
            self.epoch = self.lease.epoch
            self.runs[self.lease.run] = {"status": "running", "started": entry["time"]}
        elif kind == "commit":
            self.commits[entry["stage"]] = dict(entry["commit"])
            key = entry["commit"]["key"]
            self.counts[key] = self.counts.get(key, 0) + 1
            self.verdicts.pop(key, None)
        elif kind == "verdict":
            self.verdicts[entry["key"]] = dict(entry["verdict"])
        elif kind == "cancel":
            self.cancelled = (*self.cancelled, entry["run"])
        elif kind == "end":
            for stage, commit in entry.get("used", {}).items():
                self.commits[stage] = commit
            self.runs[entry["run"]] = {**self.runs.get(entry["run"], {}), **entry["result"]}
            self.lease = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cancelled": list(self.cancelled)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> State:
        lease = Owner(**value["lease"]) if value["lease"] else None
        return cls(**{**value, "lease": lease, "cancelled": tuple(value["cancelled"])})


class Log:
    """Reads and extends one pipeline's log. Safe to share between threads."""

    def __init__(self, files: Files, pipeline: str) -> None:
        self.files = files
        self.pipeline = pipeline
        self.folder = f"pipelines/{pipeline}"
        self.told: Callable[[str], None] = warn
        self._state = State()
        self._lock = threading.RLock()

    def state(self) -> State:
        """The state now. Shared and live: read it, do not change it."""
        with self._lock:
            if self._state.n == 0:
                self._state = self._folded()
            while (entry := self._entry(self._state.n + 1)) is not None:
                self._state.fold(entry)
            return self._state

    def append(self, kind: str, fields: Mapping[str, Any], *, epoch: int | None = None) -> bool:
        """Add one entry in the next slot.

        With `epoch`, raises Busy once another owner holds the pipeline. Without it the slot is tried once; False when
        somebody else took it.
        """
        with self._lock:
            while True:
                lease = self._state.lease
                if epoch is not None and (lease is None or lease.epoch != epoch):
                    holder = f" by {lease}" if lease else ""
                    raise Busy(f"pipeline {self.pipeline} was taken over{holder}; this run commits nothing more")
                entry = {"type": kind, "time": time.time(), "nonce": secrets.token_hex(8), **fields}
                entry["n"] = self._state.n + 1
                if self.files.create(self._path(entry["n"]), _sealed(entry)):
                    self._state.fold(entry)
                    if entry["n"] % FOLD_EVERY == 0:
                        self.save_head()
                    return True
                self.state()  # somebody else's entry stands there: take it in, then look again
                if epoch is None:
                    return False

    def acquire(self, run: str, *, wait_s: float = 0.0) -> Lease:
        """Hold the pipeline. A dead holder is taken over; a living one raises Busy, after `wait_s` seconds."""
        deadline = time.monotonic() + wait_s
        while True:
            state = self.state()
            holder = state.lease
            if holder is None or not self._lives(holder):
                owner = Owner.here(run, state.epoch + 1)
                if self.append("acquire", {"owner": asdict(owner), "run": run}):
                    if holder is not None:
                        self.told(f"took over from {holder}, which is gone")
                    return Lease(self, owner)
                continue
            if time.monotonic() >= deadline:
                hint = "wait for it to end, or say --wait-lease SECONDS"
                raise Busy(f"pipeline {self.pipeline} is held by {holder}", hint=hint)
            time.sleep(min(0.5, max(deadline - time.monotonic(), 0.01)))

    def beat(self, epoch: int) -> int:
        """The holder's counter, 0 before its first move."""
        try:
            return int(json.loads(self.files.read(f"{self.folder}/beat/{epoch}.json"))["count"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0

    def save_head(self) -> None:
        """Store the folded state: only speed depends on it."""
        with self._lock:
            body = self._state.to_json()
            self.files.write(f"{self.folder}/head.json", canonical({"state": body, "digest": digest_json(body)}))

    def _lives(self, holder: Owner) -> bool:
        if holder.here_too:
            return holder.alive
        # Elsewhere: no clock is compared. Either its counter moves while we look, or it is dead.
        first = self.beat(holder.epoch)
        end = time.monotonic() + STALE_S
        while time.monotonic() < end:
            time.sleep(min(0.25, STALE_S / 4))
            lease = self.state().lease
            if lease != holder or self.beat(holder.epoch) != first:
                return lease is not None
        return False

    def _folded(self) -> State:
        try:
            head = json.loads(self.files.read(f"{self.folder}/head.json"))
            if head["digest"] == digest_json(head["state"]):
                return State.from_json(head["state"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return State()
        return State()

    def _entry(self, n: int) -> dict[str, Any] | None:
        try:
            data = self.files.read(self._path(n))
        except FileNotFoundError:
            return None
        with suppress(ValueError, KeyError, TypeError):
            entry: dict[str, Any] = json.loads(data)
            if entry.pop("digest") == digest_json(entry) and entry["n"] == n:
                return entry
        self.told(f"entry {n} of the log of {self.pipeline} is damaged and skipped")
        return {"n": n, "type": "damaged"}

    def _path(self, n: int) -> str:
        return f"{self.folder}/log/{n:08d}.json"


class Lease:
    """A held pipeline. A thread moves the counter and notices takeovers and cancellations."""

    def __init__(self, log: Log, owner: Owner) -> None:
        self.log = log
        self.owner = owner
        self.lost = False
        self.cancelled = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"lease-{owner.epoch}")
        self._thread.start()

    def append(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Add an entry as the holder. Raises Busy after a takeover."""
        self.log.append(kind, {"run": self.owner.run, "epoch": self.owner.epoch, **fields}, epoch=self.owner.epoch)

    def release(self, result: Mapping[str, Any], used: Mapping[str, Any]) -> None:
        """End the run: `result` has status and exit code, `used` each stage's commit. Told only, after a takeover."""
        self._end.set()
        self._thread.join(timeout=10.0)
        try:
            self.append("end", {"result": dict(result), "used": dict(used)})
        except Busy as error:
            self.log.told(str(error))
            return
        self.log.save_head()
        self.log.files.remove(f"{self.log.folder}/beat/{self.owner.epoch}.json")

    def _keep(self) -> None:
        count = 0
        while not self._end.wait(BEAT_S):
            count += 1
            # An unreachable storage is met again, and told, by the next commit; the counter just tries once more.
            with suppress(Unavailable):
                path = f"{self.log.folder}/beat/{self.owner.epoch}.json"
                self.log.files.write(path, canonical({"count": count, "run": self.owner.run}))
                state = self.log.state()
                self.lost = state.lease is None or state.lease.epoch != self.owner.epoch
                self.cancelled = self.owner.run in state.cancelled


def _sealed(entry: Mapping[str, Any]) -> bytes:
    return canonical({**entry, "digest": digest_json(entry)})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


@cache
def _boot() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    import psutil

    return str(int(psutil.boot_time()))


def _process_start(pid: int) -> float | None:
    """When a living process started (clock ticks on Linux), None when there is none (a zombie is none)."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else float(fields[19])
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


__all__ = ["Lease", "Log", "Owner", "State"]

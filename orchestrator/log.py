"""The append-only log of one pipeline: who holds it, what was committed, how runs ended.

    pipelines/<name>/log/00000001.json   entry n, created exclusively: of two writers one finds its slot taken
    pipelines/<name>/head.json           a folded copy of the log up to some n, so that reading stays fast; never needed
    pipelines/<name>/beat/<epoch>.json   a counter that the holder moves while it lives

A lease is an `acquire` entry, and its epoch is the number of that entry. A holder that was taken over (fenced) finds a
foreign `acquire` in the slot it wants, so its late commit is refused without any compare-and-set.

An entry that cannot be read may have been an `acquire`. Whoever did not write it is in doubt from there on: a holder
that meets one stops committing, and the next run takes over only when neither the last known holder nor one that such
an entry may have named is alive. A later entry by a holder ends the doubt, since holders in doubt write nothing.

No clock is compared anywhere: a counter moves while somebody looks, or it does not.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.artifacts import canonical, digest_json, warn
from orchestrator.errors import Busy, OrchestratorError, Unavailable
from orchestrator.files import Files
from orchestrator.owner import Owner
from orchestrator.seals import MALFORMED, Damaged, read_whole, unsealed

BEAT_S = 0.5  # the holder moves its counter this often, so that who asks is told within 2 s
STALE_S = 20.0  # a holder elsewhere whose counter stands still for this long is dead
RELEASE_S = 5.0  # how long the end of a run waits for a storage that hangs
LOOK_S = 0.1  # between two looks at a holder
TOLD_EVERY_S = 30.0  # who waits is told so this often
FOLD_EVERY = 64  # entries between two folded copies
ENTRY = re.compile(r"\d{8,}\.json")
READS = 4  # of an entry that seems damaged: the reading itself may have failed


@dataclass
class State:
    """What all entries up to `n` add up to."""

    n: int = 0
    lease: Owner | None = None
    doubts: tuple[int, ...] = ()  # unreadable entries since somebody was last known to hold the pipeline
    commits: dict[str, dict[str, Any]] = field(default_factory=dict)  # stage -> its last commit (or cached use)
    counts: dict[str, int] = field(default_factory=dict)  # key -> how often it was computed
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)  # key -> how it failed for good
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)  # run -> status, exit code, number of its first entry
    cancelled: tuple[str, ...] = ()

    def fold(self, entry: Mapping[str, Any]) -> None:
        """Take one entry in. Entries of a fenced owner cannot exist; unknown types are for later versions."""
        self.n = entry["n"]
        kind = entry["type"]
        if kind == "damaged":
            self.doubts = (*self.doubts, self.n)
            return
        if kind == "acquire":
            self._hand_over(Owner.from_json(entry["owner"]), entry["time"])
        elif "epoch" in entry:  # by a holder, who knew what stands before it
            if entry["epoch"] in self.doubts:
                self._hand_over(Owner.unseen(entry["run"], entry["epoch"]), entry["time"])
            self.doubts = ()
        if kind == "commit":
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

    def _hand_over(self, owner: Owner, when: float) -> None:
        if self.lease is not None and self.lease.run in self.runs:
            self.runs[self.lease.run]["status"] = "lost"  # it never said how it ended
        self.lease, self.doubts = owner, ()
        self.runs[owner.run] = {"status": "running", "started": when, "n": self.n}

    def held(self, epoch: int) -> bool:
        """Whether the owner of that epoch certainly holds the pipeline."""
        return self.lease is not None and self.lease.epoch == epoch and not self.doubts

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cancelled": list(self.cancelled), "doubts": list(self.doubts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> State:
        """Raises KeyError, TypeError for anything else."""
        lease = Owner.from_json(value["lease"]) if value["lease"] else None
        tuples = {name: tuple(value[name]) for name in ("cancelled", "doubts")}
        return cls(**{**value, "lease": lease, **tuples})


class Log:
    """Reads and extends one pipeline's log. Safe to share between threads."""

    def __init__(self, files: Files, pipeline: str) -> None:
        self.files = files
        self.pipeline = pipeline
        self.folder = f"pipelines/{pipeline}"
        self.told: Callable[[str], None] = warn
        self._state = State()
        self._last = 0  # what stood in the log when it was first read
        self._damaged: set[int] = set()  # entries that this process could not read
        self.lock = threading.RLock()

    def state(self) -> State:
        """The state now. Shared and live: read it, do not change it."""
        with self.lock:
            if self._state.n == 0:
                self._last = self._highest()
                self._state = self._folded()
            return self._caught_up(self._state)

    def append(self, kind: str, fields: Mapping[str, Any], *, epoch: int | None = None) -> bool:
        """Add one entry in the next slot.

        With `epoch`, raises Busy once another owner holds the pipeline, or may. Without it the slot is tried once; False
        when somebody else took it. Raises Unavailable.
        """
        with self.lock:
            while True:
                if epoch is not None and (loss := self.loss(epoch)):
                    raise Busy(f"{loss}; this run commits nothing more")
                n = self._state.n + 1
                if self._add(n, kind, fields):
                    return True
                if self.state().n < n:  # taken a moment ago, and not there now
                    raise Unavailable(f"entry {n} of the log of {self.pipeline} can neither be written nor read")
                if epoch is None:
                    return False

    def _add(self, n: int, kind: str, fields: Mapping[str, Any]) -> bool:
        entry = {"type": kind, "time": time.time(), "nonce": secrets.token_hex(8), **fields, "n": n}
        if not self.files.create(self._path(n), _sealed(entry)):
            return False
        self._state.fold(entry)
        if n % FOLD_EVERY == 0:
            self.save_head()
        return True

    def loss(self, epoch: int) -> str:
        """Why the owner of an epoch does not hold the pipeline (any more), "" while it does."""
        state = self._state
        if state.held(epoch):
            return ""
        if state.doubts and state.lease is not None and state.lease.epoch == epoch:
            return f"entry {state.doubts[0]} of the log of {self.pipeline} is damaged and may be a takeover"
        return f"pipeline {self.pipeline} was taken over" + (f" by {state.lease}" if state.lease else "")

    def acquire(self, run: str, *, wait_s: float = 0.0) -> Lease:
        """Hold the pipeline. A dead holder is taken over at once here, elsewhere after STALE_S without a sign of life.

        A living one raises Busy, after `wait_s` seconds. Raises Unavailable.
        """
        watch, began, told = _Watch(self), time.monotonic(), 0.0
        while True:
            verdict = watch.look()
            waited = time.monotonic() - began
            if verdict == "gone":
                if (lease := self._take(run, watch)) is not None:
                    return lease
                continue  # somebody was faster
            who = watch.who()
            if verdict == "alive" and waited >= wait_s:
                raise Busy(f"pipeline {self.pipeline} is held by {who}", hint=watch.hint())
            if waited >= told and (wait_s or waited > 4 * BEAT_S):
                told = waited + TOLD_EVERY_S
                left = f" for up to {wait_s - waited:.0f} s more"
                dying = f", which gives no sign of life: it is taken over after {STALE_S:g} s without one"
                self.told(f"waiting for {who}{left if verdict == 'alive' else dying}")
            time.sleep(LOOK_S if verdict == "unknown" else min(LOOK_S * 5, max(wait_s - waited, 0.01)))

    def _take(self, run: str, watch: _Watch) -> Lease | None:
        """The lease, unless anything was written since the holder was found gone."""
        with self.lock:
            n, holder = self._state.n, self._state.lease
            owner = Owner.here(run, n + 1)
            if n != watch.n or not self.append("acquire", {"owner": asdict(owner), "run": run}):
                return None
        if holder is not None:
            self.told(f"took over from {holder}, which is gone")
        return Lease(self, owner)

    def beat(self, epoch: int) -> int | None:
        """The holder's counter: 0 before its first move, None where it cannot be read."""
        try:
            value = json.loads(self.files.read(f"{self.folder}/beat/{epoch}.json"))
            return int(value["count"]) if value.pop("digest") == digest_json(value) else None
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def save_head(self) -> None:
        """Store the folded state. Only speed depends on it: where that fails the log is read instead."""
        with self.lock, suppress(OrchestratorError, OSError):
            if any(self._read(n) is not None for n in self._damaged):
                self._damaged.clear()
                self._state = self._caught_up(self._folded())  # what could not be read can be now
            body = self._state.to_json()
            self.files.write(f"{self.folder}/head.json", canonical({"state": body, "digest": digest_json(body)}))

    def _caught_up(self, state: State) -> State:
        """The state with every entry that follows taken in."""
        while (entry := self._entry(state.n + 1)) is not None:
            state.fold(entry)
        return state

    def _folded(self) -> State:
        try:
            return read_whole(self.files, f"{self.folder}/head.json", parse_head)
        except FileNotFoundError:
            return State()
        except Damaged:
            self.told(f"{self.files.url}/{self.folder}/head.json is damaged; the log is read from its first entry")
            return State()

    def _highest(self) -> int:
        """The number of the last entry that there is: one below it that is gone was lost, and is no free slot."""
        names = self.files.names(f"{self.folder}/log")
        return max((int(name[:-5]) for name in names if ENTRY.fullmatch(name)), default=0)

    def _entry(self, n: int) -> dict[str, Any] | None:
        """Entry n, None when there is none yet; one that stays unreadable is told."""
        for attempt in range(READS):
            try:
                if (entry := self._read(n)) is not None:
                    return entry
            except FileNotFoundError:
                if n >= self._last:
                    return None
                if attempt == READS - 1:
                    self.told(f"{self.files.url}/{self._path(n)} is gone; the log goes on without it")
                    return {"n": n, "type": "damaged"}
            time.sleep(0.05 * attempt)
        if n not in self._damaged:
            self.told(f"{self.files.url}/{self._path(n)} is damaged; the log goes on without it")
        self._damaged.add(n)
        return {"n": n, "type": "damaged"}

    def _read(self, n: int) -> dict[str, Any] | None:
        """Entry n as written; None for other bytes. Raises FileNotFoundError."""
        data = self.files.read(self._path(n))
        with suppress(*MALFORMED):
            return parse_entry(data, n)
        return None

    def _path(self, n: int) -> str:
        return f"{self.folder}/log/{n:08d}.json"


class _Watch:
    """What is known of the pipeline's holders by looking again and again.

    The time that a counter stands still is summed over looks, and one look adds at most a quarter of STALE_S: a storage
    (or this machine) that hangs for a while stops the holder's counter too, and must not look like its death.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.n = 0  # of the last entry when it last looked
        self.still: dict[int, float] = {}  # by epoch: seconds without a move
        self._counts: dict[int, int] = {}
        self._looked: dict[int, float] = {}
        self._moved: set[int] = set()
        self._holder: Owner | None = None

    def look(self) -> str:
        """ "gone": nobody holds the pipeline; "alive"; "unknown": look again."""
        state = self.log.state()
        self.n, self._holder = state.n, None if state.doubts else state.lease
        fates = [self._of(epoch) for epoch in state.doubts]
        if state.lease is not None:
            known = state.lease.fate
            fates.append(self._of(state.lease.epoch) if known == "unknown" else known)
        if any(fate in ("alive", "stopped") for fate in fates):
            return "alive"
        return "gone" if all(fate == "dead" for fate in fates) else "unknown"

    def _of(self, epoch: int) -> str:
        """A holder that is not on this machine: does its counter move?"""
        count, now = self.log.beat(epoch), time.monotonic()
        if epoch not in self._looked:
            self._looked[epoch], self.still[epoch] = now, 0.0
        if count is not None and count != self._counts.setdefault(epoch, count):
            self._counts[epoch], self.still[epoch] = count, 0.0
            self._moved.add(epoch)
        else:
            self.still[epoch] += min(now - self._looked[epoch], STALE_S / 4)
        self._looked[epoch] = now
        if self.still[epoch] >= STALE_S:
            return "dead"
        return "alive" if epoch in self._moved else "unknown"

    def who(self) -> str:
        return str(self._holder) if self._holder else "a run whose entry in the log is damaged"

    def hint(self) -> str:
        if self._holder is not None and self._holder.fate == "stopped":
            return f"it is stopped; `kill -CONT {self._holder.pid}` lets it go on"
        return "wait for it to end, or say --wait-lease SECONDS"


class Lease:
    """A held pipeline. A thread moves the counter and notices takeovers and cancellations."""

    def __init__(self, log: Log, owner: Owner) -> None:
        self.log = log
        self.owner = owner
        self.loss = ""  # why it is held no more
        self.cancelled = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"lease-{owner.epoch}")
        self._thread.start()

    @property
    def lost(self) -> bool:
        return bool(self.loss)

    def append(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Add an entry as the holder. Raises Busy after a takeover, Unavailable."""
        try:
            self.log.append(kind, {"run": self.owner.run, "epoch": self.owner.epoch, **fields}, epoch=self.owner.epoch)
        except Busy:
            self.loss = self.log.loss(self.owner.epoch)
            raise

    def release(self, result: Mapping[str, Any], used: Mapping[str, Any]) -> None:
        """End the run: `result` has status and exit code, `used` each stage's commit.

        Only told after a takeover. Raises Unavailable: then the next run takes over.
        """
        self._end.set()
        self._thread.join(RELEASE_S)
        if not self.log.lock.acquire(timeout=RELEASE_S):
            raise Unavailable(f"pipeline {self.log.pipeline} was not released: {self.log.files.url} does not answer")
        try:
            self.append("end", {"result": dict(result), "used": dict(used)})
            self.log.save_head()
            self.log.files.remove(self._beat)
        except Busy as error:
            self.log.told(str(error))
        finally:
            self.log.lock.release()

    @property
    def _beat(self) -> str:
        return f"{self.log.folder}/beat/{self.owner.epoch}.json"

    def _keep(self) -> None:
        """Move the counter, whatever happens to the storage: a holder that could not is fenced only by a takeover."""
        count, missed = 0, 0
        while not self._end.wait(BEAT_S):
            count += 1
            try:
                self.log.files.write(self._beat, _sealed({"count": count, "run": self.owner.run}))
                self.cancelled = self.owner.run in self.log.state().cancelled
                self.loss = self.loss or self.log.loss(self.owner.epoch)
                missed = 0
            except Exception as error:  # noqa: BLE001 - it is tried again, and the next commit meets it too
                missed += 1
                if missed == 1:
                    with suppress(Exception):  # a display that is gone must not end this thread
                        self.log.told(f"the storage does not take this run's sign of life: {error}; trying on")


def parse_entry(data: bytes, n: int) -> dict[str, Any]:
    """Raises one of seals.MALFORMED for bytes that are not entry n."""
    entry = unsealed(data)
    if entry["n"] != n:
        raise ValueError("another entry")
    return entry


def parse_head(data: bytes) -> State:
    """Raises one of seals.MALFORMED for bytes that are no whole head."""
    head = json.loads(data)
    if head["digest"] != digest_json(head["state"]):
        raise ValueError("altered")
    return State.from_json(head["state"])


def _sealed(entry: Mapping[str, Any]) -> bytes:
    return canonical({**entry, "digest": digest_json(entry)})


__all__ = ["Lease", "Log", "Owner", "State"]

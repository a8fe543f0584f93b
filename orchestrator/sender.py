"""From the spool to MLflow: in the background while a run goes on, and afterwards by `sync`.

What a spool holds may be told twice (the position is confirmed after the server's answer), so everything told is
idempotent: runs are searched by key before they are created, the rest replaces itself.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator import registry
from orchestrator.mlflow_calls import REFUSED, Patient, brief, error_code
from orchestrator.spool import Entry, Spool, spools

METRICS_A_CALL, OTHERS_A_CALL = 900, 100  # MLflow takes 1000 items a call, of which 100 parameters and 100 tags
GATHER_S = 0.3  # entries that come this close together share a call
REST = 4.0  # times as long as it took to tell: meanwhile more comes, and is told in as many calls
LONGEST_REST_S = 5.0
HELD_BACK_S = 30.0  # at most, at the beginning, by something more urgent
LONGEST_WAIT_S = 30.0
PATIENCE_S = 2.0  # for one call; what fails longer is an outage, which is waited out
SILENT_CLOSE_S = 3.0  # without any answer, until what is left is left to `sync`
_log = logging.getLogger(__name__)


@dataclass
class _Batch:
    """What is to be told of one run in one go."""

    metrics: list[Any] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Delivery:
    """Tells MLflow what entries of one spool say. `rejected` holds what the server will never take, and why."""

    def __init__(self, spool: Spool, uri: str | None = None) -> None:
        """`uri` instead of the one that the spool was written for."""
        self.spool = spool
        self.rejected: list[str] = []
        self._uri = uri
        self._header: Entry = {}
        self._runs: dict[str, Entry] = {}  # key -> the entry that opened the run
        self._ids: dict[str, str] = {}
        self._ended: set[str] = set()
        self._last_ms = 0
        self._client: Patient | None = None
        self._patient: Patient | None = None  # the same, before the experiment is known to be there
        self._experiment = ""
        self._done: list[bool] = []  # what the calls of a turn that broke off came to
        self._turn = 0  # the number of the next call of this turn
        self.got_on = 0.0  # when MLflow last took something in
        self._tried = False  # to connect
        for entry in spool.read(0, limit=10**9)[0]:
            self._learn(entry)

    @property
    def uri(self) -> str:
        return self._uri or str(self._header.get("uri", ""))

    @property
    def known(self) -> bool:
        """Whether the spool says where its entries are to go (a full disk may have taken that)."""
        return bool(self._header)

    def heard(self, now: float) -> float:
        """When MLflow last answered: a moment of `time.monotonic`. Until there is a client (it is imported), `now`."""
        return self._patient.answered if self._patient is not None else now

    def _learn(self, entry: Entry) -> None:
        self._last_ms = max(self._last_ms, int(entry.get("time", 0)))
        if entry["op"] == "open":
            self._header = entry
        elif entry["op"] == "run":
            self._runs[entry["run"]] = entry
            self._ended.discard(entry["run"])
        elif entry["op"] == "end":
            self._ended.add(entry["run"])

    def deliver(self, entries: Iterable[Entry]) -> None:
        """Tell what entries say.

        Raises what MLflow raises when the server cannot be reached; the same entries must then come again, and what was
        told of them is not repeated.
        """
        batches: dict[str, _Batch] = {}
        delivered: list[str] = []
        self._turn = 0
        for entry in entries:
            self._learn(entry)
            key = entry.get("run", "")
            batch = batches.setdefault(key, _Batch())
            match entry["op"]:
                case "run":
                    self._reopen(key)
                case "metrics":
                    batch.metrics += [(name, value, entry["time"], entry["step"]) for name, value in entry["values"]]
                case "params":
                    batch.params |= entry["values"]
                case "tags":
                    batch.tags |= entry["values"]
                case "file":
                    self._file(key, entry)
                    delivered.append(entry["file"])
                case "end":
                    self._flush(key, batches.pop(key))
                    self._end(key, entry)
        for key, batch in batches.items():
            self._flush(key, batch)
        self._done.clear()
        for file in delivered:
            self.spool.forget(file)

    def abandon(self) -> None:
        """Close the runs of a process that died."""
        self._turn = 0
        for key in sorted(self._runs.keys() - self._ended, reverse=True):
            self._end(key, {"status": "KILLED", "time": self._last_ms})
        self._done.clear()

    # --- runs ------------------------------------------------------------------------------------------------------

    def _connected(self) -> Patient:
        if self._client is None:
            client = self._patient = Patient(self._connect(), PATIENCE_S)
            where = registry.artifact_location(self._header["storage"], self.uri, self._header["pipeline"])
            self._experiment = registry.experiment(client, self._header["pipeline"], where)
            registry.remove_late(client, self._experiment)
            self._client = client
        return self._client

    def _connect(self) -> Any:
        """MLflow's client. The first time it is imported, and makes its database: that is getting on, failing again is not."""
        if self._tried:
            return registry.connect(self.uri)
        self._tried, self.got_on = True, math.inf
        try:
            client = registry.connect(self.uri)
        except Exception:
            self.got_on = 0.0
            raise
        self.got_on = time.monotonic()
        return client

    def known_id(self, key: str) -> str:
        """MLflow's id of a run that it was told of, else ""."""
        return self._ids.get(key, "")

    def _id(self, key: str) -> str:
        """The MLflow id of a run, which is created (its parents first) when there is none."""
        if key not in self._ids:
            client, opened = self._connected(), self._runs.get(key, {})
            parent = key.rpartition("/")[0]
            self._ids[key] = registry.ensure_run(
                client,
                self._experiment,
                key,
                parent=self._id(parent) if parent else None,
                started_ms=opened.get("time"),
                tags=opened.get("tags"),
            )
        return self._ids[key]

    def _reopen(self, key: str) -> None:
        """A run that goes on after it was ended (a retry, a resumed pipeline) is running again."""

        def running(client: Patient, run: str) -> None:
            if client.get_run(run).info.status != "RUNNING":
                client.set_status(run, "RUNNING")

        self._tell(f"run {key}", running, key)

    def _end(self, key: str, entry: Entry) -> None:
        status, at = entry["status"], entry["time"]

        def ended(client: Patient, run: str) -> None:
            client.set_status(run, status, at)
            if "/" not in key:  # everything else has been told
                registry.remove_late(client, self._experiment)

        self._tell(f"end of {key}", ended, key)

    # --- telling ---------------------------------------------------------------------------------------------------

    def _tell(self, what: str, call: Callable[[Any, str], object], key: str) -> bool:
        """Make one call for a run; False when the server refuses it for good. Raises when it cannot be reached."""
        if self._turn == len(self._done):
            self._done.append(self._told(what, call, key))
            self.got_on = time.monotonic()
        self._turn += 1
        return self._done[self._turn - 1]

    def _told(self, what: str, call: Callable[[Any, str], object], key: str) -> bool:
        client = self._connected()
        reason = "its run is deleted again and again"
        for _ in range(2):
            try:
                call(client, self._id(key))
                return True
            except Exception as error:
                code = error_code(error)
                if code == "RESOURCE_DOES_NOT_EXIST":  # the run was deleted meanwhile: make it again, once
                    self._ids.clear()
                elif code in REFUSED:
                    reason = brief(error)
                    break
                else:
                    raise
        self.rejected.append(f"{what}: {reason}")
        return False

    def _file(self, key: str, entry: Entry) -> None:
        path, folder = self.spool.file(entry["file"]), entry["folder"] or None

        def stored(client: Patient, run: str) -> None:
            if path.exists():  # else it was delivered before, in a turn that broke off later
                registry.upload(client, run, path, folder)

        self._tell(entry["file"], stored, key)

    def _flush(self, key: str, batch: _Batch) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(name, value, at, step) for name, value, at, step in batch.metrics]
        params, tags = [Param(*item) for item in batch.params.items()], [RunTag(*item) for item in batch.tags.items()]
        few = len(metrics) <= METRICS_A_CALL - 2 * OTHERS_A_CALL and max(len(params), len(tags)) <= OTHERS_A_CALL
        if few and (items := {k: v for k, v in (("metrics", metrics), ("params", params), ("tags", tags)) if v}):
            self._log(key, items)
            return
        for some in _slices(metrics, METRICS_A_CALL):
            self._log(key, {"metrics": some})
        for some in _slices(params, OTHERS_A_CALL):
            self._log(key, {"params": some})
        for some in _slices(tags, OTHERS_A_CALL):
            self._log(key, {"tags": some})

    def _log(self, key: str, items: dict[str, list[Any]]) -> None:
        kinds, count, before = " and ".join(items), sum(map(len, items.values())), len(self.rejected)
        if self._tell(f"{kinds} of {key}", lambda client, run: client.log(run, items), key) or count == 1:
            return
        del self.rejected[before:]  # one of them is refused: find it, the others pass
        parts = (
            items.items() if len(items) > 1 else ((kind, [value]) for kind, values in items.items() for value in values)
        )
        for kind, values in list(parts):
            self._log(key, {kind: values})


def _slices(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def drain(
    spool: Spool, uri: str | None = None, told: Callable[[int], None] = lambda count: None
) -> tuple[int, list[str]]:
    """Deliver a spool that nobody writes any more, and remove it; the caller holds it.

    `told` hears how many entries have arrived. Returns that count, and what was refused. Raises what MLflow raises.
    """
    delivery, sent = Delivery(spool, uri), 0
    if not delivery.known:
        count = spool.pending()
        spool.set_aside()
        return 0, [
            f"{count} records that do not say where they belong (the disk was full): {spool.path}"
        ] if count else []
    position = spool.position
    while True:
        entries, after = spool.read(position)
        if not entries:
            break
        delivery.deliver(entries)
        spool.confirm(after)
        position = after
        sent += len(entries)
        told(len(entries))
    delivery.abandon()
    spool.remove()
    return sent, delivery.rejected


def never() -> bool:
    """Nothing is more urgent than telling MLflow."""
    return False


class Sender:
    """A background thread that delivers one spool, and what earlier runs left. An outage is told once, and waited out."""

    def __init__(self, spool: Spool, notice: Callable[[str], None], busy: Callable[[], bool] = never) -> None:
        self.spool = spool
        self._notice = notice
        self._busy = busy
        self._delivery: Delivery | None = None
        self._wake = threading.Event()
        self._deadline: float | None = None  # set by close
        self._down = False
        self._others_due = True
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def id_of(self, key: str) -> str:
        """MLflow's id of a run, "" as long as MLflow has not been told of it."""
        return self._delivery.known_id(key) if self._delivery else ""

    def close(self, timeout_s: float, answering_s: float = 0.0) -> int:
        """Deliver what is left; returns how many entries stay.

        For at most `timeout_s`, less where MLflow is silent, and up to `answering_s` as long as it takes things in.
        """
        now = time.monotonic()
        self._deadline = now + timeout_s
        self._wake.set()
        if self._thread.ident is not None:
            self._watch(timeout_s, now + answering_s)
        self.spool.close()
        if self._thread.is_alive():  # inside a call; the thread lets go of the spool when that returns
            return self.spool.pending()
        left = self.spool.pending()
        if left == 0 and self.spool.acquire():
            self.spool.remove()
        self.spool.release()
        return left

    def _watch(self, patience_s: float, last: float) -> None:
        """Wait for the thread to end, as long as MLflow answers."""
        assert self._deadline is not None
        heard = begun = time.monotonic()
        while self._thread.is_alive() and (now := time.monotonic()) < self._deadline:
            heard = max(heard, self._delivery.heard(now) if self._delivery else now)
            got_on = self._delivery.got_on if self._delivery else 0.0
            if got_on > begun:  # inf: at this moment
                until = now + 0.5 if math.isinf(got_on) else got_on + patience_s
                self._deadline = max(self._deadline, min(until, last))
            if now - heard > SILENT_CLOSE_S:
                self._deadline = now
            self._thread.join(0.05)

    def _run(self) -> None:
        try:
            if self._acquired():
                self._send()
        finally:
            self.spool.release()

    def _acquired(self) -> bool:
        while True:
            try:
                if self.spool.acquire():
                    return True
            except OSError:  # no room for a lock file yet
                if self._deadline is not None:
                    return False
                self._pause(LONGEST_WAIT_S, gather=False)
                continue
            self._notice(f"another process is sending {self.spool.path}")  # what it misses, `sync` will send
            return False

    def _send(self) -> None:
        self._wait(HELD_BACK_S, self._busy)  # importing MLflow and making its database take seconds of a processor
        delivery, position, failures = Delivery(self.spool), self.spool.position, 0
        self._delivery = delivery
        entries: list[Entry] = []
        after = position
        while True:
            if not entries:
                entries, after = self.spool.read(position)
            if not entries:
                if self._others_due and not self._down and position:
                    self._send_others()
                elif self._deadline is not None:
                    return
                else:
                    self._pause(60.0)
                continue
            began = time.monotonic()
            try:
                delivery.deliver(entries)
            except Exception as error:  # noqa: BLE001  # nothing that MLflow does may reach training; told below
                failures += 1
                self._outage(delivery, error)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    return
                self._pause(min(2.0 ** (failures - 1), LONGEST_WAIT_S), gather=False)
                continue
            with suppress(OSError):  # a full disk: they would be told twice after a crash, which changes nothing
                self.spool.confirm(after)
            position, failures, entries = after, 0, []
            self._recovered(delivery)
            self._wait(min(REST * (time.monotonic() - began), LONGEST_REST_S))

    def _send_others(self) -> None:
        """What runs that were killed, or that met an outage, left in the same place."""
        self._others_due = False
        sent = 0
        for spool in spools(self.spool.path.parent):
            late = self._deadline is not None and time.monotonic() >= self._deadline
            if spool.name == self.spool.name or late:
                continue
            try:
                if not spool.acquire():
                    continue
                try:
                    count, _ = drain(spool)
                    sent += count
                finally:
                    spool.release()
            except Exception as error:  # noqa: BLE001  # as above; `sync` tells of it, and tries again
                _log.info("%s was not sent: %s", spool.path, brief(error))
        if sent:
            self._notice(f"MLflow was told {sent} records that earlier runs had left")

    def _pause(self, seconds: float, *, gather: bool = True) -> None:
        """Wait for entries (or, after a failure, for time to pass). Closing cuts it short."""
        if self._deadline is not None:
            time.sleep(max(0.0, min(0.5, self._deadline - time.monotonic())))
            return
        end = time.monotonic() + seconds
        while self._deadline is None and (left := end - time.monotonic()) > 0:
            woken = self._wake.wait(left)
            self._wake.clear()
            if woken and gather:
                if self._deadline is None:
                    time.sleep(GATHER_S)
                return

    def _wait(self, seconds: float, longer: Callable[[], bool] = lambda: True) -> None:
        """Let time pass, while `longer` says so. Closing cuts it short."""
        end = time.monotonic() + seconds
        while self._deadline is None and longer() and (left := end - time.monotonic()) > 0:
            time.sleep(min(0.1, left))

    def _outage(self, delivery: Delivery, error: Exception) -> None:
        if not self._down:
            place = registry.redact(delivery.uri)
            reason = brief(error)
            self._notice(f"MLflow at {place} does not answer ({reason}); what is logged waits in {self.spool.path}")
        self._down = True

    def _recovered(self, delivery: Delivery) -> None:
        if self._down:
            self._notice(f"MLflow at {registry.redact(delivery.uri)} answers again")
        self._down = False
        for what in delivery.rejected:
            self._notice(f"MLflow refused {what}")
        delivery.rejected.clear()

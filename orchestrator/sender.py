"""From the spool to MLflow: in the background while a run goes on, and afterwards by `sync`.

What a spool holds may be told twice (the position is confirmed after the server's answer), so everything told is
idempotent: runs are searched by key before they are created, the rest replaces itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator import registry
from orchestrator.spool import Entry, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_A_CALL, OTHERS_A_CALL = 900, 100  # MLflow takes 1000 items a call, of which 100 parameters and 100 tags
GATHER_S = 0.3  # entries that come this close together share a call
LONGEST_WAIT_S = 30.0


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
        self._client: MlflowClient | None = None
        self._experiment = ""
        for entry in spool.read(0, limit=10**9)[0]:
            self._learn(entry)

    @property
    def uri(self) -> str:
        return self._uri or str(self._header.get("uri", ""))

    def _learn(self, entry: Entry) -> None:
        if entry["op"] == "open":
            self._header = entry
        elif entry["op"] == "run":
            self._runs[entry["run"]] = entry

    def deliver(self, entries: Iterable[Entry]) -> None:
        """Raises what MLflow raises when the server cannot be reached; the same entries may then come again."""
        batches: dict[str, _Batch] = {}
        delivered: list[str] = []
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
        for file in delivered:
            self.spool.forget(file)

    # --- runs ------------------------------------------------------------------------------------------------------

    def _connected(self) -> MlflowClient:
        if self._client is None:
            client = registry.connect(self.uri)
            where = registry.artifact_location(self._header["storage"], self.uri, self._header["pipeline"])
            self._experiment = registry.experiment(client, self._header["pipeline"], where)
            self._client = client
        return self._client

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

        def running(client: MlflowClient, run: str) -> None:
            if client.get_run(run).info.status != "RUNNING":
                client.update_run(run, status="RUNNING")

        self._tell(f"run {key}", running, key)

    def _end(self, key: str, entry: Entry) -> None:
        status, at = entry["status"], entry["time"]
        self._tell(f"end of {key}", lambda client, run: client.set_terminated(run, status, end_time=at), key)

    # --- telling ---------------------------------------------------------------------------------------------------

    def _tell(self, what: str, call: Callable[[Any, str], object], key: str) -> bool:
        """Make one call for a run; False when the server refuses it for good. Raises when it cannot be reached."""
        client = self._connected()
        for _ in range(2):
            try:
                call(client, self._id(key))
                return True
            except Exception as error:
                code, reason = registry.error_code(error), str(error).strip().split("\n", 1)[0][:200]
                if code == "RESOURCE_DOES_NOT_EXIST":  # the run was deleted meanwhile: make it again, once
                    self._ids.clear()
                elif code in registry.REFUSED:
                    break
                else:
                    raise
        self.rejected.append(f"{what}: {reason}")
        return False

    def _file(self, key: str, entry: Entry) -> None:
        path = self.spool.file(entry["file"])
        if not path.exists():  # delivered before, in a turn that broke off later
            return
        self._tell(entry["file"], lambda client, run: client.log_artifact(run, str(path), entry["folder"] or None), key)

    def _flush(self, key: str, batch: _Batch) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(name, value, at, step) for name, value, at, step in batch.metrics]
        for some in _slices(metrics, METRICS_A_CALL):
            self._log(key, metrics=some)
        for some in _slices([Param(*item) for item in batch.params.items()], OTHERS_A_CALL):
            self._log(key, params=some)
        for some in _slices([RunTag(*item) for item in batch.tags.items()], OTHERS_A_CALL):
            self._log(key, tags=some)

    def _log(self, key: str, **items: list[Any]) -> None:
        (kind, values), *_ = items.items()
        before = len(self.rejected)
        if self._tell(f"{kind} of {key}", lambda client, run: client.log_batch(run, **items), key) or len(values) == 1:
            return
        del self.rejected[before:]  # one of them is refused: find it, the others pass
        for value in values:
            self._log(key, **{kind: [value]})


def _slices(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


class Sender:
    """A background thread that delivers one spool. An outage is told once, and waited out."""

    def __init__(self, spool: Spool, notice: Callable[[str], None]) -> None:
        self.spool = spool
        self._notice = notice
        self._wake = threading.Event()
        self._deadline: float | None = None  # set by close
        self._down = False
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def close(self, timeout_s: float) -> int:
        """Deliver what is left, for at most `timeout_s`; returns how many entries stay in the spool."""
        self._deadline = time.monotonic() + timeout_s
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self.spool.close()
        if self._thread.is_alive():  # inside a call; the thread lets go of the spool when that returns
            return self.spool.pending()
        left = self.spool.pending()
        if left == 0 and self.spool.acquire():
            self.spool.remove()
        return left

    def _run(self) -> None:
        if not self.spool.acquire():  # another process sends this run's spool: what it misses, sync or it will send
            self._notice(f"another process is sending {self.spool.path}")
            return
        try:
            self._send()
        finally:
            self.spool.release()

    def _send(self) -> None:
        delivery, position, failures = Delivery(self.spool), self.spool.position, 0
        while True:
            entries, after = self.spool.read(position)
            if not entries:
                if self._deadline is not None:
                    return
                self._pause(60.0)
                continue
            try:
                delivery.deliver(entries)
                self.spool.confirm(after)
            except Exception as error:  # noqa: BLE001  # nothing that MLflow does may reach training; told below
                failures += 1
                self._outage(delivery, error)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    return
                self._pause(min(2.0 ** (failures - 1), LONGEST_WAIT_S), gather=False)
                continue
            position, failures = after, 0
            self._recovered(delivery)

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

    def _outage(self, delivery: Delivery, error: Exception) -> None:
        if not self._down:
            reason = str(error).strip().split("\n", 1)[0][:200]
            place = registry.redact(delivery.uri)
            self._notice(f"MLflow at {place} does not answer ({reason}); what is logged waits in {self.spool.path}")
        self._down = True

    def _recovered(self, delivery: Delivery) -> None:
        if self._down:
            self._notice(f"MLflow at {registry.redact(delivery.uri)} answers again")
        self._down = False
        for what in delivery.rejected:
            self._notice(f"MLflow refused {what}")
        delivery.rejected.clear()

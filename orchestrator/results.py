"""What the steps of a run came to: served from the cache, or committed to the log and then to the cache."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.account import Account
from orchestrator.artifacts import Artifact
from orchestrator.cache import Entry
from orchestrator.log import Lease
from orchestrator.outbox import outbox
from orchestrator.planning import Desk, Sealed
from orchestrator.runs import StageRecord
from orchestrator.steps import Step
from orchestrator.trouble import Outage


@dataclass
class Done:
    """What a step came to."""

    outputs: dict[str, Artifact]
    entry: Entry
    cached: bool


class Results:
    """The finished steps of one run. Safe to share between the threads of its stages."""

    def __init__(self, desk: Desk, lease: Lease, account: Account) -> None:
        self.desk, self.store, self.lease, self.account = desk, desk.store, lease, account
        self.done: dict[str, Done] = {}
        self._outbox = outbox(self.store)
        self._commits = threading.Lock()

    def of(self, step: Step) -> dict[str, dict[str, Artifact]]:
        """The outputs of a step's producers."""
        return {name: self.done[name].outputs for name in step.producers}

    def deliver(self) -> None:
        """Bring what an outage left on this machine into the storage. Raises Unavailable when it does not answer."""
        for what in self._outbox.deliver(self.store) if self._outbox else ():
            self.account.say("", f"brought from the outbox into the storage: {what}")

    def serve(self, step: Step, record: StageRecord, entry: Entry, artifacts: dict[str, Artifact]) -> None:
        """A step whose result is there already."""
        if self.desk.cache.get(entry.key) is None:  # a crash fell between the log and the shared cache
            self.desk.cache.put(entry)
        self.done[step.id] = Done(artifacts, entry, cached=True)
        record.state, record.reason, record.run = "cached", f"from run {entry.run}", entry.run
        record.outputs, record.seconds, record.started = dict(entry.outputs), entry.seconds, entry.started
        record.size = sum(artifact.size for artifact in artifacts.values())
        self.account.cached(step, entry.seconds, entry.run)

    def commit(
        self,
        step: Step,
        sealed: Sealed,
        record: StageRecord,
        outputs: dict[str, Artifact],
        seconds: float,
        *,
        forced: bool,
    ) -> None:
        """First the log, which refuses a fenced owner, then the cache that all pipelines share."""
        own = Entry(
            key=sealed.key,
            outputs={name: artifact.digest for name, artifact in outputs.items()},
            ingredients=sealed.ingredients,
            run=self.account.record.run_id,
            pipeline=self.account.spec.name,
            stage=step.id,
            started=record.started,
            seconds=seconds,
            attempts=record.attempts,
            extra={**record.notes, "reason": record.reason},
        )
        try:
            self.deliver()
            entry, outputs = (own, outputs) if forced else self._first(step, own, outputs)
            self._log(step, entry)
            if forced:
                self.desk.cache.put(entry)
            elif self.desk.cache.claim(entry).outputs != entry.outputs:
                entry, outputs = self._first(step, entry, outputs)
                self._log(step, entry)
        except Outage:
            if self._outbox is not None:
                self._outbox.keep_entry(own)
                line = f"its result waits in {self._outbox.root}; the next run on this machine delivers it"
                self.account.say(step.id, line)
            raise
        self.done[step.id] = Done(outputs, entry, cached=False)
        record.state, record.outputs, record.seconds, record.error = "succeeded", dict(entry.outputs), seconds, ""
        record.size, record.run = sum(artifact.size for artifact in outputs.values()), entry.run
        self.account.finished(step, seconds, entry.outputs)

    def condemn(self, key: str, verdict: Mapping[str, str]) -> None:
        """Log that the work of this key is never tried again unchanged."""
        with self._commits:
            self.lease.append("verdict", {"key": key, "verdict": dict(verdict)})

    def _log(self, step: Step, entry: Entry) -> None:
        with self._commits:
            self.lease.append("commit", {"stage": step.id, "commit": entry.to_json()})

    def _first(self, step: Step, entry: Entry, outputs: dict[str, Artifact]) -> tuple[Entry, dict[str, Artifact]]:
        """The result that another pipeline came to meanwhile, where there is one: one key has one result."""
        found = self.desk.cache.get(entry.key)
        if found is None or found.outputs == entry.outputs or set(found.outputs) < set(entry.outputs):
            return entry, outputs
        artifacts, why = self.desk.cache.open(found)
        if why:
            return entry, outputs
        self.account.say(step.id, f"run {found.run} of {found.pipeline} had this result first; it is used")
        return found, artifacts


__all__ = ["Done", "Results"]

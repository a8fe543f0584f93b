"""What a run tells of itself: to its record and diary in the storage, and to whoever listens."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Mapping

from orchestrator import events, failures, keys
from orchestrator.events import Listener
from orchestrator.planning import Plan
from orchestrator.runs import Diary, RunRecord, StageRecord
from orchestrator.steps import Step

SHOWN_EVERY_S = 1.0  # progress in events.jsonl


class Account:
    """The record, the diary and the listener of one run. Nothing that passes through here holds a credential."""

    def __init__(self, plan: Plan, run_id: str, listener: Listener) -> None:
        self.spec, self.listener = plan.spec, listener
        self.record = _new_record(plan, run_id)
        self.diary = Diary(plan.store, self.record)

    def say(self, stage: str, line: str) -> None:
        """A line of a stage, "" for one of the run."""
        line = self.spec.redact(line)
        self.listener.stage_said(events.StageSaid(stage, line))
        self.diary.event("said", {"stage": stage, "line": line})
        self.diary.log(stage or "run", line)

    def failure(self, step: Step, error: BaseException, retry_in_s: float | None) -> None:
        """The cause in one line for the user, the whole trace in the stage's log."""
        line = self.spec.redact(failures.one_line(error))
        trace = self.spec.redact("".join(traceback.format_exception(error)))
        self.diary.log(step.id, f"failed: {line}\n{trace}")
        place = self.diary.log_place(step.id)
        event = events.StageFailed(step.id, line, failures.kind(error), place, retry_in_s)
        self.listener.stage_failed(event)
        self.diary.event("stage_failed", {**vars(event)})

    def started(self, step: Step, reason: str, attempt: int) -> None:
        self.diary.save()
        self.listener.stage_started(events.StageStarted(step.id, reason, attempt))
        self.diary.event("stage_started", {"stage": step.id, "reason": reason, "attempt": attempt})

    def finished(self, step: Step, seconds: float, outputs: Mapping[str, str]) -> None:
        self.diary.save()
        self.listener.stage_finished(events.StageFinished(step.id, seconds, dict(outputs)))
        self.diary.event("stage_finished", {"stage": step.id, "seconds": seconds, "outputs": outputs})

    def cached(self, step: Step, seconds: float, run: str) -> None:
        self.listener.stage_cached(events.StageCached(step.id, seconds, run))
        self.diary.event("stage_cached", {"stage": step.id, "run": run})


class StageProgress:
    """`stage.Progress`: to the listener at once, to the diary now and then."""

    def __init__(self, account: Account, stage: str) -> None:
        self._account = account
        self._stage = stage
        self._shown = 0.0

    def update(
        self,
        done: float,
        total: float,
        *,
        unit: str = "steps",
        note: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        event = events.StageProgress(self._stage, done, total, unit, note, dict(metrics or {}))
        self._account.listener.stage_progress(event)
        now = time.monotonic()
        if now - self._shown >= SHOWN_EVERY_S or done >= total:
            self._shown = now
            self._account.diary.event("stage_progress", vars(event))

    def say(self, line: str) -> None:
        self._account.say(self._stage, line)


def _new_record(plan: Plan, run_id: str) -> RunRecord:
    spec = plan.spec
    stages = [
        StageRecord(
            stage=planned.step.id,
            name=planned.step.name,
            uses=planned.step.uses,
            reason=planned.reason,
            inputs={port: [s.step for s in sources] for port, sources in planned.step.inputs.items()},
        )
        for planned in plan.steps
    ]
    packages = {package for planned in plan.steps for package in planned.step.packages}
    return RunRecord(
        run_id=run_id,
        pipeline=spec.name,
        started=time.time(),
        spec=spec.to_json(),
        spec_file=spec.document.file,
        profile=spec.profile,
        sets=list(spec.sets),
        host=platform.node(),
        versions={"python": platform.python_version(), **{name: keys.installed(name) for name in sorted(packages)}},
        stages=stages,
    )


__all__ = ["Account", "StageProgress"]

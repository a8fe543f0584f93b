"""What a run tells while it goes on: frozen records, given to a `Listener` in order.

The command line's display is a listener; so is the diary that keeps `events.jsonl`. A listener never blocks and never
changes what happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.planning import Plan
    from orchestrator.runs import Run


@dataclass(frozen=True)
class RunStarted:
    run_id: str
    plan: Plan
    outlook: str = ""  # how long it will take, as far as earlier runs tell


@dataclass(frozen=True)
class StageStarted:
    stage: str  # instance id
    reason: str
    attempt: int = 1  # 1 for the first


@dataclass(frozen=True)
class StageCached:
    stage: str
    seconds: float  # what the computation once took
    run: str  # the run that did it


@dataclass(frozen=True)
class StageProgress:
    stage: str
    done: float
    total: float
    unit: str = "steps"
    note: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageSaid:
    stage: str  # "" for the run as a whole
    line: str


@dataclass(frozen=True)
class StageFinished:
    stage: str
    seconds: float
    outputs: Mapping[str, str]  # output name -> artifact digest


@dataclass(frozen=True)
class StageFailed:
    stage: str
    error: str  # one line
    kind: str  # of errors.OrchestratorError, "timeout", or "bug"
    log: str  # where the full trace is
    retry_in_s: float | None = None  # None: not tried again


@dataclass(frozen=True)
class RunFinished:
    run: Run


Event = RunStarted | StageStarted | StageCached | StageProgress | StageSaid | StageFinished | StageFailed | RunFinished


class Listener:
    """Hears of everything; each method does nothing until overridden. May be called from several threads at once."""

    def run_started(self, event: RunStarted) -> None: ...
    def stage_started(self, event: StageStarted) -> None: ...
    def stage_cached(self, event: StageCached) -> None: ...
    def stage_progress(self, event: StageProgress) -> None: ...
    def stage_said(self, event: StageSaid) -> None: ...
    def stage_finished(self, event: StageFinished) -> None: ...
    def stage_failed(self, event: StageFailed) -> None: ...
    def run_finished(self, event: RunFinished) -> None: ...

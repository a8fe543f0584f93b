"""What a stage's failure means for the run: try again, give up, or go back to an earlier stage. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrator.errors import OrchestratorError, StageFailed, Unavailable
from orchestrator.trouble import DiskFull, Refused

# A mistake in code or parameters comes back unchanged, however often one tries.
PERMANENT = (TypeError, AttributeError, NameError, LookupError, ImportError, AssertionError, NotImplementedError)


MOST_WAIT_S = 30.0  # between two restarts
LOSSES = 3  # of tasks, before a stage fails


class Decision(Enum):
    """`GIVE_UP`: the run ends with this failure."""

    RETRY = "retry"
    GIVE_UP = "give up"


class StageTimeout(StageFailed):
    """A stage took longer than its `timeout_s`."""

    kind = "timeout"


class TaskLost(StageFailed):
    """Ray lost a task or its result more often than it tries again. Not the stage's fault."""


class RunTimeout(StageTimeout):
    """The whole run took longer than the spec's `timeout_s`."""


def decide(error: BaseException, failures: int, max_failures: int) -> Decision:
    """After so many failures of a stage, the last of which is `error`.

    What a stage already judged (its own errors: bad input, divergence, a gate, workers lost too often) is final; an
    unreachable service, a time limit and anything from outside may pass.
    """
    limit = max(max_failures, LOSSES) if isinstance(error, TaskLost) else max_failures
    if failures > limit or not isinstance(error, Exception) or isinstance(error, PERMANENT):
        return Decision.GIVE_UP
    if isinstance(error, (RunTimeout, DiskFull, Refused)):
        return Decision.GIVE_UP
    if isinstance(error, OrchestratorError) and not isinstance(error, (Unavailable, StageTimeout, TaskLost)):
        return Decision.GIVE_UP
    return Decision.RETRY


@dataclass
class Restarts:
    """How often lost workers are replaced: without end while training gets on, `limit` times in a row where it does not.

    `step` is the newest one that was saved. The first restart comes at once, then ever later.
    """

    limit: int
    step: int
    count: int = 0

    def another(self, step: int) -> float | None:
        """After a loss, with `step` saved: the seconds to wait before the restart; None: give up."""
        if step > self.step:
            self.step, self.count = step, 0
        self.count += 1
        if self.count > self.limit:
            return None
        return 0.0 if self.count == 1 else min(2.0 ** (self.count - 2), MOST_WAIT_S)


def kind(error: BaseException) -> str:
    """Of an OrchestratorError its kind, of anything else "failure"."""
    return error.kind if isinstance(error, OrchestratorError) else "failure"


def one_line(error: BaseException) -> str:
    """A failure in one line: the message of an explained error, else type and message."""
    text = " ".join(str(error).split())
    if isinstance(error, OrchestratorError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


__all__ = ["Decision", "Restarts", "RunTimeout", "StageTimeout", "TaskLost", "decide", "kind", "one_line"]

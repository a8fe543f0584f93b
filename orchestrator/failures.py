"""What a stage's failure means for the run: try again, give up, or go back to an earlier stage. Pure."""

from __future__ import annotations

from enum import Enum

from orchestrator.errors import OrchestratorError, StageFailed, Unavailable

# A mistake in code or parameters comes back unchanged, however often one tries.
PERMANENT = (TypeError, AttributeError, NameError, LookupError, ImportError, AssertionError, NotImplementedError)


class Decision(Enum):
    """`GIVE_UP`: the run ends with this failure."""

    RETRY = "retry"
    GIVE_UP = "give up"


class StageTimeout(StageFailed):
    """A stage took longer than its `timeout_s`."""

    kind = "timeout"


def decide(error: BaseException, failures: int, max_failures: int) -> Decision:
    """After so many failures of a stage, the last of which is `error`.

    What a stage already judged (its own errors: bad input, divergence, a gate, workers lost too often) is final; an
    unreachable service, a time limit and anything from outside may pass.
    """
    if failures > max_failures or not isinstance(error, Exception) or isinstance(error, PERMANENT):
        return Decision.GIVE_UP
    if isinstance(error, OrchestratorError) and not isinstance(error, (Unavailable, StageTimeout)):
        return Decision.GIVE_UP
    return Decision.RETRY


def kind(error: BaseException) -> str:
    """Of an OrchestratorError its kind, of anything else "failure"."""
    return error.kind if isinstance(error, OrchestratorError) else "failure"


def one_line(error: BaseException) -> str:
    """A failure in one line: the message of an explained error, else type and message."""
    text = " ".join(str(error).split())
    if isinstance(error, OrchestratorError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


__all__ = ["Decision", "StageTimeout", "decide", "kind", "one_line"]

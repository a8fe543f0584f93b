"""One attempt at a stage: in a thread that time limits, a stop and the death of Ray can outlive.

A thread cannot be ended from outside. It is asked to stop, and left behind where it does not: it is a daemon, so it holds up
neither the run nor the process.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.cluster import Cluster, RayDied
from orchestrator.failures import RunTimeout, StageTimeout, TaskLost

if TYPE_CHECKING:
    from orchestrator.spec import Retry

T = TypeVar("T")

TICK_S = 0.1
GRACE_S = 20.0  # for a stage that is asked to stop
LEAVE_S = 3.0  # for a stage whose Ray died


@dataclass
class Deadline:
    """When the whole run has to end; None: never."""

    limit_s: float | None
    started: float = field(default_factory=time.monotonic)

    def left_s(self) -> float:
        """Seconds until then."""
        return float("inf") if self.limit_s is None else self.started + self.limit_s - time.monotonic()

    def check(self) -> None:
        """Raise failures.RunTimeout once it has passed."""
        if self.left_s() <= 0:
            raise RunTimeout(f"the run took longer than timeout_s = {self.limit_s:g}", hint=GOES_ON)


GOES_ON = "the same command goes on from the last checkpoint"


def run_once(
    work: Callable[[], T],
    *,
    stage: str,
    limit_s: float | None,
    deadline: Deadline,
    asked: threading.Event,
    cluster: Cluster,
) -> T:
    """The result of `work`, called in a thread of its own. `asked` is set when it has to stop.

    Raises what `work` raises; failures.StageTimeout after `limit_s`, failures.RunTimeout at the deadline, both after the
    work has had time to save; cluster.RayDied where Ray is gone.
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, below
            future.set_exception(error)

    started = time.monotonic()
    threading.Thread(target=call, daemon=True, name=f"stage-{stage}").start()
    while not _done(future, TICK_S):
        if why := cluster.died():
            asked.set()
            _done(future, LEAVE_S)
            raise RayDied(why)
        if limit_s is not None and time.monotonic() - started > limit_s:
            return _overdue(future, asked, StageTimeout(f"stage {stage} took longer than timeout_s = {limit_s:g}"))
        if deadline.left_s() <= 0:
            return _overdue(future, asked, RunTimeout(f"the run took longer than timeout_s = {deadline.limit_s:g}"))
    try:
        return future.result()
    except Exception as error:
        if (cause := _raised_in_a_task(error)) is not None:
            raise cause from error
        raise
    except SystemExit as error:  # Ray ends so whatever waits for it when it is shut down
        raise RayDied(cluster.died() or "Ray ended while the stage was waiting for it") from error


def _done(future: Future[T], timeout_s: float) -> bool:
    try:
        future.exception(timeout_s)
    except TimeoutError:
        return False
    return True


def _overdue(future: Future[T], asked: threading.Event, error: StageTimeout) -> T:
    """Ask the stage to stop, and say what came of it; its result, where it had just finished."""
    asked.set()
    if not _done(future, GRACE_S):
        error.hint = "it did not stop when asked"
        raise error
    if (ended := future.exception()) is None:
        return future.result()
    error.hint = GOES_ON
    raise error from ended


def _ray() -> Any:
    """Ray, if it is imported; None also while another thread imports it: nothing of Ray's can have been raised yet."""
    ray = sys.modules.get("ray")
    return ray if hasattr(ray, "is_initialized") else None


def _raised_in_a_task(error: Exception) -> Exception | None:
    """What a Ray task itself raised; None for anything else. Ray's wrapper carries a whole trace as its message."""
    ray = _ray()
    wrapped = ray is not None and isinstance(error, ray.exceptions.RayTaskError)
    cause = getattr(error, "cause", None) if wrapped else None
    return cause if isinstance(cause, Exception) else None


def of_ray(error: BaseException) -> TaskLost | None:
    """The loss of a task or an object in Ray, which passes, in our words; None for anything else."""
    ray = _ray()
    if ray is None or not isinstance(error, ray.exceptions.RayError) or isinstance(error, ray.exceptions.RayTaskError):
        return None
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return TaskLost("tasks were killed by Ray as their node ran out of memory", hint="lower scale.max_concurrent")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return TaskLost(f"Ray lost a task's worker or its result: {lines[0] if lines else type(error).__name__}")


def wait_s(retry: Retry, failures: int) -> float:
    """Seconds before the next attempt after so many failures: growing, up to the cap."""
    growth = retry.backoff_factor ** min(failures - 1, 64)
    return float(min(retry.backoff_s * growth, retry.max_backoff_s))


__all__ = ["Deadline", "of_ray", "run_once", "wait_s"]

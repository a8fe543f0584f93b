"""What follows from a failure, and the limits of an attempt: decided without Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from orchestrator.attempts import Deadline, run_once, wait_s
from orchestrator.cluster import Cluster, RayDied
from orchestrator.errors import BadInput, Diverged, Unavailable
from orchestrator.failures import Decision, Restarts, RunTimeout, StageTimeout, TaskLost, decide
from orchestrator.losses import KILLED, MEMORY, Loss, is_collateral, sentence, worst
from orchestrator.spec import Retry


def test_restarts_are_counted_without_progress_only() -> None:
    restarts = Restarts(3, 0)
    assert [restarts.another(0) for _ in range(4)] == [0.0, 1.0, 2.0, None]
    restarts = Restarts(3, 0)
    assert [restarts.another(step) for step in range(100, 2000, 100)] == [0.0] * 19


def test_restarts_wait_longer_up_to_a_cap() -> None:
    restarts = Restarts(100, 0)
    waits = [restarts.another(0) for _ in range(20)]
    assert waits == sorted(waits)  # type: ignore[type-var]
    assert waits[-1] == 30.0


@pytest.mark.parametrize(
    ("error", "failures", "allowed", "decision"),
    [
        (Unavailable("no answer"), 1, 1, Decision.RETRY),
        (Unavailable("no answer"), 2, 1, Decision.GIVE_UP),
        (TaskLost("a task"), 3, 0, Decision.RETRY),
        (TaskLost("a task"), 4, 0, Decision.GIVE_UP),
        (StageTimeout("late"), 1, 1, Decision.RETRY),
        (RunTimeout("late"), 1, 9, Decision.GIVE_UP),
        (Diverged("NaN"), 1, 9, Decision.GIVE_UP),
        (BadInput("no"), 1, 9, Decision.GIVE_UP),
        (OSError("cable"), 1, 1, Decision.RETRY),
        (TypeError("code"), 1, 9, Decision.GIVE_UP),
    ],
)
def test_each_kind_has_its_own_policy(error: Exception, failures: int, allowed: int, decision: Decision) -> None:
    assert decide(error, failures, allowed) is decision


def test_backoff_grows_to_its_cap() -> None:
    retry = Retry(max_failures=9, backoff_s=1, backoff_factor=3, max_backoff_s=20)
    assert [wait_s(retry, n) for n in (1, 2, 3, 4, 500)] == [1, 3, 9, 20, 20]


def test_losses_in_words() -> None:
    killed, starved = Loss(KILLED, "killed (signal 9)"), Loss(MEMORY, "killed by Ray as its node ran out of memory")
    assert sentence({1: killed}) == "worker 1 killed (signal 9)"
    assert sentence({0: killed, 1: killed, 3: starved}) == (
        "workers 0 and 1 killed (signal 9); worker 3 killed by Ray as its node ran out of memory"
    )
    assert worst({0: killed, 3: starved}) == MEMORY


def test_only_the_loss_of_another_worker_is_collateral() -> None:
    assert is_collateral(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"))
    assert not is_collateral(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_collateral(ValueError("connection closed by peer"))


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def saving(asked: threading.Event) -> Callable[[], None]:
    """Work that saves and stops when it is asked to."""

    def work() -> None:
        asked.wait(9)
        raise OSError

    return work


class Dying(Cluster):
    """A Ray that dies at a moment."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def died(self) -> str:
        return "Ray died (raylet ended by signal 9)" if time.monotonic() > self.at else ""


def attempt(work: object, **given: object) -> object:
    limits: dict[str, object] = {
        "stage": "train", "limit_s": None, "deadline": Deadline(None), "asked": threading.Event(),
        "cluster": Cluster(disabled=True),
    }  # fmt: skip
    return run_once(work, **{**limits, **given})  # type: ignore[arg-type]


def test_an_attempt_gives_what_the_work_gives() -> None:
    assert attempt(lambda: 7) == 7
    with pytest.raises(KeyError):
        attempt(raising(KeyError("nothing")))
    with pytest.raises(TimeoutError, match="its own"):
        attempt(raising(TimeoutError("its own")))


def test_limits_ask_first_and_then_leave_behind() -> None:
    asked = threading.Event()
    with pytest.raises(StageTimeout, match=r"stage train took longer than timeout_s = 0.2; the same command goes on"):
        attempt(saving(asked), asked=asked, limit_s=0.2)
    asked = threading.Event()
    with pytest.raises(RunTimeout, match=r"the run took longer than timeout_s = 0.2"):
        attempt(saving(asked), asked=asked, deadline=Deadline(0.2))
    asked = threading.Event()
    assert attempt(lambda: asked.wait(9), asked=asked, limit_s=0.2) is True  # it had just finished


def test_the_death_of_ray_ends_an_attempt_that_hangs() -> None:
    asked = threading.Event()
    started = time.monotonic()
    with pytest.raises(RayDied, match="raylet ended by signal 9"):
        attempt(lambda: time.sleep(30), asked=asked, cluster=Dying(started + 0.3))
    assert asked.is_set()
    assert time.monotonic() - started < 10
    with pytest.raises(RayDied):  # so Ray ends what waits for it
        attempt(raising(SystemExit(0)))

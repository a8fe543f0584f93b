"""Calls to a storage that may fail, hang and recover: every call has a deadline and is repeated while that may help.

An outage is told once, and waited for. Once it has been waited for long enough, calls are tried a single time until the
storage answers again, so that a run that gives up ends soon.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.errors import Unavailable
from orchestrator.trouble import GO_ON, Outage, Refused, disk_full, is_full, say

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
PATIENCE_S = 60.0  # how long an outage is waited for: $ORCHESTRATOR_STORAGE_PATIENCE_S
FIRST_CONTACT_S = 8.0  # for the first answer of a storage; a call that hung so long is tried once more
ATTEMPT_S = 15.0  # for one call, and more for much data
BRIEF_S = 5.0  # for one call once an outage was given up, and the patience of a run that was asked to stop
SLOWEST = 500_000  # bytes a second, below which a transfer counts as hung
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
HOPELESS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def patience_s() -> float:
    """Seconds that an outage is waited for."""
    try:
        return max(0.0, float(os.environ.get("ORCHESTRATOR_STORAGE_PATIENCE_S", PATIENCE_S)))
    except ValueError:
        return PATIENCE_S


MISTAKES = (TypeError, AttributeError, NotImplementedError, NameError)


def is_hopeless(error: Exception) -> bool:
    """Whether the same call will fail again, however long one waits."""
    kinds = (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
    return isinstance(error, kinds) or (isinstance(error, OSError) and error.errno in HOPELESS)


def twice(operation: Callable[[], T]) -> T:
    """One step of a longer operation, at once a second time where it fails: of many steps one or the other may."""
    try:
        return operation()
    except (FileNotFoundError, Unavailable, Hung, Untrue, *MISTAKES):
        raise
    except Exception as error:  # backends raise what they like
        if is_hopeless(error) or is_full(error):
            raise
    wanted()
    return operation()


class Hung(Exception):
    """A call gave no answer in time; it is left behind in its thread."""


class Untrue(Exception):
    """What the storage confirmed does not stand there: lost, cut off or altered on the way."""


class Patience:
    """The calls to one storage. Safe to share between threads; `told` gets one line when an outage begins and ends."""

    def __init__(
        self,
        place: str,
        clean: Callable[[object], str],
        told: Callable[[str], None] = say,
        stopping: Callable[[], bool] = lambda: False,
        knock: Callable[[], object] = lambda: None,
    ) -> None:
        self.place = place
        self.told, self.stopping = told, stopping
        self._clean, self._knock = clean, knock
        self._reached = False
        self._given_up: set[str] = set()  # of "read", "write"
        self._announced: set[str] = set()
        self._limit = threading.local()

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Less patience for the calls of this thread."""
        before = getattr(self._limit, "seconds", None)
        self._limit.seconds = seconds
        try:
            yield
        finally:
            self._limit.seconds = before

    def call(
        self, what: str, operation: Callable[[], T], *, size: int = 0, moved: Callable[[], int] | None = None
    ) -> T:
        """The operation's result, tried again until it answers.

        `what` is "read", "list" or a change ("write", "rename", …). `size` are the bytes to be moved; where they are
        unknown `moved` counts those that have been, and the deadline goes with them. Raises FileNotFoundError as the
        operation does, Outage when patience is over, DiskFull, and Refused for what waiting cannot mend.
        """
        kind = "read" if what in ("read", "list") else "write"
        begin, wait_s, attempts = time.monotonic(), FIRST_WAIT_S, 0
        while True:
            attempts += 1
            try:
                work = operation if attempts == 1 else self._knocking(operation)
                answer = within(self._deadline(kind, size), work, moved)
            except FileNotFoundError:
                self._answered(kind)
                raise
            except Exception as error:  # backends raise what they like
                self._judge(what, error, size)
                passed = time.monotonic() - begin
                left = self._left(kind, passed, attempts)
                if attempts == 1 and isinstance(error, Untrue):
                    left = max(left, 1.0)  # it answers: what a server took late, out of a hang, is written over
                if left <= 0:
                    if passed >= patience_s() or self.stopping():  # else only this thread was in a hurry
                        self._given_up.add(kind)
                    raise self._outage(what, error) from error
                self._announce(kind, error, attempts, left)
            else:
                self._answered(kind)
                return answer
            time.sleep(min(wait_s * random.uniform(0.5, 1.0), max(left, 0.0)))
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    def _deadline(self, kind: str, size: int) -> float:
        if not self._reached:
            base = FIRST_CONTACT_S
        elif kind in self._given_up or self.stopping() or getattr(self._limit, "seconds", None) is not None:
            base = BRIEF_S
        else:
            base = ATTEMPT_S
        return base + size / SLOWEST

    def _left(self, kind: str, passed: float, attempts: int) -> float:
        """Seconds of patience that are left after a failed attempt."""
        if kind in self._given_up:
            return 0.0
        if not self._reached:
            return max(FIRST_CONTACT_S - passed, 1.0 if attempts == 1 else 0.0)
        limits = [patience_s()]
        if (own := getattr(self._limit, "seconds", None)) is not None:
            limits.append(own)
        if self.stopping():
            limits.append(BRIEF_S)
        return min(limits) - passed

    def _knocking(self, operation: Callable[[], T]) -> Callable[[], T]:
        """The operation after some needless calls: faults at every n-th call must not meet the same step each time."""

        def knock() -> T:
            for _ in range(random.randint(0, 2)):
                with suppress(Exception):
                    self._knock()
            return operation()

        return knock

    def _judge(self, what: str, error: Exception, size: int) -> None:
        """Raises what is final."""
        if isinstance(error, Unavailable):
            raise error
        if is_full(error):
            raise disk_full(self.place, size or None) from error
        if is_hopeless(error):
            hint = f"look at its permissions and credentials; {GO_ON}"
            raise Refused(self._text(what, error), hint=hint) from error
        if isinstance(error, MISTAKES):
            raise Unavailable(self._text(what, error)) from error

    def _announce(self, kind: str, error: Exception, attempts: int, left: float) -> None:
        """One line for an outage, once it is more than a hiccup."""
        if attempts < 3 and not isinstance(error, Hung):
            return
        if kind not in self._announced:
            self._announced.add(kind)
            self.told(f"storage {self.place} does not answer ({self._why(error)}); trying again for up to {left:.0f} s")

    def _answered(self, kind: str) -> None:
        self._reached = True
        self._given_up.discard(kind)
        if kind in self._announced:
            self._announced.discard(kind)
            self.told(f"storage {self.place} answers again")

    def _outage(self, what: str, error: Exception) -> Outage:
        hung = f"storage {self.place} gave no answer within {error}"
        text = hung if isinstance(error, Hung) else self._text(what, error)
        return Outage(text, hint=f"nothing that was committed is lost; when it answers, {GO_ON}")

    def _text(self, what: str, error: Exception) -> str:
        return f"cannot {what} in storage {self.place}: {self._why(error)}"

    def _why(self, error: Exception) -> str:
        if isinstance(error, Untrue):
            return self._clean(error)
        if isinstance(error, Hung):
            return f"nothing within {error}"
        return f"{type(error).__name__}: {self._clean(error)}"


class _Call:
    """One attempt: whether somebody still waits for it, and the asynchronous tasks that it began."""

    def __init__(self) -> None:
        self.abandoned = threading.Event()
        self.tasks: list[asyncio.Task[Any]] = []

    def abandon(self) -> None:
        """What goes on ends, with its connection; what it would begin later never starts."""
        self.abandoned.set()
        for task in list(self.tasks):
            task.get_loop().call_soon_threadsafe(task.cancel)


_call: ContextVar[_Call | None] = ContextVar("call", default=None)


def wanted() -> None:
    """Raises Hung in a call that nobody waits for any longer: it must not change the storage late."""
    call = _call.get()
    if call is not None and call.abandoned.is_set():
        raise Hung("its deadline")


def cancellable(loop: asyncio.AbstractEventLoop) -> None:
    """Let this loop's tasks end with the call that began them: a library would try an abandoned request again, later."""
    import asyncio

    def task_of(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        if (call := _call.get()) is not None:  # the context comes along from the thread that made the call
            call.tasks.append(task)
            if call.abandoned.is_set():
                task.cancel()
        return task

    loop.set_task_factory(task_of)


def within(deadline_s: float, operation: Callable[[], T], moved: Callable[[], int] | None = None) -> T:
    """The operation's result; Hung when there is none within the deadline, which starts anew as `moved` grows."""
    answer: list[T] = []
    failure: list[Exception] = []
    call = _Call()

    def work() -> None:
        _call.set(call)
        try:
            answer.append(operation())
        except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True, name="storage-call")
    thread.start()
    seen = moved() if moved else 0
    thread.join(deadline_s)
    while thread.is_alive():
        if moved is None or (now := moved()) <= seen:
            call.abandon()
            raise Hung(f"{deadline_s:.0f} s")
        seen = now
        thread.join(deadline_s)
    if failure:
        raise failure[0]
    return answer[0]


__all__ = ["Hung", "Patience", "Untrue", "cancellable", "patience_s", "twice", "wanted", "within"]

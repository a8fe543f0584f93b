"""Ctrl-C, SIGTERM and a closed terminal: the first asks the run to save and stop, the second stops it now."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

GRACE_S = 22.0  # from the first signal to the forced end; the promise is 25 s

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP where nothing runs yet that would have to be saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"signal {signum}")
        self.signum = signum


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise Terminated, as Ctrl-C raises KeyboardInterrupt."""

    def received(signum: int, frame: FrameType | None) -> None:
        raise Terminated(signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, received) for signum in HEARD if signum != signal.SIGINT}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def command() -> str:
    """The command that this process was started with, for a shell; "" where it was started otherwise."""
    return shlex.join(["orchestrate", *sys.argv[1:]]) if Path(sys.argv[0]).name == "orchestrate" else ""


def goes_on() -> str:
    """How to go on, in words."""
    return f"go on with: {command()}" if command() else "the same call goes on"


class Stop:
    """A context in which signals set `signum` instead of raising. Outside of the main thread it only has `request`."""

    def __init__(self, told: Callable[[str], None], *, grace_s: float = GRACE_S) -> None:
        self.signum = 0
        self._told = told
        self._grace_s = grace_s
        self._previous: dict[int, Any] = {}
        self._timer: threading.Timer | None = None
        self._event = threading.Event()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self, signum: int) -> None:
        """What a signal does: the first sets `signum` and starts the clock, the second ends the process."""
        if self._event.is_set():
            self._leave(f"stopped at once; the storage is whole; {goes_on()}")
        self.signum = signum
        self._event.set()
        self._timer = threading.Timer(self._grace_s, self._leave, (f"not everything stopped in time; {goes_on()}",))
        self._timer.daemon = True
        self._timer.start()
        self._tell("stopping: saving a checkpoint (once more: stop at once)")

    def _tell(self, line: str) -> None:
        """From a thread: a handler interrupts whatever the main thread does, which may hold the lock that telling needs."""
        threading.Thread(target=self._told, args=(line,), daemon=True, name="stop").start()

    def _leave(self, why: str) -> None:
        self._tell(why)
        os.write(2, f"{why}\n".encode())
        os._exit(128 + self.signum)

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for signum in HEARD:
                self._previous[signum] = signal.signal(signum, self._received)
        return self

    def keep(self) -> None:
        """Take the signals back: Ray, started meanwhile by a stage, puts a handler of its own below Python's."""
        if self._previous and not self._event.is_set() and threading.current_thread() is threading.main_thread():
            for signum in self._previous:
                signal.signal(signum, self._received)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _received(self, signum: int, frame: FrameType | None) -> None:
        signal.alarm(0)  # Ray's handler, where it came first, has set one that aborts the process after 3 s
        self.request(signum)

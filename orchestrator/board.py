"""A board where Ray workers leave what happened, and where the driver reads it: progress never waits for anyone.

Workers push and forget; the answer to a push says whether to stop, and is looked at when it is there. The driver drains.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

Event = dict[str, Any]

MOST_EVENTS = 20_000  # kept until drained; beyond it the oldest progress goes first
ASK_EVERY_S = 0.25


class Board:
    """The actor's state. `verdict` is the first fatal error told, which every worker then knows."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._stop = False
        self._verdict: Event | None = None

    def push(self, event: Event | None) -> bool:
        """Leave an event (None: only ask); returns whether to stop."""
        if event is not None:
            self._events.append(event)
        return self._stop

    def drain(self) -> list[Event]:
        """Every event since the last call, in order."""
        events = list(self._events)
        self._events.clear()
        return events

    def stop(self) -> None:
        """Ask every worker to save and stop."""
        self._stop = True

    def judge(self, verdict: Event) -> Event:
        """Record what ends the work for good; the first one counts, and is returned."""
        self._verdict = self._verdict or verdict
        return self._verdict

    def verdict(self) -> Event | None:
        return self._verdict


def pin_up() -> Any:
    """A new board on the started cluster (an actor handle); it costs no CPU and ends with its handle."""
    import ray

    return ray.remote(num_cpus=0, max_restarts=0)(Board).remote()


class Pen:
    """A worker's way to write on a board (an actor handle). Never blocks, never raises: the board may be gone."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._answers: deque[Any] = deque(maxlen=8)
        self._asked = 0.0
        self._stop = False

    def write(self, event: Event | None) -> None:
        self._asked = time.monotonic()
        self._answers.append(self._board.push.remote(event))

    def stopping(self) -> bool:
        """Whether the driver asked to stop; as of the latest answer that has come in."""
        import ray

        if not self._answers and not self._stop and time.monotonic() - self._asked > ASK_EVERY_S:
            self.write(None)
        while self._answers and not self._stop:
            ready, _ = ray.wait([self._answers[0]], timeout=0)
            if not ready:
                break
            self._stop = _answer(self._answers.popleft())
        return self._stop


def _answer(reference: Any) -> bool:
    import ray

    try:
        return bool(ray.get(reference))
    except ray.exceptions.RayError:  # the driver has gone with its board: nothing to wait for
        return False


__all__ = ["Board", "Event", "Pen", "pin_up"]

"""A board where Ray workers leave what happened, and where the driver reads it: progress never waits for anyone.

Workers push and forget; the answer to a push says whether to stop, and is looked at when it is there. The driver drains.
Beside it every worker's process leaves a sign of life each second, from a thread of its own (`pulse.py`).
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

Event = dict[str, Any]

MOST_EVENTS = 20_000  # kept until drained; beyond it the oldest progress goes first
ASK_EVERY_S = 0.25
ASLEEP_S = 5.0  # without a call for so long, the board itself was stopped: then nobody else's silence means anything
CALL_TIMEOUT_S = 10.0


class Board:
    """The actor's state. `verdict` is the first fatal error told of an attempt, which every worker then knows.

    `attempt` counts the groups of workers; what is left of an earlier one is told to leave.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._stop = False
        self._verdict: Event | None = None
        self._attempt = 0
        self._lives: dict[int, dict[str, Any]] = {}  # rank -> what it told of itself last
        self._called = time.monotonic()

    def open(self, attempt: int) -> None:
        """A new group: nothing that an earlier one told counts any more."""
        self._attempt, self._verdict = attempt, None
        self._lives.clear()

    def close(self, attempt: int) -> None:
        """The group of this attempt must leave at once."""
        self._attempt = max(self._attempt, attempt + 1)

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

    # --- signs of life -------------------------------------------------------------------------------------------

    def beat(self, attempt: int, life: dict[str, Any]) -> str:
        """A worker lives: {"rank", "pid", "born", "machine", "node", "moves", "done"}.

        Returns "leave" where its attempt is over.
        """
        now = self._now()
        if attempt < self._attempt:
            return "leave"
        self._attempt = attempt  # after the board itself was started again
        known = self._lives.get(life["rank"])
        moved = now if known is None or known["moves"] != life["moves"] else known["moved"]
        self._lives[life["rank"]] = {**life, "beat": now, "moved": moved}
        return ""

    def lives(self) -> dict[int, dict[str, Any]]:
        """Of every worker what it told last, how long it is silent, and how long its work stands still (seconds)."""
        now = self._now()
        return {
            rank: {**life, "silent_s": now - life["beat"], "still_s": now - life["moved"]}
            for rank, life in self._lives.items()
        }

    def _now(self) -> float:
        now = time.monotonic()
        if now - self._called > ASLEEP_S:
            for life in self._lives.values():
                life["beat"] = life["moved"] = now
        self._called = now
        return now


def pin_up() -> Any:
    """A new board (an actor handle) on the driver's own node; it costs no CPU, comes back when killed, ends with its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Board)
    return actor.options(scheduling_strategy=here).remote()


def ask(method: Any, *arguments: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
    """What the board answers; None where it is gone, or does not answer in time."""
    import ray

    try:
        return ray.get(method.remote(*arguments), timeout=timeout_s)
    except (
        ray.exceptions.RayActorError,
        ray.exceptions.GetTimeoutError,
        ray.exceptions.ObjectLostError,
        ConnectionError,
    ):
        return None


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
    except ray.exceptions.RayError:  # the driver has gone with its board, or the board comes back: nothing to wait for
        return False


__all__ = ["Board", "Event", "Pen", "ask", "pin_up"]

"""A worker's sign of life: a thread that tells the board each second that this process runs, and whether its work moves.

A process that was stopped, or that hangs with Python's lock held, falls silent; one whose work waits for ever does not move.
A worker of an attempt that is over leaves at once: two groups never train at the same time.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.board import ask

BEAT_EVERY_S = 1.0


class Pulse:
    """The sign of life of this process, as worker `rank` of an attempt. `moves` grows whenever its work gets on."""

    def __init__(self, board: Any, attempt: int, rank: int) -> None:
        import ray

        self.moves = 0
        self.done = False
        self._board, self._attempt = board, attempt
        self._end = threading.Event()
        node = ray.get_runtime_context().get_node_id()
        self._life = {"rank": rank, "pid": os.getpid(), "born": born(os.getpid()), "machine": machine(), "node": node}
        threading.Thread(target=self._beat, daemon=True, name="pulse").start()

    def stop(self) -> None:
        self._end.set()

    def _now(self) -> dict[str, Any]:
        return {**self._life, "moves": self.moves, "done": self.done}

    def _beat(self) -> None:
        while not self._end.is_set():
            if ask(self._board.beat, self._attempt, self._now()) == "leave":
                os._exit(1)
            self._end.wait(BEAT_EVERY_S)


_pulses: list[Pulse] = []  # of this process: the newest counts


def begin(board: Any, attempt: int, rank: int) -> None:
    """Start this process's pulse."""
    for old in _pulses:
        old.stop()
    _pulses[:] = [Pulse(board, attempt, rank)]


def move() -> None:
    """The work of this process got on."""
    for pulse in _pulses:
        pulse.moves += 1


def end() -> None:
    """The work of this process is done: it stands still with good reason."""
    for pulse in _pulses:
        pulse.done = True


@lru_cache(maxsize=1)
def machine() -> str:
    """What processes share that see each other's ids: one boot of one machine, one namespace of process ids."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux: then nobody is known to be on the same machine
        return f"unknown-{os.getpid()}"


def born(pid: int) -> int:
    """When a process began, in the kernel's clock ticks: with its id, it names it for good. 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


__all__ = ["begin", "born", "end", "machine", "move"]

"""What befell a worker that is gone: as near to the truth as can be known, and no word beyond it.

Ray says that an actor died, seldom why. The kernel keeps how a process ended for whoever holds a handle on it (a pidfd, Linux
6.15); for the rest there are the verdicts of Ray's memory monitor and of its nodes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import pulse
from orchestrator.cluster import node_lives

MEMORY, NODE, PREEMPTED, HUNG, KILLED, LEFT, UNKNOWN = (
    "memory",
    "node",
    "preempted",
    "hung",
    "killed",
    "left",
    "unknown",
)
PIDFD_INFO_EXIT = 1 << 3
PIDFD_INFO_SIZE = 64
PIDFD_GET_INFO = (3 << 30) | (PIDFD_INFO_SIZE << 16) | (0xFF << 8) | 11
EXIT_CODE_AT = 60  # bytes into struct pidfd_info


@dataclass(frozen=True)
class Loss:
    """One worker's end: `kind` decides what follows, `what` goes on after "worker 1 "."""

    kind: str
    what: str


class Witness:
    """Holds a handle on every worker of this machine, so that the kernel tells how it ended."""

    def __init__(self) -> None:
        self._handles: dict[int, int] = {}
        self._lives: dict[int, dict[str, Any]] = {}
        self._starved = starved()

    def see(self, lives: Mapping[int, dict[str, Any]]) -> None:
        """Take note of the workers as they tell of themselves (`Board.lives`)."""
        for rank, life in lives.items():
            known = self._lives.get(rank)
            self._lives[rank] = life
            if known is not None and known["pid"] == life["pid"]:
                continue
            if (old := self._handles.pop(rank, None)) is not None:
                os.close(old)
            if life["machine"] == pulse.machine() and life["born"] and pulse.born(life["pid"]) == life["born"]:
                with contextlib.suppress(OSError, AttributeError):  # gone already, or not Linux
                    self._handles[rank] = os.pidfd_open(life["pid"])

    def ended(self, rank: int) -> int | None:
        """How a worker's process ended, as `waitpid` tells it; None where that is not known."""
        handle = self._handles.get(rank)
        if handle is None:
            return None
        info = bytearray(PIDFD_INFO_SIZE)
        struct.pack_into("Q", info, 0, PIDFD_INFO_EXIT)
        try:
            fcntl.ioctl(handle, PIDFD_GET_INFO, info)
        except OSError:  # an older kernel
            return None
        told = struct.unpack_from("Q", info, 0)[0] & PIDFD_INFO_EXIT
        return int(struct.unpack_from("i", info, EXIT_CODE_AT)[0]) if told else None

    def gone(self, rank: int) -> bool:
        """Whether a worker's process is known to have ended."""
        handle = self._handles.get(rank)
        if handle is None:
            return False
        watch = select.poll()
        watch.register(handle, select.POLLIN)  # readable from the process's end on
        return bool(watch.poll(0))

    def kill(self, rank: int) -> bool:
        """SIGKILL a worker of this machine; False where it is not of this machine."""
        handle = self._handles.get(rank)
        if handle is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        return True

    def without_node(self) -> dict[int, Loss]:
        """The workers whose nodes are gone."""
        nodes = {life["node"]: node_gone(life["node"]) for life in self._lives.values()}
        return {rank: Loss(NODE, "lost its node") for rank, life in self._lives.items() if nodes[life["node"]]}

    def where(self, rank: int) -> dict[str, Any]:
        """What a worker told of itself last."""
        return self._lives.get(rank, {})

    def first_silent(self, ahead_s: float) -> int | None:
        """The worker that fell silent before all others by so much; None where there is no such."""
        silent = sorted(((life["silent_s"], rank) for rank, life in self._lives.items()), reverse=True)
        if len(silent) < 2 or silent[0][0] - silent[1][0] < ahead_s:
            return None
        return silent[0][1]

    def judge(self, rank: int, error: BaseException | None) -> Loss:
        """What befell a worker whose end Ray told as `error`."""
        loss = told_by_ray(error) if error is not None else Loss(UNKNOWN, "was lost")
        status = self.ended(rank)
        if loss.kind not in (KILLED, UNKNOWN) or status is None:
            return loss
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGKILL and starved() > self._starved:
                return Loss(MEMORY, "killed as the machine ran out of memory (signal 9)")
            return Loss(KILLED, _by_signal(number))
        return Loss(LEFT, f"ended by itself (exit code {os.WEXITSTATUS(status)})")

    def close(self) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _by_signal(number: int) -> str:
    if number == signal.SIGKILL:
        return "killed (signal 9)"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = ""
    return f"killed (signal {number}{', ' * bool(name)}{name})"


def told_by_ray(error: BaseException) -> Loss:
    """What Ray knows of a worker's end."""
    import ray

    cause = getattr(error, "health_check_failure", None) or error
    text = f"{error}".lower()
    if getattr(cause, "preempted", False):
        return Loss(PREEMPTED, "lost its node, which was preempted")
    if "receives a sigterm" in text:
        return Loss(PREEMPTED, "was told to leave (signal 15)")
    guessed = "potential root causes" in text  # a list of guesses is no verdict
    starving = "running low on memory" in text or "out of memory" in text
    if isinstance(cause, ray.exceptions.OutOfMemoryError) or (starving and not guessed):
        return Loss(MEMORY, "killed by Ray as its node ran out of memory")
    if any(sign in text for sign in ("node has died", "node died", "node is dead", "node was dead", "node failure")):
        return Loss(NODE, "lost its node")
    if isinstance(cause, ray.exceptions.RayActorError) or "died unexpectedly" in text:
        return Loss(KILLED, "died (how is not known)")
    lines = f"{error}".strip().splitlines()
    return Loss(UNKNOWN, f"was lost: {lines[-1].strip()[:200]}" if lines else f"was lost: {type(error).__name__}")


def node_gone(node: str) -> bool:
    """Whether a node is known to be gone: its cluster's head says so, or nothing listens any more where its Ray was."""
    import ray

    try:
        found = next((one for one in ray.nodes() if one["NodeID"] == node), None)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError):  # the head is gone too: that is told otherwise
        return False
    return found is not None and not node_lives(found)


def died_as_actor(error: BaseException | None) -> bool:
    """Whether Ray tells of the end of an actor that had begun."""
    import ray

    return isinstance(error, ray.exceptions.RayActorError) and not error.actor_init_failed


def starved() -> int:
    """How often this machine's kernel has killed for want of memory."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def sentence(lost: Mapping[int, Loss]) -> str:
    """Who was lost and how, as one clause: `worker 1 killed (signal 9)`."""
    by_what: dict[str, list[int]] = {}
    for rank, loss in sorted(lost.items()):
        by_what.setdefault(loss.what, []).append(rank)
    parts = [f"{_workers(ranks)} {_plural(what, len(ranks))}" for what, ranks in by_what.items()]
    return "; ".join(parts) or "a worker was lost (which one is not known)"


def _workers(ranks: Sequence[int]) -> str:
    numbers = ", ".join(str(rank) for rank in ranks[:-1])
    return f"workers {numbers} and {ranks[-1]}" if numbers else f"worker {ranks[-1]}"


def _plural(what: str, count: int) -> str:
    return what if count == 1 else what.replace("was ", "were ").replace("its node", "their nodes")


def worst(lost: Mapping[int, Loss]) -> str:
    """The kind that decides: memory before all others, since a smaller microbatch may help."""
    kinds = {loss.kind for loss in lost.values()}
    order = (MEMORY, NODE, PREEMPTED, HUNG, KILLED, LEFT)
    return next((kind for kind in order if kind in kinds), UNKNOWN)


COLLATERAL: Sequence[str] = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")


def is_collateral(error: BaseException) -> bool:
    """Whether an exception only says that another worker is gone."""
    text = f"{type(error).__name__} {error}".lower()
    return (isinstance(error, RuntimeError) or "runtimeerror" in text or "distbackenderror" in text) and any(
        sign in text for sign in COLLATERAL
    )


__all__ = [
    "Loss",
    "Witness",
    "died_as_actor",
    "is_collateral",
    "node_gone",
    "sentence",
    "starved",
    "told_by_ray",
    "worst",
]

"""A group of Ray Train workers that runs one function to its end, and starts again when a worker dies.

Ray restarts a group for any exception of a worker. Only the loss of a worker deserves that: every other end is recorded on
the board as a verdict, the group ends quietly, and the driver raises it. Ray's own checkpoints are not used: the function
finds its own state in the store.
"""

from __future__ import annotations

import secrets
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.board import Event, Pen, pin_up
from orchestrator.errors import StageFailed, Unavailable
from orchestrator.stage import Scale

COLLECTIVE_TIMEOUT_S = 300  # a worker that waits longer for the others gives up
STOP_WITHIN_S = 18.0  # after being asked to stop; the whole run has 25 s
DRAIN_EVERY_S = 0.1
PATIENCE_S = 3.0  # for another worker's verdict, when the connection to it broke
GPUS_KEPT_APART = 1.0  # below it workers share a GPU, which NCCL refuses


class Ended(Exception):
    """Raised by a function to end the work for good: `kind` tells the driver what happened, `facts` (JSON) the rest."""

    def __init__(self, kind: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.kind, self.facts = kind, facts


@dataclass(frozen=True)
class Seat:
    """A worker's place: its rank among `size`, its device, and how it talks with the driver."""

    rank: int
    size: int
    device: str
    threads: int
    tell: Callable[[Event], None]
    stopping: Callable[[], bool]


Function = Callable[[Any, Seat], Any]


def run_here(function: Function, payload: Any, *, hear: Callable[[Event], None], stopping: Callable[[], bool]) -> Any:
    """The same without Ray, in this process. Raises `Ended` and whatever else the function raises."""
    return function(payload, Seat(0, 1, "cpu", 1, hear, stopping))


def run_group(
    function: Function,
    payload: Any,
    *,
    scale: Scale,
    scratch: Path,
    max_failures: int,
    hear: Callable[[Event], None],
    stopping: Callable[[], bool],
) -> Any:
    """Run `function(payload, seat)` on every worker; returns worker 0's (small) result. Ray must have been started.

    `hear` gets every event that a worker tells, and {"event": "lost", "ranks": {rank: reason}} when workers die. Raises
    Ended as the function raised it, StageFailed for its other exceptions and for too many deaths, Unavailable where the
    group cannot be started.
    """
    board = pin_up()
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = _trainer(function, payload, board, scale, scratch, max_failures).fit().return_value
        except BaseException as error:  # noqa: BLE001 - explained and raised by the caller
            outcome["error"] = error

    thread = threading.Thread(target=fit, daemon=True, name="ray-train")  # a signal must find the main thread free
    thread.start()
    stopped = _attend(thread, board, hear, stopping)
    verdict = _ask(board.verdict)
    if verdict is not None:
        raise _raised(verdict)
    if stopped and thread.is_alive():
        raise Ended("stopped", f"the workers did not save within {STOP_WITHIN_S:g} s of being asked", step=None)
    if "error" in outcome:
        raise _failure(outcome["error"], max_failures) from outcome["error"]
    return outcome["result"]["result"]


def _attend(thread: threading.Thread, board: Any, hear: Callable[[Event], None], stopping: Callable[[], bool]) -> bool:
    """Pass events on until the thread ends; returns whether a stop was asked for."""
    asked: float | None = None
    while thread.is_alive():
        thread.join(DRAIN_EVERY_S)
        for event in _ask(board.drain) or ():
            hear(event)
        if asked is None and stopping():
            asked = time.monotonic()
            board.stop.remote()
        if asked is not None and time.monotonic() - asked > STOP_WITHIN_S:
            break
    for event in _ask(board.drain) or ():
        hear(event)
    return asked is not None


def _ask(method: Any) -> Any:
    """What the board answers; None where it is gone."""
    import ray

    try:
        return ray.get(method.remote(), timeout=10)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return None


def _raised(verdict: Event) -> Exception:
    if verdict["kind"] != "error":
        return Ended(verdict["kind"], verdict["message"], **verdict["facts"])
    failure = StageFailed(f"{verdict['type']}: {verdict['message']}" if verdict["message"] else verdict["type"])
    failure.add_note(f"on worker {verdict['rank']}:\n{verdict['trace']}")
    return failure


def _failure(error: BaseException, max_failures: int) -> Exception:
    """What the user is told of an exception of `fit`."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        who = ", ".join(str(rank) for rank in sorted(failures))
        return StageFailed(
            f"worker {who} died, and {max_failures} restart{'s' * (max_failures != 1)} did not help: "
            f"{reason(next(iter(failures.values())))}",
            hint="raise retry.max_failures, or give the workers more memory",
        )
    return Unavailable(
        f"the workers could not be started: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"
    )


def reason(error: BaseException) -> str:
    """Why a worker was lost, in a few words."""
    import ray

    text = str(error)
    lower = text.lower()
    if getattr(error, "preempted", False):
        return "its node was preempted"
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "outofmemory" in lower:
        return "its node ran out of memory"
    if "node has died" in lower or "node died" in lower or "node is dead" in lower:
        return "its node died"
    if isinstance(error, ray.exceptions.RayActorError) or "died unexpectedly" in lower:
        return "its process was killed"
    return text.strip().splitlines()[-1][:200] if text.strip() else type(error).__name__


def _trainer(function: Function, payload: Any, board: Any, scale: Scale, scratch: Path, max_failures: int) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    gpus = scale.gpus_per_worker
    resources = {"CPU": scale.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
    return TorchTrainer(
        _work,
        train_loop_config={
            "function": function,
            "payload": payload,
            "board": board,
            "threads": max(1, int(scale.cpus_per_worker)),
            "gpu": bool(gpus),
        },
        torch_config=TorchConfig(backend="nccl" if gpus >= GPUS_KEPT_APART else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(num_workers=scale.num_workers, use_gpu=bool(gpus), resources_per_worker=resources),
        run_config=RunConfig(
            name=f"group-{secrets.token_hex(6)}",  # a known name would resume Ray's own idea of a run
            storage_path=str(scratch.absolute()),
            failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=3),
            callbacks=[_mourner(board)],
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )


def _mourner(board: Any) -> Any:
    """A callback in Ray's controller that tells of lost workers."""
    from ray.train.v2.api.callback import UserCallback

    class Mourner(UserCallback):  # type: ignore[misc]
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            lost = {rank: reason(error) for rank, error in worker_exceptions.items() if not is_collateral(error)}
            ranks = lost or {rank: reason(error) for rank, error in worker_exceptions.items()}
            board.push.remote({"event": "lost", "ranks": ranks})

    return Mourner()


# --- in a worker --------------------------------------------------------------------------------------------------------


def _work(config: dict[str, Any]) -> dict[str, Any] | None:
    import ray
    import torch
    from ray import train

    context = train.get_context()
    board = config["board"]
    if _ask(board.verdict) is not None:  # a restarted group whose end another worker already told
        return None
    torch.set_num_threads(config["threads"])
    device = str(train.torch.get_device()) if config["gpu"] else "cpu"
    pen = Pen(board)
    rank = context.get_world_rank()
    seat = Seat(rank, context.get_world_size(), device, config["threads"], pen.write, pen.stopping)
    try:
        return {"result": config["function"](config["payload"], seat)}
    except Exception as error:
        if is_collateral(error) and not _told(board):
            raise
        ray.get(board.judge.remote(_verdict(error, rank)))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # the others must not wait for this worker
        return None


def _told(board: Any) -> bool:
    """Whether another worker tells why it left, shortly."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if _ask(board.verdict) is not None:
            return True
        time.sleep(0.1)
    return False


def _verdict(error: Exception, rank: int) -> Event:
    if isinstance(error, Ended):
        return {"kind": error.kind, "message": str(error), "facts": error.facts}
    trace = "".join(traceback.format_exception(error))
    return {"kind": "error", "type": type(error).__name__, "message": str(error), "trace": trace, "rank": rank}


COLLATERAL: Sequence[str] = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")


def is_collateral(error: BaseException) -> bool:
    """Whether an exception only says that another worker is gone."""
    text = f"{type(error).__name__} {error}".lower()
    return (isinstance(error, RuntimeError) or "runtimeerror" in text or "distbackenderror" in text) and any(
        sign in text for sign in COLLATERAL
    )


__all__ = ["Ended", "Seat", "reason", "run_group", "run_here"]

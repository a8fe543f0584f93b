"""A group of Ray Train workers that runs one function to its end, and starts again when a worker is lost.

Only the loss of a worker starts a group again, and the driver decides it (`failures.Restarts`): every attempt is a Ray Train
run of its own, under a fresh name and without Ray's restarts or checkpoints, since the function finds its own state in the
store. Every other end is recorded on the board as a verdict, the group ends quietly, and the driver raises it.

A worker that falls silent (stopped, or hung with its process alive) is killed and counts as lost.
"""

from __future__ import annotations

import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator import losses, pulse
from orchestrator.board import Event, Pen, ask, pin_up
from orchestrator.cluster import Cluster, RayDied
from orchestrator.errors import BadInput, IntegrityError, OrchestratorError, StageFailed, Unavailable
from orchestrator.failures import Restarts
from orchestrator.losses import Loss, Witness, died_as_actor, is_collateral
from orchestrator.stage import Scale
from orchestrator.trouble import DiskFull, Outage, Refused

COLLECTIVE_TIMEOUT_S = 300  # a worker that waits longer for the others gives up
UNBEGUN_S = 2.0  # to stop workers that have not met yet: there is nothing to save
STOP_WITHIN_S = 18.0  # after being asked to stop; the whole run has 25 s
DRAIN_EVERY_S = 0.1
WATCH_EVERY_S = 1.0
SILENT_S = 20.0  # without a sign of life
STALLED_S = 1800.0  # alive, but its work does not move: it may be storing something large, so this is long
BEGUN = 10  # moves after which work is no longer starting (reading its data)
START_WITHIN_S = 150.0  # from Ray Train's start to the first sign of life of every worker
BURY_WITHIN_S = 60.0  # from killing a silent worker to the end of its group
PATIENCE_S = 3.0  # for another worker's verdict, when the connection to it broke
GPUS_KEPT_APART = 1.0  # below it workers share a GPU, which NCCL refuses


class Ended(Exception):
    """Raised by a function to end the work for good: `kind` tells the driver what happened, `facts` (JSON) the rest."""

    def __init__(self, kind: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.kind, self.facts = kind, facts


class Lost(Exception):
    """An attempt lost workers, or could not start."""

    def __init__(self, lost: dict[int, Loss], why: str = "") -> None:
        super().__init__(why or losses.sentence(lost))
        self.kind = losses.worst(lost) if lost else losses.UNKNOWN


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
    cluster: Cluster,
    scale: Scale,
    scratch: Path,
    max_failures: int,
    hear: Callable[[Event], None],
    stopping: Callable[[], bool],
    committed: Callable[[], int] = lambda: 0,
) -> Any:
    """Run `function(payload, seat)` on every worker; returns worker 0's (small) result. Ray must have been started.

    `committed` tells the newest saved step: a loss after progress is forgiven, `max_failures` in a row without it are too
    many. `hear` gets every event that a worker tells, and {"event": "lost", "line": "worker 1 killed (signal 9)"} before
    the group starts again. Raises Ended as the function raised it (kind "memory" where a worker was killed for want of
    it), StageFailed for its other exceptions and for too many losses, Unavailable where the group cannot be started or
    the cluster does not get its nodes back, RayDied where Ray itself is gone.
    """
    board = pin_up()
    restarts = Restarts(max_failures, committed())
    number = 0
    while True:
        attempt = Attempt(number, function, payload, board, cluster, scale, scratch, hear, stopping)
        try:
            return attempt.run()
        except Lost as lost:
            if lost.kind == losses.MEMORY:
                raise Ended(losses.MEMORY, str(lost), step=committed()) from lost
            if stopping():
                raise Ended("stopped", f"{lost} while saving", step=committed()) from lost
            wait_s = restarts.another(committed())
            if wait_s is None:
                raise _too_often(lost, restarts) from lost
            hear({"event": "lost", "line": str(lost)})
            _pause(wait_s, stopping)
            cluster.wait_for(scale, lambda line: hear({"event": "say", "line": line}), stopping)
        number += 1


def _pause(seconds: float, stopping: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stopping():
        time.sleep(DRAIN_EVERY_S)


def _too_often(lost: Lost, restarts: Restarts) -> Exception:
    tries = f"{restarts.limit} restart{'s' * (restarts.limit != 1)} without progress did not help"
    if lost.kind in (losses.NODE, losses.PREEMPTED, losses.UNKNOWN):
        return Unavailable(f"{lost}; {tries}", hint="the same command goes on from the last checkpoint")
    return StageFailed(f"{lost}; {tries}", hint="raise retry.max_failures, or give the workers more memory")


@dataclass
class Attempt:
    """One group, from its start to its end."""

    number: int
    function: Function
    payload: Any
    board: Any
    cluster: Cluster
    scale: Scale
    scratch: Path
    hear: Callable[[Event], None]
    stopping: Callable[[], bool]
    _outcome: dict[str, Any] = field(default_factory=dict)
    _silenced: dict[int, Loss] = field(default_factory=dict)
    _asked: float | None = None  # when it was asked to stop
    _killed: float | None = None  # when a silent worker was killed
    _complete: bool = False  # whether every worker has shown a sign of life

    def run(self) -> Any:
        """Worker 0's result. Raises as `run_group` says, Lost where workers were lost."""
        ask(self.board.open, self.number)
        thread = threading.Thread(
            target=self._fit, daemon=True, name="ray-train"
        )  # a signal finds the main thread free
        with Witness() as witness:
            thread.start()
            try:
                self._attend(thread, witness)
                return self._conclude(thread, witness)
            finally:
                self._clear(witness)

    def _fit(self) -> None:
        generation = self.cluster.generation
        try:
            trainer = self._trainer()  # imports much, which takes its time
            if (why := self.cluster.died()) or self.cluster.generation != generation:
                raise RayDied(why or "Ray died while the workers were to start")
            self._outcome["result"] = trainer.fit().return_value
        except BaseException as error:  # noqa: BLE001 - explained by `_conclude`
            self._outcome["error"] = error

    # --- while it runs -------------------------------------------------------------------------------------------

    def _attend(self, thread: threading.Thread, witness: Witness) -> None:
        """Pass events on and watch over the workers until the thread ends, or nothing can be expected of it."""
        started = watched = time.monotonic()
        while thread.is_alive():
            thread.join(DRAIN_EVERY_S)
            now = time.monotonic()
            self._drain()
            if why := self.cluster.died():
                raise RayDied(why)
            if self.stopping():
                self._asked = self._asked or now
            if self._asked is not None and now - self._asked > (STOP_WITHIN_S if self._complete else UNBEGUN_S):
                return
            if now - watched > WATCH_EVERY_S:
                watched = now
                self._watch(witness, now - started)
        self._drain()

    def _drain(self) -> None:
        for event in ask(self.board.drain) or ():
            self.hear(event)

    def _watch(self, witness: Witness, age_s: float) -> None:
        if self._asked is not None:
            self.board.stop.remote()  # again and again: the board may have been started anew
        lives = ask(self.board.lives) or {}
        witness.see(lives)
        self._complete = self._complete or len(lives) == self.scale.num_workers
        if not self._complete and age_s > START_WITHIN_S:
            raise RayDied(f"the workers did not start within {START_WITHIN_S:.0f} s")
        if self._killed is not None:
            if time.monotonic() - self._killed > BURY_WITHIN_S:
                raise RayDied("a silent worker could not be removed")
            return
        for rank, life in lives.items():
            if witness.gone(rank):  # it died, or was ended with the others: Ray is about to tell
                if life["silent_s"] > SILENT_S + BURY_WITHIN_S:
                    raise RayDied("Ray does not tell of the end of a worker")
            elif life["silent_s"] > SILENT_S and not self.cluster.local and losses.node_gone(life["node"]):
                self._silenced[rank] = Loss(losses.NODE, "lost its node")
            elif life["silent_s"] > SILENT_S:
                what = f"did not answer for {life['silent_s']:.0f} s (stopped or hung), killed"
                self._silenced[rank] = Loss(losses.HUNG, what)
            elif (
                not life["done"]
                and life["moves"] >= BEGUN
                and all(one["still_s"] > STALLED_S for one in lives.values())
            ):
                what = f"made no step for {life['still_s']:.0f} s, killed"
                self._silenced[rank] = Loss(losses.HUNG, what)
        for rank in self._silenced:
            self._kill(rank, lives[rank], witness)

    def _kill(self, rank: int, life: dict[str, Any], witness: Witness) -> None:
        """End a silent worker where it is; the others leave when they next tell the board that they live."""
        self._killed = time.monotonic()
        if not witness.kill(rank):
            _kill_on(life["node"], life["pid"], life["born"])

    # --- when it is over -----------------------------------------------------------------------------------------

    def _conclude(self, thread: threading.Thread, witness: Witness) -> Any:
        result = self._outcome.get("result")
        if result is not None and "result" in result:
            return result["result"]
        verdict = (result or {}).get("verdict") or ask(self.board.verdict)
        if verdict is not None:
            raise _raised(verdict)
        if thread.is_alive():
            raise Ended("stopped", "the workers did not save in time after being asked", step=None)
        if why := self.cluster.died():
            raise RayDied(why)
        raise self._lost(self._outcome.get("error"), witness)

    def _lost(self, error: BaseException | None, witness: Witness) -> Exception:
        """What an exception of `fit` means."""
        failures: dict[int, BaseException] = getattr(error, "worker_failures", None) or {}
        if gone := {} if self.cluster.local else witness.without_node():
            return Lost(gone)  # whatever else was lost was lost by it
        if not failures:
            if self._silenced:
                return Lost(self._silenced)
            if died_as_actor(error):
                return Lost({}, "Ray's controller of the workers died")
            lines = f"{error}".strip().splitlines()
            return Lost({}, f"the workers could not be started: {lines[-1].strip()[:300] if lines else repr(error)}")
        culprits = [rank for rank, one in failures.items() if not is_collateral(one)]
        if not culprits and (first := witness.first_silent(PATIENCE_S / 2)) is not None:
            culprits = [first]
        if not culprits and any("timed out" in f"{one}".lower() for one in failures.values()):
            return Lost({}, f"the workers waited {COLLECTIVE_TIMEOUT_S} s for each other in vain")
        lost = {rank: witness.judge(rank, failures.get(rank)) for rank in culprits}
        return Lost({**lost, **self._silenced})

    def _clear(self, witness: Witness) -> None:
        """No worker of this attempt may outlive it: the next one writes to the same place."""
        self.board.close.remote(self.number)
        for rank in range(self.scale.num_workers):
            if witness.where(rank):
                witness.kill(rank)

    def _trainer(self) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api import data_parallel_trainer
        from ray.train.v2.api.config import LoggingConfig

        data_parallel_trainer.ObjectRefWrapper = Held
        scale, gpus = self.scale, self.scale.gpus_per_worker
        resources = {"CPU": scale.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
        return TorchTrainer(
            _work,
            train_loop_config={
                "function": self.function,
                "payload": self.payload,
                "board": self.board,
                "threads": max(1, int(scale.cpus_per_worker)),
                "gpu": bool(gpus),
            },
            torch_config=_gathered("nccl" if gpus >= GPUS_KEPT_APART else "gloo", self.board, self.number),
            scaling_config=ScalingConfig(
                num_workers=scale.num_workers, use_gpu=bool(gpus), resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=f"group-{secrets.token_hex(6)}",  # a known name would resume Ray's own idea of a run
                storage_path=str(self.scratch.absolute()),
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0),
                logging_config=LoggingConfig(log_level="CRITICAL"),
            ),
        )


_KNOWN: dict[str, type[OrchestratorError]] = {
    kind.__name__: kind for kind in (BadInput, IntegrityError, StageFailed, Unavailable, DiskFull, Outage, Refused)
}


def _raised(verdict: Event) -> Exception:
    if verdict["kind"] == "known":
        return _KNOWN[verdict["type"]](verdict["message"], hint=verdict["hint"])
    if verdict["kind"] != "error":
        return Ended(verdict["kind"], verdict["message"], **verdict["facts"])
    failure = StageFailed(f"{verdict['type']}: {verdict['message']}" if verdict["message"] else verdict["type"])
    failure.add_note(f"on worker {verdict['rank']}:\n{verdict['trace']}")
    return failure


def _gathered(backend: str, board: Any, attempt: int) -> Any:
    """Torch's process group, whose workers show signs of life from before they meet."""
    from ray.train.torch import TorchConfig

    parent = TorchConfig().backend_cls

    class Introduced(parent):  # type: ignore[misc, valid-type]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(_introduce, board, attempt)
            super().on_start(worker_group, backend_config)

    class Gathered(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> Any:
            return Introduced

    return Gathered(backend=backend, timeout_s=COLLECTIVE_TIMEOUT_S)


class Held:
    """Carries the workers' function as it is, not as an object in Ray's store.

    When a node dies, Ray looks for what its driver had put there, and where that was the driver's own node it ends the
    whole process, without a word.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def get(self) -> Callable[..., Any]:
        return self._function


def _kill_on(node: str, pid: int, born: int) -> None:
    """SIGKILL a process on another node, if it is still the one that is meant. Nobody waits for it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def kill() -> None:
        import os
        import signal

        if pulse.born(pid) == born:
            os.kill(pid, signal.SIGKILL)

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(num_cpus=0, max_retries=0)(kill).options(scheduling_strategy=there).remote()


# --- in a worker --------------------------------------------------------------------------------------------------------


def _introduce(board: Any, attempt: int) -> None:
    from ray import train

    pulse.begin(board, attempt, train.get_context().get_world_rank())


def _work(config: dict[str, Any]) -> dict[str, Any] | None:
    import ray
    import torch
    from ray import train

    context = train.get_context()
    board = config["board"]
    torch.set_num_threads(config["threads"])
    device = str(train.torch.get_device()) if config["gpu"] else "cpu"
    pen = Pen(board)
    rank = context.get_world_rank()

    def tell(event: Event) -> None:
        pulse.move()
        pen.write(event)

    def stopping() -> bool:
        pulse.move()
        return pen.stopping()

    seat = Seat(rank, context.get_world_size(), device, config["threads"], tell, stopping)
    try:
        return {"result": config["function"](config["payload"], seat)}
    except Exception as error:
        told = _told(board) if is_collateral(error) else None
        if is_collateral(error) and told is None:
            raise
        verdict = told or ray.get(board.judge.remote(_verdict(error, rank)))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # the others must not wait for this worker
        return {"verdict": verdict}
    finally:
        pulse.end()


def _told(board: Any) -> Event | None:
    """Why another worker left, if it tells it shortly."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if (verdict := ask(board.verdict)) is not None:
            return dict(verdict)
        time.sleep(0.1)
    return None


def _verdict(error: Exception, rank: int) -> Event:
    if isinstance(error, Ended):
        return {"kind": error.kind, "message": str(error), "facts": error.facts}
    known = next((one.__name__ for one in type(error).__mro__ if one.__name__ in _KNOWN), None)
    if isinstance(error, OrchestratorError) and known:
        return {"kind": "known", "type": known, "message": error.args[0], "hint": error.hint}
    trace = "".join(traceback.format_exception(error))
    return {"kind": "error", "type": type(error).__name__, "message": str(error), "trace": trace, "rank": rank}


__all__ = ["Ended", "Seat", "run_group", "run_here"]

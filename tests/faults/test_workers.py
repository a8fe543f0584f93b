"""Workers that are killed, stopped or starved, on real Ray: who it was and what it was is told, and the work goes on."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from orchestrator import workers
from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.cluster import Cluster
from orchestrator.errors import StageFailed
from orchestrator.stage import Scale
from orchestrator.stages.train import OutOfMemory, Train, _out_of_memory
from orchestrator.workers import Ended, Seat, run_group
from tests import stand
from tests.faults.command import SPEC, Command
from trainers.step import Game

TWO = Scale(num_workers=2)


def count(payload: dict[str, Any], seat: Seat) -> int:
    """Count to `total` together, one number a moment, saved as it goes: a training in small."""
    import ray

    checkpoints: StoredCheckpoints = payload["checkpoints"]
    found = checkpoints.latest()
    step = found[0] if found else 0
    node = ray.get_runtime_context().get_node_id()
    seat.tell({"event": "start", "rank": seat.rank, "pid": os.getpid(), "node": node, "step": step})
    while step < payload["total"] and not seat.stopping():
        together = torch.ones(1)
        torch.distributed.all_reduce(together)
        assert int(together) == seat.size
        step += 1
        if seat.rank == 0:
            checkpoints.save(step, {"step": str(step).encode()})
            seat.tell({"event": "step", "step": step})
        time.sleep(0.05)
    return step


class Ear:
    """Hears a group; does once, from a step on, what it is told to do with the worker of a rank."""

    def __init__(self, *deeds: tuple[int, Any]) -> None:
        self.deeds = list(deeds)
        self.pids: dict[int, int] = {}
        self.lines: list[str] = []
        self.starts: list[int] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "start":
            self.pids[event["rank"]] = event["pid"]
            if event["rank"] == 0:
                self.starts.append(event["step"])
        elif event["event"] == "lost":
            self.lines.append(event["line"])
            self.pids.clear()
        elif event["event"] == "step" and self.deeds and event["step"] >= self.deeds[0][0] and len(self.pids) == 2:
            self.deeds.pop(0)[1](self)


def hit(rank: int, number: int) -> Any:
    return lambda ear: os.kill(ear.pids[rank], number)


def kill_the_board(ear: Ear) -> None:
    boards = [one for one in psutil.Process().children(recursive=True) if one.cmdline()[:1] == ["ray::Board"]]
    assert boards
    for one in boards:
        one.kill()


def group(tmp_path: Path, ear: Ear, function: Any = count, total: int = 60, **more: Any) -> Any:
    checkpoints = StoredCheckpoints(ArtifactStore(str(tmp_path / "store")), "count")
    given: dict[str, Any] = {"scale": TWO, "max_failures": 3, **more}
    return run_group(
        function,
        {"checkpoints": checkpoints, "total": total},
        cluster=Cluster(),
        scratch=tmp_path,
        hear=ear,
        stopping=lambda: False,
        committed=lambda: max(checkpoints.steps(), default=0),
        **given,
    )


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_the_killed_and_the_stopped_are_told_by_rank_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SILENT_S", 6.0)
    ear = Ear((10, kill_the_board), (20, hit(1, signal.SIGKILL)), (40, hit(1, signal.SIGSTOP)))
    assert group(tmp_path, ear) == 60
    assert len(ear.lines) == 2, ear.lines
    assert ear.lines[0] == "worker 1 killed (signal 9)"
    assert re.fullmatch(r"worker 1 did not answer for \d+ s \(stopped or hung\), killed", ear.lines[1])
    assert ear.starts[0] == 0
    assert 20 <= ear.starts[1] < 40 <= ear.starts[2] < 60
    assert not psutil.pid_exists(ear.pids[1]) or psutil.Process(ear.pids[1]).status() != psutil.STATUS_STOPPED


@pytest.mark.long
def test_a_worker_that_is_stopped_in_a_whole_run_is_found_within_a_minute(tmp_path: Path) -> None:
    two = SPEC.replace("uses: train\n", "uses: train\n    scale: {num_workers: 2}\n")
    with Command(tmp_path, steps=2000, spec=two) as command:
        command.until(lambda: command.checkpoints and command.checkpoints[-1] >= 100, 300)
        stopped = command.named("ray::RayTrainWorker")[1]
        stopped.suspend()
        command.until(lambda: "did not answer" in command.said, 60)
        command.until(lambda: re.search(r"did not answer for \d+ s \(stopped or hung\), killed, resumed", command.said))
        assert not stopped.is_running()
        command.until(lambda: command.checkpoints[-1] >= 200)


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_other_signals_are_told_as_what_they_are(tmp_path: Path) -> None:
    ear = Ear((10, hit(0, signal.SIGSEGV)), (30, hit(1, signal.SIGTERM)))
    assert group(tmp_path, ear) == 60
    assert ear.lines[0] == "worker 0 killed (signal 11, SIGSEGV)"
    assert ear.lines[1].startswith("worker 1 ")


def suicidal(payload: dict[str, Any], seat: Seat) -> None:
    """Dies before any progress, every time."""
    seat.tell({"event": "start", "rank": seat.rank, "pid": os.getpid(), "step": 0})
    if seat.rank == 1:
        time.sleep(3)
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.all_reduce(torch.zeros(1))


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_restarts_without_progress_end(tmp_path: Path) -> None:
    ear = Ear()
    with pytest.raises(StageFailed, match=r"worker 1 killed \(signal 9\); 1 restart without progress did not help"):
        group(tmp_path, ear, suicidal, max_failures=1)
    assert ear.lines == ["worker 1 killed (signal 9)"]


def hungry(payload: dict[str, Any], seat: Seat) -> None:
    """Wants more memory than its process may have."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, before[1]))
    try:
        torch.zeros(1 << 36)
    except RuntimeError as error:
        raise (Ended("memory", "as it was") if _out_of_memory(error) else error) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_a_real_lack_of_memory_is_known_as_such(tmp_path: Path) -> None:
    with pytest.raises(Ended) as caught:
        group(tmp_path, Ear(), hungry)
    assert caught.value.kind == "memory"


def starving(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Memory runs out beyond so many samples at once, from step 10 on."""
    whole = Game._losses

    def losses(self: Game, phase: Any, batch: Any, play: Any) -> Any:
        if len(play.rows) > most and play.step >= 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, phase, batch, play)

    monkeypatch.setattr(Game, "_losses", losses)


SMALL: dict[str, Any] = {"hacks": [], "batch_size": 32, "total_steps": 20, "precision": "float64"}


def test_out_of_memory_halves_the_microbatch_once_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    ring = stand.ring(store, 64)
    stage = Train(variant="gan", **SMALL, checkpoint_every=8)
    whole = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="whole"))["model"]
    starving(monkeypatch, 16)
    diary = stand.Diary()
    halved = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="halved", diary=diary))["model"]
    line = "out of memory at batch 32: continued with microbatch 16 (gradients accumulated) at step 8"
    assert diary.lines[-1] == line
    assert diary.notes["out_of_memory"]["microbatch"] == 16
    assert diary.values["microbatch"] == "16"
    assert halved.metadata == whole.metadata  # what was asked for, not how it came about
    assert store.read(halved, "config.json") == store.read(whole, "config.json")


def test_out_of_memory_twice_is_told_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starving(monkeypatch, 8)
    store = ArtifactStore(str(tmp_path / "store"))
    context = stand.context(tmp_path, {"dataset": stand.ring(store, 64)}, store=store)
    with pytest.raises(OutOfMemory, match=r"out of memory again, with microbatch 16.*lower batch_size"):
        Train(variant="gan", **SMALL).run(context)


def test_losses_that_compare_samples_are_not_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starving(monkeypatch, 16)
    store = ArtifactStore(str(tmp_path / "store"))
    context = stand.context(tmp_path, {"dataset": stand.ring(store, 64)}, store=store)
    with pytest.raises(OutOfMemory, match="feature_matching compare the samples of a batch"):
        Train(variant="gan", **{**SMALL, "hacks": ["feature_matching"]}).run(context)

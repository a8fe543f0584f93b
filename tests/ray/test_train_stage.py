"""Training on Ray Train's workers: as many as there are, they give one model; one that dies costs nothing but time."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.cluster import Cluster
from orchestrator.errors import Interrupted, StageFailed
from orchestrator.losses import is_collateral
from orchestrator.stage import Scale
from orchestrator.stages.train import Train
from orchestrator.workers import Seat, run_group
from tests import stand

pytestmark = pytest.mark.usefixtures("ray_cluster")
SMALL: dict[str, Any] = {"variant": "wgan_gp", "hacks": ["ema"], "batch_size": 32, "precision": "float64"}
TWO = Scale(num_workers=2)


def workers() -> list[psutil.Process]:
    """Ray Train's workers among our descendants."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_two_workers_make_the_model_of_one_process(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    ring = stand.ring(store, 64)
    stage = Train(**SMALL, total_steps=30, log_every=10)
    alone = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="alone"))["model"]
    diary = stand.Diary()
    context = stand.context(
        tmp_path, {"dataset": ring}, store=store, cluster=Cluster(), scale=TWO, lineage="two", diary=diary
    )
    both = stage.run(context)["model"]
    one, two = (load_file(store.open(model, "model.safetensors")) for model in (alone, both))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-9
    assert [step for step, _ in diary.logged] == [10, 20, 30]
    assert diary.steps[-1] == (30, 30)
    assert "samples/step_00000030.png" in diary.figures


def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    ring = stand.ring(store, 64)
    stage = Train(**{**SMALL, "variant": "gan"}, total_steps=1500, log_every=20, checkpoint_every=100)
    whole = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="whole"))["model"]
    diary = stand.Diary()
    killed: list[int] = []

    def kill(step: float) -> None:
        if step >= 120 and not killed:
            killed.append(workers()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    diary.on_step = kill
    context = stand.context(tmp_path, {"dataset": ring}, store=store, cluster=Cluster(), lineage="killed", diary=diary)
    survived = stage.run(context)["model"]
    assert killed
    assert len(diary.lines) == 1
    assert re.fullmatch(r"worker 0 killed \(signal 9\), resumed at step \d00", diary.lines[0]), diary.lines
    assert survived.digest == whole.digest  # the very bytes


def test_asked_to_stop_all_workers_save_and_end(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    diary = stand.Diary()
    context = stand.context(
        tmp_path,
        {"dataset": stand.ring(store, 64)},
        store=store,
        cluster=Cluster(),
        scale=TWO,
        lineage="stopped",
        diary=diary,
        stopping=lambda: bool(diary.logged),
    )
    with pytest.raises(Interrupted):
        Train(**{**SMALL, "variant": "gan"}, total_steps=1_000_000, log_every=20).run(context)
    steps = StoredCheckpoints(store, "stopped").steps()
    assert steps
    assert diary.lines == []


def uneven(payload: Any, seat: Seat) -> None:
    """Worker 1 has a bug; worker 0 waits for it in a collective."""
    import torch

    if seat.rank == 1:
        raise LookupError("no such thing")
    torch.distributed.all_reduce(torch.zeros(1))


def test_one_worker_s_own_error_ends_all_with_its_message(tmp_path: Path) -> None:
    lines: list[Any] = []
    with pytest.raises(StageFailed, match="LookupError: no such thing") as caught:
        run_group(
            uneven,
            None,
            cluster=Cluster(),
            scale=TWO,
            scratch=tmp_path,
            max_failures=3,
            hear=lines.append,
            stopping=lambda: False,
        )
    assert "in uneven" in "".join(caught.value.__notes__)
    assert not [line for line in lines if line["event"] == "lost"]


def test_only_the_loss_of_another_worker_is_collateral() -> None:
    assert is_collateral(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"))
    assert not is_collateral(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_collateral(ValueError("connection closed by peer"))

"""Signals to a real `orchestrate run`, in every phase: saved, told how to go on, and nothing left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.command import SPEC, Command

WITHIN_S = 25.0
ALL = [
    (phase, number)
    for phase in ("training", "gcs_server", "ray::RayTrainWorker")  # while it trains, while Ray or its workers start
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
]
PAIRS = ALL if os.environ.get("ORCHESTRATOR_PROOF") == "full" else [ALL[0], ALL[1], ALL[3], ALL[8]]
TWO = SPEC.replace("uses: train\n", "uses: train\n    scale: {num_workers: 2}\n")


def test_waiting_for_the_lease_ends_at_once_with_the_command_that_goes_on(tmp_path: Path) -> None:
    from orchestrator.artifacts import ArtifactStore
    from orchestrator.log import Log

    store = ArtifactStore(str(tmp_path / "runs"))
    store.prepare()
    lease = Log(store.files, "small").acquire("another")
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with Command(tmp_path, arguments=("--wait-lease", "100")) as command:
                time.sleep(3)
                command.send(number)
                assert command.ended(WITHIN_S) == 128 + number
                assert "go on with: orchestrate run small.yaml --wait-lease 100" in command.said
    finally:
        lease.release({}, {})


@pytest.mark.long
@pytest.mark.parametrize(("phase", "number"), PAIRS)
def test_the_first_signal_saves_and_leaves_nothing_behind(tmp_path: Path, phase: str, number: int) -> None:
    with Command(tmp_path, steps=1_000_000, arguments=("--jobs", "2"), spec=TWO) as command:
        command.until(lambda: command.checkpoints if phase == "training" else command.named(phase))
        before = command.checkpoints
        command.send(number)
        assert command.ended(WITHIN_S) == 128 + number
        assert "orchestrate run small.yaml --jobs 2" in command.said + command.out.read_text()
        if phase == "training":
            assert command.checkpoints[-1] > before[-1]
        assert command.orphans(90) == []


@pytest.mark.long
def test_a_signal_while_evaluating_ends_in_time_and_the_same_command_goes_on(tmp_path: Path) -> None:
    slow = SPEC.replace("num_samples: 500", "num_samples: 1000000, batch_size: 1")
    with Command(tmp_path, steps=60, spec=slow) as command:
        command.until(lambda: command.began("evaluate"))
        time.sleep(2)
        command.send(signal.SIGTERM)
        assert command.ended(WITHIN_S) == 143
        assert "orchestrate run small.yaml" in command.said + command.out.read_text()
        assert command.orphans(90) == []
    with Command(tmp_path, steps=60) as command:
        assert command.ended() == 0
        assert not command.began("train", last=True)  # it was committed


@pytest.mark.long
def test_the_second_signal_stops_at_once(tmp_path: Path) -> None:
    with Command(tmp_path, steps=1_000_000) as command:
        command.until(lambda: command.checkpoints)
        command.send(signal.SIGTERM)
        time.sleep(0.2)
        started = time.monotonic()
        command.send(signal.SIGTERM)
        assert command.ended(WITHIN_S) == 143
        assert time.monotonic() - started < 5
        assert command.orphans(90) == []


@pytest.mark.long
def test_a_killed_driver_leaves_no_orphans_and_the_same_command_goes_on(tmp_path: Path) -> None:
    with Command(tmp_path, steps=600) as command:
        command.until(lambda: command.checkpoints and command.checkpoints[-1] >= 100)
        command.look()
        command.send(signal.SIGKILL)
        command.ended(10)
        assert command.orphans(90) == []
    with Command(tmp_path, steps=600) as command:
        assert command.ended() == 0
        assert "training goes on from step" in command.said

"""Can a run be watched, stopped and swept around by other processes? Real processes, fake stages, no Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import journal, runs, standing
from orchestrator.artifacts import ArtifactStore
from orchestrator.log import Log
from orchestrator.seals import sealed
from tests.pipeline.test_engine import ROOT, finish, start, wait_for

PROGRAM = "from orchestrator.cli import main; main()"


def orchestrate(folder: Path, *args: str) -> subprocess.Popen[str]:
    """The command line, over the storage of `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-c", PROGRAM, args[0], *args[1:], "--storage", str(folder / "runs")]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment
    )


def store_of(folder: Path) -> ArtifactStore:
    return ArtifactStore(str(folder / "runs"))


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in the middle of its training."""
    process = start(tmp_path, pause_s=1.0)
    wait_for(process, "step 1")
    yield process
    process.kill()
    process.communicate()


def test_cancel_saves_and_stops_and_does_not_touch_the_next_run(
    tmp_path: Path, training: subprocess.Popen[str]
) -> None:
    store = store_of(tmp_path)
    begin = time.monotonic()
    code, out, err = finish(orchestrate(tmp_path, "cancel", "chain", "--wait"))
    assert code == 0, err
    assert time.monotonic() - begin < 20
    run_id = runs.latest(store).run_id
    assert out.split() == [run_id, "cancelled"]
    assert finish(training)[0] == 143
    run = runs.latest(store)
    assert (run.status, run.exit_code) == ("cancelled", 143)
    assert run.record.stage("train").state == "interrupted"
    code, _, err = finish(orchestrate(tmp_path, "cancel", run_id))
    assert code == 2
    assert "is not running: it is cancelled" in err
    code, out, err = finish(start(tmp_path, pause_s=0.0))
    assert code == 0, err
    assert Log(store.files, "chain").state().cancelled == (run_id,)


def test_a_cancellation_finds_a_free_slot_while_others_write(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    lease = Log(store.files, "chain").acquire("chain-20260101-000000-abcd")
    stop = threading.Event()

    def chatter() -> None:
        while not stop.is_set():
            lease.append("verdict", {"key": "k", "verdict": {}})

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        assert standing.cancel(store, "chain") == "chain-20260101-000000-abcd"
    finally:
        stop.set()
        thread.join()
    end = time.monotonic() + 5
    while not lease.cancelled and time.monotonic() < end:
        time.sleep(0.05)
    assert lease.cancelled
    lease.release({}, {})


def test_a_killed_run_is_stopped_and_not_running(tmp_path: Path, training: subprocess.Popen[str]) -> None:
    (row,) = json.loads(finish(orchestrate(tmp_path, "runs", "--json"))[1])["runs"]
    assert (row["status"], row["stages"]["train"]) == ("running", "running")
    training.send_signal(signal.SIGKILL)
    training.wait()
    (row,) = json.loads(finish(orchestrate(tmp_path, "runs", "chain", "--json"))[1])["runs"]
    assert row["status"] == "stopped"
    assert finish(orchestrate(tmp_path, "runs", "--status", "running"))[1] == ""
    assert "its process is gone" in finish(orchestrate(tmp_path, "status"))[1]
    code, _, err = finish(orchestrate(tmp_path, "cancel", "chain"))
    assert code == 2
    assert "its process is gone" in err


def test_a_run_elsewhere_runs_while_its_counter_moves(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    run_id = "chain-20260101-000000-abcd"
    runs.Diary(store, runs.RunRecord(run_id, "chain")).save()
    log = Log(store.files, "chain")
    lease = log.acquire(run_id)
    lease._end.set()
    lease._thread.join()
    far = {**vars(lease.owner), "host": "elsewhere", "boot": "another", "epoch": log.state().n + 1}
    assert log.append("acquire", {"owner": far, "run": run_id})
    run = runs.read(store, run_id)
    assert standing.status(run, watch_s=1.0) == "stopped"
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.wait(0.2):
            count += 1
            store.files.write(f"pipelines/chain/beat/{far['epoch']}.json", sealed({"count": count}))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert standing.status(run) == "running"
    finally:
        stop.set()
        thread.join()


def test_logs_follow_a_run_to_its_end(tmp_path: Path, training: subprocess.Popen[str]) -> None:
    follower = orchestrate(tmp_path, "logs", "chain", "--follow")
    assert training.wait() == 0
    code, out, err = finish(follower)
    assert code == 0, err
    assert "run         succeeded, exit code 0" in out.splitlines()[-1]
    assert [line for line in out.splitlines() if "3/4 steps" in line]
    once = finish(orchestrate(tmp_path, "logs"))[1]
    assert sorted(out.splitlines()) == sorted(once.splitlines())


def test_ctrl_c_leaves_the_log_and_not_the_run(tmp_path: Path, training: subprocess.Popen[str]) -> None:
    follower = orchestrate(tmp_path, "logs", "chain", "train", "-f", "--json")
    assert follower.stdout is not None
    first = json.loads(follower.stdout.readline())
    assert (first["version"], first["stage"]) == (1, "train")
    follower.send_signal(signal.SIGINT)
    code, _, err = finish(follower)
    assert (code, err) == (130, "")
    assert finish(training)[0] == 0


def test_the_logs_of_a_killed_run_end(tmp_path: Path, training: subprocess.Popen[str]) -> None:
    run = runs.latest(store_of(tmp_path))
    training.kill()
    training.wait()
    lines = [line for some in journal.follow(run) for line in some]
    assert lines[-1].stage == "train"


def test_gc_refuses_beside_a_run_and_waits_where_it_is_told(tmp_path: Path, training: subprocess.Popen[str]) -> None:
    code, _, err = finish(orchestrate(tmp_path, "gc", "--yes"))
    assert code == 6
    assert f"process {training.pid}" in err
    assert finish(orchestrate(tmp_path, "gc", "--dry-run"))[0] == 0
    code, _, err = finish(orchestrate(tmp_path, "gc", "--yes", "--wait-lease", "60"))
    assert code == 0, err
    assert finish(training)[0] == 0
    code, _, _ = finish(orchestrate(tmp_path, "gc"))
    assert code == 2  # nobody can be asked

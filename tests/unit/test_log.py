"""Does one run at a time hold a pipeline, and does no one commit after being taken over?"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import log as log_module
from orchestrator.errors import Busy
from orchestrator.files import open_files
from orchestrator.log import Lease, Log, Owner


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def opened(url: str) -> Log:
    log = Log(open_files(url), "ring")
    log.told = lambda line: None
    return log


def commit(lease: Lease, stage: str, key: str) -> None:
    lease.append("commit", {"stage": stage, "commit": {"key": key, "outputs": {"model": "d" * 64}}})


def test_commits_are_read_back_by_others(url: str) -> None:
    lease = opened(url).acquire("run-1")
    commit(lease, "train", "k1")
    assert opened(url).state().commits["train"]["key"] == "k1"
    lease.release({"status": "succeeded", "exit_code": 0}, {"train": {"key": "k1"}})
    state = opened(url).state()
    assert state.lease is None
    assert state.runs["run-1"]["status"] == "succeeded"
    assert state.counts == {"k1": 1}


def test_a_second_run_is_refused_and_told_the_owner(url: str) -> None:
    lease = opened(url).acquire("run-1")
    with pytest.raises(Busy, match=f"run run-1 .process {os.getpid()} "):
        opened(url).acquire("run-2")
    lease.release({"status": "succeeded"}, {})
    opened(url).acquire("run-2").release({"status": "succeeded"}, {})


def test_waiting_for_the_lease(url: str) -> None:
    lease = opened(url).acquire("run-1")
    threading.Timer(0.3, lambda: lease.release({"status": "succeeded"}, {})).start()
    second = opened(url).acquire("run-2", wait_s=10)
    assert second.owner.epoch == 3  # the number of its entry
    second.release({}, {})


def test_of_many_starts_one_wins(url: str) -> None:
    results: list[Any] = []
    barrier = threading.Barrier(12)

    def start(n: int) -> None:
        barrier.wait()
        try:
            results.append(opened(url).acquire(f"run-{n}"))
        except Busy as error:
            results.append(error)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leases = [r for r in results if isinstance(r, Lease)]
    assert len(leases) == 1
    assert all(leases[0].owner.run in str(r) for r in results if isinstance(r, Busy))
    leases[0].release({}, {})


def test_a_killed_owner_on_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from orchestrator.files import open_files; from orchestrator.log import Log\n"
        "Log(open_files(sys.argv[1]), 'ring').acquire('run-1'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    lease = opened(str(tmp_path)).acquire("run-2")
    assert lease.owner.epoch == 2
    lease.release({}, {})


def elsewhere(monkeypatch: pytest.MonkeyPatch, log: Log, run: str) -> Lease:
    """A lease as a process of another machine would hold it."""
    real = Owner.here
    with monkeypatch.context() as patch:
        patch.setattr(Owner, "here", lambda run, epoch: replace(real(run, epoch), host="other", boot="other"))
        return log.acquire(run)


def test_an_owner_elsewhere_is_alive_while_its_counter_moves(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "BEAT_S", 0.05)
    monkeypatch.setattr(log_module, "STALE_S", 1.0)
    lease = elsewhere(monkeypatch, opened(url), "run-1")
    with pytest.raises(Busy, match="on other"):
        opened(url).acquire("run-2")
    lease.release({}, {})


def test_an_owner_elsewhere_is_taken_over_when_its_counter_stops(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "BEAT_S", 0.05)
    monkeypatch.setattr(log_module, "STALE_S", 0.5)
    stalled = elsewhere(monkeypatch, opened(url), "run-1")
    stalled._end.set()
    stalled._thread.join()
    second = opened(url).acquire("run-2")
    with pytest.raises(Busy, match="taken over"):
        commit(stalled, "train", "late")
    stalled.release({"status": "succeeded"}, {})  # says so, changes nothing
    commit(second, "train", "mine")
    state = opened(url).state()
    assert state.commits["train"]["key"] == "mine"
    assert state.runs["run-1"]["status"] == "lost"
    second.release({}, {})


def test_a_holder_notices_takeover_and_cancellation(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "BEAT_S", 0.02)
    lease = opened(url).acquire("run-1")
    other = opened(url)
    other.state()
    assert other.append("cancel", {"run": "run-1"})
    for _ in range(200):
        if lease.cancelled:
            break
        threading.Event().wait(0.02)
    assert lease.cancelled
    commit(lease, "train", "k")  # a foreign entry in the wanted slot is no takeover
    owner = Owner.here("run-2", 2)
    other.state()
    assert other.append("acquire", {"owner": vars(owner), "run": "run-2"})
    for _ in range(200):
        if lease.lost:
            break
        threading.Event().wait(0.02)
    assert lease.lost
    lease.release({}, {})


def test_reading_a_long_log_does_not_read_every_entry(tmp_path: Path) -> None:
    lease = opened(str(tmp_path)).acquire("run-1")
    for n in range(70):
        commit(lease, f"stage-{n}", "k")
    lease.release({"status": "succeeded"}, {})
    folder = tmp_path / "pipelines" / "ring" / "log"
    whole = opened(str(tmp_path)).state()
    for entry in folder.iterdir():
        entry.unlink()
    assert opened(str(tmp_path)).state() == whole
    assert len(whole.commits) == 70


def test_a_damaged_head_or_entry_is_told_and_passed_over(tmp_path: Path) -> None:
    lease = opened(str(tmp_path)).acquire("run-1")
    commit(lease, "data", "k1")
    commit(lease, "train", "k2")
    lease.release({"status": "succeeded"}, {})
    folder = tmp_path / "pipelines" / "ring"
    (folder / "head.json").write_text("{")
    entry = folder / "log" / "00000002.json"
    entry.write_text(entry.read_text().replace("k1", "k3"))
    log, told = opened(str(tmp_path)), []
    log.told = told.append
    assert set(log.state().commits) == {"train"}
    assert ["head.json" in told[0], "log/00000002.json is damaged" in told[1]] == [True, True]


def test_an_entry_that_is_gone_is_told_and_its_slot_is_not_used_again(tmp_path: Path) -> None:
    lease = opened(str(tmp_path)).acquire("run-1")
    commit(lease, "data", "k1")
    commit(lease, "train", "k2")
    lease.release({"status": "succeeded"}, {})
    folder = tmp_path / "pipelines" / "ring"
    (folder / "head.json").unlink()
    (folder / "log" / "00000002.json").unlink()
    log, told = opened(str(tmp_path)), []
    log.told = told.append
    state = log.state()
    assert (state.n, set(state.commits)) == (4, {"train"})
    assert "log/00000002.json is gone" in told[0]
    log.acquire("run-2").release({}, {})
    assert not (folder / "log" / "00000002.json").exists()
    assert opened(str(tmp_path)).state().n == 6

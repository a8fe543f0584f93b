"""Does one run at a time hold a pipeline, and does no one commit after being taken over?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import log as log_module
from orchestrator import owner as owner_module
from orchestrator.errors import Busy, Unavailable
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


# --- who is dead -----------------------------------------------------------------------------------------------------


def sleeper() -> tuple[subprocess.Popen[bytes], Owner]:
    """A living process, as the owner of a pipeline."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    started, _ = owner_module._start(process.pid)
    return process, replace(Owner.here("run-1", 1), pid=process.pid, started=started or 0.0)


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_a_process_is_dead_when_it_ended_when_nobody_reaps_it_and_when_its_id_is_another_s() -> None:
    process, owner = sleeper()
    try:
        assert owner.fate == "alive"
        assert replace(owner, started=owner.started - 1).fate == "dead"  # the id was used again
        process.send_signal(signal.SIGSTOP)
        while owner.fate == "alive":
            pass
        assert owner.fate == "stopped"
        process.kill()
        while owner.fate != "dead":  # a zombie: nobody has waited for it
            pass
        assert process.returncode is None
    finally:
        ended(process)
    assert owner.fate == "dead"


def test_a_process_that_cannot_be_seen_is_not_called_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    process, owner = sleeper()
    try:
        monkeypatch.setattr(owner_module, "_start", lambda pid: (None, ""))  # /proc hides other users' processes
        assert owner.fate == "unknown"
        assert replace(owner, boot="another container's").fate == "unknown"
        assert replace(owner, host="renamed").fate == "unknown"
    finally:
        ended(process)
    assert owner.fate == "dead"


# --- entries that cannot be read -------------------------------------------------------------------------------------


def spoil(folder: Path, n: int) -> bytes:
    entry = folder / "pipelines" / "ring" / "log" / f"{n:08d}.json"
    data = entry.read_bytes()
    entry.write_bytes(data.replace(b'"', b"'"))
    return data


def test_a_takeover_that_cannot_be_read_fences_the_one_before_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "STALE_S", 0.5)
    monkeypatch.setattr(log_module, "BEAT_S", 0.05)
    stalled = elsewhere(monkeypatch, opened(str(tmp_path)), "run-1")
    stalled._end.set()
    stalled._thread.join()
    taker = elsewhere(monkeypatch, opened(str(tmp_path)), "run-2")
    spoil(tmp_path, taker.owner.epoch)
    with pytest.raises(Busy, match="damaged and may be a takeover"):
        commit(stalled, "train", "late")
    with pytest.raises(Busy, match="damaged"):  # its counter moves: it lives
        opened(str(tmp_path)).acquire("run-3")
    commit(taker, "train", "mine")  # it knows what it wrote
    assert opened(str(tmp_path)).state().commits["train"]["key"] == "mine"
    with pytest.raises(Busy, match="run run-2"):  # and its commit tells who it is
        opened(str(tmp_path)).acquire("run-3")
    taker._end.set()
    taker._thread.join()
    third = opened(str(tmp_path)).acquire("run-3")
    with pytest.raises(Busy, match="taken over by run run-3"):
        commit(taker, "train", "late")
    commit(third, "train", "third")
    third.release({"status": "succeeded"}, {})
    assert opened(str(tmp_path)).state().commits["train"]["key"] == "third"


def test_an_end_that_cannot_be_read_blocks_nobody_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "STALE_S", 0.3)
    monkeypatch.setattr(log_module, "FOLD_EVERY", 1000)
    lease = opened(str(tmp_path)).acquire("run-1")
    commit(lease, "train", "k")
    lease.release({"status": "succeeded"}, {})
    (tmp_path / "pipelines" / "ring" / "head.json").unlink()
    spoil(tmp_path, 3)
    with pytest.raises(Busy):  # run-1 is this process, which lives
        opened(str(tmp_path)).acquire("run-2")
    monkeypatch.setattr(owner_module, "_start", lambda pid: (1.0, "S"))
    lease = opened(str(tmp_path)).acquire("run-2")
    commit(lease, "train", "k2")
    lease.release({"status": "succeeded"}, {})
    assert opened(str(tmp_path)).state().commits["train"]["key"] == "k2"


def test_an_entry_that_is_read_wrongly_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = opened(str(tmp_path)).acquire("run-1")
    commit(lease, "train", "k")
    lease.release({"status": "succeeded"}, {})
    log = opened(str(tmp_path))
    read, seen = log.files.read, set()

    def flipped(path: str) -> bytes:
        data = read(path)
        first, _ = path not in seen, seen.add(path)
        return data.replace(b'"', b"'") if first else data

    monkeypatch.setattr(log.files, "read", flipped)
    log.told = pytest.fail  # it is told nothing
    assert log.state().commits["train"]["key"] == "k"


def test_what_could_not_be_read_is_not_forgotten_in_the_folded_copy(tmp_path: Path) -> None:
    lease = opened(str(tmp_path)).acquire("run-1")
    commit(lease, "data", "k1")
    commit(lease, "train", "k2")
    good = spoil(tmp_path, 2)
    log = opened(str(tmp_path))
    assert set(log.state().commits) == {"train"}
    (tmp_path / "pipelines" / "ring" / "log" / "00000002.json").write_bytes(good)  # it was the way, not the storage
    log.save_head()
    assert set(log.state().commits) == {"data", "train"}
    assert set(opened(str(tmp_path)).state().commits) == {"data", "train"}
    lease.release({}, {})


# --- a holder in trouble ---------------------------------------------------------------------------------------------


def test_a_holder_outlives_every_fault_of_the_storage(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "BEAT_S", 0.02)
    log, told = opened(url), []
    lease = log.acquire("run-1")
    log.told = told.append
    faults = [Unavailable("no answer"), RuntimeError("a backend's own"), OSError(28, "full"), MemoryError()] * 3
    write = log.files.write

    def faulty(path: str, data: Any) -> None:
        if faults:
            raise faults.pop()
        write(path, data)

    monkeypatch.setattr(log.files, "write", faulty)
    while faults or not log.beat(lease.owner.epoch):
        assert lease._thread.is_alive()
    assert not lease.lost  # it did not beat for a while, and nobody took over
    assert len([line for line in told if "sign of life" in line]) == 1
    commit(lease, "train", "k")
    lease.release({"status": "succeeded"}, {})
    assert opened(url).state().runs["run-1"]["status"] == "succeeded"


def test_a_storage_that_hangs_for_everybody_is_no_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "STALE_S", 0.8)
    stalled = elsewhere(monkeypatch, opened(str(tmp_path)), "run-1")
    stalled._end.set()
    stalled._thread.join()
    watch = log_module._Watch(opened(str(tmp_path)))
    assert watch.look() == "unknown"
    time.sleep(1.5)  # one look that took long
    assert watch.look() == "unknown"
    assert watch.still[stalled.owner.epoch] <= 0.2
    for _ in range(20):
        time.sleep(0.1)
        if watch.look() == "gone":
            break
    assert watch.look() == "gone"

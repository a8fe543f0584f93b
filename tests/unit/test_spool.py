"""The spool keeps what it is given, in order, through torn writes and interrupted confirmations."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from orchestrator import registry
from orchestrator.errors import BadInput
from orchestrator.spool import Spool, spools
from orchestrator.tracking import NullTracker, Tracker, spool_directory


def test_entries_come_back_in_order_and_from_where_they_were_confirmed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "run")
    for i in range(10):
        spool.append({"op": "metrics", "i": i})
    first, position = spool.read(0, limit=4)
    spool.confirm(position)
    again = Spool(tmp_path, "run")
    rest, _ = again.read(again.position)
    assert [entry["i"] for entry in first + rest] == list(range(10))
    assert again.pending() == 6


def test_a_line_cut_off_by_a_kill_is_passed_over_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "run")
    spool.append({"i": 0})
    spool.close()
    with spool.path.open("ab") as file:
        file.write(b'{"i": 1, "val')
    assert spool.pending() == 1
    resumed = Spool(tmp_path, "run")
    resumed.append({"i": 2})
    entries, position = resumed.read(0)
    assert [entry["i"] for entry in entries] == [0, 2]
    assert position == resumed.path.stat().st_size


def test_threads_never_mix_their_lines(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "run")

    def write(worker: int) -> None:
        for i in range(200):
            spool.append({"worker": worker, "i": i, "pad": "x" * 300})

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries, _ = spool.read(0)
    assert len(entries) == 800
    for worker in range(4):
        assert [entry["i"] for entry in entries if entry["worker"] == worker] == list(range(200))


def test_a_lost_confirmation_sends_again_and_loses_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "run")
    spool.append({"i": 0})
    spool.confirm(spool.read(0)[1])
    (tmp_path / "run.sent").write_text("")
    assert spool.position == 0
    assert spool.pending() == 1


def test_one_sender_at_a_time(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, "run"), Spool(tmp_path, "run")
    first.append({"i": 0})
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.remove()
    assert list(tmp_path.iterdir()) == []
    assert list(spools(tmp_path)) == []


def test_kept_files_stay_until_they_are_forgotten(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "run")
    one, two = spool.keep("grid.png", b"one"), spool.keep("grid.png", b"two")
    assert (spool.file(one).read_bytes(), spool.file(two).read_bytes()) == (b"one", b"two")
    assert spool.file(one).name == "grid.png"
    spool.forget(one)
    assert not spool.file(one).exists()
    assert spool.file(two).exists()


def test_a_run_without_stages_is_never_told(tmp_path: Path) -> None:
    run = Tracker.open(str(tmp_path)).start_run("ring8", "ring8-1", {"seed": 0}, {"digest": "d"})
    run.tags({"verdict": "cached"})
    run.artifact("report.html", b"<html>")
    run.end()
    assert run.close() == 0
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told_once_and_never_raised(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "spool").write_text("a file where a directory should be")
    run = Tracker.open(str(tmp_path), notice=told.append).start_run("ring8", "ring8-1")
    stage = run.child("train")
    stage.metrics({"loss": 1.0}, step=1)
    stage.metrics({"loss": "no number"}, step=2)  # type: ignore[dict-item]
    stage.figure("grid", b"")
    stage.end()
    run.close(1.0)
    assert len([line for line in told if "was not logged" in line]) == 1


def test_entries_carry_the_time_when_they_were_logged(tmp_path: Path) -> None:
    tracker = Tracker.open(str(tmp_path), "http://127.0.0.1:9")
    run = tracker.start_run("ring8", "ring8-1")
    stage = run.child("train")
    stage.metrics({"d/real": 0.5}, step=3)
    stage.params({"optimizer": {"lr": 2e-4}, "hacks": ["ema"]})
    lines = [json.loads(line) for line in (spool_directory(str(tmp_path)) / "ring8-1.jsonl").read_text().splitlines()]
    ops = [line["op"] for line in lines]
    assert ops == ["open", "run", "run", "metrics", "params"]
    assert lines[3]["values"] == [["d/real", 0.5]]
    assert lines[4]["values"] == {"optimizer.lr": "0.0002", "hacks": '["ema"]'}
    assert 0 <= lines[3]["time"] - lines[1]["time"] < 60_000
    assert run.close(0.0) == len(lines)


def test_credentials_are_taken_out_of_the_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    tracker = Tracker.open(str(tmp_path), "https://ann:s%40cret@mlflow.example:8443/base")
    assert tracker.uri == "https://mlflow.example:8443/base"
    assert registry.redact("https://ann:secret@mlflow.example") == "https://***@mlflow.example"
    import os

    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "s@cret"


@pytest.mark.parametrize(
    ("storage", "given", "uri"),
    [
        ("/data/runs", None, "sqlite:////data/runs/mlflow.db"),
        ("file:///data/runs", None, "sqlite:////data/runs/mlflow.db"),
        ("s3://bucket/runs", "http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_where_runs_are_tracked(storage: str, given: str | None, uri: str) -> None:
    assert registry.tracking_uri(storage, given) == uri


def test_a_remote_storage_needs_a_tracking_server() -> None:
    with pytest.raises(BadInput, match="tracking"):
        registry.tracking_uri("s3://bucket/runs")
    with pytest.raises(BadInput, match="http"):
        registry.tracking_uri("runs", "ftp://host")


def test_the_null_tracker_takes_everything() -> None:
    run = NullTracker()
    run.child("train").metrics({"loss": 1.0})
    assert run.close() == 0

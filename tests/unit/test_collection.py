"""Does gc remove what nothing needs, and nothing else, wherever it is killed? Fake stages, real storage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import collection, files, runs
from orchestrator.artifacts import ArtifactStore, blob_path, manifest_path
from orchestrator.cache import Cache
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.errors import BadInput, Busy
from orchestrator.execute import Options, execute
from orchestrator.garbage import log_of
from orchestrator.inspection import inspect
from orchestrator.log import Log
from orchestrator.reach import Wish
from orchestrator.runs import Run
from tests import fake_stages
from tests.fake_stages import CHAIN
from tests.fake_stages._calls import CALLS

DAY_S = 86_400.0


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_stages.install(monkeypatch)
    CALLS.clear()
    yield
    CALLS.clear()


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "runs"

    def plan(self, *sets: str, name: str = "chain", text: str = CHAIN) -> Any:
        path = self.folder / f"{name}.yaml"
        path.write_text(textwrap.dedent(text).replace("name: chain", f"name: {name}"))
        return orchestrator.plan(path, storage=str(self.storage), sets=sets)

    def run(self, *sets: str, name: str = "chain", text: str = CHAIN) -> Run:
        run = execute(self.plan(*sets, name=name, text=text), options=Options(ray=False, tracking=False))
        assert run.exit_code == 0, run.record.error
        return run

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(str(self.storage))

    def texts(self, *texts: str) -> list[Run]:
        """Runs over different data, which share nothing."""
        return [self.run(f"stages.data.with.text={text}") for text in texts]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def whole(store: ArtifactStore, run: Run) -> bool:
    """Whether every artifact of a run is there, byte for byte."""
    digests = [digest for stage in run.record.stages for digest in stage.outputs.values()]
    return all(not store.lacks(digest) and not store.verify(store.get(digest)) for digest in digests)


def stored(root: Path) -> set[str]:
    """Every stored file that holds a result."""
    folders = ("sha256", "artifacts", "keys", "checkpoints", "runs", "views")
    return {str(path.relative_to(root)) for folder in folders for path in (root / folder).rglob("*") if path.is_file()}


def named(store: ArtifactStore) -> None:
    """Nothing that a reader can find names something that is not there."""
    for path in (Path(store.url) / "keys").rglob("*.json"):
        entry = Cache(store).get(path.stem)
        assert entry is not None
        assert Cache(store).open(entry)[1] == ""
    for path in (Path(store.url) / "artifacts").rglob("*.json"):
        assert store.lacks(path.stem) == ""
    for run in runs.records(store):
        assert whole(store, run)
    for name in store.files.names("checkpoints"):
        checkpoints = StoredCheckpoints(store, name)
        if checkpoints.steps():
            found = checkpoints.latest()
            assert found is not None
            assert found[0] == checkpoints.steps()[-1]


def test_the_newest_runs_stay_and_what_only_others_needed_goes(bench: Bench) -> None:
    first, second, third = bench.texts("aaaa", "bbbb", "cccc")
    found = collection.collect(bench.store, Wish(keep_last=1))
    assert found.dropped_runs == sorted([first.run_id, second.run_id])
    assert runs.ids(bench.store) == [third.run_id]
    assert whole(bench.store, third)
    named(bench.store)
    assert inspect(bench.store).findings == []
    gone = first.record.stage("train").outputs["model"]
    assert not bench.store.files.exists(manifest_path(gone))
    assert bench.run("stages.data.with.text=cccc").cached
    bench.run("stages.data.with.text=aaaa")
    assert CALLS[-5:] == ["train", "step 1", "step 2", "step 3", "score"]  # it was removed: made again
    assert {item.kind for item in collection.survey(bench.store, Wish(keep_last=2)).items} == {"checkpoints"}


def test_an_extension_goes_on_after_a_sweep_and_older_checkpoints_go(bench: Bench) -> None:
    run = bench.run()
    checkpoints = StoredCheckpoints(bench.store, run.record.stage("train").lineage)
    assert checkpoints.steps() == [2, 3]
    collection.collect(bench.store, Wish())
    assert checkpoints.steps() == [3]
    assert len(bench.store.files.names(checkpoints.folder)) == 2
    CALLS.clear()
    bench.run("stages.train.with.total_steps=5")
    assert CALLS == ["train", "step 4", "step 5", "score"]


def test_checkpoints_of_work_that_was_broken_off_stay(bench: Bench) -> None:
    text = CHAIN.replace("total_steps: 3", "total_steps: 1000, pause_s: 0.02")
    kept = Path(bench.store.url) / "checkpoints"
    timer_pid = os.fork()
    if timer_pid == 0:
        while len(list(kept.glob("*/*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    run = execute(bench.plan(text=text), options=Options(ray=False, tracking=False))
    os.waitpid(timer_pid, 0)
    assert run.status == "interrupted"
    lineage = run.record.stage("train").lineage
    steps = StoredCheckpoints(bench.store, lineage).steps()
    assert len(steps) == 2
    collection.collect(bench.store, Wish(keep_last=1, grace_s=0))
    assert StoredCheckpoints(bench.store, lineage).steps() == steps
    assert [run.run_id] == runs.ids(bench.store)


def test_the_newest_that_succeeded_and_those_named_stay(bench: Bench) -> None:
    first, good = bench.texts("aaaa", "bbbb")
    for _ in range(2):
        failed = execute(
            bench.plan(text=CHAIN.replace("judge, inputs: {models: train}", "fail")),
            options=Options(ray=False, tracking=False),
        )
        assert failed.exit_code == 1
    found = collection.survey(bench.store, Wish(keep_last=1))
    assert {good.run_id, failed.run_id} == set(found.kept_runs)
    assert first.run_id in collection.survey(bench.store, Wish(keep_last=1, keep=(first.run_id,))).kept_runs
    with pytest.raises(BadInput, match="there is no run 'nobody'"):
        collection.survey(bench.store, Wish(keep=("nobody",)))


def test_young_runs_stay_by_the_storages_own_clock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    old, _, _ = bench.texts("aaaa", "bbbb", "cccc")
    assert collection.collect(bench.store, Wish(keep_last=1, older_than_s=DAY_S)).dropped_runs == []
    record = bench.storage / "runs" / old.run_id / "run.json"
    past = time.time() - 2 * DAY_S
    os.utime(record, (past, past))
    monkeypatch.setattr(time, "time", lambda: 4e9)  # this host's clock is a century ahead: nobody cares
    found = collection.collect(bench.store, Wish(keep_last=1, older_than_s=DAY_S))
    assert found.dropped_runs == [old.run_id]


def test_what_no_record_knows_of_has_a_time_of_grace(bench: Bench) -> None:
    run = bench.run()
    store = bench.store
    orphan = store.put("notes", {"note": b"somebody is about to name this"})
    bare = store.blob(b"a worker's share")
    collection.collect(store, Wish())
    assert store.lacks(orphan.digest) == ""
    assert store.files.exists(blob_path(bare.digest))
    past = time.time() - 2 * DAY_S
    ref = orphan.files["note"]
    for path in (manifest_path(orphan.digest), blob_path(ref.digest), blob_path(bare.digest)):
        os.utime(bench.storage / path, (past, past))
    collection.collect(store, Wish())
    assert store.lacks(orphan.digest) == "is missing"
    assert not store.files.exists(blob_path(bare.digest))
    assert not store.files.exists(blob_path(ref.digest))
    assert whole(store, run)


def test_pipelines_of_one_storage_share_what_they_need(bench: Bench) -> None:
    bench.run(name="first")
    other = bench.run(name="second")
    assert {stage.state for stage in other.record.stages} == {"cached"}
    for text in ("aaaa", "bbbb"):
        bench.run(f"stages.data.with.text={text}", name="first")
    collection.collect(bench.store, Wish(keep_last=1, grace_s=0))
    assert whole(bench.store, other)
    assert bench.run(name="second").cached


def test_views_and_old_left_overs_go(bench: Bench) -> None:
    first, second = bench.texts("aaaa", "bbbb")
    store = bench.store
    for run in (first, second):
        store.directory(run.artifact("train"))
    past = time.time() - 9 * DAY_S
    for name in ("tmp/old", "quarantine/old", "tmp/new", "quarantine/new", "scratch/chain/left/behind"):
        store.files.write(name, b"x")
        if name.endswith("old"):
            os.utime(bench.storage / name, (past, past))
    collection.collect(store, Wish(keep_last=1))
    assert store.files.names("views") == [second.record.stage("train").outputs["model"]]
    assert store.files.names("tmp") == ["new"]
    assert store.files.names("quarantine") == ["new"]
    assert store.files.names("scratch/chain") == []


def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    bench.texts("aaaa", "bbbb")

    def everything() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in bench.storage.rglob("*")}

    before = everything()
    found = collection.survey(bench.store, Wish(keep_last=1, grace_s=0))
    assert found.size > 0
    assert everything() == before
    removed = collection.collect(bench.store, Wish(keep_last=1, grace_s=0))
    assert removed.items == found.items


def test_a_damaged_record_keeps_what_it_may_need(bench: Bench) -> None:
    first, second, third = bench.texts("aaaa", "bbbb", "cccc")
    (bench.storage / "runs" / third.run_id / "run.json").write_text("{")
    found = collection.collect(bench.store, Wish(keep_last=1))
    assert found.dropped_runs == []
    assert any("damaged" in note for note in found.notes)
    assert whole(bench.store, first)
    assert whole(bench.store, second)


def test_a_damaged_manifest_keeps_all_files(bench: Bench) -> None:
    first, second = bench.texts("aaaa", "bbbb")
    path = bench.storage / manifest_path(second.record.stage("train").outputs["model"])
    path.write_text(path.read_text().replace("model", "medol"))
    blobs = stored(bench.storage / "sha256")
    found = collection.collect(bench.store, Wish(keep_last=1))
    assert found.dropped_runs == [first.run_id]
    assert found.count("files") == (0, 0)
    assert stored(bench.storage / "sha256") == blobs
    assert any("fsck" in note for note in found.notes)


# --- beside others ------------------------------------------------------------------------------------------------------


def test_it_waits_for_runs_and_runs_wait_for_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.run()
    lease = Log(bench.store.files, "other").acquire("other-20260101-000000-abcd")
    with pytest.raises(Busy, match="other-20260101-000000-abcd"):
        collection.collect(bench.store, Wish(keep_last=1))
    assert whole(bench.store, run)
    lease.release({}, {})
    monkeypatch.setattr(collection, "WAIT_S", 0.3)
    with collection._alone(bench.store, 0.0):
        with pytest.raises(Busy, match="gc"):
            bench.run("stages.data.with.text=zzzz")
        with pytest.raises(Busy, match="another gc"):
            collection.collect(bench.store, Wish())
        assert bench.run().cached  # what needs nothing new asks nobody
    assert Log(bench.store.files, "chain").state().lease is None
    assert bench.run("stages.data.with.text=zzzz").exit_code == 0


def test_a_sweep_that_was_taken_for_dead_removes_nothing_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.texts("aaaa", "bbbb")
    monkeypatch.setattr(collection, "CHECK_EVERY_S", 0.0)
    removed: list[str] = []

    def fenced(operation: str, path: str) -> None:
        if operation == "remove" and path.startswith("keys/"):
            removed.append(path)
            if len(removed) == 3:
                log = log_of(bench.store)
                owner = log.state().lease
                assert owner is not None
                assert log.append("acquire", {"owner": {**vars(owner), "epoch": log.state().n + 1}, "run": "thief"})

    monkeypatch.setattr(files, "observe", fenced)
    with pytest.raises(Busy, match="taken for dead"):
        collection.collect(bench.store, Wish(keep_last=1))
    assert len(removed) == 3
    monkeypatch.setattr(files, "observe", None)
    named(bench.store)


def in_child(work: Callable[[], object]) -> int:
    """Run in a process of its own; returns minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def killed_at(n: int, storage: Path) -> int:
    """Sweep, and be killed at the n-th operation that changes the storage."""
    count = 0

    def observe(operation: str, path: str) -> None:
        nonlocal count
        if "/beat/" not in path:
            count += 1
        if count == n:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        files.observe = observe
        collection.collect(ArtifactStore(str(storage)), Wish(keep_last=1, grace_s=0))

    return in_child(work)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_any_operation_nothing_kept_is_lost(bench: Bench, tmp_path: Path, every: int) -> None:
    _, _, kept = bench.texts("aaaa", "bbab", "cccc")
    bench.run(name="other")
    bench.store.directory(kept.artifact("train"))
    straight = tmp_path / "straight"
    shutil.copytree(bench.storage, straight, symlinks=True)
    assert killed_at(0, straight) == 0
    expected = stored(straight)
    n = 0
    while True:
        n += every
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bench.storage, copy, symlinks=True)
        code = killed_at(n, copy)
        store = ArtifactStore(str(copy))
        assert whole(store, kept), n
        for pipeline in ("chain", "other"):
            for commit in Log(store.files, pipeline).state().commits.values():
                assert Cache(store).get(commit["key"]) is not None, n
                assert all(store.lacks(digest) == "" for digest in commit["outputs"].values()), n
        named(store)
        assert inspect(store).damage == [], n
        if code == 0:
            break
        assert code == -signal.SIGKILL
        collection.collect(store, Wish(keep_last=1, grace_s=0))
        assert stored(copy) == expected, n
    assert n > 60


def test_run_folders_without_a_record_are_no_runs(bench: Bench) -> None:
    run = bench.run()
    (bench.storage / "runs" / "chain-20990101-000000-abcd" / "logs").mkdir(parents=True)
    assert [found.run_id for found in runs.recent(bench.store)] == [run.run_id]
    assert runs.latest(bench.store).run_id == run.run_id


def test_the_findings_are_plain_json(bench: Bench) -> None:
    bench.texts("aaaa", "bbbb")
    told = json.loads(json.dumps(collection.survey(bench.store, Wish(keep_last=1)).to_json()))
    assert told["bytes"] == sum(kind["bytes"] for kind in told["kinds"].values())
    assert told["kinds"]["runs"]["count"] == 1

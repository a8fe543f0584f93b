"""Does a storage that loses, cuts, flips, hangs and comes back cost anything but time?"""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import checkpoints, events, patience, runs, standing, trouble
from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.errors import OrchestratorError, Unavailable
from orchestrator.events import Listener
from orchestrator.execute import Options, execute
from orchestrator.files import Files, open_files
from orchestrator.log import Log
from orchestrator.outbox import Outbox
from orchestrator.runs import Run
from orchestrator.seals import read_whole, sealed, unsealed
from orchestrator.trouble import DiskFull, Refused
from tests import fake_stages
from tests.fake_stages import CHAIN
from tests.fake_stages._calls import CALLS
from tests.faults import faulty
from tests.faults.faulty import SCHEDULE

PROTOCOLS = ("faultylocal", "faultymemory", "faultywrapped")


@pytest.fixture(autouse=True)
def _faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    faulty.install()
    fake_stages.install(monkeypatch)
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    for name, value in {"FIRST_WAIT_S": 0.001, "LONGEST_WAIT_S": 0.01}.items():
        monkeypatch.setattr(patience, name, value)
    SCHEDULE.reset()
    CALLS.clear()
    yield
    SCHEDULE.reset()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of a fraction of a second."""
    for name, value in {"FIRST_CONTACT_S": 0.5, "ATTEMPT_S": 0.5, "BRIEF_S": 0.3}.items():
        monkeypatch.setattr(patience, name, value)


def url(protocol: str, folder: Path) -> str:
    return f"{protocol}://{folder}/store"


@pytest.fixture(params=PROTOCOLS)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    found = open_files(url(request.param, tmp_path))
    found.told = lambda line: None
    found.size("first contact")
    SCHEDULE.reset()
    return found


def use(files: Files, folder: Path) -> None:
    """Every operation of a storage, and what must come of it."""
    big = folder / "big"
    big.write_bytes(bytes(range(256)) * 400)
    files.write("a/one", b"first")
    files.write("a/one", b"second, and longer")
    assert files.read("a/one") == b"second, and longer"
    files.write("a/big", big)
    assert files.size("a/big") == 102_400
    files.fetch("a/big", folder / "back")
    assert (folder / "back").stat().st_size == 102_400
    assert files.create("log/1", b"mine")
    assert files.create("log/1", b"mine")
    assert not files.create("log/1", b"theirs")
    assert files.read("log/1") == b"mine"
    files.rename("a/one", "b/two")
    assert files.size("a/one") is None
    assert files.read("b/two") == b"second, and longer"
    assert files.names("b") == ["two"]
    files.remove("b")
    files.remove("b")
    assert files.size("b/two") is None


def operations(files: Files, folder: Path) -> list[str]:
    done: list[str] = []
    use(files, folder)  # some filesystems remember their folders
    files.remove("log")
    files.remove("a")
    SCHEDULE.plan = lambda n, operation, path: done.append(operation)
    use(files, folder)
    SCHEDULE.reset()
    files.remove("log")
    files.remove("a")
    return done


def told_kinds(operation: str) -> set[str]:
    """Faults that a storage can notice. Read bytes without a digest are their readers' (`read_whole`)."""
    kinds = set(next(kinds for names, kinds in faulty.KINDS.items() if operation in names))
    return kinds - {"flip", "partial"} if operation in faulty.READS else kinds


def test_one_fault_anywhere_changes_nothing(files: Files, tmp_path: Path) -> None:
    done = operations(files, tmp_path)
    assert len(done) > 30
    seen = 0
    for n, operation in enumerate(done, start=1):
        for fault in told_kinds(operation):
            SCHEDULE.reset()
            SCHEDULE.plan = lambda m, found, path, n=n, fault=fault: (  # type: ignore[misc]
                fault if m == n and fault in told_kinds(found) else None
            )
            use(files, tmp_path)
            seen += len(SCHEDULE.seen)
            SCHEDULE.reset()
            files.remove("log")
            files.remove("a")
    assert seen > 4 * len(done)


def test_nobody_ever_sees_half_of_anything(files: Files, tmp_path: Path) -> None:
    texts = {str(n).encode() * 20_000 for n in range(4)}
    over = threading.Event()
    wrong: list[int] = []

    def watch() -> None:
        reader = open_files(files.url)
        while not over.is_set():
            try:
                content = reader.read("a/seen")
            except FileNotFoundError:
                continue
            if content not in texts:
                wrong.append(len(content))

    SCHEDULE.plan = lambda n, operation, path: "partial" if operation == "pipe_file" and n % 3 else None
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for text in sorted(texts) * 3:
            files.write("a/seen", text)
    finally:
        over.set()
        thread.join()
    assert not wrong


def test_content_that_does_not_fit_is_read_again(files: Files) -> None:
    files.write("a/state.json", sealed({"step": 10}))
    hits = iter(["flip", "partial", None])
    SCHEDULE.plan = lambda n, operation, path: next(hits) if operation == "cat_file" else None
    assert read_whole(files, "a/state.json", lambda data: int(unsealed(data)["step"])) == 10


@pytest.mark.usefixtures("hasty")
def test_a_call_that_hangs_is_left_behind_and_repeated(files: Files) -> None:
    files.write("a", b"1")
    SCHEDULE.plan = lambda n, operation, path: "hang" if SCHEDULE.count == 1 else None
    SCHEDULE.count = 0
    begin = time.monotonic()
    assert files.read("a") == b"1"
    assert time.monotonic() - begin < 2


@pytest.mark.usefixtures("hasty")
def test_a_write_that_comes_out_of_a_hang_changes_nothing_any_more(files: Files) -> None:
    files.write("a", b"old")
    SCHEDULE.count = 0
    SCHEDULE.slow_s = 1.0
    hits = iter(["slow"])
    SCHEDULE.plan = lambda n, operation, path: next(hits, None) if operation == "pipe_file" else None
    files.write("a", b"first")
    SCHEDULE.slow_s = 0.0
    files.write("a", b"second")
    time.sleep(1.3)
    assert files.read("a") == b"second"


def test_an_outage_is_told_once_waited_for_and_over(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    files.told = told.append
    files.write("a", b"1")
    with SCHEDULE.outage():
        threading.Timer(0.5, lambda: setattr(SCHEDULE, "plan", lambda *_: None)).start()
        assert files.read("a") == b"1"
    assert [line.split(" (")[0] for line in told] == [
        f"storage {files.url} does not answer",
        f"storage {files.url} answers again",
    ]
    assert "trying again for up to" in told[0]


@pytest.mark.usefixtures("hasty")
def test_a_long_outage_ends_in_exit_4_and_the_calls_after_it_fail_at_once(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_STORAGE_PATIENCE_S", "0.3")
    files.write("a", b"1")
    for fault in ("error", "hang"):
        with SCHEDULE.outage(fault):
            begin = time.monotonic()
            with pytest.raises(trouble.Outage) as caught:
                files.write("a", b"2")
            assert 0.3 <= time.monotonic() - begin < 2
            assert caught.value.exit_code == 4
            assert "the same command goes on" in str(caught.value)
            begin = time.monotonic()
            for _ in range(3):
                with pytest.raises(trouble.Outage):
                    files.write("a", b"2")
            assert time.monotonic() - begin < 1.2
        assert files.read("a") == b"1"
        SCHEDULE.release.set()
        files.write("a", b"1")


def test_what_waiting_cannot_mend_is_told_at_once(files: Files) -> None:
    files.write("a", b"1")
    for fault, kind in (("denied", Refused), ("full", DiskFull)):
        with SCHEDULE.outage(fault):
            begin = time.monotonic()
            with pytest.raises(kind):
                files.write("a", b"2")
            assert time.monotonic() - begin < 0.3
    assert files.read("a") == b"1"


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("fault", ["error", "hang", "weird"])
def test_a_storage_that_never_answers_is_told_within_seconds(fault: str, tmp_path: Path) -> None:
    with SCHEDULE.outage(fault):
        begin = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            ArtifactStore(url("faultylocal", tmp_path)).format()
        assert time.monotonic() - begin < 2
    assert caught.value.exit_code == 4


@pytest.mark.usefixtures("hasty")
def test_one_hiccup_at_first_contact_is_forgiven(tmp_path: Path) -> None:
    for fault in ("error", "hang", "weird", "timeout"):
        SCHEDULE.reset()
        SCHEDULE.plan = lambda n, operation, path, fault=fault: fault if n == 1 else None  # type: ignore[misc]
        assert ArtifactStore(url("faultylocal", tmp_path)).format() is None


# --- a whole run -----------------------------------------------------------------------------------------------------


def run(folder: Path, storage: str, text: str = CHAIN, listener: Listener | None = None) -> Run:
    file = folder / "chain.yaml"
    file.write_text(textwrap.dedent(text) + "tracking: sqlite:///unused.db\n")
    plan = orchestrator.plan(file, storage=storage)
    return execute(plan, listener=listener, options=Options(ray=False, tracking=False))


def outputs(run: Run) -> dict[str, dict[str, str]]:
    return {stage.stage: stage.outputs for stage in run.record.stages}


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, dict[str, str]]:
    found = outputs(run(tmp_path, str(tmp_path / "straight")))
    CALLS.clear()
    return found


@pytest.mark.parametrize("period", [2, 3, 4, 5, 7])
def test_faults_at_every_nth_operation_never_meet_the_same_step_for_ever(
    period: int, files: Files, tmp_path: Path
) -> None:
    files.told = lambda line: None
    for fault in ("error", "lost", "reply lost", "partial error"):

        def plan(n: int, operation: str, path: str, fault: str = fault) -> str | None:
            return fault if n % period == 0 and fault in told_kinds(operation) else None

        SCHEDULE.reset()
        SCHEDULE.plan = plan
        use(files, tmp_path)
        SCHEDULE.reset()
        files.remove("log")
        files.remove("a")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_runs_through_random_faults_end_as_undisturbed_ones(
    protocol: str, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.runs.Diary.event", lambda self, kind, fields: None)
    for seed in range(4):
        storage = url(protocol, tmp_path / str(seed))
        SCHEDULE.reset()
        SCHEDULE.random(seed, share=0.12)
        made = run(tmp_path, storage)
        assert (made.exit_code, made.record.error) == (0, "")
        assert len(SCHEDULE.seen) > 10
        assert outputs(made) == undisturbed
        SCHEDULE.reset()
        store = ArtifactStore(storage)
        for digests in undisturbed.values():
            for digest in digests.values():
                assert store.lacks(digest) == ""
                assert store.verify(store.get(digest)) == []
        state = Log(store.files, "chain").state()
        assert {stage: commit["outputs"] for stage, commit in state.commits.items()} == undisturbed
        assert state.lease is None
        assert runs.latest(store).status == "succeeded"


# --- a training through an outage ------------------------------------------------------------------------------------

LONG = CHAIN.replace("total_steps: 3", "total_steps: 6")


class Outage(Listener):
    """The storage is gone from one step of the training to another."""

    def __init__(self, first: int, last: int, fault: str = "error") -> None:
        self.first, self.last, self.fault = first, last, fault
        self.lines: list[str] = []

    def stage_progress(self, event: events.StageProgress) -> None:
        if event.done == self.first:
            SCHEDULE.plan = lambda n, operation, path: self.fault
        if event.done == self.last:
            SCHEDULE.plan = lambda n, operation, path: None

    def stage_said(self, event: events.StageSaid) -> None:
        self.lines.append(event.line)


def forked(work: Callable[[], int]) -> int:
    """The exit code of a fork: a process that ends, whose lease the next one takes over."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = work()
        except OrchestratorError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SAVE_PATIENCE_S", 0.05)
    monkeypatch.setattr("orchestrator.log.RELEASE_S", 0.5)


@pytest.mark.usefixtures("impatient", "hasty")
@pytest.mark.parametrize("fault", ["error", "hang"])
def test_a_training_goes_on_while_its_storage_is_gone(fault: str, tmp_path: Path) -> None:
    expected = outputs(run(tmp_path, str(tmp_path / "straight"), LONG))
    storage = url("faultylocal", tmp_path)
    SCHEDULE.reset()
    heard = Outage(2, 5, fault)
    made = run(tmp_path, storage, LONG, heard)
    assert (made.exit_code, made.record.error) == (0, "")
    assert outputs(made) == expected
    assert [line for line in heard.lines if "is kept in" in line] == [
        f"the checkpoint of step 3 is kept in {Outbox(storage).root} until {storage} answers"
    ]
    assert Outbox(storage).empty
    lineage = ArtifactStore(storage).files.names("checkpoints")[0]
    assert StoredCheckpoints(ArtifactStore(storage), lineage).steps()[-1] == 6


@pytest.mark.usefixtures("impatient", "hasty")
def test_what_was_computed_in_an_outage_that_did_not_end_is_delivered_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_STORAGE_PATIENCE_S", "0.2")
    expected = outputs(run(tmp_path, str(tmp_path / "straight"), LONG))
    storage = url("faultylocal", tmp_path)
    SCHEDULE.reset()
    assert forked(lambda: run(tmp_path, storage, LONG, Outage(2, 99)).exit_code) == 4
    box = Outbox(storage)
    assert len(box.files.names("keys")) == 1
    CALLS.clear()
    heard = Outage(99, 99)
    made = run(tmp_path, storage, LONG, heard)
    assert (made.exit_code, outputs(made)) == (0, expected)
    assert CALLS == ["score"]
    assert "brought from the outbox into the storage: the result of train" in heard.lines
    assert box.empty
    store = ArtifactStore(storage)
    assert [store.verify(store.get(digest)) for made in expected.values() for digest in made.values()] == [[]] * 4


@pytest.mark.usefixtures("impatient", "hasty")
def test_a_training_killed_in_an_outage_goes_on_from_the_checkpoint_that_was_kept_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_STORAGE_PATIENCE_S", "0.2")
    expected = outputs(run(tmp_path, str(tmp_path / "straight"), LONG))
    storage = url("faultylocal", tmp_path)
    SCHEDULE.reset()

    class Killed(Outage):
        def stage_progress(self, event: events.StageProgress) -> None:
            super().stage_progress(event)
            if event.done == 5:
                os.kill(os.getpid(), signal.SIGKILL)

    assert forked(lambda: run(tmp_path, storage, LONG, Killed(2, 99)).exit_code) == -signal.SIGKILL
    CALLS.clear()
    made = run(tmp_path, storage, LONG)
    assert (made.exit_code, outputs(made)) == (0, expected)
    assert [call for call in CALLS if call.startswith("step")] == ["step 6"]
    assert Outbox(storage).empty


@pytest.mark.parametrize("protocol", ["faultylocal", "faultymemory"])
def test_checkpoints_survive_faults_of_reading_and_writing(protocol: str, tmp_path: Path) -> None:
    for seed in range(6):
        store = ArtifactStore(url(protocol, tmp_path / str(seed)))
        store.told = store.files.told = lambda line: None
        saved = StoredCheckpoints(store, "lineage")
        SCHEDULE.reset()
        SCHEDULE.random(seed, share=0.2)
        for step in range(1, 7):
            saved.save(step, {"state": bytes([step]) * 5000})
            found = saved.latest()
            assert found is not None
            assert found[0] == step
            assert found[1]["state"].read_bytes() == bytes([step]) * 5000


def test_what_killed_writers_left_is_swept_by_the_storage_s_own_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer's clock and ours may differ from it by years: fresh files of a living writer stay."""
    from tests.faults import disk

    disk.register()
    files = open_files(f"disk://{tmp_path}")
    for name in ("1-fresh", "ffffffff-old"):  # as clocks of 1970 and of 2106 name them
        files.write(f"tmp/{name}", b"left")
    now = time.time()
    os.utime(tmp_path / "tmp" / "ffffffff-old", (now - 90_000, now - 90_000))
    monkeypatch.setattr(time, "time", lambda: now + 10 * 365 * 86_400)
    files.sweep()
    assert files.names("tmp") == ["1-fresh"]


def test_an_earlier_record_that_a_storage_took_late_hides_no_end(tmp_path: Path) -> None:
    ended = run(tmp_path, str(tmp_path / "s"))
    assert ended.record.status == "succeeded"
    store = ArtifactStore(str(tmp_path / "s"))
    late = {**ended.record.to_json(), "status": "running", "exit_code": None}
    store.files.write(f"runs/{ended.run_id}/run.json", sealed(late))
    found = runs.read(store, ended.run_id)
    assert (found.record.status, standing.status(found)) == ("running", "succeeded")

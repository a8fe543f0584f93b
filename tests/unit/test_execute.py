"""Does a run cache, go on, retry, give up and report as the design says? Fake stages, real storage, no Ray."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import events, runs
from orchestrator.artifacts import ArtifactStore, blob_path
from orchestrator.errors import Busy, SpecError
from orchestrator.events import Listener
from orchestrator.execute import Options, execute
from orchestrator.log import Log
from orchestrator.runs import Run
from tests import fake_stages
from tests.fake_stages import CHAIN, MATRIX, SEARCHED
from tests.fake_stages._calls import CALLS


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_stages.install(monkeypatch)
    CALLS.clear()
    yield
    CALLS.clear()


class Heard(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def stage_started(self, event: events.StageStarted) -> None:
        self.all.append(event)

    stage_cached = stage_progress = stage_said = stage_finished = stage_failed = run_finished = stage_started  # type: ignore[assignment]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.all if isinstance(event, kind)]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "chain.yaml"
        self.storage = folder / "runs"
        self.heard = Heard()

    def run(self, text: str = CHAIN, *, jobs: int = 1, ray: bool = False, **asked: Any) -> Run:
        self.file.write_text(textwrap.dedent(text))
        self.heard = Heard()
        plan = orchestrator.plan(self.file, storage=str(self.storage), **asked)
        return execute(plan, listener=self.heard, options=Options(jobs=jobs, ray=ray, tracking=False))

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(str(self.storage))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def stages_of(run: Run) -> dict[str, str]:
    return {stage.stage: stage.state for stage in run.record.stages}


def test_a_run_computes_records_and_is_cached_the_second_time(bench: Bench) -> None:
    run = bench.run()
    assert (run.status, run.exit_code) == ("succeeded", 0)
    assert CALLS == ["data", "train", "step 1", "step 2", "step 3", "score"]
    assert run.artifact("score").metadata == {"texts": ["abc"]}
    again = bench.run()
    assert again.cached
    assert again.run_id == run.run_id
    assert len(CALLS) == 6
    assert len(bench.heard.of(events.StageCached)) == 3
    assert runs.ids(bench.store) == [run.run_id]
    assert not list((bench.storage / "tmp").iterdir())
    assert not (bench.storage / "scratch" / "chain").exists()


def test_outputs_are_in_the_order_declared_whatever_the_stage_returns(bench: Bench) -> None:
    assert list(bench.run().record.stage("data").outputs) == ["dataset", "extra"]


def test_only_what_follows_a_change_runs_again_and_training_is_extended(bench: Bench) -> None:
    bench.run()
    CALLS.clear()
    run = bench.run(sets=["stages.train.with.total_steps=5"])
    assert CALLS == ["train", "step 4", "step 5", "score"]
    assert stages_of(run) == {"data": "cached", "train": "succeeded", "score": "succeeded"}
    assert run.artifact("score").metadata == {"texts": ["abcda"]}


def test_equal_results_cut_off_what_follows(bench: Bench) -> None:
    bench.run()
    run = bench.run(force=["data"])
    assert stages_of(run) == {"data": "succeeded", "train": "cached", "score": "cached"}


def test_forced_training_starts_afresh(bench: Bench) -> None:
    bench.run()
    CALLS.clear()
    bench.run(force=["train"])
    assert CALLS == ["train", "step 1", "step 2", "step 3"]
    assert bench.run().cached


def test_a_combination_never_run_whole_makes_a_record_of_its_own(bench: Bench) -> None:
    bench.run()
    bench.run(sets=["stages.data.with.text=xyz"])
    first = bench.run(until="train")
    assert stages_of(first) == {"data": "cached", "train": "cached"}
    assert bench.run(until="train").run_id == first.run_id


def test_other_pipelines_share_the_cache(bench: Bench) -> None:
    bench.run()
    CALLS.clear()
    assert set(stages_of(bench.run(CHAIN.replace("name: chain", "name: other"))).values()) == {"cached"}
    assert CALLS == []


def test_a_search_decides_when_it_has_run(bench: Bench) -> None:
    assert bench.run(SEARCHED).exit_code == 0
    assert CALLS[:3] == ["data", "search", "train"]


def test_matrix_and_jobs(bench: Bench) -> None:
    run = bench.run(MATRIX, jobs=3)
    assert run.artifact("all").metadata == {"texts": ["ab", "abc", "ab", "abc"]}
    assert run.artifact("each.seed-1").metadata == {"texts": ["ab", "abc"]}
    assert bench.run(MATRIX, jobs=3).cached


def failing(how: str, times: int = 1000, extra: str = "") -> str:
    return f"""
    version: 1
    name: chain
    stages:
      data: {{uses: make}}
      broken: {{uses: fail, with: {{how: {how}, times: {times}}}{extra}}}
      train: {{uses: grow, inputs: {{dataset: data}}}}
    """


@pytest.mark.parametrize(
    ("how", "code", "status"),
    [
        ("os", 1, "failed"),
        ("type", 1, "failed"),
        ("bad_input", 2, "failed"),
        ("diverged", 3, "diverged"),
        ("refused", 3, "refused"),
        ("unavailable", 4, "failed"),
    ],
)
def test_exit_codes(bench: Bench, how: str, code: int, status: str) -> None:
    run = bench.run(failing(how))
    assert (run.exit_code, run.status) == (code, status)
    assert stages_of(run) == {"data": "succeeded", "broken": "failed", "train": "skipped"}
    (failure,) = bench.heard.of(events.StageFailed)
    assert "\n" not in failure.error
    assert failure.error == run.record.error
    assert "Traceback" in Path(failure.log).read_text()
    assert "Traceback" in run.log("broken")
    assert Log(bench.store.files, "chain").state().runs[run.run_id]["exit_code"] == code


def test_what_may_pass_is_tried_again(bench: Bench) -> None:
    extra = ", retry: {max_failures: 3, backoff_s: 0.01}"
    run = bench.run(failing("os", 2, extra))
    assert run.exit_code == 0
    assert run.record.stage("broken").attempts == 3
    waits = [event.retry_in_s for event in bench.heard.of(events.StageFailed)]
    assert waits == [0.01, 0.02]


def test_what_cannot_pass_is_not_tried_again(bench: Bench) -> None:
    for how in ("type", "bad_input", "diverged", "refused"):
        CALLS.clear()
        bench.run(failing(how, 2, ", retry: {max_failures: 3, backoff_s: 0.01}"))
        assert CALLS.count("broken") == 1


def test_divergence_is_remembered_until_something_changes(bench: Bench) -> None:
    bench.run(failing("diverged"))
    CALLS.clear()
    run = bench.run(failing("diverged"))
    assert run.exit_code == 3
    assert "not tried again unchanged" in run.record.error
    assert "broken" not in CALLS
    bench.run(failing("diverged"), force=["broken"])
    assert "broken" in CALLS


def test_a_time_limit_stops_a_stage(bench: Bench) -> None:
    run = bench.run(failing("hang", extra=", timeout_s: 0.1"))
    assert run.exit_code == 1
    assert "longer than timeout_s = 0.1" in run.record.error
    assert run.record.stage("broken").kind == "timeout"


def test_a_damaged_input_is_made_again_in_the_same_run(bench: Bench) -> None:
    run = bench.run()
    ref = run.artifact("data").files["data"]
    blob = bench.storage / blob_path(ref.digest)
    stat = blob.stat()
    blob.write_bytes(b"abcx")
    os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    CALLS.clear()
    again = bench.run(sets=["stages.train.with.total_steps=6"])
    assert again.exit_code == 0, again.record.error
    assert again.artifact("train").metadata == {"length": 6}
    assert CALLS.count("data") == 1
    assert blob.read_bytes() == b"abcd"
    assert any("quarantine" in event.line for event in bench.heard.of(events.StageSaid))


def test_a_second_run_is_told_who_holds_the_pipeline(bench: Bench) -> None:
    lease = Log(bench.store.files, "chain").acquire("chain-20260101-000000-abcd")
    with pytest.raises(Busy, match="chain-20260101-000000-abcd"):
        bench.run()
    assert CALLS == []
    lease.release({}, {})
    assert bench.run().exit_code == 0


def test_a_run_that_was_taken_over_commits_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fake_stages.make import Make

    def stolen(self: Make, context: Any) -> Any:
        log = Log(bench.store.files, "chain")
        owner = log.state().lease
        assert owner is not None
        assert log.append(
            "acquire", {"owner": {**vars(owner), "epoch": owner.epoch + 1, "run": "thief"}, "run": "thief"}
        )
        return {"dataset": context.store.put("dataset", {}), "extra": context.store.put("notes", {})}

    monkeypatch.setattr(Make, "run", stolen)
    run = bench.run()
    assert run.exit_code == 6
    assert "thief" in run.record.error
    assert Log(bench.store.files, "chain").state().commits == {}
    assert bench.store.files.names("keys") == []


def test_more_workers_than_this_machine_has_is_told_before_anything_runs(bench: Bench) -> None:
    with pytest.raises(SpecError, match="this machine has") as caught:
        bench.run(CHAIN, ray=True, sets=["stages.train.scale={num_workers: 4000}"])
    assert caught.value.problems[0].id == "too-many-workers"
    assert CALLS == []


def test_the_first_signal_saves_and_the_same_run_goes_on(bench: Bench) -> None:
    before = signal.getsignal(signal.SIGTERM)
    text = CHAIN.replace("total_steps: 3", "total_steps: 40, pause_s: 0.05")
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    run = bench.run(text)
    timer.join()
    assert (run.status, run.exit_code) == ("interrupted", 143)
    assert stages_of(run) == {"data": "succeeded", "train": "interrupted", "score": "skipped"}
    assert signal.getsignal(signal.SIGTERM) is before
    done = CALLS.count("train"), len([call for call in CALLS if call.startswith("step")])
    CALLS.clear()
    assert bench.run(text).exit_code == 0
    assert CALLS[0] == "train"
    assert done[1] + len([call for call in CALLS if call.startswith("step")]) == 40


def test_the_whole_run_has_a_time_limit_and_the_same_run_goes_on(bench: Bench) -> None:
    text = CHAIN.replace("total_steps: 3", "total_steps: 40, pause_s: 0.05")
    limited = bench.run(text, sets=["timeout_s=1"])
    assert (limited.status, limited.exit_code) == ("failed", 1)
    assert limited.record.stage("train").kind == "timeout"
    assert (
        limited.record.error
        == "the run took longer than timeout_s = 1; the same command goes on from the last checkpoint"
    )
    CALLS.clear()
    assert bench.run(text).exit_code == 0
    assert len([call for call in CALLS if call.startswith("step")]) < 40


def test_events_and_records_are_read_back(bench: Bench) -> None:
    run = runs.read(bench.store, bench.run().run_id)
    kinds = [event["event"] for event in run.events()]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert "stage_progress" in kinds
    assert run.record.stage("train").inputs == {"dataset": ["data"]}
    assert run.record.stage("train").key
    assert runs.latest(bench.store, "chain").run_id == run.run_id
    assert [record.uses for record, _ in run.artifacts("model")] == ["grow"]
    with pytest.raises(KeyError, match="no 'nothing'"):
        run.artifact("nothing")


def test_a_bug_of_the_engine_is_raised_after_the_lease_is_released(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.execute import Execution

    def broken(self: Execution) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Execution, "_walk", broken)
    with pytest.raises(ZeroDivisionError):
        bench.run()
    state = Log(bench.store.files, "chain").state()
    assert state.lease is None
    assert [run["exit_code"] for run in state.runs.values()] == [70]


def test_a_signal_between_two_attempts_ends_the_wait_at_once(bench: Bench) -> None:
    def hit() -> None:
        while not bench.heard.of(events.StageFailed):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    started = time.monotonic()
    threading.Thread(target=hit, daemon=True).start()
    run = bench.run(failing("unavailable", extra=", retry: {max_failures: 3, backoff_s: 60, max_backoff_s: 60}"))
    assert time.monotonic() - started < 10
    assert (run.status, run.exit_code) == ("interrupted", 130)
    assert stages_of(run)["broken"] == "interrupted"
    assert run.record.stage("broken").attempts == 1

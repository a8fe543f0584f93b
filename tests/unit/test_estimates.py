"""Do estimates follow from earlier runs, and say so where they cannot? Fake stages, real storage."""

from __future__ import annotations

import textwrap
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import estimates, events, runs
from orchestrator.artifacts import ArtifactStore
from orchestrator.cli import invoke
from orchestrator.events import Listener
from orchestrator.execute import Options, execute
from orchestrator.runs import Run
from tests import fake_stages
from tests.fake_stages import CHAIN
from tests.fake_stages._calls import CALLS


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_stages.install(monkeypatch)
    CALLS.clear()
    yield
    CALLS.clear()


class Bench:
    def __init__(self, folder: Path) -> None:
        self.file, self.storage = folder / "chain.yaml", folder / "runs"
        self.file.write_text(textwrap.dedent(CHAIN))

    def plan(self, *sets: str, **asked: Any) -> Any:
        return orchestrator.plan(self.file, storage=str(self.storage), sets=sets, **asked)

    def run(self, *sets: str, **asked: Any) -> Run:
        return execute(self.plan(*sets, **asked), options=Options(ray=False, tracking=False))

    def took(self, run: Run, **seconds: float) -> None:
        """Rewrite how long its stages took."""
        store = ArtifactStore(str(self.storage))
        record = runs.read(store, run.run_id).record
        for stage, spent in seconds.items():
            record.stage(stage).seconds = spent
        runs.Diary(store, record).save()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_nothing_is_known_before_the_first_run(bench: Bench) -> None:
    outlook = estimates.of(bench.plan())
    assert outlook.unknown == ("data", "train", "score")
    assert (outlook.seconds, outlook.size, outlook.samples) == (0, 0, 0)
    assert "unknown" in str(outlook)
    assert outlook.free is not None
    assert not bench.storage.exists()


def test_the_median_of_the_latest_runs_counts(bench: Bench) -> None:
    for spent in (1.0, 50.0, 3.0):
        bench.took(bench.run(no_cache=True), data=spent, train=6 * spent, score=spent)
    outlook = estimates.of(bench.plan(no_cache=True))
    assert [step.seconds for step in outlook.steps] == [3, 18, 3]
    assert [step.samples for step in outlook.steps] == [3, 3, 3]
    assert "about 24 s" in str(outlook)
    assert "from 3 earlier runs" in str(outlook)
    told = outlook.to_json()
    assert (told["seconds"], told["samples"], told["unknown"]) == (24, 3, [])
    assert told["bytes"] == sum(step["bytes"] for step in told["steps"]) > 0


def test_only_the_steps_that_are_left_count(bench: Bench) -> None:
    bench.took(bench.run("stages.train.with.total_steps=10"), data=1.0, train=20.0, score=1.0)
    assert estimates.of(bench.plan("stages.train.with.total_steps=15")).steps[0].seconds == pytest.approx(10)
    fresh = estimates.of(bench.plan("stages.train.with.total_steps=15", "seed=7"))
    assert [step.seconds for step in fresh.steps] == pytest.approx([1, 30, 1])
    extended = bench.run("stages.train.with.total_steps=15")
    assert extended.record.stage("train").worked == 5
    bench.took(extended, train=100.0)  # 20 s a step now, 2 s a step before: the median lies between
    fresh = estimates.of(bench.plan("stages.train.with.total_steps=10", "seed=8"))
    assert fresh.steps[1].seconds == pytest.approx(110)


def test_what_is_cached_costs_nothing(bench: Bench) -> None:
    bench.run()
    assert estimates.of(bench.plan()).steps == ()
    assert str(estimates.of(bench.plan())) == ""
    assert [step.stage for step in estimates.of(bench.plan(force=["score"])).steps] == ["score"]


def test_another_kind_of_stage_tells_nothing(bench: Bench) -> None:
    bench.run()
    bench.file.write_text(textwrap.dedent(CHAIN.replace("uses: judge", "uses: note")))
    assert estimates.of(bench.plan()).unknown == ("score",)


def test_checkpoints_count_as_disk(bench: Bench) -> None:
    run = bench.run()
    train = next(step for step in estimates.of(bench.plan(force=["train"])).steps if step.stage == "train")
    assert train.size == run.record.stage("train").size + 2 * len("abc")


def test_too_little_disk_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.run()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(100, 97, 3))
    assert estimates.of(bench.plan(no_cache=True)).too_big
    assert invoke(["plan", str(bench.file), "--storage", str(bench.storage), "--no-cache"]) == 0
    out = capsys.readouterr()
    assert "will not fit" in out.err
    assert "3 B free" in out.err


def test_a_run_tells_when_it_starts(bench: Bench) -> None:
    told: list[events.RunStarted] = []

    class Heard(Listener):
        def run_started(self, event: events.RunStarted) -> None:
            told.append(event)

    for sets in ((), ("seed=3",)):
        execute(bench.plan(*sets), listener=Heard(), options=Options(ray=False, tracking=False))
    assert told[0].outlook == ""
    assert told[1].outlook.startswith("about ")


def test_an_unreadable_storage_costs_no_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.errors import Unavailable

    def fail(*args: Any) -> Any:
        raise Unavailable("no answer")

    monkeypatch.setattr(estimates, "records", fail)
    assert estimates.told(bench.plan()) == ""

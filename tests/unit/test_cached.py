"""What may be served again, what is forced, and what is told of it: fake stages, real storage."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import cli
from orchestrator.artifacts import ArtifactStore, blob_path
from orchestrator.cache import Cache, Entry
from orchestrator.errors import BadInput
from orchestrator.events import Listener
from orchestrator.execute import Options, execute
from orchestrator.planning import Plan
from orchestrator.runs import Run
from tests import fake_stages
from tests.fake_stages import CHAIN, MATRIX
from tests.fake_stages._calls import CALLS


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_stages.install(monkeypatch)
    CALLS.clear()
    yield
    CALLS.clear()


class Bench:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "chain.yaml"
        self.storage = folder / "runs"
        self.file.write_text(textwrap.dedent(CHAIN))

    def plan(self, **asked: Any) -> Plan:
        return orchestrator.plan(self.file, storage=str(self.storage), **asked)

    def run(self, **asked: Any) -> Run:
        return execute(self.plan(**asked), listener=Listener(), options=Options(ray=False, tracking=False))

    def states(self, **asked: Any) -> dict[str, str]:
        return {step.step.id: step.state for step in self.plan(**asked).steps}

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(str(self.storage))

    def blob(self, run: Run, stage: str, name: str) -> Path:
        return self.storage / blob_path(run.artifact(stage).files[name].digest)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def damage(blob: Path, how: str) -> None:
    stat, data = blob.stat(), blob.read_bytes()
    if how == "deleted":
        blob.unlink()
        return
    if how == "truncated":
        blob.write_bytes(data[:-1])
    elif how == "altered":
        blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns + (how == "touched")))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("deleted", "artifact model lacks text"),
        ("truncated", "artifact model was altered (text has 2 bytes instead of 3)"),
        ("touched", "artifact model was touched (text)"),
    ],
)
def test_what_was_damaged_misses_and_why_tells_also_afterwards(
    bench: Bench, how: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(bench.blob(bench.run(), "train", "text"), how)
    step = bench.plan().step("train")
    assert (step.state, step.reason) == ("run", told)
    again = bench.run()
    assert again.status == "succeeded"
    assert bench.states() == {"data": "cached", "train": "cached", "score": "cached"}
    assert cli.invoke(["why", str(bench.file), "train", "--storage", str(bench.storage)]) == 0
    out = capsys.readouterr().out
    assert f"{again.run_id} on " in out
    assert told in out


def test_bytes_altered_with_their_time_kept_are_found_by_verify(bench: Bench) -> None:
    run = bench.run()
    blob = bench.blob(run, "train", "text")
    damage(blob, "altered")
    assert set(bench.states().values()) == {"cached"}
    step = bench.plan(verify=True).step("train")
    assert (step.state, step.reason) == ("run", "artifact model was altered (text)")
    assert not blob.exists()  # quarantined, so that nobody is served from it
    CALLS.clear()
    assert bench.run(verify=True).status == "succeeded"
    assert CALLS[0] == "train"
    assert blob.read_bytes() == b"abc"
    assert set(bench.states(verify=True).values()) == {"cached"}


def test_bytes_altered_with_their_time_kept_are_found_when_read(bench: Bench) -> None:
    blob = bench.blob(bench.run(), "train", "text")
    damage(blob, "altered")
    CALLS.clear()
    run = bench.run(force=["score"])
    assert run.status == "succeeded"
    assert CALLS[0] == "score"  # it met the damage
    assert "train" in CALLS
    assert CALLS[-1] == "score"
    assert blob.read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"force": ["train"]}, {"data": "cached", "train": "run", "score": "run"}),
        ({"from_": "train"}, {"data": "cached", "train": "run", "score": "run"}),
        ({"from_": "score"}, {"data": "cached", "train": "cached", "score": "run"}),
        ({"until": "train"}, {"data": "cached", "train": "cached"}),
        ({"force": ["data"], "until": "data"}, {"data": "run"}),
        ({"force": ["score"], "until": "train"}, {"data": "cached", "train": "cached"}),
        ({"from_": "train", "until": "train"}, {"data": "cached", "train": "run"}),
        ({"no_cache": True}, {"data": "run", "train": "run", "score": "run"}),
        ({"no_cache": True, "until": "data"}, {"data": "run"}),
    ],
)
def test_what_is_forced_or_left_out(bench: Bench, asked: dict[str, Any], expected: dict[str, str]) -> None:
    bench.run()
    assert bench.states(**asked) == expected


def test_forced_stages_start_afresh_and_those_after_them_find_the_same(bench: Bench) -> None:
    first = bench.run()
    CALLS.clear()
    second = bench.run(force=["train"])
    assert CALLS == ["train", "step 1", "step 2", "step 3"]  # from the first step, and score was cached after all
    assert {s.stage: s.outputs for s in first.record.stages} == {s.stage: s.outputs for s in second.record.stages}
    CALLS.clear()
    bench.run(no_cache=True)
    assert [call for call in CALLS if "step" not in call] == ["data", "train", "score"]


def test_instances_of_a_matrix_are_forced_by_id_label_or_all_by_name(bench: Bench) -> None:
    bench.file.write_text(textwrap.dedent(MATRIX))
    bench.run()
    ids = [step.step.id for step in bench.plan().steps if step.step.name == "train"]
    labels = [step.step.label for step in bench.plan().steps if step.step.name == "train"]
    assert len(ids) == 4
    for name in (ids[0], labels[0]):
        states = bench.states(force=[name])
        assert [states[train] for train in ids] == ["run", "cached", "cached", "cached"]
    states = bench.states(force=["train"])
    assert {states[train] for train in ids} == {"run"}


def test_unknown_stages_are_told_with_a_near_name(bench: Bench) -> None:
    for asked in ({"force": ["trian"]}, {"from_": "trian"}, {"until": "trian"}):
        with pytest.raises(BadInput, match="did you mean 'train'"):
            bench.plan(**asked)


def test_of_two_results_of_one_key_the_first_is_kept_unless_it_is_gone(bench: Bench) -> None:
    store, cache = bench.store, Cache(bench.store)
    made = [store.put("notes", {"n": str(n).encode()}) for n in range(3)]

    def entry(n: int) -> Entry:
        return Entry("k" * 64, {"notes": made[n].digest}, {}, f"run-{n}", "chain", "data", 0.0, 1.0)

    assert cache.claim(entry(0)) == entry(0)
    assert cache.claim(entry(1)) == entry(0)
    assert cache.get("k" * 64) == entry(0)
    (bench.storage / blob_path(made[0].files["n"].digest)).unlink()
    assert cache.claim(entry(2)) == entry(2)
    assert cache.get("k" * 64) == entry(2)


def test_another_pipelines_result_is_used_where_it_was_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fake_stages.make import Make

    real = Make.run

    def slow(self: Make, context: Any) -> Any:
        """While it works, somebody else puts another result of the same key."""
        made = real(self, context)
        step = bench.plan().step("data")
        assert step.sealed is not None
        other = {"dataset": store.put("dataset", {"data": b"xyz"}, {"length": 3}), "extra": made["extra"]}
        outputs = {name: artifact.digest for name, artifact in other.items()}
        ingredients = step.sealed.ingredients
        Cache(store).put(Entry(step.sealed.key, outputs, ingredients, "other-run", "other", "data", 0.0, 1.0))
        return made

    store = bench.store
    monkeypatch.setattr(Make, "run", slow)
    run = bench.run()
    assert run.status == "succeeded"
    assert run.store.read(run.artifact("data"), "data") == b"xyz"
    assert run.record.stage("data").run == "other-run"
    assert set(bench.states().values()) == {"cached"}


def test_data_that_change_while_they_are_read_are_not_committed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fake_stages.make import Make

    version = [1]
    real = Make.run

    def written_to(self: Make, context: Any) -> Any:
        version[0] += 1
        return real(self, context)

    monkeypatch.setattr(Make, "fingerprint", lambda self: {"version": version[0]})
    monkeypatch.setattr(Make, "run", written_to)
    run = bench.run()
    assert run.exit_code == 2
    assert "changed while it ran" in run.record.error
    monkeypatch.setattr(Make, "run", real)
    assert bench.run().exit_code == 0
    assert set(bench.states().values()) == {"cached"}
    version[0] += 1
    assert bench.plan().step("data").reason == "the files that it reads changed"

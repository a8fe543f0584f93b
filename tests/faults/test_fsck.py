"""Does `orchestrate fsck` find every kind of damage, change nothing unless asked, and put right what can be?"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import orchestrator
from orchestrator.artifacts import ArtifactStore, blob_path, manifest_path
from orchestrator.cache import entry_path
from orchestrator.cli import invoke
from orchestrator.execute import Options, execute
from orchestrator.inspection import LEFT, NOTE, inspect
from orchestrator.log import Log
from orchestrator.mending import mend
from orchestrator.runs import Run
from tests import fake_stages
from tests.faults import disk
from tests.faults.forks import Forks

SPEC = """
version: 1
name: chain
tracking: http://127.0.0.1:9
stages:
  data: {uses: make, with: {text: abcdef}}
  train: {uses: grow, inputs: {dataset: data}, with: {total_steps: 4}}
  score: {uses: judge, inputs: {models: train}}
"""


class Bench:
    """A storage with one finished run."""

    def __init__(self, folder: Path, url: str) -> None:
        self.spec, self.url = folder / "chain.yaml", url
        self.spec.write_text(SPEC)
        self.first = self.run()
        self.outputs = {stage.stage: stage.outputs for stage in self.first.record.stages}
        self.paths = self.places()

    @property
    def store(self) -> ArtifactStore:
        found = ArtifactStore(self.url)
        found.told = lambda line: None
        return found

    def run(self) -> Run:
        plan = orchestrator.plan(self.spec, storage=self.url)
        run = execute(plan, options=Options(ray=False, tracking=False))
        assert run.exit_code == 0, run.record.error
        return run

    def places(self) -> dict[str, str]:
        """One stored file of each kind."""
        store = self.store
        model = self.first.artifact("train")
        lineage = store.files.names("checkpoints")[0]
        names = store.files.names(f"checkpoints/{lineage}")
        newest = max(name for name in names if name.endswith(".json"))
        folder = next(name for name in names if name.startswith(newest[:-5] + "-"))
        finished = store.files.names("pipelines/chain/finished")[0]
        return {
            "blob": blob_path(model.files["text"].digest),
            "manifest": manifest_path(model.digest),
            "key": entry_path(self.first.record.stage("train").key),
            "acquire": "pipelines/chain/log/00000001.json",
            "commit": "pipelines/chain/log/00000003.json",
            "end": f"pipelines/chain/log/{Log(store.files, 'chain').state().n:08d}.json",
            "head": "pipelines/chain/head.json",
            "finished": f"pipelines/chain/finished/{finished}",
            "record": f"runs/{self.first.run_id}/run.json",
            "events": f"runs/{self.first.run_id}/events.jsonl",
            "checkpoint": f"checkpoints/{lineage}/{folder}/text",
            "checkpoint manifest": f"checkpoints/{lineage}/{newest}",
            "format": "format.json",
        }

    def alter(self, path: str) -> None:
        """One bit in the middle, size and time kept."""
        files = self.store.files
        data = bytearray(files.read(path))
        data[len(data) // 2] ^= 1
        if files.local is None:
            files.write(path, bytes(data))
            return
        stat = (files.local / path).stat()
        (files.local / path).write_bytes(bytes(data))
        os.utime(files.local / path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def cut(self, path: str) -> None:
        self.store.files.write(path, self.store.files.read(path)[:-1])

    def remove(self, path: str) -> None:
        self.store.files.remove(path)

    def everything(self) -> dict[str, bytes]:
        local = self.store.files.local
        if local is not None:
            return {str(p.relative_to(local)): p.read_bytes() for p in local.rglob("*") if p.is_file()}
        import fsspec

        fs, root = fsspec.core.url_to_fs(self.url)
        return {path: fs.cat_file(path) for path in fs.find(root)}

    def wrong(self, *, quick: bool = False) -> set[str]:
        return {found.path for found in inspect(self.store, quick=quick).damage}


@pytest.fixture(params=["local", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("orchestrator.log.STALE_S", 0.3)  # for holders that a damaged entry may have named
    fake_stages.install(monkeypatch)
    return Bench(tmp_path, str(tmp_path / "runs") if request.param == "local" else f"memory://{tmp_path.name}")


def test_a_whole_storage_is_whole_and_everything_was_read(bench: Bench) -> None:
    found = inspect(bench.store)
    assert found.damage == []
    assert found.of(NOTE) == []
    assert found.counts["runs"] == 1
    assert found.counts["cache entries"] == 3
    assert found.bytes > 5000


KINDS = (
    "blob", "manifest", "key", "acquire", "commit", "end", "head", "finished", "record", "events", "checkpoint",
    "checkpoint manifest", "format",
)  # fmt: skip
UNSEEN = ("head", "finished", "events", "key", "checkpoint manifest")  # nothing tells that they were, nothing is lost


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_damage_is_found_changed_only_on_request_and_mended(bench: Bench, kind: str) -> None:
    damaged(bench, kind, "alter")


@pytest.mark.parametrize("how", ["cut", "remove"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_that_were_cut_or_removed_are_found_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    damaged(local(tmp_path, monkeypatch), kind, how)


def damaged(bench: Bench, kind: str, how: str) -> None:
    path = bench.paths[kind]
    getattr(bench, how)(path)
    before = bench.everything()
    found = inspect(bench.store)
    if not (how == "remove" and kind in UNSEEN) and not (how == "cut" and kind == "events"):  # as a crash leaves it
        assert found.damage, found.findings
    assert bench.everything() == before
    mended = mend(bench.store, found)
    assert [finding.what for finding, _ in mended.refused] == []
    assert bench.wrong() == set()
    again = bench.run()
    assert {stage.stage: stage.outputs for stage in again.record.stages} == bench.outputs
    assert bench.wrong() == set()


def test_what_is_lost_is_told_and_only_that_is_computed_again(bench: Bench) -> None:
    bench.alter(bench.paths["blob"])
    assert bench.wrong() == {bench.paths["blob"]}
    mended = mend(bench.store, inspect(bench.store))
    assert mended.recomputed == ["train of chain"]
    assert [s.stage for s in bench.run().record.stages if s.state == "succeeded"] == ["train"]


def test_a_lost_cache_entry_is_written_again_from_the_log(bench: Bench) -> None:
    bench.remove(bench.paths["key"])
    found = inspect(bench.store)
    assert (found.damage, len(found.of(NOTE))) == ([], 1)
    mended = mend(bench.store, found)
    assert (mended.recomputed, bench.store.files.exists(bench.paths["key"])) == ([], True)


def test_a_damaged_record_is_made_again_from_the_log(bench: Bench) -> None:
    bench.alter(bench.paths["record"])
    mend(bench.store, inspect(bench.store))
    record = orchestrator.runs.read(bench.store, bench.first.run_id).record
    assert (record.status, record.exit_code) == ("succeeded", 0)
    assert {stage.stage: stage.outputs for stage in record.stages} == bench.outputs
    assert {stage.stage: stage.inputs for stage in record.stages} == {
        stage.stage: stage.inputs for stage in bench.first.record.stages
    }


def test_quick_looks_at_sizes(bench: Bench) -> None:
    bench.alter(bench.paths["blob"])
    assert bench.wrong(quick=True) == set()
    bench.cut(bench.paths["blob"])
    assert bench.wrong(quick=True) == {bench.paths["blob"]}


def test_what_nothing_names_is_left_over_and_no_damage(bench: Bench) -> None:
    ref = bench.store.blob(b"a worker's share")
    orphan = bench.store.put("notes", {"a": b"nobody's"})
    found = inspect(bench.store)
    assert found.damage == []
    assert {one.path for one in found.of(LEFT)} == {blob_path(ref.digest), manifest_path(orphan.digest)}
    assert mend(bench.store, found).done == []
    assert bench.store.files.exists(blob_path(ref.digest))


def test_an_entry_of_a_holder_that_was_taken_over_is_damage(bench: Bench) -> None:
    """It cannot come about; if it ever does, fsck says so."""
    from orchestrator.seals import sealed

    n = Log(bench.store.files, "chain").state().n
    log = Log(bench.store.files, "chain")
    lease = log.acquire("run-2")
    late = {"type": "verdict", "time": 0.0, "run": "run-1", "epoch": 1, "key": "k", "verdict": {}, "n": n + 2}
    bench.store.files.write(f"pipelines/chain/log/{n + 2:08d}.json", sealed(late))
    assert "had lost the pipeline" in inspect(bench.store).damage[0].what
    lease.release({}, {})


def test_a_log_that_is_held_is_left_alone(bench: Bench) -> None:
    lease = Log(bench.store.files, "chain").acquire("run-2")
    bench.alter(bench.paths["commit"])
    mended = mend(bench.store, inspect(bench.store))
    assert ["is held by run run-2" in why for _, why in mended.refused] == [True]
    assert bench.paths["commit"] in bench.wrong()
    lease.release({}, {})
    mend(bench.store, inspect(bench.store))
    assert bench.wrong() == set()


def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("orchestrator.log.STALE_S", 0.3)
    fake_stages.install(monkeypatch)
    return Bench(tmp_path, str(tmp_path / "runs"))


def test_a_touched_artifact_is_no_damage_and_counts_again_after_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = local(tmp_path, monkeypatch)
    os.utime(Path(bench.url) / bench.paths["blob"], ns=(1, 1))
    found = inspect(bench.store)
    assert (found.damage, len(found.of(NOTE))) == ([], 1)
    mend(bench.store, found)
    assert bench.run().cached


def test_the_command_tells_exits_and_repairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = local(tmp_path, monkeypatch)
    command = ["fsck", "--storage", bench.url]
    assert invoke(command) == 0
    assert "everything is whole" in capsys.readouterr().out
    bench.alter(bench.paths["blob"])
    assert invoke(command) == 5
    told = capsys.readouterr()
    assert bench.paths["blob"] in told.out
    assert "--repair" in told.err
    assert invoke([*command, "--json"]) == 5
    facts = json.loads(capsys.readouterr().out)
    assert (facts["clean"], facts["damage"][0]["path"]) == (False, bench.paths["blob"])
    assert invoke([*command, "--repair", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["clean"], facts["recomputed"]) == (True, ["train of chain"])
    assert "quarantine/" in facts["damage"][0]["done"]
    assert invoke(command) == 0
    assert invoke(["fsck", "--storage", str(tmp_path / "none")]) == 0
    assert not (tmp_path / "none").exists()


def test_a_newer_format_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "format.json").write_text('{"format": 99}')
    assert invoke(["fsck", "--repair", "--storage", str(tmp_path)]) == 4
    assert "format 99" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["", "disk://"])
def test_repairs_beside_a_running_pipeline_do_not_disturb_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    disk.register()
    spec, url = tmp_path / "chain.yaml", f"{place}{tmp_path / 'runs'}"
    spec.write_text(SPEC)
    looks: list[int] = []
    over = threading.Event()

    def look(check: Callable[[ArtifactStore], None]) -> None:
        while not over.is_set():
            check(ArtifactStore(url))
            looks.append(1)

    def repair(store: ArtifactStore) -> None:
        found = inspect(store)
        assert found.damage == []
        assert mend(store, found).done == []

    failure: list[BaseException] = []

    def watch() -> None:
        try:
            look(repair)
        except BaseException as error:  # noqa: BLE001 - raised by the test below
            failure.append(error)

    with Forks({"ORCHESTRATOR_CACHE": str(tmp_path / "cache")}) as forks:
        straight = forks.run(spec, f"{place}{tmp_path / 'straight'}")
        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(3):
            outcome = forks.run(spec, url, no_cache=True)
            assert (outcome.code, outcome.outputs, outcome.said) == (0, straight.outputs, [])
        over.set()
        watcher.join()
    assert failure == []
    assert len(looks) > 3


def test_what_a_run_made_again_meanwhile_is_left_alone(bench: Bench) -> None:
    for kind in ("manifest", "key"):
        bench.alter(bench.paths[kind])
    found = inspect(bench.store)
    assert len(found.damage) >= 2
    bench.run()
    assert bench.wrong() == set()
    mended = mend(bench.store, found)
    assert {what for finding, what in mended.done if finding.wrong} == {"whole by now: a run made it again"}
    assert bench.run().cached

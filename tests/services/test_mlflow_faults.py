"""MLflow in trouble: what a run loses (nothing), what it costs (seconds), and what arrives twice (nothing)."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.errors import Unavailable
from orchestrator.execute import Options, execute
from orchestrator.promotion import DIGEST_TAG
from orchestrator.registry import KEY_TAG, connect
from orchestrator.spool import Spool
from orchestrator.stages import register
from orchestrator.stages.register import Register
from orchestrator.tracking import Tracker, spool_directory, sync
from tests import fake_stages
from tests.services.faulty import TROUBLES, Faulty
from tests.services.test_mlflow import Server, given, history, runs_of, versions

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[2]
OTHERS = [trouble for trouble in TROUBLES if trouble not in ("black hole", "lost", "page")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server")
    one = Server(root, f"sqlite:///{root}/server.db")
    one.start()
    connect(one.uri)  # the import of mlflow is no part of what is timed below
    yield one
    one.stop()


@pytest.fixture
def proxy(server: Server) -> Iterator[Faulty]:
    with Faulty(server.uri) as one:
        yield one


def told(root: Path, uri: str, pipeline: str, close_s: float = 8.0) -> tuple[float, list[str]]:
    """A run that logs forty points and a picture; the seconds it spent on that, and what it was told."""
    lines: list[str] = []
    begin = time.monotonic()
    run = Tracker.open(str(root), uri, notice=lines.append).start_run(pipeline, f"{pipeline}-1", {"seed": 1})
    stage = run.child("train")
    for step in range(40):
        stage.metrics({"loss": float(step)}, step=step)
    stage.figure("grid", b"\x89PNG" * 100)
    stage.end()
    run.end()
    run.close(close_s)
    return time.monotonic() - begin, lines


def whole(uri: str, pipeline: str) -> None:
    """Everything of `told` is there, once."""
    found = runs_of(uri, pipeline)
    assert set(found) == {f"{pipeline}-1", f"{pipeline}-1/train"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    stage = found[f"{pipeline}-1/train"]
    assert history(uri, stage, "loss") == [(i, float(i)) for i in range(40)]
    files = connect(uri).list_artifacts(stage.info.run_id, "figures")
    assert [(file.path, file.file_size) for file in files] == [("figures/grid.png", 400)]


def until_sent(root: Path, timeout_s: float = 40.0) -> None:
    """`sync` until nothing is left: the thread of a run that ended may still be inside a call."""
    deadline = time.monotonic() + timeout_s
    while (done := sync(str(root))).left or done.busy:
        assert time.monotonic() < deadline, done
        time.sleep(0.3)
    assert done.refused == []


@pytest.mark.parametrize(
    "trouble", ["black hole", "lost", "page", *(pytest.param(t, marks=pytest.mark.long) for t in OTHERS)]
)
def test_a_run_in_trouble_ends_in_time_and_everything_arrives_later(
    server: Server, proxy: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr("orchestrator.sender.PATIENCE_S", 0.3)
    pipeline = f"all_{trouble.replace(' ', '_')}"
    proxy.trouble = trouble
    seconds, lines = told(tmp_path, proxy.uri, pipeline, close_s=1.5)
    assert seconds < 5.0
    if trouble != "black hole":  # which is noticed only when the request's time is over
        assert len([line for line in lines if "does not answer" in line]) == 1, lines
    proxy.heal()
    until_sent(tmp_path)
    whole(server.uri, pipeline)
    assert sync(str(tmp_path)).sent == 0


@pytest.mark.long
@pytest.mark.parametrize("trouble", [name for name in TROUBLES if name != "black hole"])
def test_every_second_request_fails_and_all_arrives_once(
    server: Server, proxy: Faulty, tmp_path: Path, trouble: str
) -> None:
    pipeline = f"half_{trouble.replace(' ', '_')}"
    proxy.trouble, proxy.every = trouble, 2
    told(tmp_path, proxy.uri, pipeline, close_s=90.0)
    whole(server.uri, pipeline)
    proxy.heal()
    assert sync(str(tmp_path)).sent == 0  # nothing is left to be sent


def test_a_whole_run_before_a_black_hole_takes_ten_seconds_more_at_most(
    proxy: Faulty, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stages.install(monkeypatch)
    (tmp_path / "chain.yaml").write_text(textwrap.dedent(fake_stages.CHAIN) + f"tracking: {proxy.uri}\n")
    proxy.trouble = "black hole"
    plan = orchestrator.plan(tmp_path / "chain.yaml", storage=str(tmp_path / "runs"))
    begin = time.monotonic()
    run = execute(plan, options=Options(ray=False))
    assert time.monotonic() - begin < 10.0
    assert run.exit_code == 0
    proxy.heal()
    # the next run sends it, whatever it is about
    time.sleep(0.5)
    again = orchestrator.plan(tmp_path / "chain.yaml", storage=str(tmp_path / "runs"), force=["score"])
    until_idle(tmp_path / "runs")
    second = execute(again, options=Options(ray=False))
    found = runs_of(server.uri, "chain")
    stages = {f"{run.run_id}/{name}" for name in ("data", "train", "score")}
    assert {key for key in found if key.startswith(run.run_id)} == {run.run_id, *stages}
    assert second.run_id in found
    assert {one.info.status for one in found.values()} == {"FINISHED"}


@pytest.mark.long
def test_a_server_that_does_everything_after_its_request_was_given_up_ends_with_one_of_each(
    proxy: Faulty, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    fake_stages.install(monkeypatch)
    (tmp_path / "chain.yaml").write_text(
        textwrap.dedent(fake_stages.CHAIN).replace("name: chain", "name: slow") + f"tracking: {proxy.uri}\n"
    )
    storage = str(tmp_path / "runs")
    proxy.delay_s = 4.0
    begin = time.monotonic()
    run = execute(orchestrator.plan(tmp_path / "chain.yaml", storage=storage), options=Options(ray=False))
    assert time.monotonic() - begin < 13.0
    assert run.exit_code == 0
    proxy.heal()
    until_idle(tmp_path / "runs")
    until_sent(tmp_path / "runs")
    time.sleep(5.0)  # now the last of them is done, too
    sync(storage)
    found = runs_of(server.uri, "slow")
    assert set(found) == {run.run_id, *(f"{run.run_id}/{name}" for name in ("data", "train", "score"))}
    assert {one.info.status for one in found.values()} == {"FINISHED"}


def until_idle(storage: Path, timeout_s: float = 30.0) -> None:
    """Until no thread of an earlier run in this process holds its spool any more."""
    deadline = time.monotonic() + timeout_s
    for path in spool_directory(str(storage)).glob("*.jsonl"):
        spool = Spool(path.parent, path.stem)
        while not spool.acquire():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        spool.release()


def test_two_syncs_at_once_send_everything_once(server: Server, proxy: Faulty, tmp_path: Path) -> None:
    proxy.trouble = "500"
    told(tmp_path, proxy.uri, "twice", close_s=0.5)
    until_idle(tmp_path)
    proxy.heal()
    proxy.delay_s = 0.05
    counts: list[Any] = []
    threads = [threading.Thread(target=lambda: counts.append(sync(str(tmp_path)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(count.sent > 0 for count in counts) == [False, False, True]
    assert not [count.errors for count in counts if count.errors]
    whole(server.uri, "twice")


# --- kills ------------------------------------------------------------------------------------------------------------

LOGGING = """
import sys, time
from orchestrator.tracking import Tracker, sync
root, uri, what = sys.argv[1:]
if what == "sync":
    sync(root)
    sys.exit()
run = Tracker.open(root, uri).start_run("killed", "killed-1", {"seed": 1})
stage = run.child("train")
for step in range(40):
    stage.metrics({"loss": float(step)}, step=step)
stage.figure("grid", b"\\x89PNG" * 100)
stage.end()
run.end()
run.close(60)
"""


@pytest.mark.long
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_request_nothing_is_lost_or_doubled(
    server: Server, proxy: Faulty, tmp_path: Path, moment: str
) -> None:
    """Of the run, then of the sync that goes on with it, then of the next one …"""
    process: subprocess.Popen[bytes] | None = None
    counted = [0]

    def seen(number: int, when: str, path: str) -> None:
        counted[0] += when == moment
        if when == moment and counted[0] == 3 and process is not None:
            process.kill()

    proxy.seen = seen
    what, codes = "run", []
    while True:
        counted[0] = 0
        command = [sys.executable, "-c", LOGGING, str(tmp_path), proxy.uri, what]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        codes.append(process.wait(120))
        what = "sync"
        if codes[-1] == 0:
            break
        assert codes[-1] == -signal.SIGKILL
        assert len(codes) < 30
        if len(codes) > 6:  # a sync that is killed at each third call would never end
            proxy.seen = lambda number, when, path: None
    assert len(codes) > 3
    whole(server.uri, "killed")
    connect(server.uri).rename_experiment(
        connect(server.uri).get_experiment_by_name("killed").experiment_id, f"killed_{moment}"
    )


# --- registration -----------------------------------------------------------------------------------------------------


def champion(uri: str, model: str) -> str:
    return str(connect(uri).get_model_version_by_alias(model, "champion").version)


class Shaky:
    """A client of which each `every`-th call fails, before or after it was done."""

    def __init__(self, client: Any, every: int, done: bool) -> None:
        self._client, self._every, self._done, self.count = client, every, done, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name == "_get_registry_client":
            return lambda: _Part(self, method())
        return functools.partial(self._call, method) if callable(method) else method

    def _call(self, method: Any, *args: Any, **options: Any) -> Any:
        self.count += 1
        fails = self.count % self._every == 0
        if fails and not self._done:
            raise ConnectionError("not sent")
        answer = method(*args, **options)
        if fails:
            raise ConnectionError("the reply was lost")
        return answer


class _Part:
    """A client inside of a shaky one, which fails with it."""

    def __init__(self, shaky: Shaky, client: Any) -> None:
        self._shaky, self._client = shaky, client

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._shaky._call, getattr(self._client, name))


@pytest.mark.parametrize(
    ("every", "done"),
    [(2, False), (3, True), *(pytest.param(*other, marks=pytest.mark.long) for other in ((2, True), (3, False)))],
)
def test_registration_where_calls_fail_by_turns_makes_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, done: bool
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    shaky = Shaky(connect(uri), every, done)
    monkeypatch.setattr("orchestrator.registry.connect", lambda uri: shaky)
    at = given(tmp_path, uri, 0, 12.0, run_id="shaky-1")
    (made,) = registering(at, "shaky")
    again = registering(replace(at, run_id="shaky-2", scratch=tmp_path), "shaky")
    assert versions(uri, "shaky") == ["1"] == [made["version"]]
    assert again[0]["version"] == "1"
    assert champion(uri, "shaky") == "1"
    keys = set(runs_of(uri, "digits"))
    assert keys == {"shaky-1", "shaky-1/register"}
    assert [model.name for model in connect(uri).search_registered_models()] == ["shaky"]
    assert shaky.count > 20


class Late:
    """A client whose first creations are done when nobody waits for them any more: the call fails, `do` does it."""

    def __init__(self, client: Any, *names: str) -> None:
        self._client, self._names, self.late = client, list(names), list[Any]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return functools.partial(self._delay, method) if name in self._names else method

    def _delay(self, method: Any, *args: Any, **options: Any) -> Any:
        self._names.remove(method.__name__)
        self.late.append(functools.partial(method, *args, **options))
        raise ConnectionError("timed out")

    def do(self) -> None:
        while self.late:
            self.late.pop()()


def test_a_version_made_long_after_its_request_was_given_up_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    late = Late(connect(uri), "create_model_version")
    (tmp_path / "3").mkdir()
    monkeypatch.setattr("orchestrator.registry.connect", lambda uri: late)
    at = given(tmp_path, uri, 0, 12.0, run_id="late-1")
    registering(at, "late")
    late.do()
    assert versions(uri, "late") == ["1", "2"]
    connect(uri).set_registered_model_alias("late", "mine", "2")  # it is somebody's now
    (again,) = registering(replace(at, run_id="late-2", scratch=tmp_path), "late")
    assert versions(uri, "late") == ["1", "2"]
    connect(uri).delete_registered_model_alias("late", "mine")
    (again,) = registering(replace(at, run_id="late-3", scratch=tmp_path / "3"), "late")
    assert versions(uri, "late") == ["1"] == [again["version"]]
    assert champion(uri, "late") == "1"


def test_a_run_made_long_after_its_request_was_given_up_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    late = Late(connect(uri), "create_run", "create_run")
    monkeypatch.setattr("orchestrator.registry.connect", lambda uri: late)
    run = Tracker.open(str(tmp_path), uri).start_run("late", "late-1")
    stage = run.child("train")
    stage.metrics({"loss": 1.0}, step=1)
    until(lambda: len(late.late) == 2)
    late.do()
    stage.metrics({"loss": 2.0}, step=2)
    stage.end()
    run.end()
    assert run.close(30.0) == 0
    found = connect(uri).search_runs([connect(uri).get_experiment_by_name("late").experiment_id])
    assert sorted(one.data.tags[KEY_TAG] for one in found) == ["late-1", "late-1/train"]
    assert {one.info.status for one in found} == {"FINISHED"}
    assert history(uri, runs_of(uri, "late")["late-1/train"], "loss") == [(1, 1.0), (2, 2.0)]


def test_sync_removes_what_came_late_after_the_last_run_and_registration(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stages.install(monkeypatch)
    (tmp_path / "chain.yaml").write_text(
        textwrap.dedent(fake_stages.CHAIN).replace("name: chain", "name: tardy") + f"tracking: {server.uri}\n"
    )
    storage = str(tmp_path / "runs")
    run = execute(orchestrator.plan(tmp_path / "chain.yaml", storage=storage), options=Options(ray=False))
    assert run.exit_code == 0
    until_idle(tmp_path / "runs")
    client = connect(server.uri)
    before = runs_of(server.uri, "tardy")
    stage = before[f"{run.run_id}/train"].info
    client.set_tag(stage.run_id, "registered.model", "tardy")  # as `register` does
    client.create_registered_model("tardy")
    first = client.create_model_version(
        "tardy", f"{stage.artifact_uri}/x", stage.run_id, tags={DIGEST_TAG: "1" * 64}
    ).version
    assert (found := sync(storage)).removed == 0, found
    # what the server does now was asked for long ago
    client.create_run(stage.experiment_id, tags={KEY_TAG: f"{run.run_id}/train"})
    client.create_model_version("tardy", f"{stage.artifact_uri}/x", stage.run_id, tags={DIGEST_TAG: "1" * 64})
    # and this is a run that goes on, and another artifact
    client.create_run(stage.experiment_id, tags={KEY_TAG: "tardy-2"})
    other = client.create_model_version(
        "tardy", f"{stage.artifact_uri}/y", stage.run_id, tags={DIGEST_TAG: "2" * 64}
    ).version
    done = sync(storage)
    assert (done.removed, done.notes, done.errors) == (2, [], [])
    assert {key: one.info.run_id for key, one in runs_of(server.uri, "tardy").items() if key != "tardy-2"} == {
        key: one.info.run_id for key, one in before.items()
    }
    assert "tardy-2" in runs_of(server.uri, "tardy")
    assert versions(server.uri, "tardy") == [first, other]
    assert sync(storage).removed == 0


def test_sync_without_anything_to_send_is_done_where_mlflow_is_away(
    server: Server, proxy: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.latecomers.ANSWER_WITHIN_S", 1.0)
    fake_stages.install(monkeypatch)
    (tmp_path / "chain.yaml").write_text(
        textwrap.dedent(fake_stages.CHAIN).replace("name: chain", "name: absent") + f"tracking: {proxy.uri}\n"
    )
    storage = str(tmp_path / "runs")
    run = execute(orchestrator.plan(tmp_path / "chain.yaml", storage=storage), options=Options(ray=False))
    assert run.exit_code == 0
    until_idle(tmp_path / "runs")
    proxy.trouble = "500"
    done = sync(storage)
    assert (done.sent, done.left, done.errors, done.removed) == (0, 0, [], 0)
    (note,) = done.notes
    assert "not looked for what came late" in note
    assert proxy.uri in note


def until(true: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.parametrize("trouble", [name for name in TROUBLES if name != "black hole"])
def test_registration_through_trouble_makes_one_version(
    server: Server, proxy: Faulty, tmp_path: Path, trouble: str
) -> None:
    model = f"through_{trouble.replace(' ', '_')}"
    proxy.trouble, proxy.every = trouble, 2
    at = given(tmp_path, proxy.uri, 0, 12.0, run_id=f"{model}-1")
    (made,) = registering(at, model)
    assert proxy.count > 60
    assert versions(server.uri, model) == ["1"] == [made["version"]]
    assert champion(server.uri, model) == "1"
    keys = runs_of(server.uri, "digits")
    assert {f"{model}-1", f"{model}-1/register"} <= set(keys)
    assert not connect(server.uri).search_registered_models(f"name LIKE '{model}.lock%'")


def registering(at: Any, model: str) -> list[dict[str, Any]]:
    stage = Register(model=model, require={"frechet_distance": {"max": 40, "better_than": "champion"}})
    return [artifact.metadata for artifact in stage.run(at).values()]


@pytest.mark.parametrize("trouble", ["500", "page"])
def test_a_registration_that_cannot_be_says_so_and_the_next_one_makes_it(
    server: Server, proxy: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(register, "PATIENCE_S", 1.0)
    at = given(tmp_path, proxy.uri, 0, 12.0, run_id=f"later_{trouble}-1")
    proxy.trouble = trouble
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="run again") as refused:
        registering(at, f"later_{trouble}")
    assert refused.value.exit_code == 4
    assert time.monotonic() - begin < 20
    proxy.heal()
    (at.scratch / "model").rename(at.scratch / "earlier")
    registering(replace(at, run_id=f"later_{trouble}-2"), f"later_{trouble}")
    assert versions(server.uri, f"later_{trouble}") == ["1"]


def register_packaged(at: Any, model: str, directory: Path) -> None:
    """In a process of its own: what `Register.run` does once the model is packaged."""
    stage = Register(model=model, require={"frechet_distance": {"max": 40, "better_than": "champion"}})
    artifact = at.inputs["model"]
    stage._patiently(at, artifact, directory, stage._scores(at, artifact))


@pytest.mark.long
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_request_of_a_registration_the_rerun_makes_one_version_and_one_alias(
    server: Server, proxy: Faulty, tmp_path: Path, moment: str
) -> None:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["torch", "mlflow", "orchestrator.stages.register"])
    directory = register._packaged(first := given(tmp_path, proxy.uri, 0, 12.0), first.inputs["model"])
    die_at, died = 0, True
    while died:
        die_at += 1
        model = f"killed_{moment}_{die_at}"
        starting = starts(forks, given(tmp_path, proxy.uri, 0, 12.0, run_id=f"{model}-1"), model, directory)
        died = killed(starting, proxy, moment, die_at)
        rerun = starts(forks, given(tmp_path, proxy.uri, 0, 12.0, run_id=f"{model}-2"), model, directory)
        rerun.start()
        rerun.join(60)
        assert rerun.exitcode == 0, die_at
        assert versions(server.uri, model) == ["1"], die_at
        assert champion(server.uri, model) == "1"
        assert not connect(server.uri).search_registered_models(f"name LIKE '{model}.lock%'"), die_at
    assert die_at > 15


def starts(forks: Any, at: Any, model: str, directory: Path) -> Any:
    plain = replace(at, progress=None, tracker=None, stopping=bool)
    return forks.Process(target=register_packaged, args=(plain, model, directory))


def killed(process: Any, proxy: Faulty, moment: str, die_at: int) -> bool:
    """Run a process and kill it at a request; whether it came that far."""
    died, base = threading.Event(), proxy.count

    def seen(number: int, when: str, path: str) -> None:
        if when == moment and number - base == die_at:
            died.set()
            process.kill()
            process.join()

    proxy.seen = seen
    process.start()
    process.join(60)
    proxy.seen = lambda number, when, path: None
    assert died.is_set() or process.exitcode == 0
    return died.is_set()


# --- the local database -----------------------------------------------------------------------------------------------


def test_a_locked_database_delays_nothing_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "PATIENCE_S", 1.0)
    monkeypatch.setattr("orchestrator.registry.LOCKED_S", 1.0)
    database = tmp_path / "mlflow.db"
    connect(f"sqlite:///{database}")
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        seconds, _ = told(tmp_path, f"sqlite:///{database}", "locked", close_s=2.0)
        assert seconds < 4.0
        with pytest.raises(Unavailable, match="locked"):
            registering(given(tmp_path, f"sqlite:///{database}", 0, 12.0), "locked")
    until_sent(tmp_path)
    whole(f"sqlite:///{database}", "locked")


def test_a_database_that_is_none_is_told_within_seconds(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    seconds, lines = told(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", "garbage", close_s=2.0)
    assert seconds < 4.0
    assert "not a database" in lines[0]
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="not a database"):
        registering(given(tmp_path, f"sqlite:///{tmp_path}/mlflow.db", 0, 12.0), "garbage")
    assert time.monotonic() - begin < 15


CREATING = "import sys; from orchestrator.registry import connect; connect(sys.argv[1])"


@pytest.mark.long
def test_a_database_whose_making_is_killed_at_any_time_is_made_by_the_next(tmp_path: Path) -> None:
    for delay_s in (1.5, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0):
        uri = f"sqlite:///{tmp_path}/{delay_s}/mlflow.db"
        process = subprocess.Popen([sys.executable, "-c", CREATING, uri], cwd=ROOT)
        time.sleep(delay_s)
        process.kill()
        process.wait()
        assert subprocess.run([sys.executable, "-c", CREATING, uri], cwd=ROOT, check=True).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_costs_records_but_never_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        fill = small / "fill"
        fill.write_bytes(b"x" * 61440)
        lines: list[str] = []
        run = Tracker.open(str(tmp_path), "http://127.0.0.1:9", small / "spool", notice=lines.append).start_run(
            "f", "f-1"
        )
        stage = run.child("train")
        for step in range(2000):
            stage.metrics({"loss": float(step)}, step=step)
            stage.figure("grid", b"\x89PNG" * 100)
        fill.unlink()
        stage.metrics({"late": 1.0}, step=1)
        stage.end()
        run.end()
        assert run.close(1.0) > 0
        assert len([line for line in lines if "No space left" in line]) == 1
        (spool,) = (Spool(small / "spool", path.stem) for path in (small / "spool").glob("*.jsonl"))
        entries, _ = spool.read(0)
        assert [entry["op"] for entry in entries if entry["op"] in ("open", "run", "end")] == [
            "open",
            "run",
            "run",
            "end",
            "end",
        ]
        assert entries[-3]["values"] == [["late", 1.0]]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)

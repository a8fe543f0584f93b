"""What MLflow was not told outlives the machine of its run: it waits in the remote storage, and any machine sends it."""

from __future__ import annotations

import secrets
import textwrap
from pathlib import Path

import pytest
from mlflow import MlflowClient

import orchestrator
from orchestrator import untold
from orchestrator.execute import Options, execute
from orchestrator.files import open_files
from orchestrator.spool import Spool, spools
from orchestrator.tracking import spool_directory, sync
from tests import fake_stages

NOBODY = "http://127.0.0.1:9"  # the port of `discard`: nothing listens


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"memory://{secrets.token_hex(8)}/runs"


def test_a_spool_comes_back_as_it_was_and_is_forgotten_once_sent(bucket: str, tmp_path: Path) -> None:
    files, spool = open_files(bucket), Spool(tmp_path / "here", "run-1")
    spool.append({"op": "open"})
    confirmed = spool.read(0)[1]
    spool.confirm(confirmed)
    spool.append({"op": "file", "file": spool.keep("grid.png", b"picture")})
    spool.close()
    untold.leave(files, spool)
    assert not list(spools(tmp_path / "here")), "moved"
    assert untold.names(files) == ["run-1"]
    assert untold.names(open_files(str(tmp_path))) == []

    with untold.borrowed(files, "run-1") as back:  # and MLflow goes away again
        assert (back.position, back.pending()) == (confirmed, 1)
        [entry], after = back.read(back.position)
        assert back.file(entry["file"]).read_bytes() == b"picture"
        back.confirm(after)
    with untold.borrowed(files, "run-1") as back:
        assert back.pending() == 0
        back.remove()
    assert untold.names(files) == [] and files.names("spool") == []


def test_what_a_run_could_not_tell_is_sent_from_another_machine(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stages.install(monkeypatch)
    path = tmp_path / "chain.yaml"
    path.write_text(textwrap.dedent(fake_stages.CHAIN) + f"tracking: {NOBODY}\n")
    run = execute(orchestrator.plan(path, storage=bucket), options=Options(ray=False))
    assert run.exit_code == 0
    files = open_files(bucket)
    assert untold.names(files) == [run.run_id]

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert not spool_directory(bucket).exists()
    assert sync(bucket).left > 0
    database = f"sqlite:///{tmp_path}/mlflow.db"
    done = sync(bucket, database)
    assert (done.left, done.errors, done.refused) == (0, [], []) and done.sent > 3
    assert untold.names(files) == [] and sync(bucket, database).sent == 0

    client = MlflowClient(database)
    experiment = client.get_experiment_by_name("chain")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    stages = {f"{run.run_id}/{name}" for name in ("data", "train", "score")}
    assert {one.data.tags["orchestrator.run_id"] for one in found if "orchestrator.run_id" in one.data.tags} >= {
        run.run_id
    }
    assert len(found) == 1 + len(stages)


def test_the_next_run_that_reaches_mlflow_sends_it_too(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stages.install(monkeypatch)
    path, database = tmp_path / "chain.yaml", f"sqlite:///{tmp_path}/mlflow.db"
    path.write_text(textwrap.dedent(fake_stages.CHAIN) + f"tracking: {database}\n")
    blocked = tmp_path / "mlflow.db"
    blocked.mkdir()  # no database can be there yet
    assert execute(orchestrator.plan(path, storage=bucket), options=Options(ray=False)).exit_code == 0
    assert len(untold.names(open_files(bucket))) == 1
    blocked.rmdir()
    MlflowClient(database).search_experiments()  # makes the tables, which takes longer than a run waits at its end
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    again = execute(orchestrator.plan(path, storage=bucket, force=["score"]), options=Options(ray=False))
    assert again.exit_code == 0
    assert untold.names(open_files(bucket)) == []

"""Real MLflow: sqlite in the storage, and a server that goes away, comes back and loses replies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.errors import BadInput, GateRefused, Unavailable
from orchestrator.loaded import sample_source
from orchestrator.mlflow_calls import Patient
from orchestrator.registry import KEY_TAG, connect
from orchestrator.stage import Context
from orchestrator.stages.register import Register
from orchestrator.tracking import Tracker, spool_directory, sync
from tests.services.postgresql import postgresql, programs
from tests.stand import context
from trainers import config
from trainers.core import DataShape
from trainers.generator import Generator
from trainers.step import Game

pytestmark = pytest.mark.services


class Server:
    """An `mlflow server` of its own on loopback, with its data in a directory: stopped and started at will."""

    def __init__(self, root: Path, database: str) -> None:
        self.root, self.database = root, database
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        where = [
            "--backend-store-uri",
            self.database,
            "--artifacts-destination",
            f"{self.root}/files",
        ]
        command = [sys.executable, "-m", "mlflow", "server", *where, "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        log = (self.root / "server.log").open("ab")
        self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=self.root, start_new_session=True)
        log.close()
        deadline = time.monotonic() + 120
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.root / "server.log").read_text()[-2000:])
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: the server and its one worker
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on PostgreSQL."""
    bin_ = programs()
    if bin_ is None:
        pytest.skip("needs PostgreSQL (Debian package postgresql)")
    with postgresql(bin_) as database:
        one = Server(tmp_path_factory.mktemp("server"), database)
        one.start()
        yield one
        one.stop()


class Forgetful:
    """A proxy that passes requests on and loses the first reply to each POST whose path ends in one of `losing`."""

    def __init__(self, target: str, losing: tuple[str, ...]) -> None:
        waiting = set(losing)

        class Relay(BaseHTTPRequestHandler):
            def relay(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                request = urllib.request.Request(target + self.path, body, headers, method=self.command)
                try:
                    with urllib.request.urlopen(request, timeout=60) as reply:
                        status, content = reply.status, reply.read()
                except urllib.error.HTTPError as error:
                    with error:
                        status, content = error.code, error.read()
                lost = {path for path in waiting if self.command == "POST" and self.path.endswith(path)}
                waiting.difference_update(lost)
                if lost:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = relay

            def log_message(self, *args: Any) -> None:
                pass

        self.waiting = waiting
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Forgetful:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def runs_of(uri: str, pipeline: str) -> dict[str, Any]:
    """Key -> run."""
    client = connect(uri)
    experiment = client.get_experiment_by_name(pipeline)
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    keys = [run.data.tags[KEY_TAG] for run in found]
    assert len(keys) == len(set(keys)), "a run was created twice"
    return dict(zip(keys, found, strict=True))


def history(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in connect(uri).get_metric_history(run.info.run_id, metric)]


# --- tracking ---------------------------------------------------------------------------------------------------------


def test_a_run_with_stages_and_trials_in_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Tracker.open("runs").start_run("dcgan", "dcgan-1", {"seed": 0}, {"spec": "abc"})
    search = run.child("search")
    for number in range(3):
        trial = search.child(f"trial-{number}")
        trial.params({"lr": 10.0**-number})
        for step in range(5):
            trial.metrics({"frechet_distance": 10.0 - step}, step=step)
        trial.end("FINISHED" if number else "FAILED")
    search.figure("samples/grid", b"\x89PNG")
    search.metrics({"odd": float("nan"), "huge": float("inf")})
    search.params({"long": "x" * 9000, "a!b(c)": 1})
    search.end()
    run.artifact("report.html", b"<html></html>")
    run.tags({"artifact.train": "digest"})
    run.end()
    assert run.close(60) == 0

    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    found = runs_of(uri, "dcgan")
    trials = [f"dcgan-1/search/trial-{n}" for n in range(3)]
    assert set(found) == {"dcgan-1", "dcgan-1/search", *trials}
    parents = {key: run.data.tags.get("mlflow.parentRunId") for key, run in found.items()}
    assert parents["dcgan-1"] is None
    assert parents["dcgan-1/search"] == found["dcgan-1"].info.run_id
    assert {parents[key] for key in trials} == {found["dcgan-1/search"].info.run_id}
    assert found[trials[0]].info.status == "FAILED"
    assert found["dcgan-1"].info.status == "FINISHED"
    assert found["dcgan-1"].data.tags["artifact.train"] == "digest"
    assert found[trials[2]].data.params == {"lr": "0.01"}
    assert set(found["dcgan-1/search"].data.params) == {"long", "a_b_c_"}
    assert history(uri, found[trials[1]], "frechet_distance") == [(step, 10.0 - step) for step in range(5)]
    files = tmp_path / "runs" / "mlflow-artifacts" / "dcgan"
    assert sorted(p.name for p in files.rglob("*.*")) == ["grid.png", "long.txt", "report.html"]
    assert list(spool_directory("runs").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_same_run_goes_on_in_the_same_mlflow_run(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for attempt in range(2):
        run = Tracker.open(str(tmp_path)).start_run("ring8", "ring8-1")
        stage = run.child("train")
        stage.metrics({"loss": 1.0}, step=attempt)
        stage.end("FINISHED" if attempt else "KILLED")
        run.end("FINISHED" if attempt else "KILLED")
        assert run.close(60) == 0
    found = runs_of(uri, "ring8")
    assert {key: run.info.status for key, run in found.items()} == {"ring8-1": "FINISHED", "ring8-1/train": "FINISHED"}
    assert [step for step, _ in history(uri, found["ring8-1/train"], "loss")] == [0, 1]


def test_an_outage_costs_no_time_and_no_data(tmp_path: Path) -> None:
    away = Server(tmp_path, f"sqlite:///{tmp_path}/server.db")
    told: list[str] = []
    run = Tracker.open(str(tmp_path), away.uri, notice=told.append).start_run("ring8", "ring8-1")
    stage = run.child("train")
    start = time.monotonic()
    for step in range(600):
        stage.metrics({"discriminator/real": step / 600}, step=step)
    stage.figure("grid", b"\x89PNG")
    assert time.monotonic() - start < 2.0
    stage.end()
    run.end()
    _until(lambda: told)
    start = time.monotonic()
    assert run.close(2.0) > 600
    assert time.monotonic() - start < 5.0
    assert len([line for line in told if "does not answer" in line]) == 1
    _until(lambda: len(sync(str(tmp_path)).errors) == 1)  # once the sender's last call has returned
    try:
        away.start()
        counts = sync(str(tmp_path))
        assert (counts.left, counts.busy, counts.errors, counts.refused) == (0, 0, [], [])
        found = runs_of(away.uri, "ring8")
        assert history(away.uri, found["ring8-1/train"], "discriminator/real") == [(i, i / 600) for i in range(600)]
        assert {run.info.status for run in found.values()} == {"FINISHED"}
        assert sync(str(tmp_path)).sent == 0
    finally:
        away.stop()


def test_a_server_that_comes_back_gets_everything_while_the_run_goes_on(tmp_path: Path) -> None:
    here = Server(tmp_path, f"sqlite:///{tmp_path}/server.db")
    here.start()
    try:
        told: list[str] = []
        run = Tracker.open(str(tmp_path), here.uri, notice=told.append).start_run("ring8", "ring8-1")
        stage = run.child("train")
        stage.metrics({"loss": 0.0}, step=0)
        _until(lambda: "ring8-1/train" in runs_of(here.uri, "ring8"))
        here.stop()
        for step in range(1, 100):
            stage.metrics({"loss": float(step)}, step=step)
        _until(lambda: any("does not answer" in line for line in told))
        here.start()
        stage.end()
        run.end()
        assert run.close(60) == 0
        assert any("answers again" in line for line in told)
        found = runs_of(here.uri, "ring8")
        assert history(here.uri, found["ring8-1/train"], "loss") == [(i, float(i)) for i in range(100)]
    finally:
        here.stop()


def _until(true: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)


def test_lost_replies_create_nothing_twice(server: Server, tmp_path: Path) -> None:
    losing = ("experiments/create", "runs/create", "runs/log-batch", "runs/update")
    with Forgetful(server.uri, losing) as proxy:
        run = Tracker.open(str(tmp_path), proxy.uri, notice=lambda line: None).start_run(
            "lossy", "lossy-1", {"seed": 1}
        )
        stage = run.child("train")
        for step in range(10):
            stage.metrics({"loss": float(step)}, step=step)
        stage.end()
        run.end()
        assert run.close(60) == 0
        assert not proxy.waiting, "a reply that should have been lost was never asked for"
    found = runs_of(server.uri, "lossy")
    assert set(found) == {"lossy-1", "lossy-1/train"}
    assert history(server.uri, found["lossy-1/train"], "loss") == [(i, float(i)) for i in range(10)]


def test_what_the_server_refuses_does_not_hold_up_the_rest(server: Server, tmp_path: Path) -> None:
    told: list[str] = []
    run = Tracker.open(str(tmp_path), server.uri, notice=told.append).start_run("refused", "refused-1")
    stage = run.child("train")
    stage.params({"lr": 1})
    stage.params({"lr": 2, "width": 3})
    stage.metrics({"loss": 1.0})
    run.end()
    assert run.close(60) == 0
    found = runs_of(server.uri, "refused")["refused-1/train"]
    assert found.data.params["width"] == "3"
    assert found.data.metrics == {"loss": 1.0}


# --- registration -----------------------------------------------------------------------------------------------------

SHAPE = DataShape("image", (1, 8, 8))
WEIGHTS = "some weights"


def game(seed: int) -> Game:
    user = {"variant": "gan", "backbone": {"mlp": {"width": 16}}, "batch_size": 8, "total_steps": 10}
    return Game(config.resolve(user, facts={"shape": SHAPE.to_json()}), SHAPE, seed)


def trained(store: ArtifactStore, seed: int) -> Artifact:
    """A model artifact as the train stage makes it."""
    from safetensors.torch import save

    from trainers.checkpoint import networks

    made = game(seed)
    about = {"config": made.config.to_json(), "shape": SHAPE.to_json(), "step": 10, "seed": seed}
    files = {"model.safetensors": save(networks(made)), "config.json": json.dumps(about).encode()}
    return store.put("model", files, about)


def scored(store: ArtifactStore, model: Artifact, value: float, **protocol: Any) -> Artifact:
    """A scores artifact as the evaluate stage makes it."""
    result = {
        "value": value,
        "values": {"frechet_distance": value},
        "primary": "frechet_distance",
        "direction": "minimize",
        "protocol": {"metric": "frechet_distance", "weights": WEIGHTS, **protocol},
    }
    metadata = {"scores": {"frechet_distance": result}, "values": {"frechet_distance": value}, "model": model.digest}
    return store.put("scores", {"scores.json": b"{}"}, metadata)


def given(root: Path, uri: str, seed: int, value: float, run_id: str = "digits-1", **protocol: Any) -> Context:
    here = root / f"{run_id}-{seed}-{time.monotonic_ns()}"
    here.mkdir()
    store = ArtifactStore(str(root / "store"))
    model = trained(store, seed)
    inputs = {"model": model, "scores": scored(store, model, value, **protocol)}
    made = context(here, inputs, store=store)
    return replace(made, stage="register", pipeline="digits", run_id=run_id, tracking_uri=uri)


def stage(model: str, **options: Any) -> Register:
    return Register(model=model, require={"frechet_distance": {"max": 40, "better_than": "champion"}}, **options)


def champion(uri: str, model: str) -> str:
    return str(connect(uri).get_model_version_by_alias(model, "champion").version)


def versions(uri: str, model: str) -> list[str]:
    return sorted(str(v.version) for v in connect(uri).search_model_versions(f"name = '{model}'"))


def test_registered_promoted_and_loaded_from_the_local_database(tmp_path: Path) -> None:
    at = given(tmp_path, "", 0, 12.0)
    (made,) = stage("digits").run(at).values()
    assert made.metadata["promoted"] is True
    assert (made.metadata["version"], made.metadata["alias"]) == ("1", "champion")
    storage = str(tmp_path / "store")
    images = sample_source("models:/digits@champion", 16, 7, storage=storage)
    assert np.array_equal(images, Generator.of(game(0)).images(16, seed=7))
    assert np.array_equal(images, sample_source("models:/digits/1", 16, 7, storage=storage))
    with pytest.raises(BadInput, match="there is no models:/digits@other"):
        sample_source("models:/digits@other", 1, storage=storage)


def test_the_gate_over_versions(server: Server, tmp_path: Path) -> None:
    uri = server.uri
    stage("gated").run(given(tmp_path, uri, 0, 20.0))
    assert champion(uri, "gated") == "1"

    with pytest.raises(GateRefused, match=r"52.*above the highest allowed 40"):
        stage("gated").run(given(tmp_path, uri, 1, 52.0))
    with pytest.raises(GateRefused, match=r"not better than 20 of the champion, version 1"):
        stage("gated").run(given(tmp_path, uri, 2, 21.0))
    with pytest.raises(GateRefused, match="another protocol"):
        stage("gated").run(given(tmp_path, uri, 3, 1.0, weights="others"))
    assert champion(uri, "gated") == "1"

    stage("gated").run(given(tmp_path, uri, 4, 10.0))
    assert champion(uri, "gated") == "5"
    assert versions(uri, "gated") == ["1", "2", "3", "4", "5"]
    refused = connect(uri).get_model_version("gated", "2")
    assert refused.tags["gate"].startswith("refused: frechet_distance 52")
    again = stage("gated").run(given(tmp_path, uri, 4, 10.0, run_id="digits-2"))["registration"]
    assert again.metadata["version"] == "5"
    assert versions(uri, "gated") == ["1", "2", "3", "4", "5"]


def test_a_lost_reply_registers_one_version(server: Server, tmp_path: Path) -> None:
    losing = ("registered-models/create", "model-versions/create", "registered-models/alias")
    with Forgetful(server.uri, losing) as proxy:
        (made,) = stage("lossy").run(given(tmp_path, proxy.uri, 0, 12.0, run_id="digits-3")).values()
        assert not proxy.waiting
    assert versions(server.uri, "lossy") == ["1"] == [made.metadata["version"]]
    assert champion(server.uri, "lossy") == "1"
    with pytest.raises(Exception, match="not found"):
        connect(server.uri).get_registered_model("lossy.lock")


def test_of_several_promotions_at_once_the_best_wins(server: Server, tmp_path: Path) -> None:
    contexts = [given(tmp_path, server.uri, seed, value) for seed, value in enumerate((30.0, 10.0, 20.0))]
    refusals: list[str] = []

    def promote(at: Context) -> None:
        try:
            stage("raced").run(at)
        except GateRefused as refusal:
            refusals.append(str(refusal))

    threads = [threading.Thread(target=promote, args=(at,)) for at in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    best = connect(server.uri).get_model_version_by_alias("raced", "champion")
    assert json.loads(best.tags["orchestrator.score.frechet_distance"])["value"] == 10.0
    assert len(versions(server.uri, "raced")) == 3


def test_a_lock_left_by_a_dead_process_is_broken_and_a_living_one_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(server.uri)
    # Its age means nothing, clocks differ: it stays in the same hands for too long.
    client.create_registered_model("locked.lock", tags={"owner": "dead", "since": str(time.time() + 100_000)})
    with monkeypatch.context() as sooner:
        sooner.setattr("orchestrator.promotion.LOCK_STALE_S", 1.0)
        stage("locked").run(given(tmp_path, server.uri, 0, 12.0))
    assert champion(server.uri, "locked") == "1"
    left = [m.name for m in client.search_registered_models("name LIKE 'locked.lock%'")]
    assert left == []

    client.create_registered_model("held.lock", tags={"owner": "alive", "since": str(time.time() - 100_000)})
    from orchestrator.promotion import locked

    with (
        pytest.raises(Unavailable, match="another process is registering"),
        locked(Patient(client, 5.0), "held", wait_s=1.0),
    ):
        pass


def test_an_unreachable_server_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.stages.register.PATIENCE_S", 0.5)
    with pytest.raises(Unavailable, match="cannot be used"):
        stage("nowhere").run(given(tmp_path, "http://127.0.0.1:9", 0, 12.0))


def test_a_slow_mlflow_is_told_all_before_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for an outage is not for a server that takes in what it is told; and what is urgent goes first."""
    log = Patient.log

    def slow(self: Patient, run: str, items: Any) -> None:
        time.sleep(0.4)
        log(self, run, items)

    monkeypatch.setattr(Patient, "log", slow)
    busy = [True]
    run = Tracker.open(str(tmp_path), busy=lambda: busy[0]).start_run("slow", "slow-1", {"seed": 0})
    stage = run.child("search")
    for index in range(12):
        child = stage.child(f"trial-{index}")
        child.params({"lr": index})
        child.tags({"status": "finished"})
        child.metrics({"score": float(index)}, step=5)
        child.end()
    stage.end()
    time.sleep(1.0)
    assert not (tmp_path / "mlflow.db").exists()  # Ray starts meanwhile
    run.end()
    assert run.close(4.0) == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("slow")
    told = [one for one in client.search_runs([experiment.experiment_id]) if "trial-" in one.info.run_name]
    assert sorted(float(one.data.params["lr"]) for one in told) == list(map(float, range(12)))
    assert all(one.data.metrics["score"] == float(one.data.params["lr"]) for one in told)
    assert {(one.data.tags["status"], one.info.status) for one in told} == {("finished", "FINISHED")}

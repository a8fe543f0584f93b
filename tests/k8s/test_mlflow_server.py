"""The MLflow of the manifests, started for real: its own command, arguments and settings, on loopback instead of in a pod."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.k8s.built import Doc, find, overlay
from tests.services.postgresql import postgresql, programs

pytestmark = pytest.mark.services
ACCOUNT = ("orchestrator", "change-me-before-use")  # of the example files
POD = "10.244.0.17:5000"  # what the kubelet's probes call it


def environment(docs: list[Doc], container: Doc, database: str) -> dict[str, str]:
    """Variables as the kubelet would set them from ConfigMaps and Secrets."""
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= find(docs, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container["env"]:
        if "value" in variable:
            found[variable["name"]] = variable["value"]
            continue
        reference = variable["valueFrom"]["secretKeyRef"]
        held = find(docs, "Secret", reference["name"])["data"]
        if reference["key"] in held:
            found[variable["name"]] = base64.b64decode(held[reference["key"]]).decode()
    if database:
        parts = re.fullmatch(r"postgresql\+psycopg2://(\w+)@([\d.]+):(\d+)/(\w+)", database)
        assert parts is not None
        found |= {"PGUSER": parts[1], "PGHOST": parts[2], "PGPORT": parts[3], "PGDATABASE": parts[4]}
    return found


@contextmanager
def server(name: str, root: Path, database: str = "") -> Iterator[str]:
    """The server of an overlay, with /data and /etc/mlflow below `root`; gives its address."""
    docs = overlay(name)
    container = find(docs, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"][0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / "data").mkdir()

    def here(text: str) -> str:
        text = text.replace("/data/", f"{root}/data/").replace("/etc/mlflow", str(root))
        return text.replace("postgresql+psycopg2:///mlflow", "postgresql+psycopg2:///postgres") if database else text

    config = find(docs, "ConfigMap", "mlflow-auth-config")["data"]["auth.ini"]
    (root / "auth.ini").write_text(here(config))
    env = {key: here(value) for key, value in environment(docs, container, database).items()}
    words = [*container["command"], *container["args"]]
    command = [re.sub(r"\$\((\w+)\)", lambda found: env[found[1]], word) for word in words]
    command = [sys.executable, "-m", *command, f"--port={port}", "--host=127.0.0.1"]
    whole = {**os.environ, **env, "HOME": str(root), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, env=whole, cwd=root, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while ask(port, "/health", POD)[0] != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((root / "log").read_text()[-3000:])
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(port: int | str, path: str, host: str, account: tuple[str, str] | None = None) -> tuple[int, str]:
    """Status and text; 0 where nothing listens yet."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    if account:
        token = base64.b64encode(":".join(account).encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=5"


def guarded(uri: str) -> None:
    """Known names and a known account get in, nobody else does; probes do."""
    port = uri.rpartition(":")[2]
    for host in ("mlflow:5000", "mlflow.gan-orchestrator.svc:5000", f"127.0.0.1:{port}"):
        assert ask(port, SEARCH, host, ACCOUNT)[0] == 200, host
        assert ask(port, SEARCH, host)[0] == 401, host
        assert ask(port, SEARCH, host, ("orchestrator", "wrong-wrong-wrong"))[0] == 401, host
    assert ask(port, SEARCH, "evil.example.com", ACCOUNT)[0] == 403
    assert ask(port, "/health", POD)[0] == 200


def test_server_of_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guarded, and a client that has no way to the files but through it."""
    import mlflow

    with server("dev-kind", tmp_path) as uri:
        guarded(uri)
        for name, value in zip(("USERNAME", "PASSWORD"), ACCOUNT, strict=True):
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        client = mlflow.MlflowClient(uri)
        run = client.create_run(client.create_experiment("kept"))
        client.log_text(run.info.run_id, "through the server", "note.txt")
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
        assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    assert list((tmp_path / "data" / "artifacts").rglob("note.txt"))
    assert {p.name for p in (tmp_path / "data").iterdir()} >= {"mlflow.db", "auth.db", "artifacts"}


@pytest.mark.long
@pytest.mark.skipif(programs() is None, reason="no PostgreSQL")
def test_server_with_postgresql(tmp_path: Path) -> None:
    """Both its own tables and its accounts in one database, by libpq's variables alone."""
    found = programs()
    assert found is not None
    with postgresql(found) as database, server("s3-prod", tmp_path, database) as uri:
        guarded(uri)
    assert not list((tmp_path / "data").iterdir()), "nothing is left in the volume"

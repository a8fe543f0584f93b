"""Starting, joining and leaving Ray."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster import Cluster, Resources, check_local, local_resources
from orchestrator.errors import Interrupted, Unavailable
from orchestrator.stage import Scale


def test_more_workers_than_this_machine_has_is_told_without_ray() -> None:
    have = local_resources()
    assert check_local(Scale(num_workers=int(have.cpus))) is None
    complaint = check_local(Scale(num_workers=int(have.cpus) + 1))
    assert complaint is not None
    assert (complaint.at, complaint.path, complaint.id) == ("stage", ("scale", "num_workers"), "too-many-workers")
    assert check_local(Scale(num_workers=1, cpus_per_worker=have.cpus + 1)) is not None
    gpus = check_local(Scale(gpus_per_worker=have.gpus + 1))
    assert gpus is not None
    assert "GPU" in gpus.what
    assert check_local(Scale(num_workers=10_000), "ray://head:10001") is None  # the cluster is asked when it is joined


def test_resources_in_words() -> None:
    assert str(Resources(1, 0)) == "1 CPU"
    assert str(Resources(4, 2)) == "4 CPUs and 2 GPUs"


def starting(address: str) -> tuple[str, float]:
    """What joining a cluster says, and its seconds, in a process that has no Ray yet (this one shares its own)."""
    code = f"""
        import time
        from orchestrator.cluster import Cluster
        started = time.monotonic()
        try:
            Cluster({address!r}).start()
        except Exception as error:
            print(type(error).__name__, error)
        print(time.monotonic() - started)
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    said, seconds = told.stdout.rstrip().rsplit("\n", 1)
    return said, float(seconds)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "ray://no-such-host.invalid:10001"])
def test_nothing_at_the_address_is_told_at_once(address: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said, seconds = starting(address.format(port=port))
    assert said.startswith("Unavailable no Ray cluster at")
    assert seconds < 10


def test_a_word_is_no_address() -> None:
    said, _ = starting("head:port")
    assert said.startswith("BadInput")
    assert "no Ray address" in said


@pytest.mark.usefixtures("ray_cluster")
def test_a_started_ray_is_used_and_left_alone() -> None:
    import ray

    with Cluster() as cluster:
        cluster.start()
        assert cluster.resources() == Resources(2, 0)
        cluster.check(Scale(num_workers=2))
    assert ray.is_initialized()


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_is_too_small_is_unavailable_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = Cluster("127.0.0.1:6379", timeout_s=1)  # joined already, as far as Ray is concerned
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"too small: 3 workers of 1 CPU each are needed, it has 2 CPUs"):
        cluster.check(Scale(num_workers=3))
    assert time.monotonic() - started < 20


@pytest.mark.usefixtures("ray_cluster")
def test_room_that_is_waited_for_is_told_and_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An autoscaler adds nodes for a placement group that waits; nothing of it stays."""
    from ray.util import placement_group_table

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = Cluster("127.0.0.1:6379", nodes_s=100)  # joined already, as far as Ray is concerned
    told: list[str] = []
    asked: list[dict[str, Any]] = []

    def groups() -> list[dict[str, Any]]:
        return [group for group in placement_group_table().values() if group["state"] == "PENDING"]

    def stopping() -> bool:
        asked.extend(groups())
        return bool(asked)

    with pytest.raises(Interrupted):
        cluster.check(Scale(num_workers=3, cpus_per_worker=0.75), say=told.append, stopping=stopping)
    assert told == ["waiting for nodes: room for 2 of 3 workers, 100 s at most"]
    assert list(asked[0]["bundles"].values()) == [{"CPU": 0.75}] * 3
    assert not groups()


SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
from typing import Any
import psutil
from orchestrator.cluster import Cluster

told = []
signal.signal(signal.SIGTERM, lambda *_: told.append("ours"))
cluster = Cluster(log=Path(sys.argv[1]) / "ray.log")
starting = threading.Thread(target=cluster.start)  # as from a stage: a thread that ends
starting.start()
starting.join()
processes = psutil.Process().children(recursive=True)
import ray
answer = ray.get(ray.remote(lambda: 6 * 7).remote())
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.2)
cluster.stop()
print(json.dumps({"answer": answer, "told": told, "pids": [p.pid for p in processes]}))
"""


def test_its_own_ray_is_quiet_keeps_our_signals_and_leaves_no_orphans(tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path)}
    env = {key: value for key, value in env.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        env=env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # nothing but our own line
    assert told["answer"] == 42
    assert told["told"] == ["ours"]
    assert done.stderr == ""
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    deadline = time.monotonic() + 20
    while alive := [pid for pid in told["pids"] if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


AHEAD = """
    import json, os, sys, time
    import psutil
    from orchestrator.cluster import Cluster
    me = psutil.Process()
    cluster = Cluster("local")
    cluster.ahead(["ray.tune"])
    assert cluster.busy
    if sys.argv[1] == "used":
        cluster.start(warm=False)
        import ray
        assert ray.get(ray.remote(num_cpus=1)(lambda: os.getpid()).remote(), timeout=60) != os.getpid()
        while "ray.tune" not in sys.modules: time.sleep(0.1)
        lines = [" ".join(one.cmdline()) for one in me.children(recursive=True)]
        agents = [line for line in lines if "dashboard/agent.py" in line]
        assert agents and all("--minimal" in line for line in agents), lines
    cluster.stop()
    time.sleep(1.0)
    left = [one.name() for one in me.children(recursive=True)]
    assert not left, left
"""


@pytest.mark.parametrize("how", ["used", "left"])
def test_ray_that_starts_ahead_is_the_one_that_is_used_and_ended(how: str) -> None:
    code = textwrap.dedent(AHEAD)
    done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_ray_that_another_thread_imports_is_not_started_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a cluster asks again and again, also in the seconds in which its module is half there."""
    monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
    assert not Cluster("127.0.0.1:1").started
    assert not Cluster("127.0.0.1:1").busy

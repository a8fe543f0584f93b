"""Does a run hear of it when only Ray's own process is told to end, as the first process of a pod is? On a real node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults.command import ROOT
from tests.faults.nodes import Nodes

DRIVER = """
import sys, time
from orchestrator.cluster import Cluster
from orchestrator.eviction import Eviction
assert not Eviction(Cluster()).announced()
with Cluster(sys.argv[1], timeout_s=100) as cluster:
    eviction = Eviction(cluster)
    assert not eviction.announced(), "nothing was joined yet"
    cluster.start()
    import ray

    @ray.remote(num_cpus=0)
    class Busy:
        def at_work(self):
            return True

    busy = Busy.remote()  # a node without work would not wait
    assert ray.get(busy.at_work.remote())
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert not eviction.announced()
        time.sleep(0.2)
    print("joined", flush=True)
    end = time.monotonic() + 25
    while not eviction.announced() and time.monotonic() < end:
        time.sleep(0.1)
    print(f"announced: {eviction.announced()}", flush=True)
"""


def test_a_run_hears_that_the_node_it_is_on_is_to_end(tmp_path: Path) -> None:
    with Nodes(tmp_path) as nodes:
        node = nodes.start()
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(Path.home()),
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
        }
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, nodes.address], env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "joined\n"
            node.process.terminate()
            assert driver.stdout.readline() == "announced: True\n"
        finally:
            driver.kill()
            driver.wait()

"""The loss of what carries a run: Ray on this machine, a node of a cluster, the head of a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.command import ROOT, Command


def trained(folder: Path) -> str:
    """The digest of the model of the newest run in a folder."""
    from orchestrator import runs
    from orchestrator.artifacts import ArtifactStore

    store = ArtifactStore(str(folder / "runs"))
    newest = sorted(path.name for path in (folder / "runs" / "runs").iterdir())[-1]
    return runs.read(store, newest).record.stage("train").outputs["model"]


@pytest.mark.long
@pytest.mark.parametrize("vital", ["raylet", "gcs_server"])
def test_ray_that_died_is_started_again_and_nothing_differs(tmp_path: Path, vital: str) -> None:
    models = []
    for name in ("whole", "hit"):
        folder = tmp_path / name
        folder.mkdir()
        with Command(folder, steps=600) as command:
            if name == "hit":
                command.until(lambda: command.checkpoints and command.checkpoints[-1] >= 100)
                command.named(vital)[0].kill()
            assert command.ended() == 0, command.said
            assert (f"Ray died ({vital} ended by signal 9); started again" in command.said) == (name == "hit")
            assert command.orphans(90) == []
        models.append(trained(folder))
    assert models[0] == models[1]


CLUSTER = """
import json, os, sys, tempfile, time
from pathlib import Path
from ray.cluster_utils import Cluster as Nodes
nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
others = [nodes.add_node(num_cpus=1) for _ in range(2)]
from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator import cluster, errors, workers
from orchestrator.stage import Scale
from tests.faults.test_workers import count
what = sys.argv[1]
cluster.NODES_WITHIN_S, cluster.GONE_AFTER_S = 15.0, 15.0
checkpoints = StoredCheckpoints(ArtifactStore(sys.argv[2]), "count")
joined = cluster.Cluster(nodes.address)
joined.start()
heard, where = [], {}
def hear(event):
    heard.append(event)
    if event["event"] == "start":
        where[event["rank"]] = event["node"]
    if event["event"] == "step" and event["step"] == 20:
        if what == "head":
            nodes.head_node.kill_gcs_server(check_alive=False)
            nodes.head_node.kill_raylet(check_alive=False)
        else:
            import ray
            sockets = {node["RayletSocketName"]: node["NodeID"] for node in ray.nodes()}
            used = [one for one in others if sockets[one.raylet_socket_name] in where.values()]
            for one in others if what == "all" else used[:1]:
                one.kill_raylet(check_alive=False)
told = {}
try:
    told["result"] = workers.run_group(
        count, {"checkpoints": checkpoints, "total": 100}, cluster=joined, scale=Scale(num_workers=2),
        scratch=Path(sys.argv[2]), max_failures=3, hear=hear, stopping=lambda: False,
        committed=lambda: max(checkpoints.steps(), default=0))
except errors.OrchestratorError as error:
    told["error"], told["code"] = str(error), error.exit_code
told["lines"] = [event["line"] for event in heard if "line" in event]
told["starts"] = [event["step"] for event in heard if event["event"] == "start" and event["rank"] == 0]
print("TOLD" + json.dumps(told), flush=True)
os._exit(0)
"""


def on_a_cluster(what: str, folder: Path) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, what, str(folder)],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "TOLD" in done.stdout, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout.split("TOLD")[1].splitlines()[0])
    return told


@pytest.mark.long
def test_a_lost_node_is_told_and_training_goes_on_on_the_others(tmp_path: Path) -> None:
    told = on_a_cluster("one", tmp_path)
    assert told.get("result") == 100, told
    assert len(told["lines"]) == 1
    assert "lost its node" in told["lines"][0]
    assert told["starts"][0] == 0 < 20 <= told["starts"][1]


@pytest.mark.long
def test_a_cluster_that_does_not_get_its_nodes_back_is_unavailable(tmp_path: Path) -> None:
    told = on_a_cluster("all", tmp_path)
    assert told.get("code") == 4, told
    assert "lost nodes: room for 1 of 2 workers" in told["error"]
    assert any(line.startswith("waiting for nodes: room for 1 of 2 workers") for line in told["lines"])


@pytest.mark.long
def test_the_head_s_death_is_unavailable_in_time(tmp_path: Path) -> None:
    told = on_a_cluster("head", tmp_path)
    assert told.get("code") == 4, told
    assert told["starts"] == [0]

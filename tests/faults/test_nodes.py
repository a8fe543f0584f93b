"""The loss of what carries a run: Ray on this machine, a node of a cluster, the head of a cluster."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.command import SPEC, Command
from tests.faults.nodes import Node, Nodes

pytestmark = pytest.mark.timeout(1800)  # several starts of Ray each, on a machine that may be busy
TWO = SPEC.replace("uses: train\n", "uses: train\n    scale: {num_workers: 2}\n")
STEPS = 1000
WAITS_S = 15.0  # for nodes to come back, instead of minutes


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


def on(nodes: Nodes, folder: Path, **more: Any) -> Command:
    """A run on two workers that joins a cluster."""
    folder.mkdir(exist_ok=True)
    return Command(folder, steps=STEPS, arguments=("--address", nodes.address), spec=TWO, **more)


def trains(command: Command) -> bool:
    return bool(command.checkpoints) and command.checkpoints[-1] >= 100


def carriers(nodes: Nodes) -> list[Node]:
    """Nodes, other than the head, with a worker that trains."""
    return [node for node in nodes.nodes[1:] if node.runs("RayTrainWorker")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of the undisturbed run, on this machine's own Ray."""
    folder = tmp_path_factory.mktemp("whole")
    with Command(folder, steps=STEPS, spec=TWO) as command:
        assert command.ended(300) == 0, command.said
    return trained(folder)


@pytest.mark.long
def test_a_lost_node_is_told_and_training_goes_on_on_the_others(tmp_path: Path, whole: str) -> None:
    with Nodes(tmp_path) as nodes:
        for _ in range(3):
            nodes.start()
        with on(nodes, tmp_path / "lost") as command:
            command.until(lambda: trains(command), 300)
            carriers(nodes)[0].kill()
            hit = command.checkpoints[-1]
            assert command.ended(300) == 0, command.said
            resumed = re.findall(r"worker [01] lost its node, resumed at step (\d+)", command.said)
            assert len(resumed) == 1, command.said
            assert hit - 50 <= int(resumed[0]) <= hit + 100
            assert "did not answer" not in command.said
    assert trained(tmp_path / "lost") == whole


@pytest.mark.long
def test_a_cluster_that_does_not_get_its_nodes_back_is_unavailable_in_time(tmp_path: Path) -> None:
    with Nodes(tmp_path) as nodes:
        nodes.start()
        nodes.start()
        before = f"import orchestrator.cluster as c; c.NODES_WITHIN_S = {WAITS_S}"
        with on(nodes, tmp_path / "away", before=before) as command:
            command.until(lambda: trains(command), 300)
            carriers(nodes)[0].kill()
            began = time.monotonic()
            assert command.ended(300) == 4, command.said
            assert time.monotonic() - began < 60 + WAITS_S
            assert "waiting for nodes: room for 1 of 2 workers" in command.said
            assert "the cluster has lost nodes: room for 1 of 2 workers" in command.said
            saved = command.checkpoints[-1]
        nodes.start()
        with on(nodes, tmp_path / "away") as command:  # it has its node again
            assert command.ended(300) == 0, command.said
            assert f"training goes on from step {saved}" in command.said


@pytest.mark.long
def test_the_head_s_death_is_unavailable_in_time_and_a_run_on_a_new_head_goes_on(tmp_path: Path, whole: str) -> None:
    with Nodes(tmp_path) as nodes:
        nodes.start()
        nodes.start()
        with on(nodes, tmp_path / "head") as command:
            command.until(lambda: trains(command), 300)
            nodes.nodes[0].kill()
            began = time.monotonic()
            assert command.ended(300) == 4, command.said
            assert time.monotonic() - began < 90
            assert "Ray cluster" in command.said
            saved = command.checkpoints[-1]
    with Nodes(tmp_path) as nodes:
        nodes.start()
        nodes.start()
        with on(nodes, tmp_path / "head") as command:
            assert command.ended(300) == 0, command.said
            assert f"training goes on from step {saved}" in command.said
            assert not command.began("data", last=True)  # it was committed
    assert trained(tmp_path / "head") == whole

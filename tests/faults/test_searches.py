"""A search whose process is killed: at most the running rung is repeated, and it decides what it would have decided."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.stages.tune import Tune
from tests import stand

STAGE = Tune(
    space={"optimizers.generator.lr": {"loguniform": [1e-4, 1e-2]}, "variant": {"choice": ["gan", "wgan_gp"]}},
    trial={"total_steps": 240, "batch_size": 16, "log_every": 10, "backbone": {"mlp": {"width": 8}}},
    num_trials=8,
    grace_steps=30,
    eval_samples=64,
)
ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from pathlib import Path
from orchestrator.artifacts import ArtifactStore
from tests import stand
from tests.faults.test_searches import STAGE
root = Path(sys.argv[1])
store = ArtifactStore(str(root / "store"))
STAGE.run(stand.context(root, {"dataset": stand.ring(store, 64)}, store=store, lineage="killed"))
"""


def known(store: ArtifactStore) -> dict[tuple[int, int], float]:
    """(trial, step) -> score of what the killed search has kept."""
    found = StoredCheckpoints(store, "killed").latest()
    lines = json.loads(found[1]["outcomes.json"].read_text()) if found else []
    return {(line["trial"], line["until"]): line["outcome"]["score"] for line in lines}


def trials(store: ArtifactStore, search: Artifact) -> Any:
    return [
        {key: value for key, value in trial.items() if key != "seconds"}
        for trial in json.loads(store.read(search, "trials.json"))["trials"]
    ]


@pytest.mark.parametrize("rungs", [1, 2])
def test_a_killed_search_repeats_at_most_the_running_rung(tmp_path: Path, rungs: int) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    ring = stand.ring(store, 64)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 240
    while len({step for _, step in known(store)}) < rungs:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = known(store)

    diary = stand.Diary()
    search = STAGE.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="killed", diary=diary))["search"]
    assert diary.lines[0] == f"the search goes on: {len(before)} scores are known"
    for name, child in diary.children.items():
        reached = max((step for trial, step in before if trial == int(name[6:9])), default=0)
        assert all(step > reached for step, _ in child.logged), name
    told = trials(store, search)
    assert {key: told[key[0]]["scores"][str(key[1])] for key in before} == before
    whole = STAGE.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="whole"))["search"]
    assert told == trials(store, whole)

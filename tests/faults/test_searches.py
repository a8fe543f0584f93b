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
import yaml

from orchestrator import runs
from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.stages import _ledger
from orchestrator.stages.tune import Tune
from tests import stand
from tests.faults.command import Command

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
from orchestrator import runs
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


# --- `orchestrate run` on Ray ---------------------------------------------------------------------------------------------

SPEC = """\
version: 1
name: small
stages:
  data: {uses: prepare, with: {dataset: {ring8: {num_points: 1000}}, num_shards: 1}}
  search:
    uses: tune
    inputs: {dataset: data}
    with:
      num_trials: 8
      population: POPULATION
      scheduler: SCHEDULER
      grace_steps: 125
      eval_samples: 64
      trial: {total_steps: 1000, batch_size: 16, log_every: 50, backbone: {mlp: {width: 8}}}
      space:
        variant: {choice: [gan, wgan_gp]}
        optimizers.generator.lr: {loguniform: [1.0e-4, 1.0e-2]}
"""
LISTENING = "from tests.faults.test_searches import listen; listen()"
HEARD = "heard.jsonl"  # in the command's folder
Known = dict[tuple[int, int], float]  # (trial, step) -> score
WAYS: list[tuple[str, str, tuple[int, ...]]] = [
    ("auto", "asha", (1, 2)),
    ("off", "asha", (2,)),
]  # killed at those rungs
if os.environ.get("ORCHESTRATOR_PROOF") == "full":
    WAYS += [("auto", "pbt", (2, 4)), ("off", "pbt", (3,)), ("auto", "median", (1, 3)), ("off", "asha", (1, 1, 3))]


def listen() -> None:
    """In the process of a command: write down what trainings tell, as well."""
    hear = _ledger.Ledger.hear

    def heard(self: _ledger.Ledger, event: Any) -> None:
        with Path(HEARD).open("a") as out:
            out.write(json.dumps(event) + "\n")
        hear(self, event)

    _ledger.Ledger.hear = heard  # type: ignore[method-assign]


def begun(folder: Path) -> list[tuple[int, int]]:
    """(trial, step) where each piece of training has begun, since this was asked last."""
    path = folder / HEARD
    told = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    path.unlink(missing_ok=True)
    return [(one["trial"], one["step"]) for one in told if one["event"] == "start"]


def kept(folder: Path) -> Known:
    """What the search of a command has kept, as far as it can be read while it goes on."""
    found = [path for path in folder.glob("runs/checkpoints/*/*/outcomes.json") if committed(path)]
    try:
        lines = json.loads(max(found).read_text()) if found else []
    except FileNotFoundError:  # superseded
        lines = []
    return {(line["trial"], line["until"]): line["outcome"]["score"] for line in lines}


def committed(path: Path) -> bool:
    """Whether a file of a checkpoint counts: the manifest is written last."""
    return path.parent.with_name(path.parent.name.partition("-")[0] + ".json").exists()


def killed_at(folder: Path, spec: str, rung: int) -> tuple[Known, str]:
    """Run the command and kill it where new scores of a rung are kept; returns what it kept, and what it said."""
    before = kept(folder)
    with Command(folder, spec=spec, before=LISTENING) as command:
        command.until(lambda: kept(folder).items() > before.items() and len({step for _, step in kept(folder)}) >= rung)
        command.send(signal.SIGKILL)
        command.ended(10)
        return kept(folder), command.said


def is_spared(known: Known, starts: list[tuple[int, int]]) -> bool:
    """Whether no training began again before its last known score: what is lost is of the rung that ran."""
    reached = {trial: max(step for one, step in known if one == trial) for trial, _ in known}
    return bool(starts) and all(step >= reached.get(trial, 0) for trial, step in starts)


@pytest.mark.long
@pytest.mark.parametrize(("population", "scheduler", "rungs"), WAYS)
def test_the_command_goes_on_with_a_killed_search_on_ray(
    tmp_path: Path, population: str, scheduler: str, rungs: tuple[int, ...]
) -> None:
    spec = SPEC.replace("POPULATION", population).replace("SCHEDULER", scheduler)
    known: Known = {}
    for rung in rungs:
        more, said = killed_at(tmp_path, spec, rung)
        assert more.items() > known.items()
        assert not known or f"the search goes on: {len(known)} scores are known" in said
        assert is_spared(known, begun(tmp_path))
        known = more
    with Command(tmp_path, spec=spec, before=LISTENING) as command:
        assert command.ended() == 0
        assert f"the search goes on: {len(known)} scores are known" in command.said
    assert is_spared(known, begun(tmp_path))
    store = ArtifactStore(str(tmp_path / "runs"))
    search, ring = found(store, "search"), found(store, "dataset")
    told = trials(store, search)
    done = {(line["trial"], int(step)): score for line in told for step, score in line["scores"].items()}
    assert done.items() > known.items()
    stage = Tune(**{**yaml.safe_load(spec)["stages"]["search"]["with"], "population": population})  # `off` is no bool
    whole = stage.run(stand.context(tmp_path, {"dataset": ring}, store=store, lineage="whole"))["search"]
    assert told == trials(store, whole)
    assert search.metadata == whole.metadata


def found(store: ArtifactStore, kind: str) -> Artifact:
    """The only artifact of a kind that the newest run made."""
    (one,) = runs.latest(store).artifacts(kind)
    return one[1]

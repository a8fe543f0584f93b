"""Can a run be killed at every single operation on its storage, and be typed again, without losing anything?

Real SIGKILLs, in forks of a warmed process. The default tests take a sample of the points, `-m long` takes every one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator import runs
from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.inspection import inspect
from orchestrator.log import Log
from tests.faults import disk
from tests.faults.forks import ROOT, Forks, Outcome

STEPS = 3
FEW = 60  # operations by which runs may differ: progress and uploads go by the clock
SPEC = f"""
version: 1
name: chain
tracking: http://127.0.0.1:9
stages:
  data: {{uses: make, with: {{text: abcd}}}}
  search: {{uses: pick, inputs: {{dataset: data}}}}
  train:
    uses: grow
    inputs: {{dataset: data, config: search}}
    with: {{total_steps: {STEPS}}}
    matrix: {{seed: [0, 1]}}
  score: {{uses: judge, inputs: {{models: train}}}}
  show: {{uses: show, inputs: {{models: train}}}}
"""
PLACES = ("", "disk://")  # a local storage, and the way of remote ones


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch, Forks({"ORCHESTRATOR_CACHE": str(cache)}) as found:
        patch.setenv("ORCHESTRATOR_CACHE", str(cache))
        disk.register()
        yield found


@dataclass
class Bench:
    """One spec, any number of storages."""

    forks: Forks
    folder: Path
    place: str

    def __post_init__(self) -> None:
        self.spec = self.folder / "chain.yaml"
        self.spec.write_text(SPEC)
        self.straight = self.run("straight")
        assert (self.straight.code, self.straight.error) == (0, "")

    def url(self, name: str) -> str:
        return f"{self.place}{self.folder / name}"

    def run(self, name: str, *, die_at: int = 0, **asked: object) -> Outcome:
        return self.forks.run(self.spec, self.url(name), die_at=die_at, **asked)

    def killed(self, name: str, n: int, **asked: object) -> bool:
        """Whether a run met its n-th operation; what it left is whole, and nothing half-written can be seen."""
        outcome = self.run(name, die_at=n, **asked)
        assert outcome.signal == 9 or (outcome.code == 0 and outcome.operations < n), outcome  # it had fewer
        self.clean(name, outcome)
        return outcome.signal == 9

    def goes_on(self, name: str, **asked: object) -> Outcome:
        """The same command again ends as if nothing had happened, and computes nothing that was committed."""
        committed = set() if asked else set(self.commits(name))
        steps = STEPS * 2 - self.steps(name)
        outcome = self.run(name, **asked)
        assert (outcome.code, outcome.outputs) == (0, self.straight.outputs), (name, outcome)
        assert not committed & set(outcome.computed), (name, outcome)
        assert [line for line in outcome.said if "damage" in line or "gone;" in line] == []
        if not asked:
            assert sum(step.startswith("step") for step in outcome.steps) == steps  # none of a committed checkpoint
        self.clean(name, outcome)
        return outcome

    def clean(self, name: str, outcome: Outcome) -> None:
        store = ArtifactStore(self.url(name))
        assert [f"{found.path}: {found.what}" for found in inspect(store).damage] == [], outcome

    def commits(self, name: str) -> dict[str, dict[str, str]]:
        store = ArtifactStore(self.url(name))
        commits = {
            stage: dict(commit["outputs"]) for stage, commit in Log(store.files, "chain").state().commits.items()
        }
        for stage, outputs in commits.items():
            assert outputs == self.straight.outputs[stage]
            assert [store.lacks(digest) for digest in outputs.values()] == [""] * len(outputs)
        return commits

    def steps(self, name: str) -> int:
        """Training steps that committed checkpoints hold."""
        store = ArtifactStore(self.url(name))
        lineages = [StoredCheckpoints(store, lineage) for lineage in store.files.names("checkpoints")]
        return sum((lineage.steps() or [0])[-1] for lineage in lineages)


@pytest.fixture(params=PLACES, ids=["local", "remote"])
def bench(request: pytest.FixtureRequest, forks: Forks, tmp_path: Path) -> Bench:
    return Bench(forks, tmp_path, request.param)


def points(bench: Bench, share: int) -> range:
    """Operations to die at: every one in a full proof, else each `share`-th (odd, so that every kind of operation is met)."""
    assert bench.straight.operations > 300
    if os.environ.get("ORCHESTRATOR_PROOF") == "full":
        return range(1, bench.straight.operations + 1)
    return range(1, bench.straight.operations + 1, share)


def die_at_each(bench: Bench, operations: Iterable[int]) -> None:
    for n in operations:
        bench.killed(f"at-{n}", n)
        bench.goes_on(f"at-{n}")


def test_killed_at_any_operation_nothing_is_lost_and_the_end_is_the_same(bench: Bench) -> None:
    die_at_each(bench, points(bench, 61 if bench.place else 37))


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_killed_at_every_operation(bench: Bench, part: int) -> None:
    die_at_each(bench, points(bench, 3)[part::4])
    beyond = bench.straight.operations + FEW
    while bench.killed(f"beyond-{beyond}", beyond):  # a run on a slow machine has more of them
        bench.goes_on(f"beyond-{beyond}")
        beyond += FEW
        assert beyond < 2 * bench.straight.operations


def test_killed_again_while_it_goes_on(bench: Bench) -> None:
    """Each run meets what all those before it left: killed a little later each time, until one survives."""
    n = 5
    for _ in range(200):
        if not bench.killed("often", n):
            break
        bench.commits("often")
        n += 23
    else:
        pytest.fail("no end")
    bench.goes_on("often")


def test_killed_in_a_forced_repetition_the_earlier_results_stay(bench: Bench) -> None:
    assert bench.run("forced").code == 0
    before = bench.commits("forced")
    for n in (3, 60, 140, 250):
        assert bench.killed("forced", n, no_cache=True)
        assert bench.commits("forced") == before
    bench.goes_on("forced", no_cache=True)


# --- a training that is real -----------------------------------------------------------------------------------------

REAL = """
version: 1
name: ring
tracking: http://127.0.0.1:9
stages:
  data: {uses: prepare, with: {dataset: {ring8: {num_points: 400}}}}
  train:
    uses: train
    inputs: {dataset: data}
    with: {variant: gan, hacks: [ema], batch_size: 16, total_steps: 12, checkpoint_every: 3, log_every: 3, sample_every: 6}
  evaluate: {uses: evaluate, inputs: {dataset: data, model: train}, with: {metrics: [mode_coverage]}}
"""


@pytest.fixture(scope="module")
def real_forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    cache = tmp_path_factory.mktemp("cache")
    with Forks({"ORCHESTRATOR_CACHE": str(cache), "FORKS": "real", "OMP_NUM_THREADS": "1"}) as found:
        yield found


@pytest.mark.long
def test_a_real_training_killed_anywhere_ends_with_the_same_weights(real_forks: Forks, tmp_path: Path) -> None:
    """Also the metrics and the pictures: every artifact has the digest of the undisturbed run's."""
    spec = tmp_path / "ring.yaml"
    spec.write_text(REAL)
    straight = real_forks.run(spec, str(tmp_path / "straight"))
    assert (straight.code, straight.error) == (0, "")
    full = os.environ.get("ORCHESTRATOR_PROOF") == "full"
    for n in range(11, straight.operations, 17 if full else straight.operations // 5):
        storage = str(tmp_path / f"at-{n}")
        outcome = real_forks.run(spec, storage, die_at=n)
        assert outcome.signal == 9 or (outcome.code == 0 and outcome.operations < n), outcome  # it had fewer
        assert inspect(ArtifactStore(storage)).damage == []
        again = real_forks.run(spec, storage)
        assert (again.code, again.outputs) == (0, straight.outputs), (n, again)
        assert inspect(ArtifactStore(storage)).damage == []


DRIVER = """
import os, signal, sys
import orchestrator
from orchestrator import files
from orchestrator.execute import Options, execute

spec, storage, die_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
count = 0

def observe(operation, path):
    global count
    count += "/beat/" not in path
    if count == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    files.observe = observe
    run = execute(orchestrator.plan(spec, storage=storage), options=Options(tracking=False))
    print("operations", count)
    sys.exit(run.exit_code)
"""


@pytest.mark.long
def test_a_driver_killed_on_ray_is_followed_by_one_that_ends_alike(tmp_path: Path) -> None:
    spec, program = tmp_path / "ring.yaml", tmp_path / "driver.py"
    spec.write_text(REAL)
    program.write_text(DRIVER)

    def drive(name: str, die_at: int = 0) -> tuple[int, str]:
        command = [sys.executable, str(program), str(spec), str(tmp_path / name), str(die_at)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=180,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def outputs(name: str) -> dict[str, dict[str, str]]:
        record = runs.latest(ArtifactStore(str(tmp_path / name))).record
        return {stage.stage: stage.outputs for stage in record.stages}

    code, told = drive("straight")
    assert code == 0, told
    operations = int(told.split("operations")[1].split()[0])
    count = 6 if os.environ.get("ORCHESTRATOR_PROOF") == "full" else 2
    for part in range(1, count + 1):
        n = (
            operations * part // (3 * count)
        )  # a slow run tells more of its progress than a fast one: stay in the first third
        assert drive(f"at-{n}", n)[0] == -signal.SIGKILL
        assert inspect(ArtifactStore(str(tmp_path / f"at-{n}"))).damage == []
        code, told = drive(f"at-{n}")
        assert code == 0, told
        assert outputs(f"at-{n}") == outputs("straight")
        assert inspect(ArtifactStore(str(tmp_path / f"at-{n}"))).damage == []

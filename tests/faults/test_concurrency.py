"""Many starts of one pipeline on one storage: one runs, the others are told who; the dead are taken over, the fenced refused.

Real processes, fake stages, no Ray. A process "elsewhere" claims another boot id, so that nobody can look it up and only
its counter tells whether it lives.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import runs
from orchestrator.artifacts import ArtifactStore
from orchestrator.log import Log

ROOT = Path(__file__).parents[2]
YEAR_S = 365 * 86_400
HELD = """
version: 1
name: {name}
stages:
  hold: {{uses: hold, with: {{until: "{until}"}}}}
  echo: {{uses: echo, inputs: {{notes: hold}}}}
"""
PROGRAM = """
import json, sys, time
chosen = json.loads(sys.argv[1])
if chosen["shift_s"]:
    real, gmtime, localtime = time.time, time.gmtime, time.localtime
    time.time = lambda: real() + chosen["shift_s"]
    time.gmtime = lambda moment=None: gmtime(time.time() if moment is None else moment)
    time.localtime = lambda moment=None: localtime(time.time() if moment is None else moment)
import pytest
from tests import fake_stages
fake_stages.install(pytest.MonkeyPatch())
import orchestrator
from orchestrator import log, owner
from orchestrator.errors import OrchestratorError
from orchestrator.events import Listener
from orchestrator.execute import Options, execute
if chosen["host"]:
    owner._boot = lambda: chosen["host"]
log.STALE_S = chosen["stale_s"]
asked = []
acquire = log.Log.acquire
def timed(self, run, **options):
    asked.append(time.monotonic())
    lease = acquire(self, run, **options)
    print("held", run, round(time.monotonic() - asked[0], 3), flush=True)
    return lease
log.Log.acquire = timed
try:
    plan = orchestrator.plan(chosen["spec"], storage=chosen["storage"])
    options = Options(ray=False, tracking=False, wait_lease_s=chosen["wait_s"])
    run = execute(plan, listener=Listener(), options=options)
except OrchestratorError as error:
    print("after", round(time.monotonic() - asked[0], 3) if asked else None, flush=True)
    print(error, file=sys.stderr, flush=True)
    sys.exit(error.exit_code)
print("error", run.record.error, file=sys.stderr, flush=True)
sys.exit(run.exit_code)
"""


class Place:
    """A storage, a pipeline that works until told to end, and the processes started on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "runs"
        self.enough = folder / "enough"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, name: str = "held", **chosen: Any) -> subprocess.Popen[str]:
        spec = self.folder / f"{name}.yaml"
        spec.write_text(HELD.format(name=name, until=self.enough))
        what = {"spec": str(spec), "storage": str(self.storage), "wait_s": 0, "shift_s": 0, "host": "", "stale_s": 20}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps({**what, **chosen})],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.started.append(process)
        return process

    def holder(self, name: str = "held", **chosen: Any) -> tuple[subprocess.Popen[str], str]:
        """A process that holds the pipeline, and its run."""
        process = self.start(name, **chosen)
        assert process.stdout is not None
        word, run, _ = process.stdout.readline().split()
        assert word == "held"
        return process, run

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(str(self.storage))

    def log(self, name: str = "held") -> Log:
        return Log(self.store.files, name)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    for process in found.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], timeout: float = 60.0) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def asked_for(out: str) -> float:
    """Seconds from asking for the lease to its refusal."""
    return float(out.split("after")[1])


def test_of_twenty_starts_one_runs_and_nineteen_are_told_who(place: Place) -> None:
    started = [place.start() for _ in range(20)]
    ended = {}
    while len(ended) < 19:
        ended |= {
            process: finish(process) for process in started if process not in ended and process.poll() is not None
        }
        time.sleep(0.05)
    owner = place.log().state().lease
    assert owner is not None
    for code, out, err in ended.values():
        assert code == 6, err
        assert asked_for(out) < 2.0
        for told in (owner.run, f"process {owner.pid}", owner.user, owner.host, "since", "--wait-lease"):
            assert told in err
    (winner,) = set(started) - set(ended)
    assert winner.pid == owner.pid
    winner.kill()
    winner.wait()

    taker, run = place.holder()  # at once: the dead one was of this machine
    assert owner.run != run
    place.enough.touch()
    code, _, err = finish(taker)
    assert code == 0, err
    state = place.log().state()
    assert (state.lease, state.runs[owner.run]["status"], state.runs[run]["status"]) == (None, "lost", "succeeded")
    assert sorted(state.counts.values()) == [1, 1]


def test_a_stopped_owner_of_this_machine_is_not_dead(place: Place) -> None:
    owner, run = place.holder()
    owner.send_signal(signal.SIGSTOP)
    code, out, err = finish(place.start(stale_s=0.5))
    assert code == 6
    assert asked_for(out) < 2.0
    assert run in err
    assert f"kill -CONT {owner.pid}" in err
    owner.send_signal(signal.SIGCONT)
    place.enough.touch()
    assert finish(owner)[0] == 0


@pytest.mark.parametrize("shift_s", [0, YEAR_S, -YEAR_S])
def test_an_owner_elsewhere_lives_by_its_counter_whatever_the_clocks_say(place: Place, shift_s: int) -> None:
    owner, run = place.holder(host="elsewhere", shift_s=shift_s)
    code, out, err = finish(place.start())
    assert code == 6
    assert run in err
    assert asked_for(out) < 2.0
    owner.send_signal(signal.SIGSTOP)
    taker, later = place.holder(stale_s=2)
    assert later != run
    place.enough.touch()
    code, _, err = finish(taker)
    assert code == 0, err
    owner.send_signal(signal.SIGCONT)  # it wakes up, and is fenced
    code, _, err = finish(owner)
    assert code == 6
    assert f"taken over by run {later}" in err or "taken over" in err
    state = place.log().state()
    assert {commit["run"] for commit in state.commits.values()} == {later}
    assert sorted(state.counts.values()) == [1, 1]
    assert runs.latest(place.store, "held").run_id == later  # the newest, even where the earlier clock was ahead


def test_who_waits_for_the_lease_is_told_so_and_gets_it(place: Place) -> None:
    _owner, run = place.holder()
    waiting = place.start(wait_s=30)
    assert waiting.stderr is not None
    told = waiting.stderr.readline()
    assert f"waiting for run {run}" in told
    assert " s more" in told
    place.enough.touch()
    code, out, _ = finish(waiting)
    assert code == 0
    assert "held" in out
    assert sorted(place.log().state().counts.values()) == [1, 1]  # it found everything cached


def test_two_pipelines_that_compute_the_same_at_once_share_one_result(place: Place) -> None:
    (first, _), (second, _) = place.holder("first"), place.holder("second")
    place.enough.touch()
    assert finish(first)[0] == finish(second)[0] == 0
    made = {name: place.log(name).state().commits for name in ("first", "second")}
    for stage in ("hold", "echo"):
        assert made["first"][stage]["outputs"] == made["second"][stage]["outputs"]
    for commit in made["first"].values():
        for digest in commit["outputs"].values():
            assert place.store.lacks(digest) == ""
    for name in ("first", "second"):
        code, out, _ = finish(place.start(name))
        assert code == 0
        assert "held" not in out  # nothing to do


def test_nothing_depends_on_the_order_of_hashes(tmp_path: Path) -> None:
    found = set()
    for seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.keys", str(tmp_path / seed)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1
    assert len(json.loads(found.pop())) == len(list((ROOT / "pipelines").glob("*.yaml")))

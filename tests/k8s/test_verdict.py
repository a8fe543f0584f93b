"""A job that is started again: does it go on where it may, and end at once where it must? Real processes, fake stages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from orchestrator import collection, inspection, runs, verdicts
from orchestrator.artifacts import ArtifactStore
from orchestrator.cli import invoke
from orchestrator.errors import BadInput, Busy, Diverged, OrchestratorError, Unavailable
from orchestrator.log import Log
from orchestrator.reach import Wish
from orchestrator.verdicts import Verdict

ROOT = Path(__file__).parents[2]
JOB = "chain-ab12cd"
SPEC = """
version: 1
name: chain
stages:
  data: {uses: make, with: {text: abcd}}
  train: {uses: grow, inputs: {dataset: data}, with: {total_steps: 6, pause_s: PAUSE}}
  score: {uses: judge, inputs: {models: train}}
"""
FAILS = """
version: 1
name: chain
stages:
  data: {uses: make, with: {text: abcd}}
  score: {uses: fail, with: {how: HOW}}
"""
PROGRAM = """
import os, signal, sys
from functools import partial
import pytest
from tests import fake_stages
fake_stages.install(pytest.MonkeyPatch())
from orchestrator import cli, execute, files
execute.Options = partial(execute.Options, ray=False, tracking=False)
die_at, count = sys.argv.pop(1), 0

def observe(operation, path):
    global count
    if path.startswith("pipelines/chain/beat"):
        return
    count += 1
    if str(count) == die_at or (operation, path) == tuple(die_at.split(" ")):
        os.kill(os.getpid(), signal.SIGKILL)

files.observe = observe
code = cli.invoke()
print("operations", count, file=sys.stderr, flush=True)
os._exit(code)
"""


def start(folder: Path, *, spec: str = SPEC, pause_s: float = 0.0, die_at: str = "0") -> subprocess.Popen[str]:
    (folder / "chain.yaml").write_text(textwrap.dedent(spec.replace("PAUSE", str(pause_s))))
    command = [sys.executable, "-c", PROGRAM, die_at, "run", "chain.yaml", "-v", "--storage", str(folder / "runs"),
               "--wait-lease", "60", "--verdict", JOB]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True)  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    assert "Traceback" not in said
    return process.returncode, said


def kept(folder: Path) -> ArtifactStore:
    return ArtifactStore(str(folder / "runs"))


def verdict(folder: Path) -> Verdict | None:
    return verdicts.read(kept(folder), JOB)


def until_it_trains(folder: Path, steps: int = 2) -> None:
    end = time.monotonic() + 60
    while len(list((folder / "runs" / "checkpoints").glob("*/*.json"))) < steps:
        assert time.monotonic() < end
        time.sleep(0.05)


def count_runs(folder: Path) -> int:
    return len(runs.ids(kept(folder)))


def test_a_success_is_final(tmp_path: Path) -> None:
    code, said = finish(start(tmp_path))
    assert code == 0
    assert f"verdict {JOB}: exit 0, succeeded, final, run chain-" in said
    assert verdicts.TOLD.search(said)
    code, said = finish(start(tmp_path))
    assert code == 0
    assert "nothing is left to do" in said
    assert count_runs(tmp_path) == 1


def test_a_run_that_is_cached_has_a_verdict_too(tmp_path: Path) -> None:
    assert finish(start(tmp_path))[0] == 0
    kept(tmp_path).files.remove("verdicts")
    assert finish(start(tmp_path))[0] == 0
    found = verdict(tmp_path)
    assert found is not None and found.final and found.run == runs.ids(kept(tmp_path))[0]


def test_preempted_and_started_again_it_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, pause_s=0.3)
    until_it_trains(tmp_path)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 143
    assert "interrupted, not final" in said
    found = verdict(tmp_path)
    assert found is not None and (found.exit_code, found.final) == (143, False)
    code, said = finish(start(tmp_path, pause_s=0.01))
    assert code == 0
    assert "goes on after an attempt that ended with exit 143" in said
    found = verdict(tmp_path)
    assert found is not None and (found.exit_code, found.final) == (0, True)


def test_killed_and_started_again_it_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, pause_s=0.3)
    until_it_trains(tmp_path)
    process.kill()
    finish(process)
    assert verdict(tmp_path) is None
    code, said = finish(start(tmp_path, pause_s=0.3))
    assert code == 0
    assert "goes on from step" in said + runs.latest(kept(tmp_path)).log("train")


def test_an_attempt_waits_for_the_one_before_it_to_save(tmp_path: Path) -> None:
    first = start(tmp_path, pause_s=1.2)
    until_it_trains(tmp_path, 1)
    second = start(tmp_path, pause_s=1.2)
    time.sleep(2)
    first.send_signal(signal.SIGTERM)
    assert finish(first)[0] == 143
    code, said = finish(second)
    assert code == 0
    assert "waiting for" in said


@pytest.mark.parametrize(
    ("how", "code", "final"),
    [("diverged", 3, True), ("refused", 3, True), ("bad_input", 2, True), ("os", 1, False), ("unavailable", 4, False)],
)
def test_what_another_attempt_would_not_change_is_final(tmp_path: Path, how: str, code: int, final: bool) -> None:
    spec = FAILS.replace("HOW", how)
    assert finish(start(tmp_path, spec=spec))[0] == code
    found = verdict(tmp_path)
    assert found is not None and (found.exit_code, found.final) == (code, final)
    assert found.message
    begun = time.monotonic()
    again, said = finish(start(tmp_path, spec=spec))
    assert again == code
    assert count_runs(tmp_path) == (1 if final else 2)
    if final:
        assert found.message in said
        assert time.monotonic() - begun < 20  # on a busy machine; nothing is loaded but the store


def test_a_mistake_in_the_spec_is_final_before_any_run(tmp_path: Path) -> None:
    spec = SPEC.replace("total_steps: 6", "total_steps: 0")
    assert finish(start(tmp_path, spec=spec))[0] == 2
    found = verdict(tmp_path)
    assert found is not None and found.final and "total_steps" in found.message
    assert finish(start(tmp_path))[0] == 2  # a job's verdict stands, whatever is given to it later
    assert [finding for finding in inspection.inspect(kept(tmp_path)).findings if finding.wrong] == []


def test_a_cancelled_job_is_not_started_again(tmp_path: Path) -> None:
    process = start(tmp_path, pause_s=0.3)
    until_it_trains(tmp_path)
    assert invoke(["cancel", runs.ids(kept(tmp_path))[0], "--storage", str(tmp_path / "runs")]) == 0
    assert finish(process)[0] == 143
    found = verdict(tmp_path)
    assert found is not None and (found.status, found.final) == ("cancelled", True)
    code, said = finish(start(tmp_path))
    assert code == 143
    assert "nothing is left to do" in said


def test_killed_at_any_operation_the_job_ends_with_one_verdict(tmp_path: Path) -> None:
    _, said = finish(start(tmp_path))
    operations = int(said.split("operations")[1])
    kept(tmp_path).files.remove("runs")
    os.rename(tmp_path / "runs", tmp_path / "straight")
    points = [*range(5, operations, max(operations // 5, 1)), operations - 3]
    for n in points:
        assert finish(start(tmp_path, die_at=str(n)))[0] in (-signal.SIGKILL, 0)
    assert finish(start(tmp_path))[0] == 0
    found = verdict(tmp_path)
    assert found is not None and found.final and found.exit_code == 0
    assert [finding for finding in inspection.inspect(kept(tmp_path)).findings if finding.wrong] == []


def test_killed_after_the_verdict_and_before_the_lease_is_released(tmp_path: Path) -> None:
    spec = FAILS.replace("HOW", "refused")
    end = 3  # entries of its log: the lease, the commit of `data`, the end of the run
    assert finish(start(tmp_path, spec=spec, die_at=f"link pipelines/chain/log/{end:08d}.json"))[0] == -signal.SIGKILL
    assert Log(kept(tmp_path).files, "chain").state().lease is not None
    code, said = finish(start(tmp_path, spec=spec))
    assert code == 3
    assert "nothing is left to do" in said


# --- the record itself --------------------------------------------------------------------------------------------------


def store(tmp_path: Path) -> ArtifactStore:
    found = kept(tmp_path)
    found.prepare()
    found.told = lambda line: None
    return found


def test_a_final_verdict_is_never_replaced(tmp_path: Path) -> None:
    one = store(tmp_path)
    first = verdicts.write(one, Verdict(JOB, 3, "refused", True, "50 is more than 40"))
    for late in (Verdict(JOB, 6, "failed", False), Verdict(JOB, 0, "succeeded", True)):
        assert verdicts.write(one, late) == first
    assert verdicts.read(one, JOB) == first


def test_a_storage_that_refuses_is_told_as_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong keys, say: no verdict can be stored, so the log has to tell it to whoever follows."""
    one, told = store(tmp_path), list[str]()

    def refused(path: str) -> bytes:
        raise Unavailable(f"cannot read {path}: Forbidden")

    monkeypatch.setattr(one.files, "read", refused)
    with pytest.raises(Unavailable, match="Forbidden"):
        verdicts.attempt(one, JOB, lambda: 0, told.append)
    assert len(told) == 1
    assert told[0].startswith(f"verdict {JOB}: exit 4, failed, not final; it could not be stored: ")


def test_what_is_final() -> None:
    errors: list[tuple[BaseException, int, bool]] = [
        (BadInput("x"), 2, True), (Diverged("x"), 3, True), (Busy("x"), 6, False), (OrchestratorError("x"), 1, False),
        (KeyboardInterrupt(), 130, False), (ZeroDivisionError(), 70, False),
    ]  # fmt: skip
    for error, code, final in errors:
        found = verdicts.of_error(JOB, error)
        assert (found.exit_code, found.final) == (code, final)


def test_a_damaged_verdict_is_passed_over_and_found_by_fsck(tmp_path: Path) -> None:
    one = store(tmp_path)
    verdicts.write(one, Verdict(JOB, 3, "refused", True))
    path = one.files.local and one.files.local / verdicts.paths(JOB)[0]
    assert path
    path.write_bytes(path.read_bytes().replace(b'"exit_code":3', b'"exit_code":0'))
    assert verdicts.read(one, JOB) is None
    (found,) = inspection.inspect(one).damage
    assert found.path == verdicts.paths(JOB)[0]
    assert invoke(["fsck", "--storage", str(tmp_path / "runs"), "--repair"]) == 0
    assert inspection.inspect(one).damage == []


def test_gc_keeps_a_verdict_as_long_as_its_run_and_a_month_without_one(tmp_path: Path) -> None:
    assert finish(start(tmp_path))[0] == 0
    one = kept(tmp_path)
    verdicts.write(one, Verdict("lost-1", 2, "failed", True))
    verdicts.write(one, Verdict("lost-2", 2, "failed", True))
    month = time.time() - 31 * 86_400
    for name in ("final.json",):
        os.utime(tmp_path / "runs" / "verdicts" / "lost-2" / name, (month, month))
    collection.collect(one, Wish(keep_last=1))
    assert verdicts.jobs(one) == [JOB, "lost-1"]


def test_a_job_has_a_name_that_is_no_path(tmp_path: Path) -> None:
    for name in ("../x", "", "A", "a/b", "x" * 81):
        with pytest.raises(BadInput):
            verdicts.read(store(tmp_path), name)

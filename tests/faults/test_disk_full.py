"""Does a run on a disk that is too small end with exit 4 and its need told, and go on once there is room?

Real tmpfs of every small size, mounted for the test (skipped where that is not permitted).
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.errors import Unavailable
from orchestrator.files import open_files
from orchestrator.inspection import inspect
from orchestrator.log import Log
from orchestrator.trouble import DiskFull, Refused, is_full, recognised
from tests.faults.forks import ROOT, Forks, Outcome

SPEC = """
version: 1
name: chain
stages:
  data: {uses: make, with: {text: abcd, copies: 100}}
  train: {uses: grow, inputs: {dataset: data}, with: {total_steps: 4}}
  score: {uses: judge, inputs: {models: train}}
"""
NOBODY = 65534
KIB = 1024


def mount(folder: Path, options: str) -> None:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where a tmpfs may be mounted; unmounted afterwards."""
    folder = tmp_path / "disk"
    yield folder
    while os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(folder: Path, options: str = "size=64m,nr_inodes=0") -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks({"ORCHESTRATOR_CACHE": str(tmp_path_factory.mktemp("cache")), "FORKS_REPORT": "1"}) as found:
        yield found


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def straight(forks: Forks, spec: Path, tmp_path: Path) -> Outcome:
    outcome = forks.run(spec, str(tmp_path / "straight"))
    assert outcome.code == 0
    return outcome


def whole(storage: Path, straight: Outcome) -> None:
    """What is committed is there and right; nothing else can be seen."""
    store = ArtifactStore(str(storage))
    assert [f"{found.path}: {found.what}" for found in inspect(store).damage] == []
    for stage, commit in Log(store.files, "chain").state().commits.items():
        assert commit["outputs"] == straight.outputs[stage]
        for digest in commit["outputs"].values():
            assert store.lacks(digest) == ""


def calm(outcome: Outcome) -> None:
    assert "Traceback" not in "\n".join([outcome.error, *outcome.said])


def sizes() -> list[int]:
    """KiB: every page in a full proof, else a sample."""
    step = 4 if os.environ.get("ORCHESTRATOR_PROOF") == "full" else 20
    return list(range(4, 400, step))


def test_every_too_small_disk_is_told_and_enlarging_it_is_enough(
    disk: Path, forks: Forks, spec: Path, straight: Outcome
) -> None:
    told, fitted = 0, False
    for size in sizes():
        mount(disk, f"size={size}k")
        outcome = forks.run(spec, str(disk / "runs"))
        calm(outcome)
        if outcome.code == 0:
            fitted = True
        else:
            told += 1
            assert outcome.code == 4, (size, outcome)
            assert f"disk full at {disk}" in outcome.error, (size, outcome)
            assert "free" in outcome.error
            whole(disk / "runs", straight)
        enlarge(disk)
        again = forks.run(spec, str(disk / "runs"))
        calm(again)
        assert (again.code, again.outputs) == (0, straight.outputs), (size, outcome, again)
        whole(disk / "runs", straight)
        subprocess.run(["umount", str(disk)], check=True)
    assert told >= 5
    assert fitted


def test_a_disk_without_room_for_another_file_is_told(disk: Path, forks: Forks, spec: Path, straight: Outcome) -> None:
    for inodes in (2, 8, 20, 35, 50):
        mount(disk, f"size=16m,nr_inodes={inodes}")
        outcome = forks.run(spec, str(disk / "runs"))
        calm(outcome)
        assert outcome.code == 4, (inodes, outcome)
        assert "disk full at" in outcome.error
        assert "more files fit (inodes)" in outcome.error, outcome.error
        whole(disk / "runs", straight)
        enlarge(disk, "size=64m,nr_inodes=10000")
        assert forks.run(spec, str(disk / "runs")).outputs == straight.outputs
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_disk_is_told_and_what_it_holds_is_served(
    disk: Path, forks: Forks, spec: Path, straight: Outcome
) -> None:
    mount(disk, "size=16m")
    enlarge(disk, "ro")
    outcome = forks.run(spec, str(disk / "runs"))
    calm(outcome)
    assert outcome.code == 4
    assert "read-only" in outcome.error
    enlarge(disk, "rw,size=16m")
    assert forks.run(spec, str(disk / "runs")).code == 0
    enlarge(disk, "ro")
    cached = forks.run(spec, str(disk / "runs"))
    assert (cached.code, cached.outputs, cached.computed) == (0, straight.outputs, [])


def test_a_checkpoint_without_room_leaves_the_one_before(disk: Path) -> None:
    mount(disk, "size=512k")
    store = ArtifactStore(str(disk / "runs"))
    told: list[str] = []
    store.told = told.append
    checkpoints = StoredCheckpoints(store, "lineage")
    for step in range(1, 5):  # two fit, a third only in place of the older one
        checkpoints.save(step, {"state": bytes([step]) * (180 * KIB)})
        found = checkpoints.latest()
        assert found is not None and found[0] == step
    with pytest.raises(DiskFull, match=r"409,600 bytes needed, [\d,]+ free"):
        checkpoints.save(5, {"state": bytes(400 * KIB)})
    assert "the one before is kept" in told[-1]
    found = checkpoints.latest()
    assert found is not None
    assert (found[0], found[1]["state"].read_bytes()) == (4, b"\4" * (180 * KIB))
    checkpoints.save(6, {"state": b"small"})
    assert checkpoints.latest() is not None
    assert not list((disk / "runs" / "tmp").iterdir())


def test_a_full_disk_is_known_by_whatever_a_library_makes_of_it(disk: Path) -> None:
    import sqlite3

    import numpy as np
    import torch
    from safetensors.torch import save_file

    mount(disk, "size=64k")
    (disk / "fill").write_bytes(b"x" * 40 * KIB)
    array = np.zeros(100_000)
    database = sqlite3.connect(disk / "db")

    def fill_database() -> None:
        database.execute("create table t (x)")
        for _ in range(100):
            database.execute("insert into t values (?)", (b"x" * KIB,))
            database.commit()

    for work in (
        fill_database,
        lambda: np.save(disk / "a.npy", array),
        lambda: np.savez(disk / "a.npz", array),
        lambda: save_file({"a": torch.zeros(100_000)}, disk / "a.safetensors"),
        lambda: torch.save(torch.zeros(100_000), disk / "a.pt"),
        lambda: (disk / "new" / "folder").mkdir(parents=True) or (disk / "text").write_text("x" * 100 * KIB),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - every library has its own
            work()
        database.close()
        assert is_full(caught.value), repr(caught.value)
        found = recognised(caught.value, disk)
        assert isinstance(found, DiskFull)
        for left in ("a.npy", "a.npz", "a.safetensors", "a.pt", "text"):
            (disk / left).unlink(missing_ok=True)
    assert recognised(ValueError("something else"), disk) is None


def as_nobody(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A program of a user without any rights (root may write anywhere)."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    imports = "import os, sys, contextvars, orchestrator.artifacts, orchestrator.errors, orchestrator.files"
    program = f"{imports}; os.setgid({NOBODY}); os.setuid({NOBODY})\n" + textwrap.dedent(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "XDG_CACHE_HOME": ""}
    environment.pop("ORCHESTRATOR_CACHE", None)
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, env=environment, cwd=ROOT, check=False,
    )  # fmt: skip


OPEN = """
from orchestrator.artifacts import ArtifactStore
from orchestrator.errors import OrchestratorError
try:
    ArtifactStore(sys.argv[1]).put("model", {"a": b"1"})
except OrchestratorError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may enter."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_folder_without_permission_is_told(public: Path) -> None:
    done = as_nobody(OPEN, public / "runs")
    assert done.returncode == 4, done.stderr
    assert "permission denied" in done.stdout
    assert f"user {NOBODY}" in done.stdout
    (public / "closed").mkdir(mode=0o700)
    done = as_nobody(OPEN, public / "closed" / "runs")
    assert done.returncode == 4, done.stderr
    assert "permission denied" in done.stdout


def test_a_cache_folder_that_cannot_be_made_is_told(public: Path) -> None:
    code = """
    from orchestrator.errors import OrchestratorError
    from orchestrator.files import scratch_cache
    try:
        scratch_cache()
    except OrchestratorError as error:
        print(error)
        sys.exit(error.exit_code)
    """
    done = as_nobody(code)
    assert (done.returncode, "permission denied" in done.stdout) == (4, True), done


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    for storage in (tmp_path / "runs", tmp_path / "runs" / "deeper"):
        with pytest.raises(Refused, match="not a directory"):
            ArtifactStore(str(storage)).put("model", {"a": b"1"})


def test_a_storage_that_is_removed_meanwhile_is_told(tmp_path: Path) -> None:
    files = open_files(str(tmp_path / "runs"))
    files.write("a", b"1")
    (tmp_path / "runs" / "a").unlink()
    (tmp_path / "runs" / "tmp").rmdir()
    (tmp_path / "runs").rmdir()
    files.write("a", b"2")
    assert files.read("a") == b"2"
    with pytest.raises(Unavailable):
        files.write("a/b", b"3")

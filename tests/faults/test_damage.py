"""Can any stored byte be altered without a wrong result? Every file of a storage is flipped, cut, emptied and removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifacts import ArtifactStore
from orchestrator.inspection import inspect
from orchestrator.mending import mend
from tests.faults import disk
from tests.faults.forks import Forks, Outcome

SPEC = """
version: 1
name: chain
tracking: http://127.0.0.1:9
stages:
  data: {uses: make, with: {text: abcd}}
  train: {uses: grow, inputs: {dataset: data}, with: {total_steps: 4}}
  show: {uses: show, inputs: {models: train}}
"""


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch, Forks({"ORCHESTRATOR_CACHE": str(cache)}) as found:
        patch.setenv("ORCHESTRATOR_CACHE", str(cache))
        disk.register()
        yield found


def flip(path: Path, position: int) -> None:
    """Change one bit, and keep size and time."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGES = {
    "flipped in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "flipped first": lambda path: flip(path, 0),
    "flipped last": lambda path: flip(path, -1),
    "flipped early": lambda path: flip(path, path.stat().st_size // 5),
    "flipped late": lambda path: flip(path, path.stat().st_size * 4 // 5),
    "cut": lambda path: cut(path, path.stat().st_size // 2),
    "emptied": lambda path: cut(path, 0),
    "removed": lambda path: path.unlink(),
}
UNCHECKED = ("logs/", "report.html", "tmp/", "scratch/", "views/", "spool/", "quarantine/")  # nothing is computed from these


class Storage:
    """A storage to be damaged, in copies."""

    def __init__(self, forks: Forks, folder: Path, *, die_at: str = "") -> None:
        self.forks, self.folder = forks, folder
        folder.mkdir()
        self.spec = folder / "chain.yaml"
        self.spec.write_text(SPEC)
        self.straight = forks.run(self.spec, str(folder / "straight"))
        assert self.straight.code == 0, self.straight
        self.whole = folder / ("interrupted" if die_at else "straight")
        if die_at:
            self.killed_at(die_at)

    def killed_at(self, operation: str) -> None:
        for n in range(1, self.straight.operations, 7):
            shutil.rmtree(self.whole, ignore_errors=True)
            self.forks.run(self.spec, str(self.whole), die_at=n)
            found = [path for path in self.files() if path.startswith("checkpoints/") and path.endswith(".json")]
            if operation in " ".join(found):
                return
        raise AssertionError(f"never came to {operation}")

    def files(self) -> list[str]:
        return sorted(str(p.relative_to(self.whole)) for p in self.whole.rglob("*") if p.is_file() and not p.is_symlink())

    def damaged(self, file: str, how: str) -> Path:
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.whole, copy, symlinks=True)
        if how != "removed" and not (copy / file).stat().st_size:
            return copy
        DAMAGES[how](copy / file)
        return copy

    def run(self, storage: Path, **asked: object) -> Outcome:
        return self.forks.run(self.spec, str(storage), **asked)


@pytest.fixture(scope="module")
def finished(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(forks, tmp_path_factory.mktemp("damage") / "finished")


@pytest.fixture(scope="module")
def interrupted(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Killed while it trains, with two checkpoints."""
    return Storage(forks, tmp_path_factory.mktemp("damage") / "interrupted", die_at="0000000003.json")


def check(storage: Storage, file: str, how: str) -> None:
    """The same command ends with the same results, whatever happened to one file; fsck finds and mends it."""
    copy = storage.damaged(file, how)
    where = f"{file} {how}"
    found = inspect(ArtifactStore(str(copy)))
    checked = not any(part in file for part in UNCHECKED)
    if checked and how not in ("removed", "flipped early", "flipped late"):  # a flip in the word "digest" alters nothing
        assert found.damage, where
    outcome = storage.run(copy)
    assert (outcome.code, outcome.outputs) == (0, storage.straight.outputs), (where, outcome)
    again = storage.run(copy, force=["train", "show"])  # now everything is read
    assert (again.code, again.outputs) == (0, storage.straight.outputs), (where, again)
    if checked and how == "flipped in the middle" and "sha256/" in file and "train" not in outcome.computed:
        assert any("damaged" in line and "quarantine" in line for line in again.said), (where, again)
    store = ArtifactStore(str(copy))
    store.told = lambda line: None
    mend(store, inspect(store))
    assert inspect(store).damage == [], where
    if os.environ.get("ORCHESTRATOR_PROOF"):
        last = storage.run(copy)
        assert (last.code, last.outputs) == (0, storage.straight.outputs), (where, last)


def share(files: list[str], every: int) -> list[tuple[str, str]]:
    """Each file with some of the damages, so that together all kinds are met; every one of them in a full proof."""
    pairs = [(file, how) for file in files for how in DAMAGES]
    return pairs if os.environ.get("ORCHESTRATOR_PROOF") == "full" else pairs[::every]


@pytest.mark.parametrize("which", ["finished", "interrupted"])
def test_any_damaged_file_is_survived(which: str, request: pytest.FixtureRequest) -> None:
    storage: Storage = request.getfixturevalue(which)
    for file, how in share(storage.files(), 29):
        check(storage, file, how)


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("which", ["finished", "interrupted"])
def test_every_damage_to_every_file_is_survived(which: str, part: int, request: pytest.FixtureRequest) -> None:
    storage: Storage = request.getfixturevalue(which)
    for file, how in share(storage.files(), 3)[part::4]:
        check(storage, file, how)

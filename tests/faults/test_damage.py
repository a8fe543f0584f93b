"""Can any stored byte be altered without a wrong result? Every file of a storage is flipped, cut, emptied and removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import artifacts, checkpoints, inspection, runs, seals
from orchestrator.artifacts import ArtifactStore
from orchestrator.cache import Cache
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.cli import invoke
from orchestrator.files import LocalFiles
from orchestrator.inspection import LEFT, inspect
from orchestrator.log import Log
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
UNCHECKED = (
    "logs/",
    "report.html",
    "tmp/",
    "scratch/",
    "views/",
    "spool/",
    "quarantine/",
)  # nothing is computed from these


class Storage:
    """A storage to be damaged, in copies."""

    def __init__(self, forks: Forks, folder: Path, *, die_at: str = "", place: str = "") -> None:
        self.forks, self.folder, self.place = forks, folder, place
        folder.mkdir()
        self.spec = folder / "chain.yaml"
        self.spec.write_text(SPEC)
        self.straight = self.run(folder / "straight")
        assert self.straight.code == 0, self.straight
        self.whole = folder / ("interrupted" if die_at else "straight")
        if die_at:
            self.killed_at(die_at)

    def killed_at(self, operation: str) -> None:
        for n in range(1, self.straight.operations, 7):
            shutil.rmtree(self.whole, ignore_errors=True)
            self.run(self.whole, die_at=n)
            found = [path for path in self.files() if path.startswith("checkpoints/") and path.endswith(".json")]
            if operation in " ".join(found):
                return
        raise AssertionError(f"never came to {operation}")

    def files(self) -> list[str]:
        return sorted(
            str(p.relative_to(self.whole)) for p in self.whole.rglob("*") if p.is_file() and not p.is_symlink()
        )

    def damaged(self, file: str, how: str) -> Path:
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.whole, copy, symlinks=True)
        if how != "removed" and not (copy / file).stat().st_size:
            return copy
        DAMAGES[how](copy / file)
        return copy

    def store(self, storage: Path) -> ArtifactStore:
        found = ArtifactStore(f"{self.place}{storage}")
        found.told = lambda line: None
        return found

    def run(self, storage: Path, *, die_at: int = 0, **asked: object) -> Outcome:
        shutil.rmtree(os.environ["ORCHESTRATOR_CACHE"], ignore_errors=True)  # copies here would hide damage there
        return self.forks.run(self.spec, f"{self.place}{storage}", die_at=die_at, **asked)


@pytest.fixture(scope="module")
def finished(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(forks, tmp_path_factory.mktemp("damage") / "finished")


@pytest.fixture(scope="module")
def interrupted(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Killed while it trains, with two checkpoints."""
    return Storage(forks, tmp_path_factory.mktemp("damage") / "interrupted", die_at="0000000003.json")


@pytest.fixture(scope="module")
def remote(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(forks, tmp_path_factory.mktemp("damage") / "remote", die_at="0000000003.json", place="disk://")


def check(storage: Storage, file: str, how: str) -> None:
    """The same command ends with the same results, whatever happened to one file; fsck finds and mends it."""
    copy = storage.damaged(file, how)
    where = f"{file} {how}"
    found = inspect(storage.store(copy))
    unneeded = any(file.startswith(one.path) for one in found.of(LEFT))  # a superseded checkpoint, say
    torn = file.endswith("events.jsonl") and how in ("cut", "emptied", "flipped last")  # as a crash leaves it
    checked = not unneeded and not torn and not any(part in file for part in UNCHECKED)
    if checked and how not in (
        "removed",
        "flipped early",
        "flipped late",
    ):  # a flip in the word "digest" alters nothing
        assert found.damage, where
    outcome = storage.run(copy)
    assert (outcome.code, outcome.outputs) == (0, storage.straight.outputs), (where, outcome)
    again = storage.run(copy, force=["train", "show"])  # now everything is read
    assert (again.code, again.outputs) == (0, storage.straight.outputs), (where, again)
    if checked and how == "flipped in the middle" and "sha256/" in file and (storage.whole / file).stat().st_size > 1:
        assert any("damaged" in line and "quarantine" in line for line in [*outcome.said, *again.said]), (where, again)
    store = storage.store(copy)
    mend(store, inspect(store))
    assert inspect(store).damage == [], where
    if os.environ.get("ORCHESTRATOR_PROOF"):
        last = storage.run(copy)
        assert (last.code, last.outputs) == (0, storage.straight.outputs), (where, last)


def share(files: list[str], every: int) -> list[tuple[str, str]]:
    """Each file with some of the damages, so that together all kinds are met; every one of them in a full proof."""
    pairs = [(file, how) for file in files for how in DAMAGES]
    return pairs if os.environ.get("ORCHESTRATOR_PROOF") == "full" else pairs[::every]


@pytest.mark.parametrize("which", ["finished", "interrupted", "remote"])
def test_any_damaged_file_is_survived(which: str, request: pytest.FixtureRequest) -> None:
    storage: Storage = request.getfixturevalue(which)
    for file, how in share(storage.files(), 29):
        check(storage, file, how)


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("which", ["finished", "interrupted", "remote"])
def test_every_damage_to_every_file_is_survived(which: str, part: int, request: pytest.FixtureRequest) -> None:
    storage: Storage = request.getfixturevalue(which)
    for file, how in share(storage.files(), 3)[part::4]:
        check(storage, file, how)


# --- bytes that were altered on their way only ---------------------------------------------------------------------


class Wire:
    """Alters what is read of each file, the first time."""

    def __init__(self) -> None:
        self.met: set[str] = set()

    def altered(self, path: str, data: bytes) -> bytes:
        if path in self.met or not data:
            return data
        self.met.add(path)
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("place", ["", "disk://"])
def test_a_flip_on_the_way_is_no_damage(
    place: str, forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, url = tmp_path / "chain.yaml", f"{place}{tmp_path / 'runs'}"
    spec.write_text(SPEC)
    for n in (10**9, 150):  # a finished run, and after it a repetition that is killed while it trains
        forks.run(spec, url, die_at=n, no_cache=n == 150)
    before = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file() and not p.is_symlink()}
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "empty"))
    wire = Wire()
    _tap(monkeypatch, wire)
    told: list[str] = []
    store = ArtifactStore(url)
    store.told = told.append
    state = Log(store.files, "chain").state()
    for commit in state.commits.values():
        assert Cache(store).get(commit["key"]) is not None
        for digest in commit["outputs"].values():
            artifact = store.get(digest)
            for name in artifact.files:
                store.read(artifact, name)
    for lineage in store.files.names("checkpoints"):
        assert StoredCheckpoints(store, lineage).latest() is not None
    assert [run.status for run in runs.recent(store)]
    assert inspect(store).damage == []
    assert len(wire.met) > 15
    assert told == []
    after = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file() and not p.is_symlink()}
    assert {p: after.get(p) for p in before} == before


def _tap(monkeypatch: pytest.MonkeyPatch, wire: Wire) -> None:
    read, hashed, cat, get = LocalFiles.read, seals.digest_file, disk.Disk.cat_file, disk.Disk.get_file

    def get_file(self: disk.Disk, source: str, target: str, **more: object) -> None:
        get(self, source, target, **more)
        Path(target).write_bytes(wire.altered(source, Path(target).read_bytes()))

    def digest(path: Path) -> str:
        if path.stat().st_size and str(path) not in wire.met and "/runs/" in str(path):
            wire.met.add(str(path))
            return "0" * 64
        return hashed(path)

    monkeypatch.setattr(LocalFiles, "read", lambda self, path: wire.altered(path, read(self, path)))
    monkeypatch.setattr(
        disk.Disk, "cat_file", lambda self, path, *args, **more: wire.altered(path, cat(self, path, *args, **more))
    )
    monkeypatch.setattr(disk.Disk, "get_file", get_file)
    for module in (artifacts, checkpoints, inspection):
        monkeypatch.setattr(module, "digest_file", digest)


# --- looking at damaged records ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", list(DAMAGES))
@pytest.mark.parametrize("name", ["run.json", "events.jsonl"])
def test_looking_at_runs_survives_damaged_records(
    finished: Storage, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next(file for file in finished.files() if file.endswith(name))
    run_id = file.split("/")[1]
    copy = str(finished.damaged(file, how))
    expected = {0, 2, 5} if name == "run.json" else {0}  # altered, or gone
    assert invoke(["runs", "--storage", copy]) == 0
    for command in (["status"], ["status", run_id], ["status", run_id, "--json"], ["logs", run_id]):
        code = invoke([*command, "--storage", copy])
        told = capsys.readouterr()
        assert code in expected, (command, told)
        assert "Traceback" not in told.err
    assert invoke(["fsck", "--repair", "--storage", copy]) == 0
    assert invoke(["status", run_id, "--storage", copy]) in ({0} if how != "removed" else {0, 2})

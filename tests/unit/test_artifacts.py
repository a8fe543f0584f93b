"""Do stored artifacts come back exactly, and is damage found before anyone uses it?"""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest

from orchestrator import artifacts
from orchestrator.artifacts import Artifact, ArtifactStore, Damaged, blob_path, manifest_path
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.errors import Unavailable
from orchestrator.files import open_files, redact


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "cache"))
    url = str(tmp_path / "runs") if request.param == "local" else f"memory://{tmp_path.name}"
    found = ArtifactStore(url)
    found.told = lambda line: None
    return found


def flip(path: Path) -> None:
    """Change one bit, and keep size and time."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_what_was_put_comes_back(store: ArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "b.bin"
    source.write_bytes(b"bytes of b")
    artifact = store.put("model", {"a.txt": b"a", "samples/b.bin": source}, {"step": 3, "size": (1, 2)})
    again = store.get(artifact.digest)
    assert again == artifact
    assert again.metadata == {"step": 3, "size": [1, 2]}
    assert store.read(again, "samples/b.bin") == b"bytes of b"
    folder = store.directory(again)
    assert (folder / "samples" / "b.bin").read_bytes() == b"bytes of b"
    assert store.directory(again) == folder


def test_the_digest_covers_content_and_metadata_only(store: ArtifactStore) -> None:
    first = store.put("model", {"a": b"1", "b": b"2"}, {"x": 1, "y": 2})
    assert store.put("model", {"b": b"2", "a": b"1"}, {"y": 2, "x": 1}) == first
    others = [
        store.put("scores", {"a": b"1", "b": b"2"}, {"x": 1, "y": 2}),
        store.put("model", {"a": b"1", "c": b"2"}, {"x": 1, "y": 2}),
        store.put("model", {"a": b"1", "b": b"3"}, {"x": 1, "y": 2}),
        store.put("model", {"a": b"1", "b": b"2"}, {"x": 1, "y": 3}),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a//b", "a\\b"])
def test_names_stay_inside_their_artifact(store: ArtifactStore, name: str) -> None:
    with pytest.raises(ValueError, match="plain relative"):
        store.put("model", {name: b""})


def test_metadata_must_be_json(store: ArtifactStore) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        store.put("model", {}, {"loss": float("nan")})


def test_unknown_artifacts_are_absent(store: ArtifactStore) -> None:
    assert store.lacks("0" * 64) == "is missing"
    assert store.find("0" * 64) is None
    with pytest.raises(Damaged):
        store.get("0" * 64)


def local_store(tmp_path: Path) -> tuple[ArtifactStore, Artifact, Path, list[str]]:
    store = ArtifactStore(str(tmp_path))
    artifact = store.put("model", {"a": b"some bytes"})
    fresh = ArtifactStore(str(tmp_path))
    told: list[str] = []
    fresh.told = told.append
    return fresh, artifact, tmp_path / blob_path(artifact.files["a"].digest), told


def test_a_flipped_bit_is_found_when_read_quarantined_and_then_absent(tmp_path: Path) -> None:
    store, artifact, blob, told = local_store(tmp_path)
    flip(blob)
    assert store.lacks(artifact.digest) == ""  # size and time are unchanged: only reading tells
    with pytest.raises(Damaged):
        store.open(artifact, "a")
    assert "quarantine" in told[0]
    assert not blob.exists()
    assert store.lacks(artifact.digest) == "lacks a"
    assert store.put("model", {"a": b"some bytes"}) == artifact
    assert store.read(artifact, "a") == b"some bytes"


def test_put_does_not_trust_a_damaged_blob_of_the_same_name(tmp_path: Path) -> None:
    store, _, blob, _ = local_store(tmp_path)
    flip(blob)
    store.put("model", {"a": b"some bytes"})
    assert blob.read_bytes() == b"some bytes"


def test_deleted_truncated_and_touched_files_miss(tmp_path: Path) -> None:
    store, artifact, blob, _ = local_store(tmp_path)
    os.utime(blob, ns=(1, 1))
    assert "touched" in store.lacks(artifact.digest)
    store.put("model", {"a": b"some bytes"})
    assert store.lacks(artifact.digest) == ""
    blob.write_bytes(b"some")
    assert "4 bytes instead of 10" in store.lacks(artifact.digest)
    blob.unlink()
    assert store.lacks(artifact.digest) == "lacks a"


def test_equal_artifacts_put_at_the_same_moment_are_whole(tmp_path: Path) -> None:
    for n in range(10):
        barrier = threading.Barrier(4)
        digests: list[str] = []

        def put(n: int = n, barrier: threading.Barrier = barrier, digests: list[str] = digests) -> None:
            store = ArtifactStore(str(tmp_path))
            barrier.wait()
            digests.append(store.put("model", {"a": f"same {n}".encode()}).digest)

        threads = [threading.Thread(target=put) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(digests) == 4
        assert ArtifactStore(str(tmp_path)).lacks(digests[0]) == ""


def test_a_damaged_manifest_is_absent(tmp_path: Path) -> None:
    store, artifact, _, told = local_store(tmp_path)
    manifest = tmp_path / manifest_path(artifact.digest)
    manifest.write_bytes(manifest.read_bytes().replace(b'"a"', b'"b"'))
    assert store.lacks(artifact.digest) == "is missing"
    assert told


def test_a_store_can_be_sent_to_another_process(tmp_path: Path) -> None:
    store, artifact, _, _ = local_store(tmp_path)
    assert pickle.loads(pickle.dumps(store)).read(artifact, "a") == b"some bytes"


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text('{"format": 99}')
    with pytest.raises(Unavailable, match="format 99"):
        ArtifactStore(str(tmp_path)).put("model", {})


def test_reading_an_absent_local_store_does_not_make_it(tmp_path: Path) -> None:
    assert ArtifactStore(str(tmp_path / "none")).format() is None
    assert not (tmp_path / "none").exists()


def test_a_root_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        ArtifactStore(str(tmp_path / "file")).put("model", {})


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_exclusive_creation_has_one_winner(kind: str, tmp_path: Path) -> None:
    files = open_files(str(tmp_path) if kind == "local" else f"memory://{tmp_path.name}")
    for round_ in range(10):
        won: list[int] = []
        barrier = threading.Barrier(8)

        def race(n: int, path: str, won: list[int] = won, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            if files.create(path, str(n).encode()):
                won.append(n)

        threads = [threading.Thread(target=race, args=(n, f"log/{round_}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert files.read(f"log/{round_}") == str(won[0]).encode()


def test_a_backend_without_exclusive_creation_is_refused() -> None:
    with pytest.raises(Unavailable, match="exclusively"):
        open_files("http://127.0.0.1:9/x")


def test_an_unknown_protocol_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="nosuch"):
        open_files("nosuch://bucket")


def test_secrets_are_never_shown() -> None:
    assert (
        redact("s3://user:hunter2@host failed with key abcd1234", ["abcd1234"])
        == "s3://user:***@host failed with key ***"
    )


# --- checkpoints -----------------------------------------------------------------------------------------------


def test_checkpoints_keep_the_newest_two(store: ArtifactStore) -> None:
    checkpoints = StoredCheckpoints(store, "lineage")
    assert checkpoints.latest() is None
    for step in (10, 20, 30):
        checkpoints.save(step, {"state": str(step).encode()})
    assert checkpoints.steps() == [20, 30]
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest[0], latest[1]["state"].read_bytes()) == (30, b"30")
    older = checkpoints.latest(at_most=29)
    assert older is not None
    assert older[0] == 20
    folders = [name for name in store.files.names("checkpoints/lineage") if not name.endswith(".json")]
    assert len(folders) == 2


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    told: list[str] = []
    store.told = told.append
    checkpoints = StoredCheckpoints(store, "lineage")
    checkpoints.save(10, {"state": b"ten"})
    checkpoints.save(20, {"state": b"twenty"})
    newest = checkpoints.latest()
    assert newest is not None
    flip(newest[1]["state"])
    again = checkpoints.latest()
    assert again is not None
    assert again[0] == 10
    assert "step 20" in told[0]
    flip(again[1]["state"])
    assert checkpoints.latest() is None


def test_an_uncommitted_checkpoint_is_invisible(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    StoredCheckpoints(store, "lineage").save(10, {"state": b"ten"})
    (tmp_path / "checkpoints" / "lineage" / "0000000010.json").unlink()
    assert pickle.loads(pickle.dumps(StoredCheckpoints(store, "lineage"))).latest() is None


def test_a_view_that_another_process_made_meanwhile_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files may be open by name: two processes that start together both find none, and both make one."""
    store = ArtifactStore(str(tmp_path))
    artifact = store.put("dataset", {"a.txt": b"a", "in/b.txt": b"b"})
    looks = iter([False])
    real = artifacts._shows
    monkeypatch.setattr(artifacts, "_shows", lambda view, links: next(looks, None) is not False and real(view, links))
    first = store.directory(artifact)
    made = first.stat().st_ino
    looks = iter([False])  # the second one, too, looked before the first was done
    assert store.directory(artifact) == first
    assert first.stat().st_ino == made
    assert [path.name for path in (tmp_path / "views").iterdir()] == [artifact.digest]

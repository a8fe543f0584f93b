"""Data sets and preparing them: what comes out, what is refused, and what never changes the result."""

from __future__ import annotations

import io
import os
import tarfile
import urllib.error
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.artifacts import ArtifactStore
from orchestrator.errors import BadInput, Interrupted, Unavailable
from orchestrator.stage import Scale
from orchestrator.stages.prepare import Prepare
from trainers import downloads, folders, pixels, plugins, shards
from trainers.data import Prepared
from trainers.dataset import Arrays, CorruptError, DataError, Dataset, Mixture, Opened, UnreachableError
from trainers.shards import Recipe

# --- a stage's surroundings, in memory -------------------------------------------------------------------------------


class Heard:
    """Progress and tracker that remember what they were told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[tuple[float, float]] = []
        self.values: dict[str, float] = {}
        self.figures: dict[str, bytes] = {}

    def update(self, done, total, **_):
        self.done.append((done, total))

    def say(self, line):
        self.lines.append(line)

    def metrics(self, values, *, step=0):
        self.values.update(values)

    def figure(self, name, png):
        self.figures[name] = png


def surroundings(folder: Path, *, seed: int = 0, stopping=lambda: False):
    store = ArtifactStore(str(folder))
    heard = Heard()
    context = SimpleNamespace(
        stage="data", run_id="r", seed=seed, scale=Scale(), store=store, cluster=None, progress=heard, tracker=heard,
        stopping=stopping, max_failures=3, open=store.open,
    )  # fmt: skip
    return context, heard


def prepared(folder: Path, seed: int = 0, **params):
    context, heard = surroundings(folder, seed=seed)
    artifact = plugins.build("stages", "prepare", params).run(context)["dataset"]
    return artifact, Prepared.open(context.store.directory(artifact)), heard


def complaints(**params):
    return {(c.path, c.id) for c in plugins.build("stages", "prepare", params).foresee({}).complaints}


def png(colour, size=(20, 10), mode="RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, format="PNG")
    return out.getvalue()


# --- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "modes", "sigma"), [("ring8", 8, 0.01), ("grid25", 25, 0.05), ("gauss4", 4, 0.1), ("gaussian1d", 1, 1.25)]
)
def test_mixtures_are_drawn_from_the_density_they_state(name, modes, sigma):
    dataset = plugins.build("datasets", name, {"num_points": 40_000})
    opened = dataset.open(3)
    source, mixture = opened.splits["all"], opened.mixture
    assert mixture.centers.shape == (modes, source.x.shape[1])
    assert mixture.sigma == sigma
    label = np.zeros(40_000, int) if source.label is None else source.label
    assert np.ptp(np.bincount(label)) <= 1
    residual = (source.x - mixture.centers[label]) / sigma
    # means and variances of n standard normals lie within 5 standard errors
    assert np.abs(residual.mean()) < 5 / np.sqrt(residual.size)
    assert np.abs(residual.var() - 1) < 5 * np.sqrt(2 / residual.size)
    within = (np.linalg.norm(residual, axis=1) < 3).mean()
    ceiling = {1: 0.9973, 2: 1 - np.exp(-4.5)}[source.x.shape[1]]
    assert np.abs(within - ceiling) < 0.004


def test_both_rings_of_the_literature():
    small, large = (plugins.build("datasets", "ring8", p).open(0).mixture for p in ({}, {"radius": 2, "sigma": 0.02}))
    assert np.allclose(np.linalg.norm(small.centers, axis=1), 1)
    assert np.allclose(large.centers, 2 * small.centers)
    assert (small.sigma, large.sigma) == (0.01, 0.02)


def test_the_grid_is_centred_with_step_two():
    centers = plugins.build("datasets", "grid25", {}).open(0).mixture.centers
    assert sorted({tuple(c) for c in centers}) == [
        (float(a), float(b)) for a in range(-4, 5, 2) for b in range(-4, 5, 2)
    ]


def test_rotated_digits_share_no_image_and_are_rotated_exactly():
    digits = plugins.build("datasets", "digits", {}).open(0).splits["all"]
    opened = plugins.build("datasets", "rotated_digits", {"quarter_turns": 1}).open(0)
    upright, rotated = opened.splits["all"], opened.other["all"]
    assert len(upright) + len(rotated) == len(digits)
    assert (upright.x == digits.x[0::2]).all()
    assert (np.rot90(rotated.x, -1, axes=(1, 2)) == digits.x[1::2]).all()
    assert (rotated.label == digits.label[1::2]).all()


# --- pixels -----------------------------------------------------------------------------------------------------------


def test_downscaling_is_antialiased():
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    small = pixels.fit(board, 16)
    assert np.abs(small.astype(int) - 127).max() <= 12  # picking single pixels would leave 0 and 255


def test_fit_takes_the_centred_square():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = (255, 0, 0)
    assert (pixels.fit(wide, 10) == (255, 0, 0)).all()
    assert pixels.fit(wide.transpose(1, 0, 2), 5).shape == (5, 5, 3)


def test_colour_to_grey_is_luma_and_back_repeats():
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert pixels.recolour(colour, 1)[0, :, 0].tolist() == [76, 150, 29, 255]
    assert (pixels.recolour(pixels.recolour(colour, 1), 3)[..., 2] == pixels.recolour(colour, 1)[..., 0]).all()


def test_decoding_16_bit_transparent_and_rotated_images():
    out = io.BytesIO()
    Image.fromarray(np.full((2, 2), 32768, np.uint16)).save(out, format="PNG")
    assert (pixels.decode(out.getvalue(), "deep.png") == 128).all()
    assert (pixels.decode(png((0, 0, 0, 0), mode="RGBA"), "clear.png") == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    out = io.BytesIO()
    Image.new("RGB", (20, 10)).save(out, format="JPEG", exif=exif)
    assert pixels.decode(out.getvalue(), "side.jpg").shape == (20, 10, 3)


@pytest.mark.parametrize("data", [b"", b"no image", png("red")[:50]])
def test_undecodable_bytes_are_corrupt_by_name(data):
    with pytest.raises(CorruptError, match=r"^bad\.png: "):
        pixels.decode(data, "bad.png")


def test_an_image_that_announces_too_many_pixels_is_corrupt(monkeypatch):
    monkeypatch.setattr(pixels, "MAX_PIXELS", 100)
    with pytest.raises(CorruptError, match="more than 100 pixels"):
        pixels.decode(png("red"), "bomb.png")


# --- folders and archives ---------------------------------------------------------------------------------------------

FILES = {
    "cats/a.png": png("red"),
    "cats/b.PNG": png("green"),
    "dogs/nested/c.png": png("blue"),
    "dogs/broken.png": png("blue")[:50],
    "dogs/notes.txt": b"not an image",
    "__MACOSX/cats/._a.png": b"junk",
    "cats/.hidden.png": b"junk",
}


def write(kind: str, folder: Path, files: dict[str, bytes], prefix: str = "") -> str:
    """The files as a directory or an archive; returns its path."""
    path = folder / f"data{'' if kind == 'directory' else '.' + kind}"
    if kind == "directory":
        for name, data in files.items():
            target = path / prefix / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(prefix + name, data)
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(prefix + name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return str(path)


KINDS = ["directory", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


@pytest.mark.parametrize("prefix", ["", "photos/all/"])
@pytest.mark.parametrize("kind", KINDS)
def test_directory_and_archives_hold_the_same(tmp_path, kind, prefix):
    url = write(kind, tmp_path, FILES, prefix)
    artifact, data, heard = prepared(
        tmp_path / "store", dataset={"image_folder": {"url": url}}, image_size=8, split={"train": 1.0}
    )
    train = data.split("train")
    assert artifact.metadata["classes"] == ["cats", "dogs"]
    assert artifact.metadata["shape"]["num_classes"] == 2
    assert artifact.metadata["num_corrupt"] == 1
    assert artifact.metadata["corrupt"][0].startswith(f"{prefix}dogs/broken.png: ")
    assert any("dogs/broken.png" in line for line in heard.lines)
    found = sorted((tuple(x[0, 0].tolist()), int(y)) for x, y in zip(train.raw(range(3)), train.labels, strict=True))
    assert found == [((0, 0, 255), 1), ((0, 128, 0), 0), ((255, 0, 0), 0)]


def test_images_side_by_side_have_no_labels(tmp_path):
    url = write("directory", tmp_path, {f"{i}.png": png((i, 0, 0)) for i in range(5)})
    artifact, data, _ = prepared(tmp_path / "store", dataset={"image_folder": {"url": url}}, image_size=8, channels=1)
    assert artifact.metadata["shape"]["num_classes"] is None
    assert artifact.metadata["shape"]["size"] == [1, 8, 8]
    assert artifact.metadata["classes"] is None
    assert data.split("train").labels is None
    assert artifact.metadata["splits"] == {"train": 4, "test": 1}


def test_images_beside_class_directories_are_refused(tmp_path):
    url = write("directory", tmp_path, {**FILES, "stray.png": png("red")})
    with pytest.raises(BadInput, match=r"stray\.png.*labels: false"):
        prepared(tmp_path / "store", dataset={"image_folder": {"url": url}}, image_size=8)
    artifact, _, _ = prepared(tmp_path / "store", dataset={"image_folder": {"url": url, "labels": False}}, image_size=8)
    assert artifact.metadata["classes"] is None


@pytest.mark.parametrize("name", ["../outside.png", "/etc/outside.png", "a/../../b.png", "..\\b.png", "C:\\b.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_points_outside_of_itself_is_refused(tmp_path, kind, name):
    url = write(kind, tmp_path, {"a.png": png("red"), name: png("red")})
    with pytest.raises(DataError, match="points outside"):
        folders.open_folder(url)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_an_archive_that_explodes_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(folders, "FREE_BYTES", 1 << 20)
    url = write(kind, tmp_path, {"a.png": bytes(4 << 20)})
    with pytest.raises(DataError, match="unpacks to more than 200 times"):
        folders.open_folder(url)


def test_links_in_a_tar_are_not_followed(tmp_path):
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    folder = folders.open_folder(str(path))
    with pytest.raises(CorruptError, match=r"link\.png: a link"):
        folder.read("link.png")


def test_a_file_larger_than_the_limit_is_corrupt(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MAX_FILE_BYTES", 10)
    for kind in ("directory", "zip", "tar"):
        folder = folders.open_folder(write(kind, tmp_path, {"a.png": png("red")}))
        with pytest.raises(CorruptError, match="larger than"):
            folder.read("a.png")


def test_damaged_archives_are_named(tmp_path):
    for kind in ("zip", "tar", "tar.gz"):
        path = Path(write(kind, tmp_path, {"a.png": png("red")}))
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(DataError, match=r"data\."):
            folders.open_folder(str(path))


def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path):
    noise = [np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8) for i in (0, 1)]
    files = {}
    for name, x in zip(("a.png", "b.png"), noise, strict=True):
        out = io.BytesIO()
        Image.fromarray(x).save(out, format="PNG")
        files[name] = out.getvalue()
    path = Path(write("zip", tmp_path, files))
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF
    path.write_bytes(bytes(data))
    folder = folders.open_folder(str(path))
    with pytest.raises(CorruptError, match=r"^a\.png: "):
        folder.read("a.png")
    assert folder.read("b.png") == files["b.png"]


def test_any_fsspec_url(tmp_path):
    import fsspec

    fs = fsspec.filesystem("memory")
    for name, data in FILES.items():
        fs.pipe(f"/album/{name}", data)
    opened = plugins.build("datasets", "image_folder", {"url": "memory://album"}).open(0)
    assert opened.classes == ("cats", "dogs")
    archive = write("zip", tmp_path, FILES)
    fs.pipe("/album.zip", Path(archive).read_bytes())
    assert len(folders.open_folder("memory://album.zip").names) == 4
    fs.rm("/album", recursive=True)
    fs.rm("/album.zip")


def test_places_that_cannot_be_read_say_why(tmp_path):
    def dataset(url):
        return plugins.build("datasets", "image_folder", {"url": str(url)})

    with pytest.raises(DataError, match="does not exist"):
        dataset(tmp_path / "nowhere").open(0)
    with pytest.raises(DataError, match="does not exist"):
        dataset(tmp_path / "nowhere.zip").fingerprint()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        dataset(tmp_path / "empty").open(0)
    (tmp_path / "file.dat").write_bytes(b"")
    with pytest.raises(DataError, match="neither a directory nor"):
        dataset(tmp_path / "file.dat").open(0)
    with pytest.raises(DataError, match="password"):
        dataset("ftp://me:secret@host/data").open(0)
    with pytest.raises(DataError, match="cannot be opened"):
        dataset("nonsense://data").open(0)


@pytest.mark.parametrize("kind", ["directory", "zip"])
def test_changed_files_change_the_fingerprint_and_nothing_else_does(tmp_path, kind):
    url = write(kind, tmp_path, FILES)
    stage = plugins.build("stages", "prepare", {"dataset": {"image_folder": {"url": url}}})
    before = stage.fingerprint()
    assert before == stage.fingerprint()
    target = Path(url) / "cats/a.png" if kind == "directory" else Path(url)
    same = target.read_bytes()
    target.write_bytes(same)  # the same bytes at another time: asking again is the safe side
    os.utime(target, ns=(0, 12345))
    touched = stage.fingerprint()
    assert touched != before
    target.write_bytes(same + b"\0")
    os.utime(target, ns=(0, 12345))
    assert stage.fingerprint() != touched


def test_a_missing_folder_is_bad_input_when_planning(tmp_path):
    stage = plugins.build("stages", "prepare", {"dataset": {"image_folder": {"url": str(tmp_path / "nowhere")}}})
    with pytest.raises(BadInput, match="does not exist"):
        stage.fingerprint()


def test_a_relative_path_means_the_directory_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = plugins.build("datasets", "image_folder", {"url": "album"})
    assert dataset.resolve().url == str(tmp_path / "album")
    assert replace(dataset, url="s3://album").resolve().url == "s3://album"


# --- downloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba"])
def test_without_network_the_error_says_what_to_do(tmp_path, name, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)  # celeba's downloader: as if not installed
    dataset = plugins.build("datasets", name, {"root": str(tmp_path)})
    with pytest.raises(UnreachableError, match=name) as caught:
        dataset.open(0)
    assert str(tmp_path) in caught.value.hint
    assert "root" in caught.value.hint
    assert ("gdown" in str(caught.value)) == (name == "celeba")
    assert dataset.fingerprint() == {}


def test_an_unreachable_download_is_unavailable(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(Unavailable, match="cannot be downloaded"):
        prepared(tmp_path / "store", dataset={"mnist": {"root": str(tmp_path / "none")}})


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="nothing can be written"):
        plugins.build("datasets", "mnist", {"root": str(tmp_path / "file" / "below")}).open(0)


def test_damaged_files_are_told_and_not_downloaded_over(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(12))
    with pytest.raises(DataError, match="damaged"):
        plugins.build("datasets", "mnist", {"root": str(tmp_path)}).open(0)


def test_our_own_download_has_the_key_of_no_download_and_a_change_has_another(tmp_path):
    def load(download):
        if not download and not (tmp_path / "files").is_dir():
            raise RuntimeError("Dataset not found")
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / "a").write_bytes(b"x")
        return "loaded"

    assert downloads.fingerprint(tmp_path, "set", "files") == {}
    assert downloads.obtain(load, tmp_path, "set", "files") == "loaded"
    assert downloads.fingerprint(tmp_path, "set", "files") == {}
    (tmp_path / "files" / "a").write_bytes(b"changed")
    assert downloads.fingerprint(tmp_path, "set", "files") != {}


def test_files_put_there_by_hand_have_their_own_fingerprint(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"x")
    assert plugins.build("datasets", "mnist", {"root": str(tmp_path)}).fingerprint()["files"]


def test_mnist_reads_idx_files(tmp_path):
    """Tiny files in MNIST's own format, through torchvision's reader."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 30), ("t10k", 10)):
        x, y = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)
        sizes = b"".join(int(k).to_bytes(4, "big") for k in x.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + x.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + y.tobytes())
    artifact, data, _ = prepared(tmp_path / "store", dataset={"mnist": {"root": str(tmp_path)}}, image_size=28)
    assert artifact.metadata["splits"] == {"train": 30, "test": 10}  # its own splits
    rows = {row.tobytes() for row in data.split("test").raw(range(10))}
    assert rows == {row.tobytes() for row in x}
    pooled, _, _ = prepared(
        tmp_path / "store", dataset={"mnist": {"root": str(tmp_path)}}, split={"train": 0.5, "test": 0.5}
    )
    assert pooled.metadata["splits"] == {"train": 20, "test": 20}
    part, _, _ = prepared(tmp_path / "store", dataset={"mnist": {"root": str(tmp_path)}}, subset=8)
    assert part.metadata["splits"] == {"train": 6, "test": 2}


def test_celeba_reads_torchvisions_layout(tmp_path, monkeypatch):
    """Twelve tiny faces in CelebA's own layout; torchvision's checksums are of the published files."""
    from torchvision import datasets

    monkeypatch.setattr(datasets.CelebA, "_check_integrity", lambda self: True)
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 13)]
    for i, name in enumerate(names):
        image = np.zeros((218, 178, 3), np.uint8)
        image[35:183, 15:163] = 20 * i  # the central square of 148
        out = io.BytesIO()
        Image.fromarray(image).save(out, format="JPEG", quality=100)
        (folder / "img_align_celeba" / name).write_bytes(out.getvalue()[: 300 if i == 2 else None])
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {i // 6}\n" for i, n in enumerate(names)))
    for file in ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt", "list_attr_celeba.txt"):
        rows = "".join(f"{n} {'1' if i % 2 else '-1'} -1\n" for i, n in enumerate(names))
        (folder / file).write_text(f"12\nSmiling Male\n{rows}")
    (folder / "identity_CelebA.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(names)))
    dataset = plugins.build("datasets", "celeba", {"root": str(tmp_path)})
    with pytest.raises(DataError, match="known: Smiling, Male"):
        replace(dataset, attribute="Smile").open(0)
    opened = dataset.open(0)
    assert {name: len(source) for name, source in opened.splits.items()} == {"train": 6, "valid": 6, "test": 0}
    for i in (1, 3, 5):
        example = opened.splits["train"][i]
        assert example.x.shape == (148, 148, 3)
        assert np.abs(example.x[8:-8, 8:-8].astype(int) - 20 * i).max() <= 1
        assert example.label == 1
    with pytest.raises(CorruptError, match=r"000003\.jpg"):
        opened.splits["train"][2]
    artifact, _, _ = prepared(
        tmp_path / "store", dataset={"celeba": {"root": str(tmp_path)}}, split={"train": 0.5, "test": 0.5}
    )
    assert artifact.metadata["shape"]["size"] == [3, 64, 64]
    assert artifact.metadata["num_corrupt"] == 1


def test_cifar10_reads_torchvisions_layout(tmp_path, monkeypatch):
    """Batches of four in CIFAR-10's own format; torchvision opens the real ones only when their MD5 is right."""
    import pickle

    from torchvision.datasets import cifar

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    dataset = plugins.build("datasets", "cifar10", {"root": str(tmp_path)})
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("no download"))
    with monkeypatch.context() as patch:
        patch.setattr(cifar, "check_integrity", lambda *_: True)
        opened = dataset.open(0)
    assert {name: source.x.shape for name, source in opened.splits.items()} == {
        "train": (20, 32, 32, 3),
        "test": (4, 32, 32, 3),
    }
    assert (opened.splits["test"].x[0].transpose(2, 0, 1).reshape(-1) == batch["data"][0]).all()
    assert opened.splits["test"].label.tolist() == [0, 1, 2, 9]
    assert opened.classes[9] == "class 9"


# --- preparing --------------------------------------------------------------------------------------------------------


def test_digits_end_up_in_one_artifact(tmp_path):
    artifact, data, heard = prepared(tmp_path, dataset="digits", image_size=16, augment={"crop": 2})
    facts = artifact.metadata
    assert facts["shape"] == {
        "kind": "image", "size": [1, 16, 16], "num_classes": 10, "bounded": True, "other": None,
    }  # fmt: skip
    assert facts["splits"] == {"train": 1438, "test": 359}
    assert facts["classes"] == list("0123456789")
    assert facts["augment"] == {"flip": False, "crop": 2}
    assert facts["corrupt"] == []
    assert data.metadata == facts
    assert len(data.split("train")) == 1438
    assert data.split("train").padding == 2
    assert sorted(np.unique(data.split("test").labels)) == list(range(10))
    assert heard.done[0] == (0, 1797)
    assert heard.done[-1] == (1797, 1797)
    assert heard.values["examples/train"] == 1438
    assert heard.figures["examples.png"].startswith(b"\x89PNG")


def test_splits_share_nothing_and_hold_everything(tmp_path):
    _, data, _ = prepared(tmp_path, dataset="gaussian1d", split={"train": 0.5, "valid": 0.25, "test": 0.25})
    parts = [data.split(name).raw(range(len(data.split(name))))[:, 0] for name in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [10_000, 5_000, 5_000]
    whole = plugins.build("datasets", "gaussian1d", {}).open(0).splits["all"].x[:, 0]
    assert (np.sort(np.concatenate(parts)) == np.sort(whole)).all()


def test_the_result_depends_on_the_seed_and_not_on_how_it_was_made(tmp_path):
    params = {"dataset": "digits", "image_size": 8, "subset": 0.5}
    first, _, _ = prepared(tmp_path / "a", **params)
    again, _, _ = prepared(tmp_path / "b", **params, num_shards=1)
    third, _, _ = prepared(tmp_path / "c", **params, num_shards=3)
    other, _, _ = prepared(tmp_path / "d", seed=1, **params)
    assert first.digest == again.digest == third.digest
    assert first.digest != other.digest


@pytest.mark.parametrize(("subset", "count"), [(0.1, 180), (100, 100), (1, 1797), (1797, 1797)])
def test_a_subset_is_a_share_or_a_count(tmp_path, subset, count):
    artifact, _, _ = prepared(tmp_path, dataset="digits", image_size=8, subset=subset)
    assert sum(artifact.metadata["splits"].values()) == count


def test_a_subset_of_more_than_there_is_and_an_empty_split_are_refused(tmp_path):
    with pytest.raises(BadInput, match="more than there is; it holds 1797"):
        prepared(tmp_path, dataset="digits", subset=1798)
    with pytest.raises(BadInput, match="split test of digits would be empty"):
        prepared(tmp_path, dataset="digits", subset=2)


def test_two_domains_come_in_one_batch(tmp_path):
    artifact, data, _ = prepared(tmp_path, dataset="rotated_digits", image_size=16)
    assert artifact.metadata["domains"] == 2
    assert data.shape.other == replace(data.shape, other=None)
    batch = data.split("train").batch(torch.arange(32))
    assert batch.x.shape == batch.other.x.shape == (32, 1, 16, 16)
    assert (batch.label != batch.other.label).any()  # unpaired
    assert set(batch.other.index.tolist()) <= set(range(len(data.split("train").other)))


def test_grey_becomes_colour_when_asked(tmp_path):
    _, data, _ = prepared(tmp_path, dataset="digits", image_size=8, channels=3, subset=20)
    x = data.split("train").raw(range(16))
    assert x.shape == (16, 8, 8, 3)
    assert (x[..., 0] == x[..., 2]).all()


def test_eight_pixel_digits_are_stored_bit_for_bit(tmp_path):
    _, data, _ = prepared(tmp_path, dataset="digits", image_size=8)
    whole = plugins.build("datasets", "digits", {}).open(0).splits["all"]
    known = {(x.tobytes(), int(y)) for x, y in zip(whole.x, whole.label, strict=True)}
    train = data.split("train")
    assert {(x.tobytes(), int(y)) for x, y in zip(train.raw(range(1438)), train.labels, strict=True)} <= known


def test_stopping_ends_before_the_next_shard(tmp_path):
    context, heard = surroundings(tmp_path, stopping=lambda: len(heard.done) > 2)
    with pytest.raises(Interrupted):
        Prepare("digits").run(context)
    assert 0 < heard.done[-1][0] < 1797


# --- foreseeing -------------------------------------------------------------------------------------------------------


def test_what_is_foreseen_is_what_is_made(tmp_path):
    cases = (
        {"dataset": "digits", "image_size": 16, "subset": 50, "augment": {"flip": True}},
        {"dataset": "rotated_digits", "subset": 50},
        {"dataset": {"ring8": {"num_points": 100}}},
        {"dataset": {"gaussian1d": {"num_points": 100}}},
    )
    for params in cases:
        foreseen = plugins.build("stages", "prepare", params).foresee({}).outputs["dataset"]
        artifact, _, _ = prepared(tmp_path, **params)
        assert {key: artifact.metadata[key] for key in foreseen if key != "mixture"} == {
            key: value for key, value in foreseen.items() if key != "mixture"
        }
        assert bool(foreseen["mixture"]) == bool(artifact.metadata["mixture"])


def test_every_mistake_is_found_at_once():
    found = complaints(
        dataset={"digits": {"sise": 3}},
        split={"train": 0.8, "test": 0.3},
        augment={"flop": True, "crop": -1, "flip": "yes"},
    )
    assert found == {
        (("dataset", "digits", "sise"), "unknown-key"),
        (("split",), "split"),
        (("augment", "flop"), "unknown-key"),
        (("augment", "crop"), "wrong-type"),
        (("augment", "flip"), "wrong-type"),
    }


def test_mistakes_and_their_places():
    assert complaints(dataset="digit") == {(("dataset",), "unknown-dataset")}
    assert complaints(dataset={"digit": {}}) == {(("dataset", "digit"), "unknown-dataset")}
    assert complaints(dataset=3) == {(("dataset",), "wrong-type")}
    assert complaints(dataset={"a": {}, "b": {}}) == {(("dataset",), "wrong-type")}
    assert complaints(dataset="image_folder") == {(("dataset",), "missing-key")}
    assert complaints(dataset={"ring8": {"sigma": 0}}) == {(("dataset", "ring8", "sigma"), "out-of-range")}
    assert complaints(dataset="digits", split={"test": 1.0}) == {(("split",), "split")}
    assert complaints(dataset="digits", split={"train": 0.5, "../x": 0.5}) == {(("split", "../x"), "bad-name")}
    assert complaints(dataset="digits", image_size=8, augment={"crop": 5}) == {(("augment", "crop"), "out-of-range")}
    assert complaints(dataset="ring8", image_size=32, channels=1, augment={"flip": True}) == {
        (("image_size",), "not-for-points"),
        (("channels",), "not-for-points"),
        (("augment", "flip"), "not-for-points"),
    }
    (did_you_mean,) = plugins.build("stages", "prepare", {"dataset": "digit"}).foresee({}).complaints
    assert did_you_mean.hint == "did you mean 'digits'?"


# --- what a data set of one's own may get wrong -----------------------------------------------------------------------


@dataclass(frozen=True)
class Own(Dataset):
    """A data set of a user."""

    kind: ClassVar = "image"
    channels: ClassVar[int] = 1
    num_classes: ClassVar[int | None] = 2

    def open(self, seed):
        return Opened({"all": Arrays(np.zeros((4, 8, 8, 1), np.uint8))})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Arrays(np.zeros((4, 8, 8, 1), np.float32)), "gave float32"),
        (Arrays(np.zeros((4, 8, 8), np.uint8)), r"gave uint8 \(8, 8\)"),
        (Arrays(np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 2, 0])), "outside of its 2 classes"),
        (Arrays(np.zeros((4, 8, 8, 1), np.uint8), np.array([0, -1, 1, 0])), "outside of its 2 classes"),
    ],
)
def test_wrong_examples_are_refused(source, message):
    recipe = Recipe(Own(), "own", 0, image_size=8, channels=1, fractions=(("train", 1.0),))
    opened = Opened({"all": source})
    (place,) = shards.places(opened, recipe)
    with pytest.raises(DataError, match=message):
        shards.make(opened, recipe, place)


def test_points_that_are_not_finite_are_refused():
    recipe = Recipe(Own(), "own", 0, fractions=(("train", 1.0),))
    opened = Opened({"all": Arrays(np.full((4, 2), np.nan, np.float32))}, mixture=Mixture(np.zeros((1, 2)), 1.0))
    (place,) = shards.places(opened, recipe)
    with pytest.raises(DataError, match="finite"):
        shards.make(opened, recipe, place)


def test_shards_are_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 64 * 10)
    recipe = Recipe(Own(), "own", 0, image_size=8, channels=1)
    opened = Opened({"all": Arrays(np.zeros((100, 8, 8, 1), np.uint8))})
    places = shards.places(opened, recipe)
    assert all(place.stop - place.start <= 10 for place in places)
    assert [place.stem for place in places[:2]] == ["train-00000", "train-00001"]
    assert sum(place.stop - place.start for place in places) == 100

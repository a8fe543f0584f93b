"""Batches of prepared data: which rows, which values, and which draws move them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers import data
from trainers.core import DataShape
from trainers.data import Prepared, Split
from trainers.dataset import Arrays, Mixture


def images(n: int = 40, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def test_a_batch_is_the_rows_asked_for_in_minus_one_to_one():
    x = images()
    batch = Split([x], np.arange(40)).batch(torch.tensor([7, 7, 0]))
    expected = torch.from_numpy(x[[7, 7, 0]]).permute(0, 3, 1, 2).double() / 127.5 - 1
    assert torch.allclose(batch.x.double(), expected, atol=1e-6)
    assert batch.label.tolist() == [7, 7, 0]
    assert batch.index.tolist() == [7, 7, 0]
    assert batch.other is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_ends_of_the_range_are_minus_one_and_one(dtype):
    x = np.stack([np.zeros((2, 2, 1), np.uint8), np.full((2, 2, 1), 255, np.uint8)])
    got = Split([x]).batch(torch.tensor([0, 1]), dtype=dtype).x
    assert got.dtype == dtype
    assert got[0].eq(-1).all()
    assert (got[1].double() - 1).abs().max() <= 1e-6


def test_colour_batches_are_channels_last_in_memory():
    batch = Split([images()]).batch(torch.arange(4))
    assert batch.x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("joined", [0, 1 << 30])
def test_many_shards_equal_one(monkeypatch, joined):
    monkeypatch.setattr(data, "JOINED_BYTES", joined)
    x, label = images(), np.arange(40) % 7
    one, many = Split([x], label), Split([x[:1], x[1:17], x[17:17], x[17:30], x[30:]], label)
    assert len(many) == 40
    for seed in range(5):
        indices = torch.randint(40, (33,), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(one.batch(indices).x, many.batch(indices).x)
        assert (one.raw(indices) == many.raw(indices)).all()
        assert (one.raw(indices) == x[indices.numpy()]).all()


@pytest.mark.parametrize("joined", [0, 1 << 30])
def test_an_index_out_of_range_is_an_error(monkeypatch, joined):
    monkeypatch.setattr(data, "JOINED_BYTES", joined)
    with pytest.raises(IndexError):
        Split([images(20), images(20)]).batch(torch.tensor([40]))


def test_flip_mirrors_exactly_the_images_drawn():
    x = images(4)
    split = Split([x])
    indices, flip = torch.arange(4), torch.tensor([True, False, True, False])
    got, plain = split.batch(indices, flip=flip).x, split.batch(indices).x
    assert torch.equal(got[flip], plain[flip].flip(-1))
    assert torch.equal(got[~flip], plain[~flip])


def test_crop_is_a_window_of_the_image_padded_by_its_border():
    x, padding = images(6, size=8), 3
    split = Split([x], padding=padding)
    crop = torch.tensor([[0, 0], [3, 3], [6, 6], [0, 6], [5, 1], [3, 4]])
    padded = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)), mode="edge")
    windows = np.stack([padded[i, top : top + 8, left : left + 8] for i, (top, left) in enumerate(crop.tolist())])
    expected = Split([windows]).batch(torch.arange(6)).x
    assert torch.equal(split.batch(torch.arange(6), crop=crop).x, expected)
    assert torch.equal(split.batch(torch.tensor([1]), crop=crop[1:2]).x, split.batch(torch.tensor([1])).x)


def test_crop_is_applied_before_flip():
    split = Split([images(2)], padding=2)
    crop, flip = torch.tensor([[0, 1], [4, 3]]), torch.tensor([True, True])
    both = split.batch(torch.arange(2), crop=crop, flip=flip).x
    assert torch.equal(both, split.batch(torch.arange(2), crop=crop).x.flip(-1))


def test_rows_do_not_depend_on_the_rest_of_the_batch():
    """Two workers with half of a batch each see what one sees with all of it."""
    split = Split([images()], padding=1, other=Split([images()]))
    indices = torch.arange(10) * 3
    crop = torch.randint(0, 3, (10, 2), generator=torch.Generator().manual_seed(1))
    whole = split.batch(indices, crop=crop)
    halves = [split.batch(indices[part], crop=crop[part]) for part in (slice(0, 5), slice(5, 10))]
    assert torch.equal(whole.x, torch.cat([half.x for half in halves]))
    assert torch.equal(whole.other.x, torch.cat([half.other.x for half in halves]))


def test_a_population_has_its_own_rows():
    split = Split([images()], np.arange(40), padding=1)
    indices = torch.arange(12).reshape(3, 4)
    crop = torch.randint(0, 3, (3, 4, 2))
    batch = split.batch(indices, crop=crop)
    assert batch.x.shape == (3, 4, 3, 8, 8)
    assert torch.equal(batch.label, indices)
    assert torch.equal(batch.x[1], split.batch(indices[1], crop=crop[1]).x)


def test_the_second_domain_is_shuffled_and_wraps_around():
    split = Split([images(40)], other=Split([images(15)], np.arange(15)))
    second = split.batch(torch.arange(40)).other
    assert len(second.x) == 40
    assert torch.equal(second.label, second.index)
    assert set(second.index.tolist()) == set(range(15))
    assert torch.equal(second.index[:15], second.index[15:30])
    assert (second.index[:15] != torch.arange(15)).any()
    given = split.batch(torch.arange(3), other=torch.tensor([4, 4, 9])).other
    assert given.index.tolist() == [4, 4, 9]


def test_points_keep_their_coordinates():
    x = np.array([[3.5, -7.0], [0.0, 1e-3]], dtype=np.float32)
    split = Split([x])
    assert torch.equal(split.batch(torch.tensor([1, 0])).x, torch.from_numpy(x[[1, 0]]))
    assert split.batch(torch.tensor([0]), dtype=torch.float64).x.dtype == torch.float64
    assert (split.raw([0]) == x[:1]).all()


def test_a_batch_is_a_copy():
    x = images()
    split = Split([x])
    split.batch(torch.arange(40)).x.zero_()
    split.raw(torch.arange(40))[:] = 0
    assert (x == images()).all()


def test_a_directory_is_mapped_not_read(tmp_path: Path):
    x = images()
    splits = {}
    for name, (first, second) in {"train": (x[:10], x[10:30]), "test": (x[30:35], x[35:])}.items():
        shards = []
        for i, part in enumerate((first, second)):
            np.save(tmp_path / f"{name}-{i:05d}.x.npy", part)
            np.save(tmp_path / f"{name}-{i:05d}.y.npy", np.arange(len(part)))
            shards.append({"x": f"{name}-{i:05d}.x.npy", "y": f"{name}-{i:05d}.y.npy", "rows": len(part)})
        splits[name] = {"shards": shards, "other": []}
    shape = DataShape("image", (3, 8, 8), 20)
    metadata = {"shape": shape.to_json(), "augment": {"flip": False, "crop": 2}}
    (tmp_path / "index.json").write_text(json.dumps({"format": 1, "metadata": metadata, "splits": splits}))
    prepared = Prepared.open(tmp_path)
    assert prepared.shape == shape
    assert (len(prepared.split("train")), len(prepared.split("test"))) == (30, 10)
    assert prepared.split("train").padding == 2
    assert (prepared.split("train").raw(torch.arange(30)) == x[:30]).all()
    assert prepared.split("test").labels.tolist() == [0, 1, 2, 3, 4] * 2
    with pytest.raises(KeyError, match="train, test"):
        prepared.split("validation")


def test_a_pickle_in_a_shard_is_refused(tmp_path: Path):
    np.save(tmp_path / "train-00000.x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    splits = {"train": {"shards": [{"x": "train-00000.x.npy", "y": None, "rows": 1}], "other": []}}
    metadata = {"shape": DataShape("points", (2,)).to_json(), "augment": {"flip": False, "crop": 0}}
    (tmp_path / "index.json").write_text(json.dumps({"metadata": metadata, "splits": splits}))
    with pytest.raises(ValueError, match=r"allow_pickle|Python objects"):
        Prepared.open(tmp_path)


def test_arrays_serve_as_prepared_data():
    mixture = Mixture(np.array([[0.0, 1.0], [2.0, 3.0]]), 0.1)
    prepared = Prepared.of({"train": mixture.draw(10, seed=0)}, mixture=mixture)
    assert prepared.shape == DataShape("points", (2,), 2, bounded=False)
    assert prepared.metadata["mixture"] == {"centers": [[0.0, 1.0], [2.0, 3.0]], "sigma": 0.1}
    pair = Prepared.of({"train": Arrays(images(), None)}, other={"train": Arrays(images(5), None)}, flip=True)
    assert pair.shape.other == DataShape("image", (3, 8, 8))
    assert pair.metadata["domains"] == 2
    assert pair.split("train").batch(torch.arange(2)).other.x.shape == (2, 3, 8, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", [0, 1 << 30])
def test_a_gpu_sees_what_the_cpu_sees(monkeypatch, resident):
    monkeypatch.setattr(data, "RESIDENT_BYTES", resident)
    split = Split([images()], np.arange(40), padding=2)
    indices, flip = torch.arange(0, 40, 3), torch.rand(14) < 0.5
    crop = torch.randint(0, 5, (14, 2))
    here, there = (split.batch(indices, device=d, flip=flip, crop=crop) for d in ("cpu", "cuda"))
    assert there.x.device.type == "cuda"
    assert torch.allclose(here.x, there.x.cpu(), atol=1e-6)
    assert torch.equal(here.label, there.label.cpu())

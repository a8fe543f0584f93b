"""What holds for every data set, whoever wrote it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from trainers import plugins
from trainers.dataset import DataError, Dataset
from trainers.shards import Recipe, make, places

NAMES = plugins.names("datasets")


def params(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, object]:
    """Parameters under which a data set can be opened here; the required ones of our own, else its defaults."""
    if name == "image_folder":
        from PIL import Image

        for i in range(12):
            (tmp_path / "album" / str(i % 3)).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (i, i, i)).save(tmp_path / "album" / str(i % 3) / f"{i}.png")
        return {"url": str(tmp_path / "album")}
    return {"root": str(request.getfixturevalue("mnist_root"))} if name == "mnist" else {}


def opened(name: str, tmp_path: Path, request: pytest.FixtureRequest, seed: int = 0):
    dataset = plugins.build("datasets", name, params(name, tmp_path, request)).resolve()
    if type(dataset).external and name not in ("image_folder", "mnist") and dataset.fingerprint() == {}:
        pytest.skip(f"{name} is not on this machine, and tests download nothing")
    return dataset, dataset.open(seed)


@pytest.mark.parametrize("name", NAMES)
def test_description_without_import_equals_the_class(name):
    description, cls = plugins.describe("datasets", name), plugins.load("datasets", name)
    assert issubclass(cls, Dataset)
    for key, value in description.attributes.items():
        assert getattr(cls, key) == value, key
    assert [param.name for param in description.params] == [field.name for field in fields(cls)]
    assert description.summary
    assert description.attributes["kind"] in ("image", "points")


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_what_its_literals_say(name, tmp_path, request):
    dataset, data = opened(name, tmp_path, request)
    cls = type(dataset)
    assert bool(data.other) == (cls.domains == 2)
    assert "all" in data.splits or "train" in data.splits
    assert (len(data.mixture.centers) if data.mixture else 0) == cls.components
    for source in [*data.splits.values(), *data.other.values()]:
        assert len(source) > 0
        example = source[len(source) - 1]
        if cls.kind == "image":
            assert example.x.dtype == np.uint8
            assert example.x.shape[2] == cls.channels
        else:
            assert example.x.dtype == np.float32
            assert example.x.shape == (cls.channels,)
        if cls.num_classes != -1:
            assert (example.label is None) == (cls.num_classes is None)
        if data.classes and cls.num_classes != -1:
            assert len(data.classes) == cls.num_classes
        if example.label is not None and cls.num_classes != -1:
            assert 0 <= example.label < cls.num_classes


@pytest.mark.parametrize("name", NAMES)
def test_opening_twice_gives_the_same_shards(name, tmp_path, request):
    """Workers open the data set by themselves."""
    results = []
    for _ in range(2):
        dataset, data = opened(name, tmp_path, request, seed=5)
        image = type(dataset).kind == "image"
        recipe = Recipe(
            dataset,
            name,
            5,
            image_size=16 if image else None,
            channels=type(dataset).channels if image else None,
            subset=12,
        )
        results.append([make(data, recipe, place) for place in places(data, recipe)])
    for first, second in zip(*results, strict=True):
        assert first.x.tobytes() == second.x.tobytes()
        assert first.x.dtype == (np.uint8 if image else np.float32)
        assert (first.label is None) == (second.label is None)
        assert first.label is None or first.label.tolist() == second.label.tolist()
    total = sum(len(shard.x) for shard in results[0])
    assert total == 12 * type(dataset).domains


@pytest.mark.parametrize("name", [name for name in NAMES if plugins.describe("datasets", name).attributes["external"]])
def test_a_fingerprint_is_json_and_repeats(name, tmp_path, request):
    dataset = plugins.build("datasets", name, params(name, tmp_path, request)).resolve()
    try:
        found = dataset.fingerprint()
    except DataError:
        pytest.skip(f"{name} is not on this machine")
    assert json.loads(json.dumps(found)) == dataset.fingerprint() == found


def test_importing_every_data_set_loads_nothing_heavy():
    code = (
        "import sys; from trainers import plugins\n"
        "for name in plugins.names('datasets'): plugins.load('datasets', name)\n"
        "from orchestrator.stages import prepare\n"
        "for name in plugins.names('datasets'):\n"
        "    given = {name: {'url': 'x'}} if name == 'image_folder' else name\n"
        "    foreseen = plugins.build('stages', 'prepare', {'dataset': given}).foresee({})\n"
        "    assert not foreseen.complaints, foreseen\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'numpy', 'PIL', 'fsspec', 'ray', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""A packaged generator gives the samples of the trained one, to whoever has mlflow and torch and nothing of ours."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.packaging.export import CODE, package
from trainers import config, plugins
from trainers.core import DataShape
from trainers.generator import Generator, as_float
from trainers.step import Game

IMAGES = DataShape("image", (1, 8, 8), 4)
TWO_DOMAINS = DataShape("image", (1, 8, 8), other=DataShape("image", (1, 8, 8)))
POINTS = DataShape("points", (2,), bounded=False)
SHAPES = (IMAGES, TWO_DOMAINS, POINTS)

# Everything a stranger does, in a process that cannot import this project.
STRANGER = """
import sys, hashlib
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("orchestrator", "trainers", "ray", "safetensors"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
images = model.predict(np.zeros(16, dtype="int64"), params={"seed": 7})
assert images.dtype == np.uint8 and images.shape == (16, 8, 8, 1), (images.dtype, images.shape)
module = mlflow.pytorch.load_model(sys.argv[1])
print(hashlib.sha256(images.tobytes()).hexdigest(), type(module).__name__)
"""


def generator(variant: str = "gan", shape: DataShape = IMAGES, seed: int = 0, **user: Any) -> Generator:
    small = {"variant": variant, "batch_size": 8, "total_steps": 10, **user}
    resolved = config.resolve(small, facts={"shape": shape.to_json()})
    return Generator.of(Game(resolved, shape, seed))


def suitable(variant: str) -> tuple[DataShape, dict[str, Any]]:
    """A shape that the variant takes, with small networks where it lets us choose."""
    for shape in SHAPES:
        for user in ({"backbone": {"mlp": {"width": 16}}}, {}):
            if not config.check({"variant": variant, **user}, {"shape": shape.to_json()}):
                return shape, user
    pytest.skip(f"{variant} takes none of the shapes here")


def loaded(directory: Path) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(directory))


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(generator(), tmp_path_factory.mktemp("model") / "model")


@pytest.mark.parametrize("variant", plugins.names("variants"))
def test_every_variant_gives_the_samples_of_the_trained_one(variant: str, tmp_path: Path) -> None:
    shape, user = suitable(variant)
    made = generator(variant, shape, **user)
    model = loaded(package(made, tmp_path / "model"))
    given: Any = np.arange(5) % max(made.num_labels, 1)
    options: dict[str, Any] = {"labels": given} if made.given == "labels" else {}
    if made.given == "images":
        given = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
        options = {"source": as_float(given)}
    ours = made.images(5, seed=3, **options)
    theirs = model.predict(given, params={"seed": 3})
    assert theirs.dtype == ours.dtype
    assert theirs.shape == ours.shape
    assert np.abs(theirs.astype(float) - ours).max() <= (1 if shape.kind == "image" else 1e-4)
    assert np.array_equal(theirs, model.predict(given, params={"seed": 3}))


def test_the_seed_decides_and_row_by_row(packaged: Path) -> None:
    model = loaded(packaged)
    many = model.predict(np.zeros(300, dtype=np.int64), params={"seed": 7})
    assert np.array_equal(many, generator().images(300, seed=7))
    assert not np.array_equal(many[:5], model.predict(np.zeros(5, dtype=np.int64), params={"seed": 8}))
    few = model.predict(np.zeros(5, dtype=np.int64), params={"seed": 7})
    assert np.abs(few.astype(int) - many[:5]).max() <= 1
    assert model.predict(np.zeros(0, dtype=np.int64)).shape == (0, 8, 8, 1)


def test_truncation_is_that_of_training(packaged: Path) -> None:
    from mlflow.exceptions import MlflowException

    model = loaded(packaged)
    given = np.zeros(4, dtype=np.int64)
    narrow = model.predict(given, params={"seed": 1, "truncation": 0.5})
    assert np.array_equal(narrow, generator().images(4, seed=1, truncation=0.5))
    with pytest.raises(ValueError, match="truncation"):
        model.predict(given, params={"truncation": 2.0})
    with pytest.raises(MlflowException):
        model.predict(given, params={"seed": "seven"})


def test_classes_are_used_and_checked(tmp_path: Path) -> None:
    conditional = [
        v for v in plugins.names("variants") if plugins.describe("variants", v).attributes["given"] == "labels"
    ]
    shape, user = suitable(conditional[0])
    model = loaded(package(generator(conditional[0], shape, **user), tmp_path / "model"))
    zeros, ones = (model.predict(np.full(4, c, dtype=np.int64), params={"seed": 1}) for c in (0, 1))
    assert not np.array_equal(zeros, ones)
    with pytest.raises(ValueError, match="classes must be from 0 to 3"):
        model.predict(np.full(4, 4, dtype=np.int64))


def test_two_versions_in_one_process_stay_apart(packaged: Path, tmp_path: Path) -> None:
    second = loaded(package(generator(seed=1), tmp_path / "model"))
    first, given = loaded(packaged), np.zeros(4, dtype=np.int64)
    assert np.array_equal(first.predict(given), generator().images(4))
    assert np.array_equal(second.predict(given), generator(seed=1).images(4))


def test_a_stranger_loads_it_without_pickle_and_without_us(packaged: Path, tmp_path: Path) -> None:
    import os

    env = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-W", "ignore", "-c", STRANGER, str(packaged)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    digest, module = done.stdout.split()[-2:]
    assert digest == hashlib.sha256(generator().images(16, seed=7).tobytes()).hexdigest()
    assert module.startswith("GraphModule")


def test_only_what_samples_is_shipped(packaged: Path) -> None:
    with zipfile.ZipFile(packaged / "artifacts" / "model.pt2") as archive:
        names = [name for name in archive.namelist() if name.endswith("model_weights_config.json")]
        weights = json.loads(archive.read(names[0]))["config"]
    assert weights
    assert all(name.startswith("nets.generator.") for name in weights)
    text = (packaged / "MLmodel").read_text()
    assert str(packaged.parent) not in text
    assert str(CODE.parent) not in text


def test_the_code_that_travels_imports_only_torch_numpy_and_mlflow(packaged: Path) -> None:
    tree = ast.parse((packaged / CODE.name).read_text())
    imported = {a.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"torch", "numpy", "mlflow"}
    required = (packaged / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in required] == ["mlflow", "numpy", "torch"]

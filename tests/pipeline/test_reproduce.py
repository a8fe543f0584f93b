"""A registered model is made again from its version alone: the same bytes, or it is said what differs."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import recipes
from orchestrator.cli import invoke
from orchestrator.errors import BadInput, IntegrityError
from orchestrator.execute import Options, execute
from orchestrator.registry import connect
from orchestrator.reproduction import fetch, reproduce

SPEC = """\
version: 1
name: small
seed: 3
stages:
  data: {uses: prepare, with: {dataset: {ring8: {num_points: 2000}}, num_shards: 1}}
  search:
    uses: tune
    inputs: {dataset: data}
    with:
      space: {optimizers.generator.lr: {choice: [1.0e-3, 2.0e-3]}}
      searcher: grid
      scheduler: none
      eval_samples: 200
      trial: {variant: gan, backbone: {mlp: {width: 16}}, batch_size: 16, total_steps: 10}
  train:
    uses: train
    inputs: {dataset: data, config: search}
    with: {total_steps: 20, batch_size: 16, log_every: 10}
  evaluate:
    uses: evaluate
    inputs: {dataset: data, model: train}
    with: {metrics: [mode_coverage, frechet_distance], num_samples: 500}
  register:
    uses: register
    inputs: {model: train, scores: evaluate}
    with: {model: small}
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a whole run; its data set, checkpoints and artifacts are gone, its MLflow stays."""
    folder = tmp_path_factory.mktemp("registered")
    (folder / "small.yaml").write_text(SPEC)
    plan = orchestrator.plan(folder / "small.yaml", storage=str(folder / "runs"))
    run = execute(plan, options=Options(ray=False))
    assert run.exit_code == 0, run.record.error
    for path in (folder / "runs").iterdir():
        if path.is_dir() and path.name != "mlflow-artifacts":
            shutil.rmtree(path)
    return folder


@pytest.fixture
def uri(registered: Path) -> str:
    return f"sqlite:///{registered}/runs/mlflow.db"


def altered(registered: Path, uri: str, change: Any, name: str) -> None:
    """Register the version's files again under another name, with another recipe."""
    (path,) = [p for p in registered.rglob(recipes.FILE) if "small" in p.parts]
    copy = registered / name
    shutil.copytree(path.parent, copy)
    recipe = json.loads(path.read_bytes())
    change(recipe)
    body = json.dumps(recipe).encode()
    (copy / recipes.FILE).write_bytes(body)
    client = connect(uri)
    client.create_registered_model(name)
    client.create_model_version(name, str(copy), tags={recipes.TAG: hashlib.sha256(body).hexdigest()})


def test_the_rebuilt_weights_are_the_registered_ones(registered: Path, uri: str, tmp_path: Path) -> None:
    recipe, version = fetch("models:/small@champion", uri)
    assert version == "1"
    assert "search" not in recipe["spec"]["stages"]
    assert recipe["frozen"] == {"train": "search"}
    assert "tracking" not in recipe["spec"]
    done = reproduce("models:/small@champion", str(tmp_path / "rebuilt"), tracking=uri, ray=False)
    assert (done.verdict, done.exit_code, done.differences) == ("bit-equal", 0, [])
    assert done.weights == done.expected
    assert not (tmp_path / "rebuilt" / "mlflow.db").exists()


def test_another_seed_makes_another_model_and_it_is_said_which_seed(registered: Path, uri: str, tmp_path: Path) -> None:
    altered(registered, uri, lambda recipe: recipe["spec"].update(seed=4), "reseeded")
    done = reproduce("models:/reseeded/1", str(tmp_path / "rebuilt"), tracking=uri, ray=False)
    assert (done.verdict, done.exit_code) == ("different", 1)
    assert "train: seed 3 -> 4" in done.differences
    assert {one.metric for one in done.comparisons} == {"mode_coverage", "frechet_distance"}
    assert not all(one.within for one in done.comparisons)


def test_other_bytes_with_the_same_scores_are_within_the_interval(registered: Path, uri: str, tmp_path: Path) -> None:
    def change(recipe: dict[str, Any]) -> None:
        recipe["model"]["files"][recipes.WEIGHTS] = "0" * 64
        recipe["machine"]["processor"] = "another"
        recipe["stages"]["train"]["ingredients"]["packages"]["torch"] = "1.0"

    altered(registered, uri, change, "elsewhere")
    said: list[str] = []
    done = reproduce("models:/elsewhere/1", str(tmp_path / "rebuilt"), tracking=uri, ray=False, say=said.append)
    assert (done.verdict, done.exit_code) == ("within", 0)
    assert any(line.startswith("processor another -> ") for line in said)
    assert any(line.startswith("package torch 1.0 -> ") for line in said)


def test_an_altered_recipe_is_refused(registered: Path, uri: str, tmp_path: Path) -> None:
    altered(registered, uri, lambda recipe: None, "tampered")
    with (registered / "tampered" / recipes.FILE).open("ab") as out:
        out.write(b" ")
    with pytest.raises(IntegrityError, match="not what was registered"):
        fetch("models:/tampered/1", uri)


def test_what_is_not_there_is_said_at_once(
    registered: Path, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("models:/small@nobody", "models:/nothing/1", "models:/small/7"):
        with pytest.raises(BadInput, match="there is no models:/"):
            fetch(name, uri)
    assert invoke(["reproduce", "small", "--tracking", uri]) == 2
    assert "write models:/name@alias" in capsys.readouterr().err
    gone = {"image_folder": {"url": str(tmp_path / "gone")}}

    def change(recipe: dict[str, Any]) -> None:
        recipe["spec"]["stages"] = {"data": {"uses": "prepare", "with": {"dataset": gone, "image_size": 8}}}
        recipe["target"] = "data"

    altered(registered, uri, change, "homeless")
    assert invoke(["reproduce", "models:/homeless/1", "--tracking", uri]) == 2
    assert "gone" in capsys.readouterr().err

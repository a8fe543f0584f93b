"""The editors' schema agrees with what `load` and the plugins' checks accept and refuse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator import spec
from orchestrator.document import parse
from orchestrator.errors import SpecError
from orchestrator.schema import of, schema
from trainers import plugins

PIPELINES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml"))
HEAD = "version: 1\nname: a\nstages: {data: {uses: prepare, with: {dataset: digits}}}\n"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(json.loads(json.dumps(made)))


def accepts(validator: jsonschema.Draft202012Validator, value: Any) -> bool:
    return not list(validator.iter_errors(value))


def test_every_plugin_and_parameter_is_in_it() -> None:
    definitions = schema()["$defs"]
    for kind in plugins.KINDS:
        for name in plugins.names(kind):
            keys = definitions[f"{kind}.{name}"]["properties"]
            assert list(keys) == [param.name for param in plugins.describe(kind, name).params]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_committed_pipelines_satisfy_it(validator: jsonschema.Draft202012Validator, path: Path) -> None:
    value = parse(path.read_text(), str(path)).value
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(value)] == []


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        HEAD + "seed: 3\ndescription: x\nstorage: there\nstorage_options: {anon: true}\ntracking: http://h",
        HEAD + "profiles: {gpu: {seed: 3}}",
        HEAD + "seed: -1",
        HEAD + "seed: 1.5",
        HEAD + "seed: '1'",
        HEAD + "seed: true",
        HEAD + "sed: 1",
        HEAD.replace("1", "2", 1),
        HEAD.replace("name: a", "name: A"),
        HEAD.replace("uses: prepare, ", ""),
        HEAD.replace("{uses", "{timeout_s: 0, uses"),
        HEAD.replace("{uses", "{scale: {num_workers: 0}, uses"),
        HEAD.replace("{uses", "{scale: {num_workers: 2, gpus_per_worker: 0.5}, retry: {max_failures: 2}, uses"),
        HEAD.replace("{uses", "{matrix: {seed: []}, uses"),
        HEAD.replace("{uses", "{matrix: {seed: [0, 1]}, uses"),
        HEAD.replace("{uses", "{inputs: {x: a.b.c}, uses"),
        HEAD.replace("{uses", "{wiht: {}, uses"),
    ],
)
def test_it_accepts_what_load_accepts(validator: jsonschema.Draft202012Validator, tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    try:
        spec.load(path)
        loads = True
    except SpecError:
        loads = False
    assert accepts(validator, parse(text, "a.yaml").value) == loads


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("prepare", {"dataset": "digits"}),
        ("prepare", {}),
        ("prepare", {"dataset": "digits", "image_size": "32"}),
        ("prepare", {"dataset": "digits", "imagesize": 32}),
        ("train", {"total_steps": 0}),
        ("train", {"precision": "float32"}),
        ("train", {"precision": "float16"}),
        ("train", {"variant": "wgan_gp", "hacks": ["ema", {"r1": {"gamma": 1}}]}),
    ],
)
def test_it_checks_parameters_as_the_plugins_do(
    validator: jsonschema.Draft202012Validator, name: str, params: Mapping[str, Any]
) -> None:
    faults = plugins.check("stages", name, params)
    ports = {"dataset": "data"} if name == "train" else {}
    stage = {"uses": name, "with": params, "inputs": ports}
    assert accepts(validator, {"version": 1, "name": "a", "stages": {"a": stage}}) == (not faults)


@pytest.mark.parametrize(
    ("variant", "good"),
    [
        ("gan", True),
        ({"gan": None}, True),
        ({"gan": {"latent_dim": 8}}, True),
        ("gann", False),
        ({"gan": {"x": 1}}, False),
    ],
)
def test_plugins_are_checked_by_name_inside_of_parameters(
    validator: jsonschema.Draft202012Validator, variant: Any, good: bool
) -> None:
    stage = {"uses": "train", "with": {"variant": variant}, "inputs": {"dataset": "data"}}
    assert accepts(validator, {"version": 1, "name": "a", "stages": {"a": stage}}) == good


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in plugins.KINDS for name in plugins.names(kind)])
def test_defaults_satisfy_their_own_schema(kind: str, name: str) -> None:
    for param in plugins.describe(kind, name).params:
        if not param.required:
            jsonschema.validate(json.loads(json.dumps(param.default)), of(param.form))

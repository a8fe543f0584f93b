"""Does the plan say what a run would do, and why; and does it find every mistake of a spec at once?"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import keys, source
from orchestrator.errors import BadInput, Problem, SpecError
from orchestrator.execute import Options, execute
from orchestrator.planning import Plan
from tests import fake_stages
from tests.fake_stages import CHAIN, MATRIX, SEARCHED


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_stages.install(monkeypatch)


class Bench:
    """A spec file and its storage."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "chain.yaml"
        self.storage = str(folder / "runs")

    def plan(self, text: str, **asked: Any) -> Plan:
        self.file.write_text(textwrap.dedent(text))
        return orchestrator.plan(self.file, storage=self.storage, **asked)

    def run(self, text: str, **asked: Any) -> None:
        run = execute(self.plan(text, **asked), options=Options(ray=False, tracking=False))
        assert run.exit_code == 0, run.record.error

    def problems(self, text: str, **asked: Any) -> list[Problem]:
        with pytest.raises(SpecError) as caught:
            self.plan(text, **asked)
        return caught.value.problems


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def told(plan: Plan) -> dict[str, tuple[str, str]]:
    return {step.step.id: (step.state, step.reason) for step in plan.steps}


def test_a_first_plan_runs_everything_and_changes_nothing(bench: Bench) -> None:
    assert told(bench.plan(CHAIN)) == dict.fromkeys(["data", "train", "score"], ("run", "never run"))
    assert not Path(bench.storage).exists()


def test_a_second_plan_is_cached(bench: Bench) -> None:
    bench.run(CHAIN)
    plan = bench.plan(CHAIN)
    assert [step.state for step in plan.steps] == ["cached"] * 3
    assert not plan.has_work
    assert all(step.entry is not None and step.entry.run in step.reason for step in plan.steps)


def test_what_is_written_as_the_default_is_the_same(bench: Bench) -> None:
    bench.run(SEARCHED)
    spelled = SEARCHED.replace("{uses: make}", "{uses: make, with: {copies: 1, text: abc}, scale: {num_workers: 2}}")
    assert not bench.plan(spelled).has_work


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (
            ["stages.train.with.total_steps=5"],
            [("cached", "from run"), ("run", "total_steps 3 -> 5"), ("run", "input models changes (stage train)")],
        ),
        (
            ["stages.data.with.text=xyz"],
            [
                ("run", "text abcd -> xyz"),
                ("run", "input dataset changes (stage data)"),
                ("run", "input models changes (stage train)"),
            ],
        ),
        (["seed=1"], [("run", "seed 0 -> 1"), ("run", "seed 0 -> 1"), ("run", "seed 0 -> 1")]),
        (
            ["stages.train.scale.gpus_per_worker=1"],
            [("cached", ""), ("run", "asks for GPUs false -> true"), ("run", "")],
        ),
        (["stages.train.with.rate=2"], [("cached", ""), ("run", "rate unset -> 2"), ("run", "")]),
    ],
)
def test_reasons(bench: Bench, sets: list[str], expected: list[tuple[str, str]]) -> None:
    bench.run(CHAIN)
    found = [(step.state, step.reason) for step in bench.plan(CHAIN, sets=sets).steps]
    for (state, reason), (wanted, text) in zip(found, expected, strict=True):
        assert state == wanted
        assert text in reason


def test_an_input_whose_maker_is_cached_again_is_named(bench: Bench) -> None:
    bench.run(CHAIN)
    bench.run(CHAIN, sets=["stages.data.with.text=xyz"], until="data")
    assert told(bench.plan(CHAIN, sets=["stages.data.with.text=xyz"]))["train"] == (
        "run",
        "input dataset changed (stage data)",
    )


def test_edited_source_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(CHAIN)
    real = source.digests
    monkeypatch.setattr(source, "digests", lambda modules: {**real(modules), "trainers.losses": "edited"})
    assert told(bench.plan(CHAIN))["data"] == ("run", "source of trainers/losses.py changed")


def test_another_package_version_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(CHAIN)
    old = keys.installed("numpy")
    monkeypatch.setattr(keys, "installed", lambda name: "99.0")
    assert told(bench.plan(CHAIN))["train"] == ("run", f"numpy {old} -> 99.0")


def test_a_missing_artifact_is_named(bench: Bench) -> None:
    bench.run(CHAIN)
    outputs = bench.plan(CHAIN).step("train").outputs["model"]
    (Path(bench.storage) / "artifacts" / outputs.digest[:2] / f"{outputs.digest}.json").unlink()
    assert told(bench.plan(CHAIN))["train"] == ("run", "artifact model is missing")


def test_what_waits_for_a_search_is_unknown(bench: Bench) -> None:
    found = told(bench.plan(SEARCHED))
    assert found["search"] == ("run", "never run")
    assert found["train"] == ("unknown", "unknown until search")
    assert found["score"] == ("unknown", "unknown until search")


def test_force_from_until_and_no_cache(bench: Bench) -> None:
    bench.run(CHAIN)
    forced = told(bench.plan(CHAIN, force=["train"]))
    assert forced["train"] == ("run", "forced")
    assert forced["score"] == ("run", "input models changes (stage train)")
    assert [state for state, _ in told(bench.plan(CHAIN, from_="train")).values()] == ["cached", "run", "run"]
    assert list(told(bench.plan(CHAIN, until="train"))) == ["data", "train"]
    assert {reason for _, reason in told(bench.plan(CHAIN, no_cache=True)).values()} == {"forced"}
    with pytest.raises(BadInput, match="did you mean 'train'"):
        bench.plan(CHAIN, force=["trian"])


def test_a_matrix_makes_instances_and_inputs_collect_those_that_agree(bench: Bench) -> None:
    plan = bench.plan(MATRIX)
    trains = [f"train.seed-{seed}.total_steps-{steps}" for seed in (0, 1) for steps in (2, 3)]
    assert [step.step.id for step in plan.steps] == ["data", *trains, "each.seed-0", "each.seed-1", "all"]
    assert plan.step(trains[3]).step.seed == 1
    assert plan.step(trains[3]).step.params["total_steps"] == 3
    assert plan.step(trains[3]).step.label == "train[seed=1,total_steps=3]"
    assert plan.step("each.seed-1").step.producers == tuple(trains[2:])
    assert plan.step("all").step.producers == tuple(trains)


def test_one_input_takes_no_matrix(bench: Bench) -> None:
    text = """
    version: 1
    name: chain
    stages:
      data: {uses: make, matrix: {copies: [1, 2]}}
      train: {uses: grow, inputs: {dataset: data}}
    """
    (problem,) = bench.problems(text)
    assert (problem.id, problem.line) == ("fan-in", 6)
    text = text.replace("inputs: {dataset: data}}", "inputs: {dataset: data}, matrix: {copies: [1, 2]}}")
    assert "unknown-key" in {problem.id for problem in bench.problems(text)}  # grow has no such parameter


def test_every_mistake_is_told_at_once_with_its_place(bench: Bench) -> None:
    text = """\
    version: 1
    name: chain
    color: red
    stages:
      data: {uses: mkae}
      a: {uses: make, with: {copies: 0, txt: x}}
      b: {uses: grow, inputs: {datasett: a, config: a}}
      c: {uses: judge, inputs: {models: nowhere}}
      d: {uses: grow, inputs: {dataset: a.modle}}
      e: {uses: make, with: {copies: 1000}}
    """
    found = [(problem.id, problem.line) for problem in bench.problems(text)]
    assert found == [
        ("unknown-key", 3),
        ("unknown-stage", 5),
        ("out-of-range", 6),
        ("unknown-key", 6),
        ("missing-input", 7),
        ("unknown-input", 7),
        ("wrong-kind", 7),
        ("unknown-reference", 8),
        ("unknown-output", 9),
        ("too-many", 10),
    ]
    assert "did you mean 'make'?" in str(bench.problems(text)[1])


def test_a_cycle_is_told(bench: Bench) -> None:
    text = """
    version: 1
    name: chain
    stages:
      a: {uses: echo, inputs: {notes: c}}
      b: {uses: echo, inputs: {notes: a}}
      c: {uses: echo, inputs: {notes: b}}
      after: {uses: echo, inputs: {notes: a}}
    """
    (problem,) = bench.problems(text)
    assert (problem.id, problem.line) == ("cycle", 5)
    assert "a -> c -> b -> a" in problem.what


def test_what_foresight_says_of_inputs_is_checked_before_anything_runs(bench: Bench) -> None:
    text = CHAIN.replace("{text: abcd}", "{text: abcdefghijklmnopqrstuvwxyz, copies: 50}")
    (problem,) = bench.problems(text)
    assert (problem.id, problem.line) == ("too-long", 6)


def test_lineage_leaves_out_what_may_grow() -> None:
    def parts(**changed: Any) -> keys.Ingredients:
        base: dict[str, Any] = {
            "uses": "train",
            "version": 1,
            "params": {"total_steps": 3, "rate": 1},
            "inputs": {"dataset": ["d"]},
            "seed": 0,
            "source": {},
            "packages": (),
            "gpus": False,
        }
        return keys.ingredients(**{**base, **changed})

    longer, faster = parts(params={"rate": 1, "total_steps": 4}), parts(params={"total_steps": 3, "rate": 2})
    assert len({keys.key(parts()), keys.key(longer), keys.key(faster), keys.key(parts(seed=1))}) == 4
    assert keys.lineage(parts(), "total_steps") == keys.lineage(longer, "total_steps")
    assert keys.lineage(parts(), "total_steps") != keys.lineage(faster, "total_steps")
    assert keys.lineage(parts(), "total_steps") != keys.lineage(parts(), "total_steps", generation=1)
    assert keys.lineage(parts(), None) != keys.lineage(longer, None)


def test_where_mlflow_is_matters_to_stages_that_track(bench: Bench) -> None:
    text = CHAIN.replace("uses: judge", "uses: note")
    bench.run(text)
    assert not bench.plan(text).has_work
    elsewhere = told(bench.plan(text, sets=["tracking=http://127.0.0.1:5000"]))
    assert [state for state, _ in elsewhere.values()] == ["cached", "cached", "run"]
    assert elsewhere["score"][1] == "tracking unset -> http://127.0.0.1:5000"

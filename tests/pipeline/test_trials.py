"""`orchestrate trials` over a real search: what it shows, and that a fixed spec trains what the search found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import outcomes, runs
from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.cli import invoke
from orchestrator.execute import Options, execute
from orchestrator.runs import Run

SPEC = """\
# Small rings, searched.
version: 1
name: rings
seed: 3
stages:
  data: {uses: prepare, with: {dataset: {ring8: {num_points: 2000}}, num_shards: 1}}   # one shard

  # The search goes, and this with it.
  search:
    uses: tune
    inputs: {dataset: data}
    with:
      trial: {batch_size: 16, total_steps: 12, backbone: {mlp: {width: 16}}}
      space:
        variant: {choice: [gan, {wgan_gp: {gp_weight: 2.0}}]}
        hacks: {subsets: [label_smoothing, instance_noise]}
        optimizers.generator.lr: {loguniform: [1.0e-4, 1.0e-2]}
        optimizers.critic.lr: {choice: [1.0e-3, 2.0e-3]}
        variant.wgan_gp.n_critic: {choice: [1, 2]}
      num_trials: 6
      eval_samples: 64
      # inside

  # The training stays, and this with it.
  train:
    uses: train
    inputs: {dataset: data, config: search}
    with:
      total_steps: 20   # longer
      batch_size: 32    # more than a trial's
      optimizers:
        critic: {lr: 5.0e-3}   # wins over the search's
profiles:
  few:   # fewer
    stages.search.with.num_trials: 4
    seed: 3
  other:
    stages.train.with: {total_steps: 10}
    stages.data.with.num_shards: 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rings")
    (made / "rings.yaml").write_text(SPEC)
    return made


def run(folder: Path, name: str = "rings.yaml", **asked: Any) -> Run:
    plan = orchestrator.plan(folder / name, storage=str(folder / "runs"), **asked)
    done = execute(plan, options=Options(ray=False, tracking=False))
    assert done.exit_code == 0, done.record.error
    return done


@pytest.fixture(scope="module")
def searched(folder: Path) -> Run:
    return run(folder)


@pytest.fixture
def call(folder: Path, searched: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `orchestrate trials …` over the storage; returns exit code, stdout and stderr."""
    monkeypatch.chdir(folder)

    def called(*words: str, run_id: str = searched.run_id) -> tuple[int, str, str]:
        code = invoke(["trials", run_id, *words])
        out, err = capsys.readouterr()
        return code, out, err

    return called


def config_of(done: Run) -> dict[str, Any]:
    config: dict[str, Any] = done.artifact("train").metadata["config"]
    return config


def test_the_table_and_its_json_agree(call: Any, searched: Run) -> None:
    code, out, _ = call()
    assert code == 0
    lines = out.splitlines()
    assert "search: 6 trials" in lines[0]
    assert lines[1].split() == ["TRIAL", "STATUS", "SCORE", "STEPS", "SECONDS", *lines[1].split()[5:]]
    assert {"hacks", "generator.lr", "critic.lr", "variant"} <= set(lines[1].split())
    told = json.loads(call("--json")[1])
    facts = searched.artifact("search").metadata
    assert told["winner"] == facts["best_trial"] == told["trials"][0]["trial"]
    assert lines[2].startswith(f"{told['winner']}*")
    assert told["finished"] is True
    assert len(told["trials"]) == told["num_trials"] == 6
    assert all(trial["seconds"] > 0 for trial in told["trials"])  # from the ledger: the artifact holds no times
    assert json.loads(call("--json", "--top", "2", "--sort", "trial")[1])["trials"][1]["trial"] == 1
    assert "4 more" in call("--top", "2")[2]
    assert {line.split()[1] for line in call("--status", "finished")[1].splitlines()[2:-1]} == {"finished"}
    assert "not told" in call("--importances")[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sort", "scor"], "did you mean 'score'"),
        (["--status", "finishd"], "did you mean 'finished'"),
        (["--stage", "train"], "no search 'train'; it has search"),
        (["--trial", "3"], "--trial needs --write-spec"),
        (["--write-spec", "new.yaml", "--trial", "6"], "no trial 6; they are 0 to 5"),
        (["--write-spec", "rings.yaml"], "is there already; --force"),
        (["--write-spec", "nowhere/new.yaml"], "no folder nowhere"),
        (["--write-spec", "runs"], "is a directory"),
    ],
)
def test_mistakes(call: Any, folder: Path, words: list[str], told: str) -> None:
    code, out, err = call(*words)
    assert code == 2
    assert told in err
    assert not out
    assert (folder / "rings.yaml").read_text() == SPEC
    assert not (folder / "new.yaml").exists()


def test_a_run_without_a_search(call: Any, folder: Path) -> None:
    (folder / "plain.yaml").write_text(SPEC[: SPEC.index("  # The search goes")].replace("rings", "plain"))
    plain = run(folder, "plain.yaml")
    assert plain.pipeline == "plain"
    code, _, err = call(run_id=plain.run_id)
    assert code == 2
    assert "has no search" in err
    assert invoke(["trials", "--top", "1"]) == 0  # the newest run that searched


def test_precedence(searched: Run) -> None:
    """What is written under `with` > the search's winner > defaults."""
    config, winner = config_of(searched), searched.artifact("search").metadata["winner"]
    assert config["total_steps"] == 20
    assert config["batch_size"] == 32 != winner["batch_size"]
    assert config["optimizers"]["critic"]["lr"] == 5e-3 != winner["optimizers"]["critic"]["lr"]
    assert config["optimizers"]["generator"]["lr"] == winner["optimizers"]["generator"]["lr"]
    assert config["backbone"]["generator"] == {"mlp": {**config["backbone"]["generator"]["mlp"], "width": 16}}
    assert config["optimizers"]["generator"]["eps"] == 1e-8
    assert config["log_every"] == 50
    name = winner["variant"] if isinstance(winner["variant"], str) else next(iter(winner["variant"]))
    assert list(config["variant"]) == [name]


def test_a_fixed_spec_trains_the_same_weights(call: Any, folder: Path, searched: Run) -> None:
    code, out, err = call("--write-spec", "fixed.yaml")
    assert code == 0, err
    assert "orchestrate run fixed.yaml" in out
    text = (folder / "fixed.yaml").read_text()
    kept = [
        "# Small rings, searched.",
        "# one shard",
        "# The training stays, and this with it.",
        "# longer",
        "# wins over",
    ]
    assert all(one in text for one in kept)
    assert not any(one in text for one in ("tune", "The search goes", "# inside", "config: search", "num_trials"))
    assert f"# Trial {searched.artifact('search').metadata['best_trial']} of search, run {searched.run_id}" in text
    assert text.index("data:") < text.index("train:") < text.index("profiles:")
    assert "profile few no longer sets stages.search.with.num_trials" in err
    assert "profile other no longer sets stages.train.with" in err
    assert "stages.data.with.num_shards: 2" in text
    assert invoke(["validate", "fixed.yaml"]) == 0
    again = run(folder, "fixed.yaml")
    assert config_of(again) == config_of(searched)
    assert again.record.stage("train").outputs == searched.record.stage("train").outputs


def test_another_trial(call: Any, folder: Path, searched: Run) -> None:
    table = json.loads(searched.store.read(searched.artifact("search"), "trials.json"))
    for trial in table["trials"]:
        assert call("--write-spec", "one.yaml", "--trial", str(trial["trial"]), "--force")[0] == 0
        plan = orchestrator.plan(folder / "one.yaml", storage=str(folder / "runs"))
        sealed = plan.step("train").sealed
        assert sealed is not None
        params = sealed.foresight.params
        assert params is not None
        assert params["optimizers"]["generator"]["lr"] == trial["point"]["optimizers.generator.lr"]
        assert set(params["hacks"]) == {"ema", *trial["point"]["hacks"]}
        assert params["variant"].get("wgan_gp", {}).get("n_critic") == trial["point"].get("variant.wgan_gp.n_critic")


def test_what_a_run_was_given_beside_its_file_is_written_in(call: Any, folder: Path) -> None:
    done = run(folder, profile="few", sets=["stages.train.with.total_steps=15", "stages.train.with.precision=float64"])
    assert call("--write-spec", "given.yaml", "--force", run_id=done.run_id)[0] == 0
    text = (folder / "given.yaml").read_text()
    assert "total_steps: 15   # longer" in text
    assert "few:" not in text
    assert config_of(run(folder, "given.yaml")) == config_of(done)


@pytest.mark.parametrize("change", ["gone", "changed", "aliases"])
def test_without_the_file_as_it_was(call: Any, folder: Path, searched: Run, change: str, tmp_path: Path) -> None:
    """The values are those that were run; the comments are lost, which is told."""
    target = tmp_path / "rings.yaml"
    run_id = searched.run_id
    if change == "aliases":  # of something that goes with the search
        kept = SPEC.replace("{batch_size: 16,", "{batch_size: &size 16,").replace("batch_size: 32", "batch_size: *size")
        kept = kept.replace("name: rings", "name: alias")
        (folder / "alias.yaml").write_text(kept)
        run_id = run(folder, "alias.yaml").run_id
    try:
        if change == "gone":
            (folder / "rings.yaml").unlink()
        if change == "changed":
            (folder / "rings.yaml").write_text(SPEC.replace("seed: 3\nstages", "seed: 4\nstages"))
        code, _, err = call("--write-spec", str(target), run_id=run_id)
    finally:
        (folder / "rings.yaml").write_text(SPEC)
    assert code == 0, err
    shutil.copy(target, folder / f"{change}.out.yaml")
    plan = orchestrator.plan(folder / f"{change}.out.yaml", storage=str(folder / "runs"))
    sealed = plan.step("train").sealed
    assert sealed is not None
    assert sealed.foresight.params == config_of(runs.read(searched.store, run_id))
    told = {"gone": "not there any more", "changed": "has changed since", "aliases": "comments are left out"}[change]
    assert told in err
    assert "#" not in target.read_text()


@pytest.fixture
def unfinished(searched: Run, tmp_path: Path) -> tuple[ArtifactStore, str]:
    """The run as it stood before its search ended: the ledger is its own."""
    copy = tmp_path / "runs"
    shutil.copytree(searched.store.url, copy)
    store = ArtifactStore(str(copy))
    record = runs.read(store, searched.run_id).record
    stage = record.stage("search")
    stage.outputs, stage.state, record.status = {}, "interrupted", "interrupted"
    diary = runs.Diary(store, record)
    diary.save()
    diary.close()
    return store, record.run_id


def test_a_search_that_was_killed_is_shown_from_its_ledger(
    unfinished: tuple[ArtifactStore, str], searched: Run, call: Any, folder: Path
) -> None:
    store, run_id = unfinished
    whole = outcomes.of_run(searched)
    found = outcomes.of_run(runs.read(store, run_id))
    assert found.trials == whole.trials  # decided once more from the scores alone
    assert (found.winner, found.rungs, found.finished) == (whole.winner, whole.rungs, False)
    kept = StoredCheckpoints(store, runs.read(store, run_id).record.stage("search").lineage)
    lines = outcomes._ledger(store, kept.lineage)
    first = sorted(lines, key=lambda line: line["until"])[:4]  # killed in the first rung
    kept.save(1000, {outcomes.LEDGER: json.dumps(first).encode()})
    code, out, _ = call("--storage", store.url, run_id=run_id)
    assert code == 0
    assert "the search is not finished (the run is interrupted)" in out
    partly = outcomes.of_run(runs.read(store, run_id))
    assert [trial.point for trial in partly.trials] == [trial.point for trial in whole.trials]
    assert sum(trial.score is not None for trial in partly.trials) == 4
    assert {trial.status for trial in partly.trials} == {"waiting"}
    code, _, err = call("--storage", store.url, "--write-spec", str(folder / "early.yaml"), run_id=run_id)
    assert code == 0, err
    assert "not finished: a later trial may be better" in err
    store.files.remove(f"checkpoints/{kept.lineage}")
    code, _, err = call("--storage", store.url, run_id=run_id)
    assert code == 2
    assert "has scored no trial yet" in err

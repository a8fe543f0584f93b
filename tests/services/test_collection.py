"""Does gc keep what MLflow has registered, also when MLflow does not answer? A real database, fake stages."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import orchestrator
from orchestrator import collection, registry, runs
from orchestrator.execute import Options, execute
from orchestrator.promotion import DIGEST_TAG
from orchestrator.reach import Wish
from orchestrator.runs import Run
from tests import fake_stages
from tests.fake_stages import CHAIN
from tests.fake_stages._calls import CALLS


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_stages.install(monkeypatch)
    CALLS.clear()
    yield
    CALLS.clear()


def tracked(folder: Path, text: str, uri: str) -> Run:
    """A run whose record says that it was tracked at `uri`."""
    spec = folder / "chain.yaml"
    spec.write_text(textwrap.dedent(CHAIN))
    plan = orchestrator.plan(spec, storage=str(folder / "runs"), sets=[f"stages.data.with.text={text}"])
    run = execute(plan, options=Options(ray=False, tracking=False))
    run.record.tracking_uri = uri
    runs.Diary(run.store, run.record).save()
    return run


def test_registered_models_and_champions_stay(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    champion, version, _other, newest = found = [
        tracked(tmp_path, text, uri) for text in ("aaaa", "bbbb", "cccc", "dddd")
    ]
    models = [run.record.stage("train").outputs["model"] for run in found]
    store = champion.store

    unreachable = collection.survey(store, Wish(keep_last=1))
    gone = {item.name for item in unreachable.items if item.kind == "artifacts"}
    assert gone
    assert not gone & set(models)
    assert any("did not answer" in note and "every model of the 4 runs" in note for note in unreachable.notes)

    client = registry.connect(uri)
    client.create_registered_model("m")
    experiment = client.create_experiment("chain")
    for run, model in zip((champion, version), models, strict=False):
        tags = {DIGEST_TAG: model, "run_id": run.run_id}
        client.create_model_version("m", "file:///nowhere", client.create_run(experiment).info.run_id, tags=tags)
    client.set_registered_model_alias("m", "champion", "1")
    swept = collection.collect(store, Wish(keep_last=1, grace_s=0))
    assert swept.notes == []
    assert swept.kept_runs == sorted([champion.run_id, newest.run_id])
    assert [store.lacks(model) for model in models] == ["", "", "is missing", ""]
    assert store.lacks(champion.record.stage("score").outputs["scores"]) == ""
    assert store.lacks(version.record.stage("score").outputs["scores"]) == "is missing"

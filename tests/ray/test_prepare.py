"""Preparing on Ray: the same artifact as without it, on any number of tasks, and errors that come home whole."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from orchestrator.artifacts import ArtifactStore
from orchestrator.cluster import Cluster
from orchestrator.errors import BadInput, Interrupted
from orchestrator.stage import Scale
from trainers import plugins
from trainers.data import Prepared

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Deaf:
    """Progress and tracker that only count what was done."""

    done = 0.0

    def update(self, done, total, **_):
        self.done = done

    def say(self, line): ...
    def metrics(self, values, *, step=0): ...
    def figure(self, name, png): ...


def run(folder, *, disabled=False, scale=None, stopping=lambda: False, store=None, **params):
    store, deaf = store or ArtifactStore(str(folder)), Deaf()
    context = SimpleNamespace(
        stage="data", run_id="r", seed=0, scale=scale or Scale(), store=store, cluster=Cluster(disabled=disabled),
        progress=deaf, tracker=deaf, stopping=stopping, max_failures=3, open=store.open,
    )  # fmt: skip
    return store, plugins.build("stages", "prepare", params).run(context)["dataset"]


def album(folder: Path, n: int = 600, broken: tuple[int, ...] = ()) -> str:
    rng = np.random.default_rng(0)
    for i in range(n):
        path = folder / ("even" if i % 2 == 0 else "odd") / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:40])
    return str(folder)


def test_workers_make_what_one_process_makes(tmp_path):
    _, alone = run(tmp_path / "a", disabled=True, dataset="digits", image_size=16)
    store, shared = run(tmp_path / "b", dataset="digits", image_size=16)
    _, grouped = run(tmp_path / "c", dataset="digits", image_size=16, num_shards=2, scale=Scale(max_concurrent=1))
    assert alone == shared == grouped
    assert len(Prepared.open(store.directory(shared)).split("train")) == 1438


def test_corrupt_files_are_named_by_whichever_worker_met_them(tmp_path):
    url = album(tmp_path / "album", broken=(17, 401))
    store, artifact = run(tmp_path / "store", dataset={"image_folder": {"url": url}}, image_size=8)
    _, alone = run(tmp_path / "alone", disabled=True, dataset={"image_folder": {"url": url}}, image_size=8)
    assert artifact == alone
    assert artifact.metadata["num_corrupt"] == 2
    assert sorted(line.split(":")[0] for line in artifact.metadata["corrupt"]) == ["odd/0017.png", "odd/0401.png"]
    assert sum(artifact.metadata["splits"].values()) == 598
    train = Prepared.open(store.directory(artifact)).split("train")
    assert len(train.labels) == len(train)


def test_what_a_worker_finds_wrong_is_bad_input(tmp_path):
    url = album(tmp_path / "album", n=20, broken=tuple(range(20)))
    with pytest.raises(BadInput, match="nothing of split"):
        run(tmp_path / "store", dataset={"image_folder": {"url": url}}, image_size=8)


class Fatal(ArtifactStore):
    """A store on which the first worker to write dies."""

    def blob(self, data):
        marker = Path(self.url).with_suffix(".died")
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return super().blob(data)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    _, artifact = run(tmp_path / "store", store=Fatal(str(tmp_path / "store")), dataset="digits", image_size=8)
    assert (tmp_path / "store.died").exists()
    _, alone = run(tmp_path / "alone", disabled=True, dataset="digits", image_size=8)
    assert artifact == alone


def test_stopping_comes_back_at_once(tmp_path):
    began = time.monotonic()
    with pytest.raises(Interrupted):
        run(tmp_path, dataset="grid25", stopping=lambda: True)
    assert time.monotonic() - began < 20

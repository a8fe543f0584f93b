"""What a stage is given in a test: a real store, a real prepared data set, and a diary in place of progress and tracking."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.cluster import Cluster
from orchestrator.stage import Context, Scale


@dataclass
class Diary:
    """Progress and tracker in one: keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    steps: list[tuple[float, float]] = field(default_factory=list)
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    figures: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    children: dict[str, Diary] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    ended: str = ""
    on_line: Callable[[str], None] = lambda line: None
    on_step: Callable[[float], None] = lambda step: None

    def update(self, done: float, total: float, *, unit: str = "steps", note: str = "", metrics: Any = None) -> None:
        self.steps.append((done, total))
        self.on_step(done)

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.on_line(line)

    def params(self, values: Mapping[str, Any]) -> None:
        self.values |= values

    def tags(self, values: Mapping[str, str]) -> None:
        self.values |= values

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        self.logged.append((step, dict(values)))

    def figure(self, name: str, png: bytes) -> None:
        self.figures[name] = png

    def artifact(self, name: str, content: bytes | Path) -> None:
        self.files[name] = content if isinstance(content, bytes) else content.read_bytes()

    def child(self, name: str) -> Diary:
        return self.children.setdefault(name, Diary())

    def end(self, status: str = "FINISHED") -> None:
        self.ended = status


def ring(store: ArtifactStore, n: int = 512) -> Artifact:
    """Eight points on a circle as a `dataset` artifact of float32 (n, 2) with labels."""
    label = np.arange(n) % 8
    angle = label * np.pi / 4
    noise = np.random.default_rng(0).normal(size=(n, 2)) * 0.02
    x = (np.stack([np.cos(angle), np.sin(angle)], 1) + noise).astype(np.float32)
    centers = [[float(np.cos(k * np.pi / 4)), float(np.sin(k * np.pi / 4))] for k in range(8)]
    shape = {"kind": "points", "size": [2], "num_classes": 8, "bounded": False, "other": None}
    return _dataset(store, x, label, shape, {"centers": centers, "sigma": 0.02})


def stripes(store: ArtifactStore, n: int = 256, size: int = 8) -> Artifact:
    """Grey images of stripes at four angles as a `dataset` artifact of uint8 (n, size, size, 1) with labels."""
    label = np.arange(n) % 4
    y, x = np.mgrid[:size, :size] / size
    waves = [np.cos(2 * np.pi * (2 * x * np.cos(a) + 2 * y * np.sin(a))) for a in np.arange(4) * np.pi / 4]
    noise = np.random.default_rng(0).normal(size=(n, size, size)) * 10
    images = (np.stack(waves)[label] * 100 + 127 + noise).clip(0, 255).astype(np.uint8)[..., None]
    shape = {"kind": "image", "size": [1, size, size], "num_classes": 4, "bounded": True, "other": None}
    return _dataset(store, images, label, shape, None)


def _dataset(store: ArtifactStore, x: Any, label: Any, shape: dict[str, Any], mixture: Any) -> Artifact:
    metadata = {
        "dataset": "made_up",
        "shape": shape,
        "splits": {"train": len(x)},
        "classes": None,
        "domains": 1,
        "mixture": mixture,
        "augment": {"flip": False, "crop": 0},
        "corrupt": [],
    }
    shard: dict[str, Any] = {"x": "train-00000.x.npy", "y": "train-00000.y.npy", "num": len(x)}
    index = {"metadata": metadata, "splits": {"train": {"shards": [shard], "other": []}}}
    files: dict[str, bytes | Path] = {
        "index.json": json.dumps(index).encode(),
        shard["x"]: _npy(x),
        shard["y"]: _npy(label.astype(np.int64)),
    }
    return store.put("dataset", files, metadata)


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def context(
    root: Path,
    inputs: Mapping[str, Any],
    *,
    store: ArtifactStore | None = None,
    cluster: Cluster | None = None,
    scale: Scale | None = None,
    seed: int = 0,
    lineage: str = "lineage",
    diary: Diary | None = None,
    stopping: Callable[[], bool] = lambda: False,
    max_failures: int = 3,
) -> Context:
    """A stage's context over a real store below `root`; without a cluster it works in this process."""
    store = store or ArtifactStore(str(root / "store"))
    diary = diary or Diary()
    scratch = root / "scratch"
    scratch.mkdir(exist_ok=True)
    return Context(
        stage="stage",
        pipeline="test",
        run_id="run",
        seed=seed,
        scale=scale or Scale(),
        inputs=inputs,
        store=store,
        scratch=scratch,
        checkpoints=StoredCheckpoints(store, lineage),
        progress=diary,
        tracker=diary,
        cluster=cluster or Cluster(disabled=True),
        stopping=stopping,
        max_failures=max_failures,
        notes=diary.notes,
    )

"""What checkpoints cost a training, in shares of its step time: none, written in the background, written at once.

    python benchmarks/checkpoints.py                       both configurations, some minutes on 2 cores
    python benchmarks/checkpoints.py --only points --rounds 20

Three trainings of one configuration take turns in one process, a stretch of steps each, so that whatever else the machine
does meets them alike; the order changes from round to round. A stretch has `--saves` checkpoints and ends when the last is
in the store. Told is the median over rounds of (time with checkpoints / time without) - 1, by the clock and by processor
time, with its quartiles and its 95 % interval (order statistics: it supposes no distribution), and the same brought to the
default interval where stretches save more often than that. The clock counts whatever else the machine does: where it is
busy the interval is wide, and `load` tells how busy it was.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from orchestrator.artifacts import ArtifactStore
from orchestrator.checkpoints import StoredCheckpoints
from trainers import config, loop
from trainers.data import Prepared
from trainers.dataset import Arrays
from trainers.saver import Saver

MODES = ("none", "background", "at once")
DEFAULT_STEPS = 1500  # of a training that says nothing else; its checkpoints are 150 steps apart


@dataclass(frozen=True)
class Workload:
    """A training as its users run it. `every`: steps between checkpoints here (the default interval, or less)."""

    about: str
    user: dict[str, Any]
    every: int

    def data(self) -> Prepared:
        rng = np.random.default_rng(0)
        if self.user["variant"] == "gan":
            angle = rng.integers(0, 8, 20_000) * np.pi / 4
            points = np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(0, 0.02, (20_000, 2))
            return Prepared.of({"train": Arrays(points.astype(np.float32))})
        images = rng.integers(0, 256, (2_000, 32, 32, 1), dtype=np.uint8)
        return Prepared.of({"train": Arrays(images, np.arange(2_000) % 10)})


WORKLOADS = {
    "points": Workload(
        "ring of 8 Gaussians, mlp 64 wide, batch 64", {"variant": "gan", "backbone": {"mlp": {"width": 64}}}, 150
    ),
    "images": Workload(
        "32x32 grey images, dcgan 32 wide, batch 64", {"variant": "dcgan", "backbone": {"dcgan": {"width": 32}}}, 10
    ),
}


def training(
    workload: Workload, mode: str, storage: Path, data: Prepared, checkpoints: StoredCheckpoints | None = None
) -> loop.Training:
    user = {**workload.user, "checkpoint_every": workload.every, "total_steps": 10**6, "sample_every": 10**6}
    checkpoints = checkpoints or StoredCheckpoints(ArtifactStore(str(storage)), mode.replace(" ", "-"))
    made = loop.open_training(
        config.resolve(user, facts={"shape": data.shape.to_json()}),
        data,
        seed=0,
        checkpoints=None if mode == "none" else checkpoints,
    )
    for step in range(DEFAULT_STEPS // 150):  # a default training's pictures, which each checkpoint carries
        made.grids[f"samples/step_{step:08d}.png"] = loop.picture(loop.Generator.of(made.game), data)
    if mode == "at once":
        made._saver = Saver(checkpoints, 0)
    return made


class Timed(StoredCheckpoints):
    """Notes the processor time of each save's own thread, encoding included."""

    def __init__(self, store: ArtifactStore, lineage: str) -> None:
        super().__init__(store, lineage)
        self.seconds: list[float] = []

    def save(self, step: int, files: Any) -> None:
        super().save(step, files)
        self.seconds.append(time.thread_time())


def accounted(workload: Workload, saves: int, storage: Path, data: Prepared) -> dict[str, float]:
    """Milliseconds of a step and of a checkpoint's parts (medians), and their share of the default interval."""
    checkpoints = Timed(ArtifactStore(str(storage)), "accounted")
    one = training(workload, "background", storage, data, checkpoints)
    steps, copying = [], []
    while len(copying) < saves:
        began = time.thread_time()
        one.game.step(one.step, one.stream)
        one.step += 1
        steps.append(time.thread_time() - began)
        if one.step % workload.every == 0:
            began = time.thread_time()
            one._save()
            copying.append(time.thread_time() - began)
            one._follow(True)
    step, copy, background = (statistics.median(found) * 1e3 for found in (steps, copying, checkpoints.seconds))
    interval = step * DEFAULT_STEPS / 10
    return {
        "step_ms": round(step, 3),
        "copying_ms": round(copy, 3),
        "background_ms": round(background, 3),
        "share_at_default_interval": round((copy + background) / interval, 4),
    }


def stretch(one: loop.Training, steps: int) -> tuple[float, float]:
    """Seconds and processor seconds that so many steps take, until their checkpoints are in the store."""
    began = time.perf_counter(), time.process_time()
    for _ in range(steps):
        one.advance()
    one._follow(True)
    return time.perf_counter() - began[0], time.process_time() - began[1]


def interval(values: list[float]) -> tuple[float, float]:
    """Where the median lies with 95 % certainty: between two of the values, of six or more; the outermost of fewer."""
    ordered, count, tail, cut = sorted(values), len(values), 0.0, 0
    while (tail := tail + math.comb(count, cut) / 2**count) <= 0.025:
        cut += 1
    cut = max(cut - 1, 0)
    return ordered[cut], ordered[-1 - cut]


def measure(workload: Workload, rounds: int, saves: int, storage: Path) -> dict[str, Any]:
    data = workload.data()
    trainings = {mode: training(workload, mode, storage, data) for mode in MODES}
    steps = workload.every * saves
    taken: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for index in range(-1, rounds):
        for mode in (*MODES[index % 3 :], *MODES[: index % 3]):
            seconds = stretch(trainings[mode], steps if index >= 0 else workload.every)
            if index >= 0:
                taken[mode].append(seconds)
    size = sum(path.stat().st_size for path in (StoredCheckpoints(
        ArtifactStore(str(storage)), "background").latest() or (0, {}))[1].values())  # fmt: skip
    found: dict[str, Any] = {"what": workload.about, "checkpoint_kB": round(size / 1e3)}
    found["accounted"] = accounted(workload, 5 * saves, storage, data)
    for mode in MODES[1:] if rounds else ():
        for kind, clock in enumerate(("clock", "processor")):
            pairs = zip(taken[mode], taken["none"], strict=True)
            ratios = [a[kind] / b[kind] - 1 for a, b in pairs]
            low, middle, high = statistics.quantiles(ratios, n=4)
            scale = workload.every / (DEFAULT_STEPS // 10)
            found[f"{mode}, {clock}"] = {
                "share": round(middle, 4),
                "quartiles": [round(low, 4), round(high, 4)],
                "interval": [round(end, 4) for end in interval(ratios)],
                "every": workload.every,
                "share_at_default_interval": round(middle * scale, 4),
                "interval_at_default_interval": [round(end * scale, 4) for end in interval(ratios)],
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=12, help="0: only the accounted parts")
    parser.add_argument("--saves", type=int, default=2, help="checkpoints in a stretch")
    parser.add_argument("--storage", type=Path, help="a directory on the disk to measure; default: a temporary one")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, workload in WORKLOADS.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory(dir=given.storage) as folder:
                found = measure(workload, given.rounds, given.saves, Path(folder))
            print(json.dumps({"workload": name, "load": os.getloadavg()[0], **found}, indent=1), flush=True)


if __name__ == "__main__":
    main()

"""A search of many small GANs: `orchestrate run` against Ray Tune as most use it, and against Ray Tune with reused actors.

    python benchmarks/search.py [--trials 64] [--steps 2000] [--rounds 1] [--small] [--only orchestrate,reused,plain]

Every trial is a ring GAN (8 Gaussians, two hidden layers of 64, batch 64, float32) with learning rates of its own, trained
for 2,000 steps and scored once by the Frechet distance of 2,000 points. All three ways are processes of their own, with one
thread for each training and all cores; told is wall time from nothing to all scores, all start-up included (for
`orchestrate` also preparing the data, checkpoints, tracking, and storing what came of it). They run in turns, so that a
busy machine slows all of them; the ratios are those of the medians.

The peers train with a plain loop of the same networks, written as in tutorials, but with the data as one tensor and without
`.item()`: it is no slower alone than ours.

Memory is what all processes of a way together hold and share with nothing else (USS), at its highest; it is told for each
trial of the search.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("orchestrate", "reused", "plain")
TITLES = {"orchestrate": "orchestrate run", "reused": "Ray Tune, reuse_actors", "plain": "Ray Tune, defaults"}
WANTED = {"plain": 8.0, "reused": 2.5}  # times as fast
PIPELINE = """
version: 1
name: ring
stages:
  data:
    uses: prepare
    with: {{dataset: {{ring8: {{num_points: 20000}}}}}}
  search:
    uses: tune
    inputs: {{dataset: data}}
    with:
      num_trials: {trials}
      scheduler: none
      population: {population}
      metric: {{frechet_distance: {{space: raw}}}}
      eval_samples: 2000
      trial:
        variant: {{gan: {{latent_dim: 2}}}}
        hacks: []
        backbone: {{mlp: {{width: 64, depth: 2}}}}
        batch_size: 64
        total_steps: {steps}
      space:
        optimizers.generator.lr: {{loguniform: [1.0e-4, 1.0e-2]}}
        optimizers.critic.lr: {{loguniform: [1.0e-4, 1.0e-2]}}
"""


# --- the peers ------------------------------------------------------------------------------------------------------------


def trial(config: dict[str, float]) -> dict[str, float]:
    """One training, as it is written with nothing but torch; returns its score."""
    import numpy as np
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(int(config["seed"]))

    def network(inputs: int, outputs: int) -> nn.Sequential:
        middle = [nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2)]
        return nn.Sequential(*middle, nn.Linear(64, outputs))

    def ring(count: int) -> torch.Tensor:
        angle = torch.randint(0, 8, (count,)) * (np.pi / 4)
        return torch.stack([angle.cos(), angle.sin()], 1) + 0.01 * torch.randn(count, 2)

    generator, critic = network(2, 2), network(2, 1)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=config["g_lr"], betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(critic.parameters(), lr=config["d_lr"], betas=(0.5, 0.999))
    loss, data = nn.BCEWithLogitsLoss(), ring(20_000)
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)
    for _ in range(int(config["steps"])):
        real = data[torch.randint(0, len(data), (64,))]
        fake = generator(torch.randn(64, 2))
        d_optimizer.zero_grad()
        (loss(critic(real), ones) + loss(critic(fake.detach()), zeros)).backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        loss(critic(generator(torch.randn(64, 2))), ones).backward()
        g_optimizer.step()
    with torch.no_grad():
        made, real = generator(torch.randn(2000, 2)).double(), ring(2000).double()
    a, b = made.T.cov(), real.T.cov()
    roots = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    return {"score": float(((made.mean(0) - real.mean(0)) ** 2).sum() + a.trace() + b.trace() - 2 * roots)}


def peer(trials: int, steps: int, reuse: bool, folder: Path) -> None:
    """The same search by Ray Tune alone; runs in a process of its own."""
    import ray
    from ray import tune

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    space = {"g_lr": tune.loguniform(1e-4, 1e-2), "d_lr": tune.loguniform(1e-4, 1e-2)}
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={**space, "seed": 0, "steps": steps},
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=reuse, metric="score", mode="min"),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    results = tuner.fit()
    assert len(results) == trials
    assert not results.errors


# --- all of them ----------------------------------------------------------------------------------------------------------


def command(way: str, trials: int, steps: int, folder: Path) -> list[str]:
    if way == "orchestrate":
        path = folder / "ring.yaml"
        path.write_text(PIPELINE.format(trials=trials, steps=steps, population="auto"))
        program = str(Path(sys.executable).with_name("orchestrate"))
        return [program, "run", str(path), "--storage", str(folder / "runs"), "--quiet"]
    told = ["--peer", way, "--trials", str(trials), "--steps", str(steps), "--folder", str(folder)]
    return [sys.executable, str(Path(__file__).resolve()), *told]


def measure(way: str, trials: int, steps: int) -> tuple[float, float]:
    """Wall seconds of one way from nothing, and the most memory (MiB) that its processes had to themselves."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        environment |= {"XDG_CACHE_HOME": str(folder / "cache")}
        with open(folder / "out", "wb") as out:
            started = time.monotonic()
            process = subprocess.Popen(
                command(way, trials, steps, folder), cwd=folder, env=environment, stdout=out, stderr=out
            )
            with Memory(process.pid) as memory:
                try:
                    code = process.wait()
                finally:
                    process.terminate()
            took = time.monotonic() - started
        if code:
            raise SystemExit(f"{way} failed with {code}:\n{(folder / 'out').read_text()[-3000:]}")
        return took, memory.most / 2**20


class Memory:
    """Watches a process and all that it started; `most` is in bytes."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.most = max(self.most, sum(_own(pid) for pid in _family(self._pid)))


def _family(root: int) -> Iterator[int]:
    """A process and its descendants."""
    yield root
    try:
        children = Path(f"/proc/{root}/task").glob("*/children")
        for child in " ".join(path.read_text() for path in children).split():
            yield from _family(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return


def _own(pid: int) -> int:
    """Bytes of memory that a process shares with no other."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="8 trials of 100 steps: a smoke test, no measurement")
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--peer", choices=("plain", "reused"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.peer:
        peer(chosen.trials, chosen.steps, chosen.peer == "reused", chosen.folder)
        return
    trials, steps = (8, 100) if chosen.small else (chosen.trials, chosen.steps)
    ways = [way for way in WAYS if way in chosen.only.split(",")]
    taken: dict[str, list[float]] = {way: [] for way in ways}
    memory: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(chosen.rounds):
        for way in ways:
            took, used = measure(way, trials, steps)
            taken[way].append(took)
            memory[way].append(used)
            print(f"{TITLES[way]:<24} {took:7.1f} s  {trials / took:6.2f} trials/s  {used:6.0f} MiB", flush=True)
    medians = {way: statistics.median(values) for way, values in taken.items()}
    result: dict[str, object] = {"trials": trials, "steps": steps, "seconds": medians}
    if "orchestrate" in medians:
        ratios = {way: round(medians[way] / medians["orchestrate"], 2) for way in ways if way in WANTED}
        result["ratios"] = ratios
        for way, ratio in ratios.items():
            print(f"{ratio:.1f}x the throughput of {TITLES[way]} (wanted: {WANTED[way]:g}x)")
        each = {way: round(statistics.median(values) / trials, 1) for way, values in memory.items()}
        result["mib_per_trial"] = each
        print(
            f"memory in all, for each trial of the search: {', '.join(f'{TITLES[w]} {v} MiB' for w, v in each.items())}"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()

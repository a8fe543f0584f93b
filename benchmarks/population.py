"""How much faster trials of one shape are when they are trained as a population than one after another.

    OMP_NUM_THREADS=1 python benchmarks/population.py [--members 64] [--largest 32] [--rounds 5] [--wall 2000]

Ring trials (8 Gaussians), H64 with two hidden layers, batch 64, float32, with `ema`, each with its own seed and learning
rates; one core. Both ways train in turns, so that a busy machine slows both; told are the medians over the rounds, in
steps of one model a second of process time, and their ratio. Start-up (building and stacking) is in the population's time.
Also told: the memory of a member, and with `--wall STEPS` how long all members take in two processes, on the wall.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainers import config, grouping, loop
from trainers.cohort import Cohort
from trainers.data import Prepared
from trainers.dataset import Arrays
from trainers.population import Population
from trainers.step import Game
from trainers.stream import Stream

WINDOW = 100  # steps of each way in a round


def ring(n: int = 20_000) -> Prepared:
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * rng.integers(0, 8, n) / 8
    x = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.01 * rng.normal(size=(n, 2))
    return Prepared.of({"train": Arrays(x.astype(np.float32))})


def trial(data: Prepared, variant: str, member: int) -> config.TrainConfig:
    rates = {"lr": 1e-4 * (1 + member % 8)}
    user: dict[str, Any] = {
        "variant": {variant: {"latent_dim": 2}},
        "backbone": {"mlp": {"width": 64, "depth": 2}},
        "optimizers": {"generator": rates, "critic": rates},
        "hacks": ["ema"],
        "batch_size": 64,
        "total_steps": 2000,
    }
    return config.resolve(user, facts={"shape": data.shape.to_json()})


def singly(data: Prepared, variant: str) -> Iterator[float]:
    """Steps a second of one trial after another, a window at a time."""
    game = Game(trial(data, variant, 0), data.shape, 0)
    stream, step = Stream(game, data), 0
    while True:
        start = time.process_time()
        for _ in range(WINDOW):
            game.step(step, stream)
            step += 1
        yield WINDOW / (time.process_time() - start)


def together(data: Prepared, variant: str, members: int, largest: int) -> Iterator[float]:
    """Steps of one model a second of all members, a window of each of their groups at a time."""
    configs = [trial(data, variant, member) for member in range(members)]
    populations: list[Population] = []
    start = time.process_time()
    for group in grouping.groups(configs, largest).together:
        populations.append(Population([Game(configs[i], data.shape, i) for i in group]))
    started = time.process_time() - start
    streams, step = [Stream(population, data) for population in populations], 0
    while True:
        start = time.process_time()
        for population, stream in zip(populations, streams, strict=True):
            for i in range(WINDOW):
                population.step(step + i, stream)
        step += WINDOW
        share = started * WINDOW / 2000  # of the start-up, for trials of 2,000 steps
        yield members * WINDOW / (time.process_time() - start + share)


def memory(data: Prepared, variant: str) -> float:
    """MiB that a member adds to a process, after some steps; of 32, beside as many."""

    def resident() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    cohorts, sizes = [], []
    for _ in range(3):
        cohorts.append(Cohort([loop.open_training(trial(data, variant, i), data, seed=i) for i in range(32)]))
        cohorts[-1].run(until=5)
        sizes.append(resident())
    return (sizes[-1] - sizes[-2]) / 32


def train(variant: str, members: range, steps: int) -> None:
    """All of some members' training, as a process of a search does it."""
    torch.set_num_threads(1)
    data = ring()
    opened = [loop.open_training(trial(data, variant, i), data, seed=i) for i in members]
    for group in grouping.groups([one.game.config for one in opened]).together:
        Cohort([opened[i] for i in group], pictures=False).run(until=steps)


def wall(variant: str, members: int, steps: int) -> float:
    """Seconds for all members in two processes, their start and imports included."""
    context, start = multiprocessing.get_context("spawn"), time.monotonic()
    halves = [range(members // 2), range(members // 2, members)]
    workers = [context.Process(target=train, args=(variant, half, steps)) for half in halves]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process failed")
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--largest", type=int, default=grouping.LARGEST)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", default="gan,wgan_gp")
    parser.add_argument("--wall", type=int, metavar="STEPS", default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = ring()
    for variant in args.variants.split(","):
        single, many = singly(data, variant), together(data, variant, args.members, args.largest)
        next(single), next(many)  # warm up
        rounds = [(next(single), next(many)) for _ in range(args.rounds)]
        one, all_ = (statistics.median(values) for values in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        print(f"{variant}: alone {one:,.0f}, {args.members} members {all_:,.0f} steps/s: {ratio:.1f}x")
        print(f"{variant}: {memory(data, variant):.2f} MiB a member")
        if args.wall:
            print(f"{variant}: {args.members} x {args.wall} steps: {wall(variant, args.members, args.wall):.1f} s")


if __name__ == "__main__":
    main()

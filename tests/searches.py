"""Searches of any size, decided by the real conductor over a formula in place of training."""

from __future__ import annotations

import math
import random
from typing import Any

from orchestrator import outcomes
from orchestrator.search import Conductor, Outcome, Rules, milestones
from orchestrator.search.objectives import Objective
from orchestrator.search.table import table
from orchestrator.space import read_space
from trainers import config

LR, CRITIC_LR = "optimizers.generator.lr", "optimizers.critic.lr"
N_CRITIC = "variant.wgan_gp.n_critic"
SPACE: dict[str, Any] = {
    "variant": {"choice": ["gan", "wgan_gp", "r3gan"]},
    "hacks": {"subsets": ["label_smoothing", "instance_noise", "feature_matching"]},
    LR: {"loguniform": [1e-5, 1e-2]},
    CRITIC_LR: {"loguniform": [1e-5, 1e-2]},
    "batch_size": {"choice": [16, 32, 64, 128]},
    N_CRITIC: {"int": [1, 5]},
}
REASON = "NotFinite: generator loss is nan at step {step} <script>alert(1)</script>"


def stored(count: int, *, metrics: int = 1, seeds: int = 1, seed: int = 0) -> dict[str, Any]:
    """What trials.json holds of a search by asha; the score grows with the distance of log10 LR from -3 before all else."""
    space, _ = read_space(SPACE, {}, config.assign, lambda user: ())
    assert space is not None
    rng = random.Random(seed)
    points = [point for i in range(count) if (point := space.draw(seed, i)) is not None]
    goals = (Objective("frechet_distance", "minimize"), Objective("mode_coverage", "maximize"))[:metrics]
    done = Conductor(
        lambda told: [] if told else points, Rules(milestones("asha", 400, 50, 2), goals, "asha", replicates=seeds)
    )
    while (segment := done.next()) is not None:
        if rng.random() < 0.03:
            error = REASON.format(step=segment.until - 7)
            done.tell(segment, Outcome(None, 1.0, "diverged", error))
            continue
        score = _score(done.point(segment), segment.until, rng)
        values = {"frechet_distance": score, "mode_coverage": min(8.0, max(0.0, 8 - score + rng.gauss(0, 0.8)))}
        done.tell(segment, Outcome(score, 2.0, values=dict(list(values.items())[:metrics])))
    about = {"metrics": [{"name": one.name, "direction": one.direction} for one in goals]}
    return table(done, space, seed, {**about, "metric": about["metrics"][0]})


def search(count: int, **options: Any) -> outcomes.SearchResults:
    """The same as the report and the command line read it."""
    return outcomes.parse(stored(count, **options), "search")


def _score(point: dict[str, Any], step: int, rng: random.Random) -> float:
    far = (math.log10(point[LR]) + 3) ** 2 + 0.2 * (math.log10(point[CRITIC_LR]) + 3.3) ** 2
    far += {"gan": 1.0, "wgan_gp": 0.4, "r3gan": 0.0}[point["variant"]]
    return (2 + far) * (0.3 + 0.7 * math.exp(-step / 120)) * math.exp(rng.gauss(0, 0.05))

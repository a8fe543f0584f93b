"""A search as it is kept: every trial, what it was searched for, and who won."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.search.conductor import Conductor
from orchestrator.search.objectives import Objective, spread
from orchestrator.search.trial import Trial, interval, training_seed
from orchestrator.space import Point, Space

FORMAT = 2


def table(done: Conductor, space: Space, seed: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """`trials.json`. `about` says what trials had in common, and is kept with it.

    `metric` is the first of `metrics`; `front` has the trials of the Pareto front where there are several.
    """
    rules, winner = done.rules, done.winner
    return {
        **about,
        "format": FORMAT,
        "rungs": list(rules.rungs),
        "scheduler": rules.scheduler,
        "replicates": rules.replicates,
        "ended_by": done.ended_by,
        "steps": done.steps,
        "winner": None if winner is None else winner.index,
        "front": [trial.index for trial in done.front] if len(rules.objectives) > 1 else [],
        "trials": [row(trial, space, seed, rules.objectives, rules.replicates) for trial in done.trials],
    }


def row(trial: Trial, space: Space, seed: int, objectives: Sequence[Objective], replicates: int) -> dict[str, Any]:
    """A trial as a line of trials.json.

    `score` is of the first metric, `values` of every one, `interval` [low, high] that of the mean of the score over replicates.
    `seeds` are those of the replicates; `lost` says which of them have no score, and why.
    """
    several = len(objectives) > 1
    spreads = spread(trial, trial.steps, objectives)
    half = interval(spreads[0]) if spreads else None
    score = trial.score
    last = trial.values.get(trial.steps, ())
    return {
        "trial": trial.index,
        "status": trial.status,
        "point": trial.point,
        "config": space.apply(trial.point),
        "seed": seed,
        "seeds": [training_seed(seed, one) for one in range(replicates)],
        "steps": trial.steps,
        "score": score,
        "scores": {str(step): score for step, score in sorted(trial.scores.items())},
        "interval": [score - half, score + half] if half is not None and score is not None else None,
        "replicates": [list(column) for column in spreads][:1] if replicates > 1 else [],
        "lost": {str(one): f"{why.status}: {why.error}" for one, why in sorted(trial.lost.items())},
        "values": {one.name: value for one, value in zip(objectives, last, strict=False)} if several else {},
        "symptoms": trial.symptoms,
        "changes": [{"step": one.step, "source": one.source, "point": one.point} for one in trial.changes],
        "error": trial.error,
    }


@dataclass(frozen=True)
class Earlier:
    """What an earlier search found, for one that begins where it ended. `comparable`: its scores mean the same here."""

    points: tuple[Point, ...]  # best first
    trials: tuple[Trial, ...]  # the same, with values where they are comparable
    comparable: bool
    total: int  # of all that it had


def earlier(
    found: Mapping[str, Any], space: Space, about: Mapping[str, Any], objectives: Sequence[Objective]
) -> Earlier:
    """What of an earlier search's table is of use: the points that this space still holds.

    Its scores count where they come from the same data, metrics, samples, steps and replicates, beside the same fixed values, and
    each from one point alone: one that a population changed while it trained says little of its last point.
    """
    names = [objective.name for objective in objectives]
    told = found.get("metrics") or [found["metric"]]
    same = [one["name"] for one in told] == names and all(found.get(key) == value for key, value in about.items())
    same = same and not any(line.get("changes") for line in found["trials"])
    sign = 1 if told[0]["direction"] == "minimize" else -1
    front = set(found.get("front") or ())

    def key(line: Mapping[str, Any]) -> tuple[Any, ...]:
        out = line["score"] is None or bool(line["error"])
        order = (line["trial"] != found["winner"], line["trial"] not in front, -line["steps"])
        return (out, *order, sign * (line["score"] or 0.0), line["trial"])

    kept: list[Trial] = []
    for line in sorted(found["trials"], key=key):
        if space.recall(line["point"]) is None or not space.valid(line["point"]):
            continue
        trial = Trial(len(kept), dict(line["point"]), status=line["status"], error=line["error"])
        if same and line["score"] is not None:
            values = tuple(line["values"][name] for name in names) if line.get("values") else (line["score"],)
            trial.values[line["steps"]] = values
        kept.append(trial)
    best = tuple(trial.point for trial in kept if not trial.error)
    return Earlier(best, tuple(kept), same, len(found["trials"]))


__all__ = ["Earlier", "earlier", "row", "table"]

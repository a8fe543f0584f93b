"""Improved precision and recall (https://arxiv.org/abs/1904.06991), density and coverage (https://arxiv.org/abs/2002.09797)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Interval

from trainers.metric import Array, Metric, Raw, Reference, Space, State, spread
from trainers.neighbors import distances, radii


@dataclass(frozen=True)
class PrecisionRecall(Metric):
    """Improved precision and recall (https://arxiv.org/abs/1904.06991), density and coverage (https://arxiv.org/abs/2002.09797).

    Each side's manifold is the union of balls around its samples that reach to their k-th neighbours. `precision`: share of
    generated samples in the real manifold (quality); `recall`: share of real ones in the generated manifold (diversity);
    `f1`: their harmonic mean. `density` counts the real balls around a generated sample, over k (may pass 1); `coverage`: share
    of real balls that hold a generated sample. A perfect generator does not reach 1: hold a real split against another.
    """

    direction: ClassVar[Literal["minimize", "maximize"]] = "maximize"
    primary: ClassVar[str] = "f1"
    directions: ClassVar[dict[str, str]] = {
        "precision": "maximize",
        "recall": "maximize",
        "density": "maximize",
        "coverage": "maximize",
    }
    needs_when: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        "features": {"space": ("classifier",)},
        "points|features": {"space": ("auto",)},
    }

    space: Literal["auto", "raw", "classifier"] = "auto"
    "Where to measure: raw samples, or the features of the features stage; auto: classifier for images, raw for points."
    k: Annotated[int, Interval(ge=1, le=100)] = 3
    "Neighbour whose distance is the radius of a ball."
    at_most: Annotated[int, Interval(ge=10)] = 10_000
    "Samples of each side, evenly spread, where there are more: time and memory grow with their square."

    def spaces(self, reference: Reference) -> tuple[Space, ...]:
        name = self.space
        if name == "auto":
            name = "raw" if reference.shape.kind == "points" else "classifier"
        if name == "raw":
            return (Raw(),)
        if reference.classifier is None:
            raise ValueError("precision_recall in the classifier's features needs the output of a features stage")
        return (reference.classifier,)

    def collect(self, reference: Reference, batch: Array, index: int) -> dict[str, Array]:
        return {"features": reference.embed(self.spaces(reference)[0], batch)}

    def compute(self, state: State) -> dict[str, float]:
        fake = spread(state.gather("features"), self.at_most)
        real = spread(state.real.features(self.spaces(state.real)[0]), self.at_most)
        real_radii, fake_radii = radii(real, self.k), radii(fake, self.k)
        inside, balls = 0, 0  # generated samples inside the real manifold; (sample, ball) pairs
        covered, recalled = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
        for rows, block in distances(fake, real):
            hits = block <= real_radii
            inside += int(hits.any(axis=1).sum())
            balls += int(hits.sum())
            covered |= hits.any(axis=0)
            recalled |= (block <= fake_radii[rows, None]).any(axis=0)
        precision, recall = inside / len(fake), float(recalled.mean())
        return {
            "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            "precision": precision,
            "recall": recall,
            "density": balls / (self.k * len(fake)),
            "coverage": float(covered.mean()),
        }

    def settings(self) -> dict[str, Any]:
        return {"k": self.k, "at_most": self.at_most}

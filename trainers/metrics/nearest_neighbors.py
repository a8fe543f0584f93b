"""Nearest training neighbours of generated samples, and whether they were copied (https://arxiv.org/abs/2004.05675)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from trainers.metric import Array, Metric, Raw, Reference, Space, State, spread
from trainers.neighbors import nearest
from trainers.pictures import enlarge, grid, png

UNSEEN = 2000  # real samples that generated ones are held against, where there are more


@dataclass(frozen=True)
class NearestNeighbors(Metric):
    """Nearest training neighbours of generated samples, and whether they were copied (https://arxiv.org/abs/2004.05675).

    Distances from generated samples to the training split are held against those from unseen real samples (split "test"; where
    there is none, from each training sample to the others). `distance_ratio`: the median of the first over that of the second;
    1 is what an honest sampler has, 0 is a copy. `copying`: how often a generated sample is nearer than an unseen
    real one; 0.5 is honest, 1 is a copy. `copied`: share of generated samples nearer than 99 % of the unseen ones; 0.01
    is honest. Far below 0.5 or far above a ratio of 1, samples are simply poor.
    """

    direction: ClassVar[Literal["minimize", "maximize"]] = "maximize"
    primary: ClassVar[str] = "distance_ratio"
    directions: ClassVar[dict[str, str]] = {"copying": "minimize", "copied": "minimize"}
    needs_when: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {"features": {"space": ("classifier",)}}

    space: Literal["auto", "raw", "classifier"] = "auto"
    "Where to measure: raw samples, or the features of the features stage; auto: classifier features where there are any."
    shown: Annotated[int, Interval(ge=1, le=64)] = 8
    "Generated samples in the figure."
    k: Annotated[int, Interval(ge=1, le=16)] = 6
    "Neighbours of each in the figure."

    def spaces(self, reference: Reference) -> tuple[Space, ...]:
        trained = reference.classifier if self.space != "raw" and reference.shape.kind == "image" else None
        if self.space == "classifier":
            trained = reference.classifier
            if trained is None:
                raise ValueError("nearest_neighbors in the classifier's features needs the output of a features stage")
        return (trained or Raw(),)

    def splits(self, reference: Reference) -> tuple[str, ...]:
        return tuple(name for name in ("train", "test") if reference.count(name))

    def collect(self, reference: Reference, batch: Array, index: int) -> dict[str, Array]:
        keep = max(0, self.shown - index)
        shown = np.zeros((len(batch), *(batch.shape[1:] if keep else (0,))), batch.dtype)
        shown[:keep] = batch[:keep] if keep else shown[:0]
        return {"features": reference.embed(self.spaces(reference)[0], batch), "shown": shown}

    def compute(self, state: State) -> dict[str, float]:
        space = self.spaces(state.real)[0]
        training = state.real.features(space, "train")
        generated = nearest(state.gather("features"), training)[0][:, 0]
        unseen = self._unseen(state.real, space, training)
        near, usual = float(np.median(generated)), float(np.median(unseen))
        return {
            "distance_ratio": near / usual if usual > 0 else 1.0,
            "copying": nearer(generated, unseen),
            "copied": float((generated < np.quantile(unseen, 0.01)).mean()),
            "distance": near,
            "distance_unseen": usual,
        }

    def _unseen(self, reference: Reference, space: Space, training: Array) -> NDArray[np.float64]:
        if reference.count("test"):
            return nearest(spread(reference.features(space, "test"), UNSEEN), training)[0][:, 0]
        return nearest(spread(training, UNSEEN), training, 2)[0][:, 1]  # the nearest one is the sample itself

    def figures(self, state: State) -> dict[str, bytes]:
        """Rows of one generated image (left, apart) and its nearest training images."""
        if state.real.shape.kind != "image":
            return {}
        images = self._first(state)
        training = state.real.features(self.spaces(state.real)[0], "train")
        features = state.gather("features")[: len(images)]
        positions = nearest(features, training, min(self.k, len(training)))[1]
        rows = [
            np.concatenate([image[None], np.full_like(image[None], 255), state.real.samples("train", found)])
            for image, found in zip(images, positions, strict=True)
        ]
        sheet = grid(np.concatenate(rows), columns=2 + positions.shape[1])
        return {"nearest_neighbors.png": png(enlarge(sheet, max(1, 64 // images.shape[1])))}

    def _first(self, state: State) -> Array:
        """The first `shown` generated samples."""
        parts = [state.parts[index]["shown"] for index in sorted(state.parts) if index < self.shown]
        return np.concatenate(parts)[: self.shown]

    def protocol(self, state: State) -> dict[str, Any]:
        held_out = "test" if state.real.count("test") else "train, each against the others"
        return {**super().protocol(state), **state.real.protocol("train"), "held_out": held_out}


def nearer(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """P(a < b) + P(a = b) / 2 for random members: the Mann-Whitney statistic as a share."""
    ordered = np.sort(b)
    above = len(b) - np.searchsorted(ordered, a, side="right")
    equal = np.searchsorted(ordered, a, side="right") - np.searchsorted(ordered, a, side="left")
    return float((above + equal / 2).mean() / len(b))

"""Frechet distance between generated and real samples in a named feature space (https://arxiv.org/abs/1706.08500)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from trainers.frechet import frechet_distance, moments
from trainers.metric import Array, Metric, Raw, Reference, Space, State


@dataclass(frozen=True)
class FrechetDistance(Metric):
    """Frechet distance between generated and real samples in a named feature space (https://arxiv.org/abs/1706.08500).

    d^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the Gaussians fitted to both, in float64. 0 is best. It is not FID
    and cannot be compared with it: FID is this distance in Inception-v3's features (metric `fid`). With n samples it is
    biased upwards by about tr(S) / n: compare equal n only.
    """

    direction: ClassVar[Literal["minimize", "maximize"]] = "minimize"
    primary: ClassVar[str] = "frechet_distance"
    needs_when: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        "features": {"space": ("classifier",)},
        "points|features": {"space": ("auto",)},
    }

    space: Literal["auto", "raw", "classifier"] = "auto"
    "Where to measure: raw samples, or the features of the features stage; auto: classifier for images, raw for points."

    def spaces(self, reference: Reference) -> tuple[Space, ...]:
        name = self.space
        if name == "auto":
            name = "raw" if reference.shape.kind == "points" else "classifier"
        if name == "raw":
            return (Raw(),)
        if reference.classifier is None:
            raise ValueError("frechet_distance in the classifier's features needs the output of a features stage")
        return (reference.classifier,)

    def collect(self, reference: Reference, batch: Array, index: int) -> dict[str, Array]:
        return {"features": reference.embed(self.spaces(reference)[0], batch)}

    def compute(self, state: State) -> dict[str, float]:
        real = state.real.features(self.spaces(state.real)[0])
        return {"frechet_distance": frechet_distance(moments(state.gather("features")), moments(real))}

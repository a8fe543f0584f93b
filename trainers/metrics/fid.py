"""Frechet inception distance (https://arxiv.org/abs/1706.08500), in the reference protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from trainers.frechet import frechet_distance, moments
from trainers.inception import Inception, weights_file
from trainers.metric import Array, Metric, Reference, Space, State


@dataclass(frozen=True)
class FID(Metric):
    """Frechet inception distance (https://arxiv.org/abs/1706.08500), in the reference protocol.

    2048 features of Inception-v3 with TensorFlow's weights, behind torch-fidelity's TensorFlow-exact bilinear resize; uint8
    images; float32 features, float64 statistics. Grey images are repeated to three channels. The literature compares
    50,000 samples with the training set; with fewer the score is higher, and only equal numbers compare.
    """

    direction: ClassVar[Literal["minimize", "maximize"]] = "minimize"
    primary: ClassVar[str] = "fid"
    needs: ClassVar[frozenset[str]] = frozenset({"image", "inception"})

    weights: str | None = None
    "File of the Inception weights (.pth or .safetensors); none: the published ones, downloaded once and checked."

    def spaces(self, reference: Reference) -> tuple[Space, ...]:
        return (Inception.of(weights_file(self.weights), reference.device),)

    def collect(self, reference: Reference, batch: Array, index: int) -> dict[str, Array]:
        return {"features": reference.embed(self.spaces(reference)[0], batch)}

    def compute(self, state: State) -> dict[str, float]:
        real = state.real.features(self.spaces(state.real)[0])
        return {"fid": frechet_distance(moments(state.gather("features")), moments(real))}

"""How sure a classifier of the real data is of generated samples, and which classes it sees (cf. https://arxiv.org/abs/1606.03498)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Interval

from trainers.metric import Array, Metric, Reference, Space, State


@dataclass(frozen=True)
class ClassConfidence(Metric):
    """How sure a classifier of the real data is of generated samples, and which classes it sees (cf. https://arxiv.org/abs/1606.03498).

    `confident`: share of samples whose likeliest class has a probability above the threshold (real held-out data: see
    `confident_real`). `smallest_share`: of the class that is seen least. `class_entropy`: entropy of the class shares over
    its maximum, 1 where all classes are equally frequent. `share/NAME`: share of each class.
    """

    direction: ClassVar[Literal["minimize", "maximize"]] = "maximize"
    primary: ClassVar[str] = "confident"
    directions: ClassVar[dict[str, str]] = {"smallest_share": "maximize", "class_entropy": "maximize"}
    needs: ClassVar[frozenset[str]] = frozenset({"features", "labels"})

    threshold: Annotated[float, Interval(gt=0, lt=1)] = 0.9
    "Probability above which a sample counts as confident."

    def spaces(self, reference: Reference) -> tuple[Space, ...]:
        if reference.classifier is None:
            raise ValueError("class_confidence needs the output of a features stage")
        return (reference.classifier,)

    def splits(self, reference: Reference) -> tuple[str, ...]:
        return ("test" if reference.count("test") else reference.split,)

    def collect(self, reference: Reference, batch: Array, index: int) -> dict[str, Array]:
        return {"probabilities": self._probabilities(reference, reference.embed(self.spaces(reference)[0], batch))}

    def compute(self, state: State) -> dict[str, float]:
        probabilities = state.gather("probabilities")
        real = state.real.features(self.spaces(state.real)[0], self.splits(state.real)[0])
        num_classes = probabilities.shape[1]
        shares = np.bincount(probabilities.argmax(axis=1), minlength=num_classes) / len(probabilities)
        names = state.real.metadata.get("classes") or range(num_classes)
        present = shares[shares > 0]
        return {
            "confident": float((probabilities.max(axis=1) > self.threshold).mean()),
            "confident_real": float((self._probabilities(state.real, real).max(axis=1) > self.threshold).mean()),
            "smallest_share": float(shares.min()),
            "class_entropy": float(-(present * np.log(present)).sum() / np.log(num_classes))
            if num_classes > 1
            else 1.0,
            **{f"share/{name}": float(share) for name, share in zip(names, shares, strict=True)},
        }

    @staticmethod
    def _probabilities(reference: Reference, features: Array) -> Array:
        if reference.classifier is None:
            raise ValueError("class_confidence needs the output of a features stage")
        return reference.classifier.probabilities(features)

    def settings(self) -> dict[str, Any]:
        return {"threshold": self.threshold}

"""One-sided label smoothing (https://arxiv.org/abs/1606.03498, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Interval
from torch import Tensor

from trainers.core import Hack
from trainers.play import Play


@dataclass(frozen=True)
class LabelSmoothing(Hack):
    """One-sided label smoothing (https://arxiv.org/abs/1606.03498, section 3.4).

    The critic's target for real samples becomes `real` instead of 1 (and `fake` instead of 0, which the paper advises
    against). The generator's targets stay.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"targets"})
    vectorizes: ClassVar[bool] = True
    varies: ClassVar[frozenset[str]] = frozenset({"real", "fake"})
    neutral: ClassVar[dict[str, Any] | None] = {"real": 1.0, "fake": 0.0}

    real: Annotated[float, Interval(gt=0.5, le=1)] = 0.9
    "Target of real samples."
    fake: Annotated[float, Interval(ge=0, lt=0.5)] = 0.0
    "Target of generated samples."

    def target(self, target: Tensor, play: Play, *, real: bool) -> Tensor:
        if play.role != "critic":
            return target
        return self.fake + (self.real - self.fake) * target

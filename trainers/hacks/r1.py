"""R1 gradient penalty (https://arxiv.org/abs/1801.04406)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Interval
from torch import Tensor

from trainers.core import Batch, Hack, Judged, Losses
from trainers.losses import zero_centered_penalty
from trainers.play import Play


@dataclass(frozen=True)
class R1(Hack):
    """R1 gradient penalty (https://arxiv.org/abs/1801.04406): gamma / 2 |grad_x D(x)|^2 on real samples.

    Lazily with `every` > 1: each `every` steps with `every` times the weight (https://arxiv.org/abs/1912.04958).
    With batch normalisation in the critic the gradient is of the whole batch's logits, no longer of each sample's own.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic", "logits"})
    forbids: ClassVar[frozenset[str]] = frozenset({"r1", "latent_critic"})
    vectorizes: ClassVar[bool] = True
    varies: ClassVar[frozenset[str]] = frozenset({"gamma"})
    neutral: ClassVar[dict[str, Any] | None] = {"gamma": 0.0}
    differentiates: ClassVar[frozenset[str]] = frozenset({"real"})

    gamma: Annotated[float, Ge(0)] = 1.0
    every: Annotated[int, Interval(ge=1, le=1024)] = 1
    "Steps between penalties."

    def losses(self, losses: Losses, batch: Batch, play: Play) -> Losses:
        if play.role != "critic" or not play.due(self.every):
            return losses
        terms = [self._penalty(judged, play) for judged in play.judged if judged.real]
        return {**losses, "r1": sum(terms[1:], terms[0])} if terms else losses

    def _penalty(self, judged: Judged, play: Play) -> Tensor:
        x = judged.entry.inputs[0]
        return self.gamma / 2 * self.every * zero_centered_penalty(judged.score.logits, x, play.shape)

"""Feature matching (https://arxiv.org/abs/1606.03498, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from trainers.core import Batch, Hack, Judged, Losses
from trainers.play import Play


@dataclass(frozen=True)
class FeatureMatching(Hack):
    """Feature matching (https://arxiv.org/abs/1606.03498, section 3.1).

    The generator minimises |E f(x) - E f(G(z))|^2 over the critic's features f, averaged over the features, instead of its
    adversarial term (`replace: true`, the paper's) or beside it. Couples the batch.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic.features", "real_entry", "generator"})
    coupled: ClassVar[bool] = True
    vectorizes: ClassVar[bool] = True
    varies: ClassVar[frozenset[str]] = frozenset({"weight"})
    order: ClassVar[int] = 70

    weight: Annotated[float, Gt(0)] = 1.0
    replace: bool = False
    "Drop the generator's adversarial terms."

    def losses(self, losses: Losses, batch: Batch, play: Play) -> Losses:
        if play.role != "generator" or not play.judged:
            return losses
        fakes = [judged for judged in play.judged if not judged.real]
        kept = {name: term for name, term in losses.items() if not (self.replace and name.startswith("adversarial"))}
        distances = [self._distance(fake, batch, play) for fake in fakes]
        return {**kept, "feature_matching": self.weight * torch.stack(distances).sum(0)}

    def _distance(self, fake: Judged, batch: Batch, play: Play) -> Tensor:
        """Mean squared difference of mean features, (..., 1)."""
        score = play.real_counterpart(fake, batch)
        gap = score.features.detach().mean(-2) - fake.score.features.mean(-2)
        return gap.square().mean(-1, keepdim=True)

"""Generative adversarial nets (https://arxiv.org/abs/1406.2661)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from trainers.core import Batch, Losses, Score
from trainers.games import TwoPlayers, cross_entropy
from trainers.losses import minimax_generator
from trainers.play import Play


@dataclass(frozen=True)
class GAN(TwoPlayers):
    """Generative adversarial nets, minimax and non-saturating (https://arxiv.org/abs/1406.2661).

    D minimises -log D(x) - log(1 - D(G(z))). G minimises -log D(G(z)) (non_saturating) or log(1 - D(G(z))) (minimax).
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {"generator", "critic", "latent", "real_entry", "plain_latent", "targets", "logits"}
    )
    vectorizes: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {"backbone": "mlp"}

    loss: Literal["non_saturating", "minimax"] = "non_saturating"
    "The generator's loss."
    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 100
    "Dimensions of z."
    latent: Literal["normal", "uniform"] = "normal"
    "Prior of z: standard normal, or uniform on [-1, 1]."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 1
    "Discriminator updates for each generator update."

    def critic_losses(self, real: Score, fake: Score, batch: Batch, play: Play) -> Losses:
        return cross_entropy(real, fake, play)

    def generator_losses(self, fake: Score, batch: Batch, play: Play) -> Losses:
        if self.loss == "minimax":
            return {"adversarial": minimax_generator(fake.logits)}
        return {"adversarial": play.objective(fake.logits, 1.0, real=False)}

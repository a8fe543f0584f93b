"""Least squares GAN (https://arxiv.org/abs/1611.04076)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from trainers.core import Batch, Losses, Score
from trainers.games import TwoPlayers
from trainers.losses import least_squares
from trainers.play import Play


@dataclass(frozen=True)
class LSGAN(TwoPlayers):
    """Least squares GAN (https://arxiv.org/abs/1611.04076), with the targets 0 and 1 of its equation 9.

    D minimises (D(x) - 1)^2 / 2 + D(G(z))^2 / 2; G minimises (D(G(z)) - 1)^2 / 2. The logits are the outputs: no sigmoid.
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {"generator", "critic", "latent", "real_entry", "plain_latent", "targets", "logits"}
    )
    vectorizes: ClassVar[bool] = True
    certain: ClassVar[float] = 2e-3  # an error of 0.06; with 0.1 it recovers
    defaults: ClassVar[dict[str, Any]] = {"backbone": "dcgan"}

    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 100
    "Dimensions of z."
    latent: Literal["normal", "uniform"] = "normal"
    "Prior of z: standard normal, or uniform on [-1, 1]."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 1
    "Discriminator updates for each generator update."

    def critic_losses(self, real: Score, fake: Score, batch: Batch, play: Play) -> Losses:
        return {
            "real": least_squares(real.logits, play.target(real.logits, 1.0, real=True)) / 2,
            "fake": least_squares(fake.logits, play.target(fake.logits, 0.0, real=False)) / 2,
        }

    def generator_losses(self, fake: Score, batch: Batch, play: Play) -> Losses:
        return {"adversarial": least_squares(fake.logits, play.target(fake.logits, 1.0, real=False)) / 2}

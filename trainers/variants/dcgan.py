"""Deep convolutional GAN (https://arxiv.org/abs/1511.06434)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from trainers.core import Batch, Losses, Score
from trainers.games import TwoPlayers, cross_entropy
from trainers.play import Play


@dataclass(frozen=True)
class DCGAN(TwoPlayers):
    """Deep convolutional GAN (https://arxiv.org/abs/1511.06434): the non-saturating GAN with DCGAN's networks and Adam.

    Deviation: z is normal by default, not uniform; `latent: uniform` is the paper's.
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {"generator", "critic", "latent", "real_entry", "plain_latent", "targets", "logits"}
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    vectorizes: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "backbone": "dcgan",
        "optimizers": {"generator": {"lr": 2e-4, "betas": [0.5, 0.999]}, "critic": {"lr": 2e-4, "betas": [0.5, 0.999]}},
    }

    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 100
    "Dimensions of z."
    latent: Literal["normal", "uniform"] = "normal"
    "Prior of z: standard normal, or uniform on [-1, 1]."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 1
    "Discriminator updates for each generator update."

    def critic_losses(self, real: Score, fake: Score, batch: Batch, play: Play) -> Losses:
        return cross_entropy(real, fake, play)

    def generator_losses(self, fake: Score, batch: Batch, play: Play) -> Losses:
        return {"adversarial": play.objective(fake.logits, 1.0, real=False)}

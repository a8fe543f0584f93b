"""Hinge loss GAN (https://arxiv.org/abs/1705.02894, https://arxiv.org/abs/1802.05957)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from trainers.core import Batch, Losses, Score
from trainers.games import TwoPlayers
from trainers.losses import hinge_critic, wasserstein_generator
from trainers.play import Play


@dataclass(frozen=True)
class Hinge(TwoPlayers):
    """Hinge loss GAN (https://arxiv.org/abs/1705.02894; with spectral normalisation, https://arxiv.org/abs/1802.05957).

    The critic minimises max(0, 1 - D(x)) + max(0, 1 + D(G(z))): samples beyond the margin teach nothing. G minimises
    -D(G(z)). Nothing else bounds the critic: the second paper's networks are this with the hack `spectral_norm`. Deviation:
    one critic update for each of the generator's by default, where that paper's residual networks take five.
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {"generator", "critic", "latent", "real_entry", "plain_latent", "logits"}
    )
    vectorizes: ClassVar[bool] = True
    critic_name: ClassVar[str] = "critic"
    defaults: ClassVar[dict[str, Any]] = {"backbone": "dcgan"}

    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 128
    "Dimensions of z."
    latent: Literal["normal", "uniform"] = "normal"
    "Prior of z: standard normal, or uniform on [-1, 1]."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 1
    "Critic updates for each generator update."

    def critic_losses(self, real: Score, fake: Score, batch: Batch, play: Play) -> Losses:
        return hinge_critic(real.logits, fake.logits)

    def generator_losses(self, fake: Score, batch: Batch, play: Play) -> Losses:
        return {"adversarial": wasserstein_generator(fake.logits)}

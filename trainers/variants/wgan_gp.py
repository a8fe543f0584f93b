"""Wasserstein GAN with gradient penalty (https://arxiv.org/abs/1704.00028)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval
from torch import Tensor

from trainers.core import Batch, Entry, Losses, Score
from trainers.games import TwoPlayers
from trainers.losses import gradient_penalty, interpolate, wasserstein_critic, wasserstein_generator
from trainers.play import Play


@dataclass(frozen=True)
class WGANGP(TwoPlayers):
    """Wasserstein GAN with gradient penalty (https://arxiv.org/abs/1704.00028).

    The critic minimises f(G(z)) - f(x) + gp_weight (|grad f(x_hat)| - 1)^2 on random interpolates x_hat of the real and
    fake inputs as the critic saw them. Batch normalisation in the critic is refused: the penalty is one for each sample.
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {"generator", "critic", "latent", "real_entry", "plain_latent", "logits"}
    )
    forbids: ClassVar[frozenset[str]] = frozenset({"critic.batch_norm"})
    vectorizes: ClassVar[bool] = True
    varies: ClassVar[frozenset[str]] = frozenset({"gp_weight"})
    critic_name: ClassVar[str] = "critic"
    defaults: ClassVar[dict[str, Any]] = {
        "backbone": {"generator": "dcgan", "critic": {"dcgan": {"norm": "layer"}}},
        "backbone_points": "mlp",
        "optimizers": {"generator": {"lr": 1e-4, "betas": [0.0, 0.9]}, "critic": {"lr": 1e-4, "betas": [0.0, 0.9]}},
    }

    gp_weight: Annotated[float, Ge(0)] = 10.0
    "Weight of the gradient penalty (lambda)."
    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 128
    "Dimensions of z."
    latent: Literal["normal", "uniform"] = "normal"
    "Prior of z: standard normal, or uniform on [-1, 1]."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 5
    "Critic updates for each generator update."

    def critic_losses(self, real: Score, fake: Score, batch: Batch, play: Play) -> Losses:
        losses = wasserstein_critic(real.logits, fake.logits)
        return {**losses, "penalty": self.gp_weight * self._penalty(play)}

    def generator_losses(self, fake: Score, batch: Batch, play: Play) -> Losses:
        return {"adversarial": wasserstein_generator(fake.logits)}

    def _penalty(self, play: Play) -> Tensor:
        real, fake = play.judged[-2].entry, play.judged[-1].entry
        x = interpolate(real.inputs[0], fake.inputs[0], play.uniform("interpolate", 1), play.shape)
        return gradient_penalty(play.critic(self.critic_name, Entry((x,), real.condition)).logits, x, play.shape)

"""R3GAN: relativistic pairing with R1 and R2 (https://arxiv.org/abs/2501.05441)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval
from torch.nn import functional as F

from trainers.core import Batch, Losses, Score
from trainers.games import TwoPlayers
from trainers.losses import zero_centered_penalty
from trainers.play import Play


@dataclass(frozen=True)
class R3GAN(TwoPlayers):
    """R3GAN's objective: relativistic pairing with R1 and R2 (https://arxiv.org/abs/2501.05441).

    D minimises softplus(-(D(x) - D(G(z)))) + gamma / 2 (|grad D(x)|^2 + |grad D(G(z))|^2); G minimises
    softplus(-(D(G(z)) - D(x))). Each real sample is paired with the generated one of its row. The paper's residual networks
    are the `resnet` backbone's business; any backbone without batch normalisation in the critic will do.
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {"generator", "critic", "latent", "real_entry", "plain_latent", "logits", "r1"}
    )
    forbids: ClassVar[frozenset[str]] = frozenset({"critic.batch_norm"})
    differentiates: ClassVar[frozenset[str]] = frozenset({"real", "fake"})
    vectorizes: ClassVar[bool] = True
    varies: ClassVar[frozenset[str]] = frozenset({"gamma"})
    critic_name: ClassVar[str] = "critic"
    defaults: ClassVar[dict[str, Any]] = {
        "backbone": {"generator": "dcgan", "critic": {"dcgan": {"norm": "none"}}},
        "optimizers": {"generator": {"lr": 2e-4, "betas": [0.0, 0.99]}, "critic": {"lr": 2e-4, "betas": [0.0, 0.99]}},
    }

    gamma: Annotated[float, Ge(0)] = 1.0
    "Weight of both penalties."
    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 64
    "Dimensions of z."
    latent: Literal["normal", "uniform"] = "normal"
    "Prior of z: standard normal, or uniform on [-1, 1]."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 1
    "Critic updates for each generator update."

    def critic_losses(self, real: Score, fake: Score, batch: Batch, play: Play) -> Losses:
        shown_real, shown_fake = play.judged[-2].entry.inputs[0], play.judged[-1].entry.inputs[0]
        return {
            "adversarial": F.softplus(fake.logits - real.logits),
            "r1": self.gamma / 2 * zero_centered_penalty(real.logits, shown_real, play.shape),
            "r2": self.gamma / 2 * zero_centered_penalty(fake.logits, shown_fake, play.shape),
        }

    def generator_losses(self, fake: Score, batch: Batch, play: Play) -> Losses:
        real = play.real_counterpart(play.judged[-1], batch)
        return {"adversarial": F.softplus(real.logits - fake.logits)}

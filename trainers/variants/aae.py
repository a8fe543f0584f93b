"""Adversarial autoencoder (https://arxiv.org/abs/1511.05644)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Interval
from torch import Tensor

from trainers.core import Act, Backbones, Batch, DataShape, Entry, Losses, Networks, Part, Phase, Variant
from trainers.games import cross_entropy
from trainers.layers import latent_critic
from trainers.losses import mean_squared
from trainers.play import Play


@dataclass(frozen=True)
class AAE(Variant):
    """Adversarial autoencoder (https://arxiv.org/abs/1511.05644), with a normal prior.

    Each step: encoder and decoder minimise the mean squared error; the critic learns to tell the prior (real) from codes of
    data (fake), by cross-entropy; the encoder minimises -log D(code). Samples are the decoder on the prior. Data in tight
    clusters suit it badly, since the encoder must stretch each over its part of the prior: of the `ring` (`latent_dim: 2`,
    2,000 steps) 8 % of the samples are within 0.1 of a mode, 16 % with a Gaussian posterior, 2 % with 8 dimensions.
    Deviations: Adam for all three, where the paper has SGD with momentum; non-saturating loss for the encoder.
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {"generator", "critic", "autoencoder", "decoder", "real_entry", "targets", "latent_critic"}
    )
    vectorizes: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "backbone": "dcgan",
        "optimizers": {
            "autoencoder": {"lr": 1e-3, "betas": [0.9, 0.999]},
            "generator": {"lr": 1e-3},
            "critic": {"lr": 2e-3},
        },
    }

    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 8
    "Dimensions of z."
    critic_width: Annotated[int, Interval(ge=1, le=16384)] = 128
    "Units in each of the two hidden layers of the critic of latents."
    posterior: Literal["deterministic", "gaussian"] = "deterministic"
    "Code of a sample: the encoder's output, or drawn around it with a variance of its making (section 2 of the paper)."

    def networks(self, shape: DataShape, backbones: Backbones) -> dict[str, Part]:
        outputs = self.latent_dim * (2 if self.posterior == "gaussian" else 1)
        return {
            "encoder": Part(backbones.encoder(shape, outputs), "autoencoder"),
            "decoder": Part(backbones.generator(self.latent_dim, shape), "generator"),
            "discriminator": Part(latent_critic(self.latent_dim, self.critic_width), "critic", "latent"),
        }

    def acts(self, shape: DataShape) -> tuple[Act, ...]:
        reconstruction = Phase("autoencoder", "autoencoder", ("encoder", "decoder"), self._reconstruction)
        critic = Phase("discriminator", "critic", ("discriminator",), self._critic_phase)
        return (
            Act("train", 1.0, (reconstruction, critic, Phase("encoder", "generator", ("encoder",), self._deceive))),
        )

    def sample(self, nets: Networks, n: int, play: Play, *, given: Batch | None = None) -> Tensor:
        return nets["decoder"](play.latent("z", self.latent_dim))  # type: ignore[no-any-return]

    def real_entry(self, critic: str, batch: Batch, play: Play) -> Entry:
        """The prior is what the critic takes for real."""
        return Entry((play.latent("prior", self.latent_dim),))

    def code(self, nets: Networks, batch: Batch, play: Play) -> Tensor:
        """Codes of data, (..., B, latent_dim)."""
        told: Tensor = nets["encoder"](batch.x)
        if self.posterior == "deterministic":
            return told
        mean, log_variance = told.chunk(2, -1)
        return mean + torch.exp(log_variance / 2) * play.normal("posterior", self.latent_dim)

    def _reconstruction(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        return {"reconstruction": mean_squared(nets["decoder"](self.code(nets, batch, play)), batch.x, play.shape)}

    def _critic_phase(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        real = play.judge("discriminator", self.real_entry("discriminator", batch, play), real=True)
        fake = play.judge("discriminator", Entry((self.code(nets, batch, play),)), real=False)
        return cross_entropy(real, fake, play)

    def _deceive(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        fake = play.judge("discriminator", Entry((self.code(nets, batch, play),)), real=False)
        return {"adversarial": play.objective(fake.logits, 1.0, real=False)}

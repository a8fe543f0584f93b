"""Variational autoencoder (https://arxiv.org/abs/1312.6114)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from trainers.core import Act, Backbones, Batch, DataShape, Losses, Networks, Part, Phase, Variant
from trainers.losses import gaussian_divergence, gaussian_reconstruction
from trainers.play import Play


@dataclass(frozen=True)
class VAE(Variant):
    """Variational autoencoder (https://arxiv.org/abs/1312.6114): the peer without an adversary.

    Minimises -log p(x | z) + beta KL(q(z | x) || N(0, I)) with q = N(mean, exp(log_variance)) from the encoder, z = mean +
    std e, and p(x | z) = N(decoder(z), sigma^2), less its constant. Samples are the decoder's means on the prior. Deviations:
    sigma is fixed, for all data alike, not learned; `beta` other than 1 is https://openreview.net/forum?id=Sy2fzU9gl.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"autoencoder", "decoder"})
    vectorizes: ClassVar[bool] = True
    varies: ClassVar[frozenset[str]] = frozenset({"sigma", "beta"})
    defaults: ClassVar[dict[str, Any]] = {
        "backbone": "dcgan",
        "optimizers": {"autoencoder": {"lr": 1e-3, "betas": [0.9, 0.999]}},
    }

    sigma: Annotated[float, Gt(0)] = 0.2
    "Standard deviation of the data around the decoder's output, in the data's units."
    beta: Annotated[float, Ge(0)] = 1.0
    "Weight of the divergence from the prior."
    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 16
    "Dimensions of z."

    def networks(self, shape: DataShape, backbones: Backbones) -> dict[str, Part]:
        return {
            "encoder": Part(backbones.encoder(shape, 2 * self.latent_dim), "autoencoder"),
            "decoder": Part(backbones.generator(self.latent_dim, shape), "generator"),
        }

    def acts(self, shape: DataShape) -> tuple[Act, ...]:
        return (Act("train", 1.0, (Phase("autoencoder", "autoencoder", ("encoder", "decoder"), self._loss),)),)

    def sample(self, nets: Networks, n: int, play: Play, *, given: Batch | None = None) -> Tensor:
        return nets["decoder"](play.latent("z", self.latent_dim))  # type: ignore[no-any-return]

    def _loss(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        mean, log_variance = nets["encoder"](batch.x).chunk(2, -1)
        z = mean + torch.exp(log_variance / 2) * play.normal("posterior", self.latent_dim)
        return {
            "reconstruction": gaussian_reconstruction(nets["decoder"](z), batch.x, self.sigma, play.shape),
            "divergence": self.beta * gaussian_divergence(mean, log_variance),
        }

"""InfoGAN (https://arxiv.org/abs/1606.03657)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from trainers.core import Act, Backbones, Batch, DataShape, Losses, Networks, Part, Phase, Score
from trainers.games import TwoPlayers, cross_entropy
from trainers.layers import find_critic, one_hot
from trainers.losses import categorical_code, gaussian_code
from trainers.play import Play


@dataclass(frozen=True)
class InfoGAN(TwoPlayers):
    """InfoGAN (https://arxiv.org/abs/1606.03657): latent codes that the generator must keep legible.

    G sees z and codes c: categorical (one-hot) and continuous, uniform on [-1, 1]. Q reads the codes of generated samples
    off D's features. D and Q, and G, minimise their GAN loss - lambda L_I, L_I = E log Q(c | G(z, c)) + H(c) (H is constant
    and left out): the gradient reaches D's trunk, Q and G, as in the authors' code. Labels given for sampling are the first
    categorical code. Deviation: Q is one hidden layer without batch normalisation.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"generator", "critic", "latent", "real_entry", "targets", "logits"})
    needs: ClassVar[frozenset[str]] = frozenset({"critic.features"})
    vectorizes: ClassVar[bool] = True
    varies: ClassVar[frozenset[str]] = frozenset({"categorical_weight", "continuous_weight"})
    given: ClassVar[str] = "labels"
    defaults: ClassVar[dict[str, Any]] = {
        "backbone": "dcgan",
        "optimizers": {"generator": {"lr": 1e-3}, "critic": {"lr": 2e-4}},
    }

    categories: tuple[Annotated[int, Interval(ge=2, le=1000)], ...] = (10,)
    "Values of each categorical code."
    num_continuous: Annotated[int, Interval(ge=0, le=256)] = 2
    "Continuous codes."
    categorical_weight: Annotated[float, Ge(0)] = 1.0
    "lambda of the categorical codes."
    continuous_weight: Annotated[float, Ge(0)] = 0.1
    "lambda of the continuous codes."
    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 62
    "Dimensions of z, the noise without meaning."
    latent: Literal["normal", "uniform"] = "normal"
    "Prior of z: standard normal, or uniform on [-1, 1]."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 1
    "Discriminator updates for each generator update."

    def num_labels(self, shape: DataShape) -> int:
        return self.categories[0] if self.categories else 0

    @property
    def _code_dim(self) -> int:
        return sum(self.categories) + self.num_continuous

    def networks(self, shape: DataShape, backbones: Backbones) -> dict[str, Part]:
        if not self._code_dim:
            raise ValueError("infogan needs at least one code: `categories` is empty and `num_continuous` is 0")
        critic = backbones.critic(shape)
        features = find_critic(critic).num_features
        recogniser = nn.Sequential(nn.Linear(features, 128), nn.LeakyReLU(0.1), nn.Linear(128, self._code_dim))
        return {
            "generator": Part(backbones.generator(self.latent_dim + self._code_dim, shape), "generator"),
            self.critic_name: Part(critic, "critic"),
            "recogniser": Part(recogniser, "autoencoder"),
        }

    def acts(self, shape: DataShape) -> tuple[Act, ...]:
        """Q is updated with D, whose trunk it shares."""
        players = (self.critic_name, "recogniser")
        critic = Phase(self.critic_name, "critic", players, self._critic_phase, repeats=self.n_critic)
        return (Act("train", 1.0, (critic, Phase("generator", "generator", ("generator",), self._generator_phase))),)

    def sample(self, nets: Networks, n: int, play: Play, *, given: Batch | None = None) -> Tensor:
        """`given.label` (..., n) is the first categorical code; the others are drawn."""
        told = [given.label] if given is not None and given.label is not None and self.categories else []
        return self.decode(nets, play.latent("z", self.latent_dim, self.latent), *self._codes(play, told))

    def decode(self, nets: Networks, z: Tensor, categorical: Sequence[Tensor], continuous: Tensor) -> Tensor:
        """Data from noise (..., B, latent_dim), categorical codes (each int64 (..., B)) and continuous ones in [-1, 1],
        (..., B, num_continuous): turn one knob, keep the others."""
        codes = [one_hot(code, k, z) for code, k in zip(categorical, self.categories, strict=True)]
        return nets["generator"](torch.cat([z, *codes, continuous], -1))  # type: ignore[no-any-return]

    def _codes(self, play: Play, told: Sequence[Tensor] = ()) -> tuple[list[Tensor], Tensor]:
        """The codes of this phase: categorical, each int64 (..., B), `told` first; continuous (..., B, num_continuous)."""
        drawn = [play.integers(f"category_{i}", k) for i, k in enumerate(self.categories) if i >= len(told)]
        return [*told, *drawn], play.uniform("continuous", self.num_continuous) * 2 - 1

    def _information(self, fake: Score, play: Play) -> Losses:
        """-lambda log Q(c | x) for the codes that this phase's samples were made from (the same named draws)."""
        *logits, mean = play.nets["recogniser"](fake.features).split([*self.categories, self.num_continuous], -1)
        categorical, continuous = self._codes(play)
        losses = {}
        if self.categories:
            terms = [categorical_code(q, code) for q, code in zip(logits, categorical, strict=True)]
            losses["categorical"] = self.categorical_weight * torch.stack(terms).sum(0)
        if self.num_continuous:
            losses["continuous"] = self.continuous_weight * gaussian_code(mean, continuous)
        return losses

    def critic_losses(self, real: Score, fake: Score, batch: Batch, play: Play) -> Losses:
        return cross_entropy(real, fake, play) | self._information(fake, play)

    def generator_losses(self, fake: Score, batch: Batch, play: Play) -> Losses:
        return {"adversarial": play.objective(fake.logits, 1.0, real=False)} | self._information(fake, play)

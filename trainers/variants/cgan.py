"""Conditional GAN (https://arxiv.org/abs/1411.1784)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from torch import Tensor

from trainers.core import Backbones, Batch, DataShape, Losses, Networks, Part, Score
from trainers.games import TwoPlayers, cross_entropy
from trainers.layers import LabelledCritic, LabelledGenerator
from trainers.play import Play


@dataclass(frozen=True)
class CGAN(TwoPlayers):
    """Conditional GAN (https://arxiv.org/abs/1411.1784): both players are told the class.

    G sees z and the one-hot label; D sees the data and one constant channel (dimension) for each class. Generated samples
    are trained with the labels of the real batch, so that their classes have the data's frequencies.
    """

    offers: ClassVar[frozenset[str]] = frozenset(
        {"generator", "critic", "latent", "real_entry", "targets", "logits", "conditional"}
    )
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    vectorizes: ClassVar[bool] = True
    given: ClassVar[str] = "labels"
    defaults: ClassVar[dict[str, Any]] = {"backbone": "dcgan"}

    latent_dim: Annotated[int, Interval(ge=1, le=4096)] = 100
    "Dimensions of z."
    latent: Literal["normal", "uniform"] = "normal"
    "Prior of z: standard normal, or uniform on [-1, 1]."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 1
    "Discriminator updates for each generator update."

    def networks(self, shape: DataShape, backbones: Backbones) -> dict[str, Part]:
        k = _num_classes(shape)
        generator = LabelledGenerator(backbones.generator(self.latent_dim + k, shape), k)
        critic = LabelledCritic(backbones.critic(shape.with_channels(shape.channels + k)), shape, k)
        return {"generator": Part(generator, "generator"), self.critic_name: Part(critic, "critic")}

    def sample(self, nets: Networks, n: int, play: Play, *, given: Batch | None = None) -> Tensor:
        label = play.integers("label", _num_classes(play.shape)) if given is None else given.label
        return nets["generator"](play.latent("z", self.latent_dim, self.latent), label)  # type: ignore[no-any-return]

    def fake(self, nets: Networks, batch: Batch, play: Play) -> Tensor:
        return self.sample(nets, len(batch.index), play, given=batch)

    def condition(self, batch: Batch) -> Tensor | None:
        return batch.label

    def critic_losses(self, real: Score, fake: Score, batch: Batch, play: Play) -> Losses:
        return cross_entropy(real, fake, play)

    def generator_losses(self, fake: Score, batch: Batch, play: Play) -> Losses:
        return {"adversarial": play.objective(fake.logits, 1.0, real=False)}


def _num_classes(shape: DataShape) -> int:
    if not shape.num_classes:
        raise ValueError("cgan needs labelled data")
    return shape.num_classes

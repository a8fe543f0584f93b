"""TraVeLGAN (https://arxiv.org/abs/1902.09631)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Interval
from torch import Tensor

from trainers.core import Act, Backbones, Batch, DataShape, Entry, Losses, Networks, Part, Phase, Variant
from trainers.games import cross_entropy
from trainers.losses import margin_contrastive, transformation_loss
from trainers.play import Play


@dataclass(frozen=True)
class TraVeLGAN(Variant):
    """TraVeLGAN (https://arxiv.org/abs/1902.09631): unpaired translation from domain a to b without a way back.

    A siamese network S learns a space in which the vector between two samples of a equals the one between their
    translations. G and S minimise travel_weight times the difference of those vectors (direction and length); S also keeps
    different samples `margin` apart; G also fools D, which sees b. Couples the batch: every pair in it counts.
    Both domains must have one shape, since S sees both. Deviation: S's output has 128 dimensions by default, not 1000.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"generator", "critic", "real_entry", "targets", "logits"})
    needs: ClassVar[frozenset[str]] = frozenset({"two_domains"})
    coupled: ClassVar[bool] = True
    alone: ClassVar[str] = "its loss does not depend on S's last bias, so rounding alone moves it"
    given: ClassVar[str] = "images"
    defaults: ClassVar[dict[str, Any]] = {
        "backbone": {
            "generator": {"resnet": {"generator_norm": "instance"}},
            "critic": {"dcgan": {"norm": "instance"}},
        },
        "batch_size": 16,
    }

    travel_weight: Annotated[float, Ge(0)] = 10.0
    "Weight of the transformation vectors' difference."
    margin_weight: Annotated[float, Ge(0)] = 10.0
    "Weight of the contrastive term."
    margin: Annotated[float, Gt(0)] = 10.0
    "Distance that S keeps between any two samples (delta)."
    siamese_dim: Annotated[int, Interval(ge=1, le=4096)] = 128
    "Dimensions of S's space."
    n_critic: Annotated[int, Interval(ge=1, le=100)] = 1
    "Discriminator updates for each generator update."

    def networks(self, shape: DataShape, backbones: Backbones) -> dict[str, Part]:
        a, b = shape, _other(shape)
        if a.size != b.size:
            raise ValueError(f"travelgan's siamese network sees both domains: {a.size} and {b.size} must be one shape")
        return {
            "generator": Part(backbones.translator(a, b), "generator"),
            "discriminator": Part(backbones.critic(b), "critic"),
            "siamese": Part(backbones.encoder(a, self.siamese_dim), "autoencoder"),
        }

    def acts(self, shape: DataShape) -> tuple[Act, ...]:
        """G and S share a phase: each term reaches only what the paper lets it reach, S is no adversary of G."""
        critic = Phase("discriminator", "critic", ("discriminator",), self._critic_phase, repeats=self.n_critic)
        generator = Phase("generator", "generator", ("generator", "siamese"), self._generator_phase)
        return (Act("train", 1.0, (critic, generator)),)

    def sample(self, nets: Networks, n: int, play: Play, *, given: Batch | None = None) -> Tensor:
        if given is None:
            raise ValueError("travelgan translates: it needs source samples of the first domain")
        return nets["generator"](given.x)  # type: ignore[no-any-return]

    def real_entry(self, critic: str, batch: Batch, play: Play) -> Entry:
        if batch.other is None:
            raise ValueError("travelgan needs batches of two domains")
        return Entry((batch.other.x,))

    def _critic_phase(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        fake = Entry((nets["generator"](batch.x),))
        real_score = play.judge("discriminator", self.real_entry("discriminator", batch, play), real=True)
        return cross_entropy(real_score, play.judge("discriminator", fake, real=False), play)

    def _generator_phase(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        fake = nets["generator"](batch.x)
        score = play.judge("discriminator", Entry((fake,)), real=False)
        s, t = nets["siamese"](batch.x), nets["siamese"](fake)
        return {
            "adversarial": play.objective(score.logits, 1.0, real=False),
            "travel": self.travel_weight * transformation_loss(s, t),
            "margin": self.margin_weight * margin_contrastive(s, self.margin),
        }


def _other(shape: DataShape) -> DataShape:
    if shape.other is None:
        raise ValueError("travelgan needs data with two domains")
    return shape.other

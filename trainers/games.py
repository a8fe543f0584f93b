"""The commonest game: noise to data, one generator, one critic. Variants fill in the losses."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from trainers.core import Act, Backbones, Batch, DataShape, Entry, Losses, Networks, Part, Phase, Score, Variant
from trainers.play import Play


class TwoPlayers(Variant):
    """A generator of noise against one critic; the critic is updated `n_critic` times, then the generator once.

    A subclass declares `latent_dim`, `latent` and `n_critic` among its own fields, and the two losses. A conditional one
    also says what samples are made from (`fake`) and what the critic is told (`condition`).
    """

    critic_name: ClassVar[str] = "discriminator"
    latent_dim: int
    latent: str
    n_critic: int

    def networks(self, shape: DataShape, backbones: Backbones) -> dict[str, Part]:
        return {
            "generator": Part(backbones.generator(self.latent_dim, shape), "generator"),
            self.critic_name: Part(backbones.critic(shape), "critic"),
        }

    def acts(self, shape: DataShape) -> tuple[Act, ...]:
        critic = Phase(self.critic_name, "critic", (self.critic_name,), self._critic_phase, repeats=self.n_critic)
        generator = Phase("generator", "generator", ("generator",), self._generator_phase)
        return (Act("train", 1.0, (critic, generator)),)

    def sample(self, nets: Networks, n: int, play: Play, *, given: Batch | None = None) -> Tensor:
        return nets["generator"](play.latent("z", self.latent_dim, self.latent))  # type: ignore[no-any-return]

    @abstractmethod
    def critic_losses(self, real: Score, fake: Score, batch: Batch, play: Play) -> Losses:
        """Terms (..., B) that the critic minimises. `play.judged[-2:]` are the real and the fake entry as it saw them."""

    @abstractmethod
    def generator_losses(self, fake: Score, batch: Batch, play: Play) -> Losses:
        """Terms (..., B) that the generator minimises."""

    def fake(self, nets: Networks, batch: Batch, play: Play) -> Tensor:
        """Samples to train on, (..., B, *size)."""
        return self.sample(nets, batch.index.shape[-1], play)

    def condition(self, batch: Batch) -> Tensor | None:
        """What the critic is told of real and fake alike: labels (..., B), or None."""
        return None

    def real_entry(self, critic: str, batch: Batch, play: Play) -> Entry:
        return Entry((batch.x,), self.condition(batch))

    def _critic_phase(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        fake = Entry((self.fake(nets, batch, play),), self.condition(batch))
        real_score = play.judge(self.critic_name, self.real_entry(self.critic_name, batch, play), real=True)
        fake_score = play.judge(self.critic_name, fake, real=False)
        return self.critic_losses(real_score, fake_score, batch, play)

    def _generator_phase(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        entry = Entry((self.fake(nets, batch, play),), self.condition(batch))
        return self.generator_losses(play.judge(self.critic_name, entry, real=False), batch, play)


def cross_entropy(real: Score, fake: Score, play: Play) -> Losses:
    """-log D(x) and -log(1 - D(G(z))), through every hack's target (arXiv 1406.2661)."""
    return {
        "real": play.objective(real.logits, 1.0, real=True),
        "fake": play.objective(fake.logits, 0.0, real=False),
    }

"""CycleGAN (https://arxiv.org/abs/1703.10593)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from trainers.core import Act, Backbones, Batch, DataShape, Entry, Losses, Networks, Part, Phase, Variant
from trainers.losses import least_squares, mean_absolute
from trainers.play import Play


@dataclass(frozen=True)
class CycleGAN(Variant):
    """CycleGAN (https://arxiv.org/abs/1703.10593): translation between two unpaired domains, a and b.

    Two translators and two least-squares critics. Translators minimise (D(G(x)) - 1)^2 for both directions, cycle_weight
    (|G_ba(G_ab(a)) - a|_1 + |G_ab(G_ba(b)) - b|_1) and identity_weight cycle_weight (|G_ab(b) - b|_1 + |G_ba(a) - a|_1).
    Critics see generated samples from a history. Sampling translates a to b. Deviations: a critic gives one logit for the
    whole image, not one a patch; the history is kept for each row of the batch, so that it is the same on any number of
    workers; learning rates stay constant unless a schedule is set.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"generator", "critic", "real_entry", "targets", "logits"})
    needs: ClassVar[frozenset[str]] = frozenset({"two_domains"})
    alone: ClassVar[str] = "its history of samples has no stacked form"
    given: ClassVar[str] = "images"
    certain: ClassVar[float] = 2e-3  # like lsgan's
    defaults: ClassVar[dict[str, Any]] = {
        "backbone": {
            "generator": {"resnet": {"generator_norm": "instance"}},
            "critic": {"dcgan": {"norm": "instance"}},
        },
        "batch_size": 4,
    }

    cycle_weight: Annotated[float, Ge(0)] = 10.0
    "Weight of the cycle terms (lambda)."
    identity_weight: Annotated[float, Ge(0)] = 0.5
    "Weight of the identity terms, in cycle_weights; they need both domains in one shape and are left out otherwise."
    pool_size: Annotated[int, Interval(ge=0, le=100_000)] = 50
    "Generated samples that each critic's history holds, shared by the rows of the batch; 0: no history."

    def networks(self, shape: DataShape, backbones: Backbones) -> dict[str, Part]:
        a, b = shape, _other(shape)
        parts = {
            "generator_ab": Part(backbones.translator(a, b), "generator"),
            "generator_ba": Part(backbones.translator(b, a), "generator"),
            "discriminator_a": Part(backbones.critic(a), "critic"),
            "discriminator_b": Part(backbones.critic(b), "critic"),
        }
        if self.pool_size:
            pools = {"a": Pool(self.pool_size, a), "b": Pool(self.pool_size, b)}
            parts |= {f"pool_{domain}": Part(pool, "autoencoder") for domain, pool in pools.items()}
        return parts

    def acts(self, shape: DataShape) -> tuple[Act, ...]:
        critics = Phase("discriminator", "critic", ("discriminator_a", "discriminator_b"), self._critic_phase)
        generators = Phase("generator", "generator", ("generator_ab", "generator_ba"), self._generator_phase)
        return (Act("train", 1.0, (critics, generators)),)

    def sample(self, nets: Networks, n: int, play: Play, *, given: Batch | None = None) -> Tensor:
        if given is None:
            raise ValueError("cyclegan translates: it needs source samples of the first domain")
        return nets["generator_ab"](given.x)  # type: ignore[no-any-return]

    def real_entry(self, critic: str, batch: Batch, play: Play) -> Entry:
        return Entry((batch.x if critic == "discriminator_a" else _second(batch),))

    def _critic_phase(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        """(D(x) - 1)^2 / 2 + D(G(y))^2 / 2 for both critics."""
        fakes = {"a": nets["generator_ba"](_second(batch)), "b": nets["generator_ab"](batch.x)}
        losses = {}
        for domain, fake in fakes.items():
            critic = f"discriminator_{domain}"
            shown = nets[f"pool_{domain}"](fake.detach(), domain, play) if self.pool_size else fake
            real = play.judge(critic, self.real_entry(critic, batch, play), real=True).logits
            old = play.judge(critic, Entry((shown,)), real=False).logits
            losses[f"real_{domain}"] = least_squares(real, play.target(real, 1.0, real=True)) / 2
            losses[f"fake_{domain}"] = least_squares(old, play.target(old, 0.0, real=False)) / 2
        return losses

    def _generator_phase(self, nets: Networks, batch: Batch, play: Play) -> Losses:
        to_a, to_b, a, b = nets["generator_ba"], nets["generator_ab"], batch.x, _second(batch)
        shapes = {"a": play.shape, "b": _other(play.shape)}
        fakes = {"a": to_a(b), "b": to_b(a)}
        losses = {}
        for domain, fake in fakes.items():
            logits = play.judge(f"discriminator_{domain}", Entry((fake,)), real=False).logits
            losses[f"adversarial_{domain}"] = least_squares(logits, play.target(logits, 1.0, real=False))
        losses["cycle_a"] = self.cycle_weight * mean_absolute(to_a(fakes["b"]), a, shapes["a"])
        losses["cycle_b"] = self.cycle_weight * mean_absolute(to_b(fakes["a"]), b, shapes["b"])
        if self.identity_weight and shapes["a"].size == shapes["b"].size:
            weight = self.identity_weight * self.cycle_weight
            losses["identity_a"] = weight * mean_absolute(to_a(a), a, shapes["a"])
            losses["identity_b"] = weight * mean_absolute(to_b(b), b, shapes["b"])
        return losses


class Pool(nn.Module):
    """A history of generated samples (https://arxiv.org/abs/1612.07828, section 2.3): half of what a critic sees is old.

    `size` slots are shared out among the rows of the batch, size // batch_size each (one each to the first `size` rows of a
    larger batch). A row fills its slots first; from then on, with probability 1/2, it is exchanged with one of them.
    Slots belong to global rows, so each worker keeps those of its own rows, and what a critic sees does not depend on how
    many workers there are.
    """

    per_rank = ("samples", "filled")
    samples: Tensor
    filled: Tensor

    def __init__(self, size: int, shape: DataShape) -> None:
        super().__init__()
        self.register_buffer("samples", torch.zeros(size, *shape.size))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.int64))  # by row: slots in use

    @torch.no_grad()
    def forward(self, fake: Tensor, name: str, play: Play) -> Tensor:
        """(B, *size) -> (B, *size): what the critic is shown."""
        depth = max(1, len(self.samples) // play.batch_size)
        rows = torch.arange(play.rows.start, min(play.rows.stop, len(self.samples) // depth), device=fake.device)
        new, rest = fake[: len(rows)], fake[len(rows) :]
        filled = self.filled[rows]
        full = filled >= depth
        place = torch.where(full, play.integers(f"pool_{name}/place", depth)[: len(rows)], filled)
        swap = full & (play.uniform(f"pool_{name}/swap")[: len(rows)] < 0.5)
        slots = rows * depth + place
        old = self.samples[slots]
        column = (-1, *(1 for _ in fake.shape[1:]))
        self.samples[slots] = torch.where((swap | ~full).view(column), new, old)
        self.filled[rows] = (filled + 1).clamp(max=depth)
        return torch.cat([torch.where(swap.view(column), old, new), rest])


def _other(shape: DataShape) -> DataShape:
    if shape.other is None:
        raise ValueError("cyclegan needs data with two domains")
    return shape.other


def _second(batch: Batch) -> Tensor:
    if batch.other is None:
        raise ValueError("cyclegan needs batches of two domains")
    return batch.other.x

"""The types that every variant, hack and backbone is written in.

A GAN is a game: named networks (`Part`), and phases (`Phase`) that update some of them. A `Variant` says which networks
and which phases; a `Hack` changes either without knowing which variant it changes; a `Backbone` makes the networks.

Shapes: images are `(..., B, C, H, W)` in [-1, 1]; points are `(..., B, D)`. Losses and hooks use negative dimensions only,
so that a leading population axis `N` may stand before `B`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainers.play import Play

Role = Literal["generator", "critic", "autoencoder"]
Sees = Literal["data", "latent", "pair"]
Losses = dict[str, "Tensor"]
Networks = Any  # nn.ModuleDict: name -> module; indexing gives the module


@dataclass(frozen=True)
class DataShape:
    """What one sample looks like.

    `size` is (channels, height, width) for images and (dimensions,) for points. `bounded` says whether values stay in
    [-1, 1] (a generator then ends in tanh). `num_classes` is None without labels. `other` is the second domain's shape.
    """

    kind: Literal["image", "points"]
    size: tuple[int, ...]
    num_classes: int | None = None
    bounded: bool = True
    other: DataShape | None = None

    @property
    def channels(self) -> int:
        return self.size[0]

    @property
    def resolution(self) -> int:
        """Height (= width) of an image."""
        return self.size[-1]

    @property
    def numel(self) -> int:
        return math.prod(self.size)

    def flatten(self, x: Tensor) -> Tensor:
        """(..., B, *size) -> (..., B, numel)."""
        return x.flatten(-len(self.size)) if len(self.size) > 1 else x

    def with_channels(self, channels: int) -> DataShape:
        """The same shape with another first dimension (channels of an image, dimensions of a point)."""
        return replace(self, size=(channels, *self.size[1:]))

    def at(self, resolution: int) -> DataShape:
        """The same image at another square resolution."""
        return replace(self, size=(self.size[0], resolution, resolution))

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "size": list(self.size),
            "num_classes": self.num_classes,
            "bounded": self.bounded,
            "other": self.other.to_json() if self.other else None,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DataShape:
        other = value.get("other")
        return cls(
            kind=value["kind"],
            size=tuple(value["size"]),
            num_classes=value.get("num_classes"),
            bounded=value.get("bounded", True),
            other=cls.from_json(other) if other else None,
        )


class Part(NamedTuple):
    """A named network. `stands_for` names the part that this one replaces when sampling (EMA's copy)."""

    module: nn.Module
    role: Role
    sees: Sees = "data"
    stands_for: str | None = None


class Batch(NamedTuple):
    """`x` (..., B, *size); `label` (..., B) int64 or None; `index` (B,) positions in the split; `other` a second domain."""

    x: Tensor
    label: Tensor | None
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    other: Batch | None = None


class Entry(NamedTuple):
    """What a critic is shown: one or more tensors (BiGAN's pairs) and an optional condition (labels (..., B))."""

    inputs: tuple[Tensor, ...]
    condition: Tensor | None = None


class Score(NamedTuple):
    """A critic's answer: `logits` (..., B), or (..., B, outputs) where outputs > 1; `features` (..., B, F)."""

    logits: Tensor
    features: Tensor


class Judged(NamedTuple):
    """One call of a critic in this phase: the entry as the critic saw it, after every hack."""

    critic: str
    entry: Entry
    score: Score
    real: bool


@dataclass(frozen=True)
class Phase:
    """One kind of update: minimise `loss` over the parameters of the parts named in `updates`.

    `loss(nets, batch, play)` returns named terms, per sample (..., B); the engine averages over B and sums the terms.
    """

    name: str
    role: Role
    updates: tuple[str, ...]
    loss: Callable[[Networks, Batch, Play], Losses]
    repeats: int = 1
    every: int = 1


class Act(NamedTuple):
    """A stretch of training with its own phases; the shares of all acts add up to 1."""

    name: str
    share: float
    phases: tuple[Phase, ...]
    enter: Callable[[Networks], None] | None = None


class Backbone(ABC):
    """Makes networks. A frozen dataclass; its fields are its YAML parameters.

    `offers` (and `offers_when`, by parameter values) say what hacks may hold on to: "weights", "features", "batch_norm", …;
    "critic.batch_norm" where only one side's networks are meant.
    `sizes` names the data it can make: {"points": …, "image": (min, max, multiple_of)}; None means unlimited.
    """

    offers: ClassVar[frozenset[str]]
    offers_when: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {}
    sizes: ClassVar[dict[str, tuple[int, int, int] | None]]
    vectorizes: ClassVar[bool] = False  # its networks are made of layers that can be stacked for a population
    alone: ClassVar[str] = ""  # why not

    @abstractmethod
    def generator(self, latent_dim: int, out: DataShape) -> nn.Module:
        """Module (..., B, latent_dim) -> (..., B, *out.size); tanh at the end where `out.bounded`."""

    @abstractmethod
    def critic(self, of: DataShape, outputs: int = 1) -> nn.Module:
        """Module (..., B, *of.size) -> Score with logits (..., B) for outputs = 1, else (..., B, outputs)."""

    @abstractmethod
    def encoder(self, of: DataShape, dim: int) -> nn.Module:
        """Module (..., B, *of.size) -> (..., B, dim)."""

    @abstractmethod
    def translator(self, a: DataShape, b: DataShape) -> nn.Module:
        """Module (..., B, *a.size) -> (..., B, *b.size), same resolution; tanh at the end where `b.bounded`."""


class Backbones(NamedTuple):
    """The backbones chosen for a run. Encoders come from the critic's, translators from the generator's."""

    generator_from: Backbone
    critic_from: Backbone

    def generator(self, latent_dim: int, out: DataShape) -> nn.Module:
        return self.generator_from.generator(latent_dim, out)

    def critic(self, of: DataShape, outputs: int = 1) -> nn.Module:
        return self.critic_from.critic(of, outputs)

    def encoder(self, of: DataShape, dim: int) -> nn.Module:
        return self.critic_from.encoder(of, dim)

    def translator(self, a: DataShape, b: DataShape) -> nn.Module:
        return self.generator_from.translator(a, b)


class Variant(ABC):
    """An objective with its paper's backbone as the default. A frozen dataclass; its fields are its YAML parameters.

    Class attributes are literals, read without importing the file:
    `offers`/`offers_when`: what hacks may hold on to. `needs`: what the data and the backbones must offer ("image",
    "labels", "two_domains", "weights", …). `forbids`: what they must not ("critic.batch_norm").
    `defaults`: the variant's own defaults for the train configuration (backbone, optimizers, batch_size, hacks).
    """

    offers: ClassVar[frozenset[str]]
    offers_when: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {}
    needs: ClassVar[frozenset[str]] = frozenset()
    forbids: ClassVar[frozenset[str]] = frozenset()
    coupled: ClassVar[bool] = False
    differentiates: ClassVar[frozenset[str]] = frozenset()  # like a hack's
    given: ClassVar[str] = (
        "nothing"  # what `sample` takes: "nothing", "labels" or "images" (source images to translate)
    )
    certain: ClassVar[float] = 0.01  # terms of its critic's loss below which the critic is 99 % sure
    defaults: ClassVar[dict[str, Any]] = {}
    vectorizes: ClassVar[bool] = False  # like a hack's
    alone: ClassVar[str] = ""  # like a hack's
    varies: ClassVar[frozenset[str]] = frozenset()  # like a hack's

    @abstractmethod
    def networks(self, shape: DataShape, backbones: Backbones) -> dict[str, Part]:
        """Every network of the game, freshly initialised, by name."""

    @abstractmethod
    def acts(self, shape: DataShape) -> tuple[Act, ...]:
        """Usually one."""

    @abstractmethod
    def sample(self, nets: Networks, n: int, play: Play, *, given: Batch | None = None) -> Tensor:
        """(..., n, *size). `given`: classes (`given.label`), or source images (`given.x`) to translate.

        Draws come from `play` (named), so that one seed gives one answer. Called without gradients, in eval mode.
        """

    def stepped(self, play: Play) -> None:  # noqa: B027 - most variants have nothing to do then
        """After the optimizer's step of a phase, before the hacks' (WGAN's weight clipping)."""

    def num_labels(self, shape: DataShape) -> int:
        """How many labels `sample` takes, for a variant with `given = "labels"`: the data's classes unless told otherwise."""
        return shape.num_classes or 0

    def real_entry(self, critic: str, batch: Batch, play: Play) -> Entry:
        """What stands as real before a critic. A variant that offers "real_entry" keeps this true for all its critics."""
        return Entry((batch.x,))


class Hack:
    """A training trick. A frozen dataclass; its fields are its YAML parameters; every hook defaults to identity.

    Class attributes are literals. `needs`/`forbids` are checked against what variant, backbones and data offer, when
    planning. `differentiates`: sides ("real", "fake") whose critic inputs must be leaves that require gradients in a
    critic phase. `vectorizes`: it keeps to negative dimensions, so that a population can be trained with it, and a member
    ends where it would have ended alone; `alone` says why not. `varies`: the float parameters in which the members of a
    population may differ: then they are tensors (N, 1), which suit losses (N, B), and other shapes by `layers.aligned`.
    `order` is its place among hacks (lower first; ties by name); the order written in YAML does not matter.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    forbids: ClassVar[frozenset[str]] = frozenset()
    coupled: ClassVar[bool] = False
    vectorizes: ClassVar[bool] = False
    alone: ClassVar[str] = ""
    varies: ClassVar[frozenset[str]] = frozenset()
    differentiates: ClassVar[frozenset[str]] = frozenset()
    order: ClassVar[int] = 50
    neutral: ClassVar[dict[str, Any] | None] = None  # parameters with which the hack changes nothing, where it has such

    def networks(self, parts: dict[str, Part], shape: DataShape) -> dict[str, Part]:
        """Add, wrap or replace networks (spectral norm, minibatch discrimination, EMA's copy, buffers)."""
        return parts

    def prepare(self, nets: Networks, batch: Batch, play: Play) -> None:
        """Once, before the first step (virtual batch norm)."""

    def phase(self, phase: Phase, phases: tuple[Phase, ...]) -> Phase:
        """Change a phase when the game is built (unrolled, lazy)."""
        return phase

    def latent(self, z: Tensor, play: Play) -> Tensor:
        """Change a latent (..., B, dim) as it is drawn."""
        return z

    def entry(self, entry: Entry, play: Play, *, critic: str, real: bool) -> Entry:
        """Change what a critic is shown (noise, augmentation, a replay buffer)."""
        return entry

    def target(self, target: Tensor, play: Play, *, real: bool) -> Tensor:
        """Change the target (..., B) of the objective: 1 for real, 0 for fake (smoothing, flipping).

        `real` says whether the entry was real; `play.phase.role` says who is being trained.
        """
        return target

    def losses(self, losses: Losses, batch: Batch, play: Play) -> Losses:
        """Add, replace or scale terms; read `play.judged`, never sample again."""
        return losses

    def gate(self, losses: Losses, play: Play) -> Tensor | None:
        """0/1 scalar that multiplies this phase's update, or None for always (loss-threshold training)."""
        return None

    def gradients(self, play: Play) -> None:
        """Between averaging over workers and the optimizer's step (clipping)."""

    def stepped(self, play: Play) -> None:
        """After the optimizer's step of a phase (weight clipping, EMA, ADA's probability)."""

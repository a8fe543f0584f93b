"""Blocks that backbones share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainers.core import DataShape, Score


class Critic(nn.Module):
    """A trunk that makes features and a linear head that makes logits.

    Every backbone's critic is one, so that hacks find the features to match and the head to replace.
    """

    def __init__(self, trunk: nn.Module, num_features: int, outputs: int = 1) -> None:
        super().__init__()
        self.trunk = trunk
        self.head: nn.Module = nn.Linear(num_features, outputs)
        self.num_features = num_features
        self.outputs = outputs

    def forward(self, x: Tensor) -> Score:
        """(..., B, *size) -> logits (..., B) for one output, else (..., B, outputs); features (..., B, F)."""
        features = self.trunk(x)
        logits = self.head(features)
        return Score(logits.squeeze(-1) if self.outputs == 1 else logits, features)


def find_critic(module: nn.Module) -> Critic:
    """The `Critic` that a critic network is or wraps. Raises ValueError where there is none."""
    found = next((inner for inner in module.modules() if isinstance(inner, Critic)), None)
    if found is None:
        raise ValueError(f"{type(module).__name__} contains no layers.Critic")
    return found


def latent_critic(dim: int, width: int) -> Critic:
    """A critic of latents (..., B, dim): two hidden layers of `width` units."""
    hidden = nn.Sequential(nn.Linear(dim, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2))
    return Critic(hidden, width)


def aligned(strength: float | Tensor, like: Tensor) -> float | Tensor:
    """A hack's or variant's number, ready to be multiplied with `like`.

    A population whose members differ in it has one each, (N, 1): it gets as many dimensions as `like` (N, …) has.
    """
    if not isinstance(strength, Tensor) or strength.dim() == 0:
        return strength
    return strength.reshape(-1, *(1,) * (like.dim() - 1))


@torch.no_grad()
def clip_(parameters: Iterable[Tensor], largest: float | Tensor) -> None:
    """Clip every entry to [-largest, largest] in place; `largest` may be (N, 1), of a population."""
    for p in parameters:
        if isinstance(bound := aligned(largest, p), Tensor):
            torch.clamp(p, -bound, bound, out=p)
        else:
            p.clamp_(-bound, bound)


def one_hot(label: Tensor, num_classes: int, like: Tensor) -> Tensor:
    """(..., B) int64 -> (..., B, num_classes) of `like`'s dtype."""
    return (label.unsqueeze(-1) == torch.arange(num_classes, device=label.device)).to(like.dtype)


class LabelledGenerator(nn.Module):
    """A generator that is told the class: z and the one-hot label, concatenated (arXiv 1411.1784).

    `net` takes (..., B, latent_dim + num_classes).
    """

    def __init__(self, net: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.net = net
        self.num_classes = num_classes

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """(..., B, latent_dim), (..., B) -> (..., B, *size)."""
        return self.net(torch.cat([z, one_hot(label, self.num_classes, z)], -1))  # type: ignore[no-any-return]


class LabelledCritic(nn.Module):
    """A critic that is told the class: one constant channel (or dimension) for each class beside the data (arXiv 1411.1784).

    `critic` takes data with `num_classes` more channels; hacks find it, a `Critic`, inside.
    """

    def __init__(self, critic: nn.Module, shape: DataShape, num_classes: int) -> None:
        super().__init__()
        self.critic = critic
        self.shape = shape
        self.num_classes = num_classes

    def forward(self, x: Tensor, condition: Tensor) -> Score:
        """(..., B, *size), labels (..., B) -> Score."""
        told = one_hot(condition, self.num_classes, x)
        rest = self.shape.size[1:]
        planes = told.reshape(*told.shape, *(1 for _ in rest)).expand(*told.shape, *rest)
        return self.critic(torch.cat([x, planes], -len(self.shape.size)))  # type: ignore[no-any-return]


class Flatten(nn.Module):
    """(..., B, *size) -> (..., B, numel) of a data shape, whatever stands before."""

    def __init__(self, shape: DataShape) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.shape.flatten(x)


class Unflatten(nn.Module):
    """(..., B, numel) -> (..., B, *size)."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, self.size) if len(self.size) > 1 else x


def bound(shape: DataShape) -> nn.Module:
    """The last layer of whatever makes data: tanh where the data are bounded, else nothing."""
    return nn.Tanh() if shape.bounded else nn.Identity()


def norm_2d(name: str, channels: int) -> nn.Module:
    """Normalisation of (B, C, H, W) by name: batch, layer (over C, H, W), instance or none."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


def normal_init(module: nn.Module, std: float = 0.02) -> nn.Module:
    """DCGAN's initialisation (arXiv 1511.06434): weights N(0, std), normalisation scales N(1, std), biases 0."""
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        with torch.no_grad():
            weight.normal_(1.0 if weight.dim() == 1 else 0.0, std)
            bias = getattr(layer, "bias", None)
            if isinstance(bias, Tensor):
                bias.zero_()
    return module


def halvings(resolution: int, least: int = 4) -> tuple[int, int]:
    """(n, base) with resolution = base * 2**n: halved while it stays whole and at least `least`."""
    n, base = 0, resolution
    while base % 2 == 0 and base // 2 >= least:
        n, base = n + 1, base // 2
    return n, base

"""Losses as pure functions: per sample, (..., B) in and out unless told otherwise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.core import DataShape


def minimax_generator(fake: Tensor) -> Tensor:
    """log(1 - D(G(z))) = -softplus(logits), which saturates where D is sure (arXiv 1406.2661, eq. 1)."""
    return -F.softplus(fake)


def non_saturating_generator(fake: Tensor) -> Tensor:
    """-log D(G(z)) = softplus(-logits) (arXiv 1406.2661, section 3)."""
    return F.softplus(-fake)


def wasserstein_critic(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """f(fake) - f(real), to be minimised (arXiv 1701.07875, eq. 2)."""
    return {"real": -real, "fake": fake}


def wasserstein_generator(fake: Tensor) -> Tensor:
    """-f(G(z)) (arXiv 1701.07875)."""
    return -fake


def input_gradient(logits: Tensor, inputs: Tensor, shape: DataShape) -> Tensor:
    """Gradient of each sample's logit by its own input, flattened: (..., B, numel). Differentiable once more.

    Correct where no sample's logit depends on another's input (no batch normalisation in the critic).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return shape.flatten(gradient)


def gradient_penalty(logits: Tensor, inputs: Tensor, shape: DataShape, target: float = 1.0) -> Tensor:
    """(|grad_x f(x)| - target)^2 for each sample, one norm a sample (arXiv 1704.00028, eq. 3)."""
    norm = torch.linalg.vector_norm(input_gradient(logits, inputs, shape), dim=-1)
    return (norm - target) ** 2


def zero_centered_penalty(logits: Tensor, inputs: Tensor, shape: DataShape) -> Tensor:
    """|grad_x f(x)|^2 for each sample: R1 on real, R2 on fake inputs (arXiv 1801.04406, eq. 9)."""
    return input_gradient(logits, inputs, shape).square().sum(-1)


def interpolate(real: Tensor, fake: Tensor, u: Tensor, shape: DataShape) -> Tensor:
    """u * real + (1 - u) * fake with one u (..., B, 1) a sample, a leaf that requires gradients (arXiv 1704.00028)."""
    u = u.reshape(*u.shape[:-1], *(1,) * len(shape.size))
    return (u * real.detach() + (1 - u) * fake.detach()).requires_grad_()

"""Losses as pure functions: per sample, (..., B) in and out unless told otherwise."""

from __future__ import annotations

import math

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


def hinge_critic(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """max(0, 1 - D(x)) and max(0, 1 + D(G(z))) (arXiv 1705.02894, eq. 13; arXiv 1802.05957, eq. 16)."""
    return {"real": F.relu(1 - real), "fake": F.relu(1 + fake)}


def input_gradient(logits: Tensor, inputs: Tensor, shape: DataShape) -> Tensor:
    """Gradient of each sample's logit by its own input, flattened: (..., B, numel). Differentiable once more.

    Correct where no sample's logit depends on another's input (no batch normalisation in the critic).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return shape.flatten(gradient)


def gradient_penalty(logits: Tensor, inputs: Tensor, shape: DataShape, target: float = 1.0) -> Tensor:
    """(|grad_x f(x)| - target)^2 for each sample, one norm a sample (arXiv 1704.00028, eq. 3)."""
    norm: Tensor = torch.linalg.vector_norm(input_gradient(logits, inputs, shape), dim=-1)
    return (norm - target).square()


def zero_centered_penalty(logits: Tensor, inputs: Tensor, shape: DataShape) -> Tensor:
    """|grad_x f(x)|^2 for each sample: R1 on real, R2 on fake inputs (arXiv 1801.04406, eq. 9)."""
    return input_gradient(logits, inputs, shape).square().sum(-1)


def interpolate(real: Tensor, fake: Tensor, u: Tensor, shape: DataShape) -> Tensor:
    """u * real + (1 - u) * fake with one u (..., B, 1) a sample, a leaf that requires gradients (arXiv 1704.00028)."""
    u = u.reshape(*u.shape[:-1], *(1,) * len(shape.size))
    return (u * real.detach() + (1 - u) * fake.detach()).requires_grad_()


def least_squares(logits: Tensor, target: Tensor | float) -> Tensor:
    """(D(x) - target)^2 for each sample (arXiv 1611.04076, eq. 2 with a, b, c = 0, 1, 1; without the factor 1/2)."""
    return (logits - target).square()


def mean_absolute(x: Tensor, y: Tensor, shape: DataShape) -> Tensor:
    """|x - y|_1 / numel for each sample: (..., B, *size) twice -> (..., B). CycleGAN's cycle and identity terms
    (arXiv 1703.10593, eq. 2 and section 5.2)."""
    return shape.flatten((x - y).abs()).mean(-1)


def mean_squared(x: Tensor, y: Tensor, shape: DataShape) -> Tensor:
    """|x - y|^2 / numel for each sample: (..., B, *size) twice -> (..., B)."""
    return shape.flatten((x - y).square()).mean(-1)


def gaussian_reconstruction(mean: Tensor, x: Tensor, sigma: float | Tensor, shape: DataShape) -> Tensor:
    """-log N(x; mean, sigma^2 I) less its constant, |x - mean|^2 / (2 sigma^2): (..., B, *size) twice -> (..., B)
    (arXiv 1312.6114, section 3 with a Gaussian decoder of fixed variance)."""
    return shape.flatten((x - mean).square()).sum(-1) / (2 * sigma * sigma)


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)): (..., B, D) twice -> (..., B) (arXiv 1312.6114, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


def categorical_code(logits: Tensor, code: Tensor) -> Tensor:
    """-log Q(c | x) of a categorical code: logits (..., B, K), code int64 (..., B) -> (..., B) (arXiv 1606.03657, eq. 5)."""
    return -logits.log_softmax(-1).gather(-1, code.unsqueeze(-1)).squeeze(-1)


def gaussian_code(mean: Tensor, code: Tensor) -> Tensor:
    """-log Q(c | x) of continuous codes, Q = N(mean, 1), summed over the codes: (..., B, K) twice -> (..., B).

    arXiv 1606.03657, eq. 5 and section 6; the variance is fixed to 1, as in the authors' experiments on digits.
    """
    return 0.5 * ((code - mean) ** 2 + math.log(2 * math.pi)).sum(-1)


def transformation_vectors(s: Tensor) -> Tensor:
    """v_ij = s_i - s_j for all pairs of a batch: (..., B, D) -> (..., B, B, D) (arXiv 1902.09631, section 3.1)."""
    return s.unsqueeze(-2) - s.unsqueeze(-3)


def _over_others(pairs: Tensor) -> Tensor:
    """Mean over j != i: (..., B, B) -> (..., B); 0 where a sample is alone."""
    b = pairs.shape[-1]
    apart = 1 - torch.eye(b, dtype=pairs.dtype, device=pairs.device)
    return (pairs * apart).sum(-1) / max(b - 1, 1)


def transformation_loss(s: Tensor, t: Tensor) -> Tensor:
    """How far the translations' transformation vectors are from the originals': (..., B, D) twice -> (..., B).

    Mean over j != i of 1 - cos(v_ij, w_ij) + |v_ij - w_ij|^2 / D with v of `s` = S(x), w of `t` = S(G(x)): direction and
    length (arXiv 1902.09631, eq. 1 takes the cosine; the squared distance is the authors' code's).
    """
    v, w = transformation_vectors(s), transformation_vectors(t)
    return _over_others(1 - F.cosine_similarity(v, w, dim=-1) + (v - w).square().mean(-1))


def margin_contrastive(s: Tensor, margin: float) -> Tensor:
    """Mean over j != i of max(0, margin - |s_i - s_j|): (..., B, D) -> (..., B) (arXiv 1902.09631, eq. 2).

    Keeps the siamese space from collapsing into a point.
    """
    return _over_others(F.relu(margin - torch.linalg.vector_norm(transformation_vectors(s), dim=-1)))

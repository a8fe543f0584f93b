"""Losses against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainers import losses
from trainers.core import DataShape
from trainers.layers import clip_

POINTS = DataShape("points", (3,))
IMAGES = DataShape("image", (2, 4, 4))
W = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64)  # |W| = 3


def leaf(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("lead", [(), (5,)])
def test_values_at_logits_of_zero(lead: tuple[int, ...]) -> None:
    zero = torch.zeros(*lead, 4, dtype=torch.float64)
    torch.testing.assert_close(losses.minimax_generator(zero), torch.full_like(zero, -math.log(2)))
    torch.testing.assert_close(losses.non_saturating_generator(zero), torch.full_like(zero, math.log(2)))
    assert losses.wasserstein_generator(zero).equal(-zero)
    assert losses.least_squares(zero, 1.0).equal(zero + 1)
    assert losses.least_squares(zero, 0.0).equal(zero)


def test_generator_losses_are_the_logarithms_they_stand_for() -> None:
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64)
    d = logits.sigmoid()
    torch.testing.assert_close(losses.minimax_generator(logits), torch.log(1 - d))
    torch.testing.assert_close(losses.non_saturating_generator(logits), -torch.log(d))


def test_losses_stay_finite_where_the_logarithms_do_not() -> None:
    sure = torch.tensor([-1e4, 1e4])
    assert losses.minimax_generator(sure).tolist() == [0, -1e4]
    assert losses.non_saturating_generator(sure).tolist() == [1e4, 0]


def test_the_saturating_gradient_vanishes_and_the_other_does_not() -> None:
    logits = torch.full((1,), -20.0, dtype=torch.float64, requires_grad=True)
    (saturating,) = torch.autograd.grad(losses.minimax_generator(logits).sum(), logits)
    (alive,) = torch.autograd.grad(losses.non_saturating_generator(logits).sum(), logits)
    assert abs(float(saturating)) < 1e-8
    assert float(alive) == pytest.approx(-1)


def test_wasserstein_critic_is_the_difference_of_means() -> None:
    terms = losses.wasserstein_critic(torch.tensor([1.0, 3.0]), torch.tensor([5.0, 9.0]))
    assert sum(float(term.mean()) for term in terms.values()) == 7 - 2


@pytest.mark.parametrize("lead", [(), (5,)])
def test_hinge_is_flat_beyond_its_margin(lead: tuple[int, ...]) -> None:
    logits = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64).expand(*lead, 6)
    terms = losses.hinge_critic(logits, logits)
    torch.testing.assert_close(terms["real"], torch.tensor([3.0, 2, 1, 0.5, 0, 0]).double().expand(*lead, 6))
    torch.testing.assert_close(terms["fake"], torch.tensor([0.0, 0, 1, 1.5, 2, 4]).double().expand(*lead, 6))


def test_gaussian_divergence_is_torch_s() -> None:
    mean, log_variance = leaf(2, 5, 3).detach(), leaf(2, 5, 3).detach().flip(0)
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(q, prior).sum(-1)
    torch.testing.assert_close(losses.gaussian_divergence(mean, log_variance), expected)
    assert losses.gaussian_divergence(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]


def test_gaussian_reconstruction_is_a_normal_density_less_its_constant() -> None:
    x, mean, sigma = leaf(2, *IMAGES.size).detach(), leaf(2, *IMAGES.size).detach().flip(0), 0.3
    density = torch.distributions.Normal(mean, sigma).log_prob(x).sum((-3, -2, -1))
    constant = IMAGES.numel * math.log(sigma * math.sqrt(2 * math.pi))
    torch.testing.assert_close(losses.gaussian_reconstruction(mean, x, sigma, IMAGES), -density - constant)


def test_mean_squared_is_per_sample() -> None:
    x = torch.zeros(2, 3, *IMAGES.size)
    y = x + torch.arange(3.0).view(3, 1, 1, 1)
    assert losses.mean_squared(x, y, IMAGES).tolist() == [[0, 1, 4]] * 2


@pytest.mark.parametrize("largest", [0.5, torch.tensor([[0.5], [2.0]])])
def test_clipping_bounds_every_entry(largest: float | Tensor) -> None:
    weights = torch.tensor([[[-3.0, 0.25]], [[1.0, 3.0]]])
    clip_([weights], largest)
    second = [0.5, 0.5] if isinstance(largest, float) else [1.0, 2.0]
    assert weights.tolist() == [[[-0.5, 0.25]], [second]]


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_gradient_penalty_of_a_linear_critic_of_a_slope(slope: float, lead: tuple[int, ...]) -> None:
    """(k - 1)^2 for each of the B samples: one norm a sample, whatever the batch."""
    x = leaf(*lead, 6, 3)
    penalty = losses.gradient_penalty(x @ W / 3 * slope, x, POINTS)
    torch.testing.assert_close(penalty, torch.full((*lead, 6), (slope - 1) ** 2, dtype=torch.float64))


@pytest.mark.parametrize("batch", [1, 64])
def test_gradient_penalty_of_a_unit_critic_of_images_is_zero(batch: int) -> None:
    x, w = leaf(batch, *IMAGES.size), leaf(IMAGES.numel).detach()
    penalty = losses.gradient_penalty(x.flatten(-3) @ (w / w.norm()), x, IMAGES)
    torch.testing.assert_close(penalty, torch.zeros(batch, dtype=torch.float64))


def test_gradient_penalty_is_differentiable_by_the_weights() -> None:
    """d/dk (k - 1)^2 = 2 (k - 1)."""
    slope = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    x = leaf(4, 3)
    (gradient,) = torch.autograd.grad(losses.gradient_penalty(x @ W / 3 * slope, x, POINTS).mean(), slope)
    assert float(gradient) == pytest.approx(4)


def test_zero_centred_penalty_of_a_linear_critic_is_its_squared_norm() -> None:
    x = leaf(5, 3)
    torch.testing.assert_close(
        losses.zero_centered_penalty(x @ W, x, POINTS), torch.full((5,), 9.0, dtype=torch.float64)
    )


def test_input_gradient_of_a_square() -> None:
    x = leaf(2, 4, 3)
    torch.testing.assert_close(losses.input_gradient(x.square().sum(-1), x, POINTS), 2 * x)


def test_interpolates_lie_between_with_one_weight_a_sample() -> None:
    real, fake = leaf(3, *IMAGES.size), leaf(3, *IMAGES.size) + 1
    u = torch.tensor([[0.0], [0.25], [1.0]], dtype=torch.float64)
    x = losses.interpolate(real, fake, u, IMAGES)
    assert x.requires_grad
    assert x.is_leaf
    torch.testing.assert_close(x[0].detach(), fake[0].detach())
    torch.testing.assert_close(x[1].detach(), (0.25 * real + 0.75 * fake)[1].detach())
    torch.testing.assert_close(x[2].detach(), real[2].detach())


def test_mean_absolute_is_per_sample() -> None:
    x = torch.zeros(2, 3, *IMAGES.size)
    y = x + torch.arange(3.0).view(3, 1, 1, 1)
    assert losses.mean_absolute(x, y, IMAGES).tolist() == [[0, 1, 2]] * 2


def test_categorical_code_is_the_cross_entropy() -> None:
    logits, code = leaf(2, 5, 4).detach(), torch.arange(10).reshape(2, 5) % 4
    expected = F.cross_entropy(logits.flatten(0, 1), code.flatten(), reduction="none").view(2, 5)
    torch.testing.assert_close(losses.categorical_code(logits, code), expected)
    assert losses.categorical_code(torch.zeros(1, 10), torch.tensor([3])).item() == pytest.approx(math.log(10))


def test_gaussian_code_is_a_normal_density() -> None:
    mean, code = leaf(6, 2).detach(), leaf(6, 2).detach().flip(0)
    expected = -torch.distributions.Normal(mean, 1.0).log_prob(code).sum(-1)
    torch.testing.assert_close(losses.gaussian_code(mean, code), expected)


def test_transformation_vectors() -> None:
    s = leaf(3, 2).detach()
    v = losses.transformation_vectors(s)
    assert v.shape == (3, 3, 2)
    torch.testing.assert_close(v[0, 2], s[0] - s[2])
    torch.testing.assert_close(v, -v.transpose(0, 1))


def test_transformation_loss_does_not_see_a_shift() -> None:
    s = leaf(5, 4)
    torch.testing.assert_close(losses.transformation_loss(s, s + 7), torch.zeros(5, dtype=torch.float64))


def test_transformation_loss_of_opposite_vectors() -> None:
    """1 - cos = 2, and |v - (-v)|^2 / D = 4 |v|^2 / D: two samples one apart in one of four dimensions."""
    s = torch.zeros(2, 4, dtype=torch.float64)
    s[1, 0] = 1
    torch.testing.assert_close(losses.transformation_loss(s, -s), torch.full((2,), 2 + 4 / 4, dtype=torch.float64))


def test_transformation_loss_of_orthogonal_vectors() -> None:
    s, t = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    s[1, 0], t[1, 1] = 1, 1
    torch.testing.assert_close(losses.transformation_loss(s, t), torch.full((2,), 1 + 2 / 2, dtype=torch.float64))


def test_margin_contrastive_pushes_only_what_is_too_near() -> None:
    s = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    expected = torch.tensor([(1 + 0) / 2, (1 + 0) / 2, 0.0], dtype=torch.float64)  # distances 1 and 5; 1 and 4; 5 and 4
    torch.testing.assert_close(losses.margin_contrastive(s, 2.0), expected)


@pytest.mark.parametrize("n", [1, 4])
def test_pairs_of_equal_samples_give_finite_gradients(n: int) -> None:
    s = torch.zeros(n, 3, dtype=torch.float64, requires_grad=True)
    total = losses.transformation_loss(s, 2 * s).sum() + losses.margin_contrastive(s, 1.0).sum()
    (gradient,) = torch.autograd.grad(total, s)
    assert gradient.isfinite().all()
    assert float(losses.margin_contrastive(s.detach(), 1.0).mean()) == (1.0 if n > 1 else 0.0)


def test_pair_losses_take_a_population() -> None:
    s, t = leaf(2, 5, 3).detach(), leaf(2, 5, 3).detach().flip(-1)
    for member in range(2):
        torch.testing.assert_close(
            losses.transformation_loss(s, t)[member], losses.transformation_loss(s[member], t[member])
        )
        torch.testing.assert_close(losses.margin_contrastive(s, 2.0)[member], losses.margin_contrastive(s[member], 2.0))


def test_minibatch_discrimination_sums_over_the_other_samples() -> None:
    """o(x_i)_b = sum over j != i of exp(-|M_ib - M_jb|_1), and its second derivatives, which gradient penalties need."""
    from trainers.hacks.minibatch_discrimination import Head

    head = Head(6, 1, kernels=4, dims=3).double()
    features = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    m = head.project(features).view(2, 5, 4, 3)
    near = torch.exp(-(m[:, :, None] - m[:, None]).abs().sum(-1))  # (2, i, j, kernels)
    others = near * (1 - torch.eye(5, dtype=torch.float64))[:, :, None]
    assert torch.allclose(head.similarity(features), others.sum(2), rtol=0, atol=1e-12)
    assert torch.autograd.gradgradcheck(head.similarity, features)

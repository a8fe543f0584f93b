"""Named draws: a worker makes its own rows and gets what one process would have got."""

from __future__ import annotations

import pytest
import torch

from trainers.draws import BLOCK, Draws, derive


@pytest.mark.parametrize("kind", ["normal", "uniform", "integers"])
def test_rows_do_not_depend_on_who_draws_them(kind: str) -> None:
    draws = Draws(7)

    def make(rows: range) -> torch.Tensor:
        if kind == "integers":
            return draws.integers((3, "d", 0, "z"), rows, 10, (5,))
        return getattr(draws, kind)((3, "d", 0, "z"), rows, (5,))

    whole = make(range(100))
    pieces = [make(range(a, b)) for a, b in ((0, 1), (1, BLOCK), (BLOCK, 77), (77, 100))]
    assert whole.shape == (100, 5)
    assert torch.equal(whole, torch.cat(pieces))


def test_every_part_of_the_key_matters() -> None:
    base = Draws(0).normal((0, "d", 0, "z"), range(4), (3,))
    others = [
        Draws(1).normal((0, "d", 0, "z"), range(4), (3,)),
        Draws(0).normal((1, "d", 0, "z"), range(4), (3,)),
        Draws(0).normal((0, "g", 0, "z"), range(4), (3,)),
        Draws(0).normal((0, "d", 1, "z"), range(4), (3,)),
        Draws(0).normal((0, "d", 0, "y"), range(4), (3,)),
    ]
    assert all(not torch.equal(base, other) for other in others)
    assert torch.equal(base, Draws(0).normal((0, "d", 0, "z"), range(4), (3,)))


def test_draws_are_standard() -> None:
    z = Draws(0, torch.float64).normal((0,), range(20_000), (4,))
    assert z.dtype == torch.float64
    assert abs(float(z.mean())) < 0.02 and abs(float(z.var()) - 1) < 0.02
    u = Draws(0).uniform((1,), range(20_000), ())
    assert float(u.min()) >= 0 and float(u.max()) < 1 and abs(float(u.mean()) - 0.5) < 0.01


def test_derived_seeds_are_stable() -> None:
    assert derive(0, "networks") == derive(0, "networks") != derive(0, "network")
    assert 0 <= derive(2**62, "x", 1) < 2**63


def test_a_permutation_is_one() -> None:
    order = Draws(3).permutation(("epoch", 0), 1000)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(order, Draws(3).permutation(("epoch", 1), 1000))

"""CycleGAN and TraVeLGAN: translation between two domains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.synthetic import SyntheticSplit
from trainers import config
from trainers.core import Batch, DataShape
from trainers.distributed import per_rank_buffers, shared_buffers
from trainers.generator import Generator
from trainers.step import Game
from trainers.variants.cyclegan import Pool

PLANE = DataShape("points", (2,), bounded=False)
PLANES = DataShape("points", (2,), bounded=False, other=PLANE)


def game_for(variant: Any, shape: DataShape = PLANES, width: int = 16, **settings: Any) -> Game:
    user = {"variant": variant, "backbone": {"mlp": {"width": width, "depth": 2}}, "hacks": [], "batch_size": 8}
    return Game(config.resolve({**user, **settings}, facts={"shape": shape.to_json()}), shape, seed=0)


def fetch_for(game: Game) -> Any:
    split = SyntheticSplit(game.shape)
    return lambda position, rows: split.batch(torch.arange(rows.start, rows.stop), device="cpu", dtype=game.dtype)


def terms(game: Game, role: str) -> dict[str, Tensor]:
    act = game.acts[0]
    phase = next(phase for phase in act.phases if phase.role == role)
    found: dict[str, Tensor] = phase.loss(
        game.nets, fetch_for(game)(0, range(8)), game.play(0, phase, act.phases, 0, range(8))
    )
    return found


class Shift(torch.nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def test_translators_that_undo_each_other_have_no_cycle_loss() -> None:
    game = game_for("cyclegan")
    game.nets["generator_ab"], game.nets["generator_ba"] = Shift(0.5), Shift(-0.5)
    losses = terms(game, "generator")
    assert float(losses["cycle_a"].abs().max()) < 1e-5
    assert float(losses["cycle_b"].abs().max()) < 1e-5
    torch.testing.assert_close(losses["identity_a"], torch.full((8,), 10 * 0.5 * 0.5))
    game.nets["generator_ba"] = Shift(0.5)
    torch.testing.assert_close(terms(game, "generator")["cycle_a"], torch.full((8,), 10.0))


def test_identity_is_left_out_without_a_weight_and_between_unlike_shapes() -> None:
    assert "identity_a" not in terms(game_for({"cyclegan": {"identity_weight": 0}}), "generator")
    wider = DataShape("points", (2,), bounded=False, other=DataShape("points", (5,), bounded=False))
    game = game_for("cyclegan", wider)
    assert "identity_a" not in terms(game, "generator")
    assert Generator.of(game).sample(3, source=torch.zeros(3, 2)).shape == (3, 5)


def test_critics_losses_are_least_squares_of_their_own_domain() -> None:
    game = game_for({"cyclegan": {"pool_size": 0}})
    losses, batch = terms(game, "critic"), fetch_for(game)(0, range(8))
    logits = game.nets["discriminator_b"](batch.other.x).logits
    torch.testing.assert_close(losses["real_b"], (logits - 1) ** 2 / 2)
    made = game.nets["discriminator_a"](game.nets["generator_ba"](batch.other.x)).logits
    torch.testing.assert_close(losses["fake_a"], made**2 / 2)


def test_translation_needs_something_to_translate() -> None:
    for variant in ("cyclegan", "travelgan"):
        game = game_for(variant)
        with pytest.raises(ValueError, match="source samples"):
            game.variant.sample(game.nets, 2, game.play(0, None, (), 0, range(2)))


def test_one_domain_is_refused_when_planning() -> None:
    for variant in ("cyclegan", "travelgan"):
        faults = config.check({"variant": variant}, {"shape": PLANE.to_json()})
        assert any("two domains" in fault.what for fault in faults)


# --- the history of generated samples ---------------------------------------------------------------------------------


def shown(pool: Pool, steps: int, *, batch: int = 4, rows: range | None = None, seed: int = 0) -> Tensor:
    """What a pool shows over some steps, (steps, rows, 1); row r of step t is generated as t + r / 100."""
    game = game_for("cyclegan", batch_size=batch)
    rows = rows or range(batch)
    out = []
    for step in range(steps):
        play = game.play(step, game.acts[0].phases[0], game.acts[0].phases, 0, rows)
        fake = step + torch.arange(rows.start, rows.stop)[:, None] / 100
        out.append(pool(fake, "a", play))
    return torch.stack(out)


def test_a_pool_fills_first_and_then_shows_old_samples_half_of_the_time() -> None:
    out = shown(Pool(8, DataShape("points", (1,))), 200)
    ages = torch.arange(200.0)[:, None] - out.squeeze(-1).floor()
    assert ages[:2].eq(0).all()
    assert ages.ge(0).all()
    old = ages[2:].gt(0).double().mean()
    assert 0.4 < float(old) < 0.6
    fraction = out.squeeze(-1) - out.squeeze(-1).floor()
    torch.testing.assert_close(fraction[-1], torch.arange(4) / 100, atol=1e-3, rtol=0)  # a row's own history


def test_only_what_filled_the_pool_can_be_shown_twice() -> None:
    out = shown(Pool(8, DataShape("points", (1,))), 100).flatten()
    times = out.unique(return_counts=True)[1]
    assert int(times.max()) <= 2
    assert int((times == 2).sum()) <= 8


def test_a_pool_is_the_same_on_any_number_of_workers() -> None:
    shape = DataShape("points", (1,))
    whole = shown(Pool(8, shape), 30)
    halves = [shown(Pool(8, shape), 30, rows=rows) for rows in (range(2), range(2, 4))]
    assert whole.equal(torch.cat(halves, 1))


def test_a_pool_smaller_than_the_batch_serves_its_first_rows() -> None:
    out = shown(Pool(3, DataShape("points", (1,))), 50)
    ages = torch.arange(50.0)[:, None] - out.squeeze(-1).floor()
    assert ages[:, 3].eq(0).all()
    assert ages[:, :3].gt(0).any(0).all()


def test_pools_belong_to_their_worker_and_are_checkpointed() -> None:
    game = game_for("cyclegan")
    assert set(per_rank_buffers(game.nets)) == {f"pool_{d}.{b}" for d in "ab" for b in ("samples", "filled")}
    assert not any(name.startswith("pool") for name in shared_buffers(game.nets))
    assert "pool_a.samples" in game.nets.state_dict()
    game.step(0, fetch_for(game))
    assert game.nets["pool_a"].filled[:8].eq(1).all()


# --- TraVeLGAN ----------------------------------------------------------------------------------------------------------


def test_siamese_learns_from_travel_and_margin_but_not_from_the_critic() -> None:
    game = game_for("travelgan")
    game.nets.requires_grad_(True)
    losses = terms(game, "generator")
    for name, reached in {
        "adversarial": {"generator", "discriminator"},
        "travel": {"generator", "siamese"},
        "margin": {"siamese"},
    }.items():
        game.nets.zero_grad(set_to_none=True)
        losses[name].sum().backward(retain_graph=True)
        found = {n.split(".")[0] for n, p in game.nets.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert found == reached, name


def test_a_translation_that_shifts_keeps_transformation_vectors_under_a_linear_siamese() -> None:
    game = game_for("travelgan")
    game.nets["generator"] = Shift(3.0)
    game.nets["siamese"] = torch.nn.Linear(2, 5)
    assert float(terms(game, "generator")["travel"].detach().abs().max()) < 1e-4


def test_unlike_shapes_are_refused_with_the_reason() -> None:
    unlike = DataShape("points", (2,), bounded=False, other=DataShape("points", (5,), bounded=False))
    with pytest.raises(ValueError, match="one shape"):
        game_for("travelgan", unlike)


@pytest.mark.parametrize("variant", ["cyclegan", "travelgan"])
def test_translation_learns_a_shift(variant: str) -> None:
    """Domain b is a moved by (2, -1): translations of a get b's mean."""
    moved = torch.tensor([2.0, -1.0])

    def fetch(position: int, rows: range) -> Batch:
        g = torch.Generator().manual_seed(position)
        a, b = torch.randn(2, len(rows), 2, generator=g) * torch.tensor([0.5, 0.1])
        return Batch(a, None, torch.arange(len(rows)), Batch(b + moved, None, torch.arange(len(rows))))

    optimizers = {"generator": {"lr": 2e-3}, "critic": {"lr": 2e-3}}
    game = game_for(variant, width=32, optimizers=optimizers, batch_size=32)
    for step in range(300):
        game.step(step, fetch)
    source = fetch(1000, range(256)).x
    gap = Generator.of(game).sample(256, source=source).mean(0) - moved
    assert float(gap.abs().max()) < 0.5

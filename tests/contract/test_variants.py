"""What every variant must keep, whichever are there: a variant dropped in as one file is tested here with no other change.

Cases are every variant x every backbone x every data shape that planning accepts.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.synthetic import SyntheticSplit
from trainers import config, plugins
from trainers.core import Act, Batch, DataShape, Part, Phase
from trainers.distributed import Workers
from trainers.play import Play
from trainers.step import Game

ROWS = 8
GREY = DataShape("image", (1, 8, 8))
COLOUR = DataShape("image", (3, 16, 16))
POINTS = DataShape("points", (2,), bounded=False)
SMALL = {"width": 8, "max_width": 16, "depth": 2, "num_blocks": 1, "latent_dim": 5, "siamese_dim": 6, "pool_size": 16}

Case = tuple[str, str, DataShape]


def shape_for(variant: str, base: DataShape) -> DataShape:
    """The base shape with what the variant needs of data."""
    needs = plugins.describe("variants", variant).attributes.get("needs", ())
    if "labels" in needs:
        base = replace(base, num_classes=3)
    return replace(base, other=base) if "two_domains" in needs else base


def small(kind: str, name: str, *, norm: str | None = None) -> dict[str, Any]:
    """Parameters that make a plugin's networks small, and its normalisation `norm` where it has that choice."""
    found: dict[str, Any] = {}
    for param in plugins.describe(kind, name).params:
        if param.name in SMALL and not param.form.check(SMALL[param.name], ()):
            found[param.name] = SMALL[param.name]
        elif norm and norm in param.choices:
            found[param.name] = norm
    return found


def user_form(variant: str, backbone: str, norm: str | None = None) -> dict[str, Any]:
    return {
        "variant": {variant: small("variants", variant)},
        "backbone": {backbone: small("backbones", backbone, norm=norm)},
        "hacks": [],
        "batch_size": ROWS,
        "precision": "float64",
        "total_steps": 10,
    }


def norms(variant: str, backbone: str, shape: DataShape) -> str | None:
    """A choice of normalisation with which the variant takes the backbone: its default, or none at all; "" for no choice."""
    facts = {"shape": shape.to_json()}
    return next((n for n in (None, "none") if not config.check(user_form(variant, backbone, n), facts)), "")


def cases() -> list[Any]:
    found = []
    for variant in plugins.names("variants"):
        for backbone in plugins.names("backbones"):
            for base in (GREY, COLOUR, POINTS):
                shape = shape_for(variant, base)
                if norms(variant, backbone, shape) != "":
                    what = f"{variant}-{backbone}-{'x'.join(map(str, base.size))}"
                    found.append(pytest.param((variant, backbone, shape), id=what))
    return found


CASES = cases()


def game_for(case: Case, *, norm: str | None = None, workers: Workers | None = None, **settings: Any) -> Game:
    variant, backbone, shape = case
    user = {**user_form(variant, backbone, norm or norms(*case)), **settings}
    return Game(config.resolve(user, facts={"shape": shape.to_json()}), shape, seed=3, workers=workers)


def fetch_for(game: Game) -> Any:
    split = SyntheticSplit(game.shape)

    def fetch(position: int, rows: range) -> Batch:
        indices = (torch.arange(rows.start, rows.stop) + position * ROWS) % len(split)
        return split.batch(indices, device="cpu", dtype=game.dtype)

    return fetch


def parameters(game: Game) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in game.nets.named_parameters()}


def single(game: Game, act: Act, phase: Phase) -> None:
    """Leave one phase in the game, done once a step."""
    game.acts = (act._replace(share=1.0, phases=(replace(phase, every=1, repeats=1),)),)


def sampled(game: Game, rows: range = range(ROWS), seed: int | None = None, label: Tensor | None = None) -> Tensor:
    """Samples as the product makes them: averaged copies, evaluation mode, no gradients."""
    draws = game.draws if seed is None else type(game.draws)(seed, game.dtype)
    play = Play(game.sampling(), draws, shape=game.shape, rows=rows, dtype=game.dtype, variant=game.variant)
    given = None
    if game.variant.given == "images":
        given = fetch_for(game)(0, rows)
    elif label is not None:
        given = Batch(torch.empty(len(rows), 0), label, torch.arange(len(rows)))
    game.nets.eval()
    with torch.no_grad():
        return game.variant.sample(play.nets, len(rows), play, given=given)


@pytest.mark.parametrize("variant", plugins.names("variants"))
def test_some_backbone_and_some_data_suit_every_variant(variant: str) -> None:
    assert any(case.values[0][0] == variant for case in CASES)


@pytest.mark.parametrize("variant", plugins.names("variants"))
def test_defaults_suit_the_data_that_the_variant_needs(variant: str) -> None:
    shapes = [shape_for(variant, base) for base in (GREY, COLOUR, POINTS)]
    faults = [config.check({"variant": variant}, {"shape": shape.to_json()}) for shape in shapes]
    assert [] in faults, faults


@pytest.mark.parametrize("case", CASES)
def test_parts_phases_and_acts_belong_together(case: Case) -> None:
    game = game_for(case)
    assert all(isinstance(part, Part) for part in game.parts.values())
    assert sum(act.share for act in game.acts) == pytest.approx(1)
    for act in game.acts:
        names = [phase.name for phase in act.phases]
        assert len(set(names)) == len(names)
        assert all(set(phase.updates) <= set(game.parts) for phase in act.phases)
    updated = {name for act in game.acts for phase in act.phases for name in phase.updates}
    trained = {name for name, part in game.parts.items() if list(part.module.parameters())}
    assert updated == trained, "every network with weights is updated, and only those"
    roles = {phase.role for act in game.acts for phase in act.phases}
    assert roles <= type(game.variant).offers, "its optimizers are configured by the roles that it offers"


@pytest.mark.parametrize("case", CASES)
def test_each_phase_moves_exactly_its_networks(case: Case) -> None:
    game = game_for(case)
    for act in game.acts:
        if act.enter:
            act.enter(game.nets)
        for phase in act.phases:
            single(game, act, phase)
            before = parameters(game)
            told = game.step(0, fetch_for(game))
            assert told
            assert all(value.isfinite() for value in told.values())
            moved = {name.split(".")[0] for name, p in game.nets.named_parameters() if not p.equal(before[name])}
            assert moved == set(phase.updates)


@pytest.mark.parametrize("case", CASES)
def test_gradient_reaches_every_parameter(case: Case) -> None:
    game = game_for(case)
    reached: set[str] = set()
    for act in game.acts:
        if act.enter:
            act.enter(game.nets)
        for phase in act.phases:
            for position in range(3):
                single(game, act, phase)
                game.step(position, fetch_for(game))
                updated = dict(game.parameters(phase))
                reached |= {name for name, p in updated.items() if p.grad is not None and bool(p.grad.any())}
    offsets = {name for name in parameters(game) if name.endswith("head.bias")}  # cancel where critics compare
    assert set(parameters(game)) - reached - offsets == set()


@pytest.mark.parametrize("case", CASES)
def test_losses_are_per_sample(case: Case) -> None:
    game = game_for(case)
    for act in game.acts:
        for phase in act.phases:
            play = game.play(0, phase, act.phases, 0, range(ROWS))
            losses = phase.loss(game.nets, fetch_for(game)(0, range(ROWS)), play)
            assert {name: tuple(term.shape) for name, term in losses.items()} == dict.fromkeys(losses, (ROWS,))


@pytest.mark.parametrize("case", CASES)
def test_half_batches_add_up(case: Case) -> None:
    """The gradients of the whole batch are the mean of its halves', unless the variant says that it couples the batch."""
    variant, backbone, _ = case
    offers = plugins.load("backbones", backbone).offers_when
    if type(game_for(case).variant).coupled:
        pytest.skip(f"{variant} couples the batch")
    for word in offers:
        assert word.endswith("batch_norm"), "what else could couple a batch?"
    whole, halves = game_for(case, norm="none"), game_for(case, norm="none", microbatch=ROWS // 2)
    for step in range(2):
        whole.step(step, fetch_for(whole))
        halves.step(step, fetch_for(halves))
    for act in whole.acts:
        for phase in act.phases:
            for (name, p), (_, q) in zip(whole.parameters(phase), halves.parameters(phase), strict=True):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9, msg=f"{phase.name}: {name}")


@pytest.mark.parametrize("case", CASES)
def test_sampling_is_a_function_of_seed_and_row(case: Case) -> None:
    game = game_for(case)
    game.step(0, fetch_for(game))
    before = {name: b.clone() for name, b in game.nets.named_buffers()}
    samples = sampled(game)
    size = game.shape.other.size if game.variant.given == "images" and game.shape.other else game.shape.size
    assert samples.shape == (ROWS, *size)
    assert samples.isfinite().all()
    assert not game.shape.bounded or samples.abs().max() <= 1
    assert samples.equal(sampled(game))
    if game.variant.given != "images":
        assert not samples.equal(sampled(game, seed=4))
    parts = torch.cat([sampled(game, range(3)), sampled(game, range(3, ROWS))])
    torch.testing.assert_close(parts, samples, rtol=1e-9, atol=1e-9)
    assert all(b.equal(before[name]) for name, b in game.nets.named_buffers()), "sampling changes no state"
    assert not samples[0].equal(samples[1])


@pytest.mark.parametrize("case", CASES)
def test_what_is_given_matters(case: Case) -> None:
    game = game_for(case)
    if game.variant.given == "labels":
        one, two = (sampled(game, label=torch.full((ROWS,), k)) for k in (0, 1))
        assert not one.equal(two)
        assert game.variant.num_labels(game.shape) >= 2
    elif game.variant.given == "images":
        play = Play(game.sampling(), game.draws, shape=game.shape, rows=range(2), dtype=game.dtype)
        with pytest.raises(ValueError, match="source"):
            game.variant.sample(play.nets, 2, play)
    else:
        assert game.variant.given == "nothing"


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0][1] == "mlp"])
def test_real_entries_are_what_critics_take(case: Case) -> None:
    game = game_for(case)
    if "real_entry" not in type(game.variant).offers:
        pytest.skip("offers no real entries")
    batch = fetch_for(game)(0, range(ROWS))
    for act in game.acts:
        for phase in act.phases:
            play = game.play(0, phase, act.phases, 0, range(ROWS))
            phase.loss(game.nets, batch, play)
            for judged in play.judged:
                if judged.real:
                    shown = game.variant.real_entry(judged.critic, batch, play)
                    assert all(a.equal(b) for a, b in zip(shown.inputs, judged.entry.inputs, strict=True))
                else:
                    assert play.real_counterpart(judged, batch).logits.shape == judged.score.logits.shape


# --- workers ----------------------------------------------------------------------------------------------------------


def shareable() -> dict[str, Case]:
    """The smallest case of each variant whose terms do not couple the batch."""
    cases = [case.values[0] for case in reversed(CASES)]
    return {case[0]: case for case in cases if case[1] == "mlp" and not plugins.load("variants", case[0]).coupled}


def trained(case: Case, workers: Workers) -> dict[str, Tensor]:
    """The weights after some steps: long enough for a history of generated samples to be in use."""
    game = game_for(case, norm="none", workers=workers)
    for step in range(6):
        game.step(step, fetch_for(game))
    return parameters(game)


def _worker(rank: int, size: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    try:
        cases = shareable().items()
        found = {f"{variant}/{k}": p for variant, case in cases for k, p in trained(case, Workers(rank, size)).items()}
        save_file(found, f"{out}/{rank}.safetensors")
    finally:
        torch.distributed.destroy_process_group()


def test_two_workers_equal_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_worker, (2, port, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    for variant, case in shareable().items():
        for name, p in trained(case, Workers()).items():
            key = f"{variant}/{name}"
            assert ranks[0][key].equal(ranks[1][key]), f"{key}: the workers hold the same weights"
            torch.testing.assert_close(ranks[0][key], p, rtol=0, atol=1e-9, msg=key)

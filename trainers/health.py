"""Signs that a training has failed and will not recover, so that a search need not train it to the end.

Pure functions of the logged losses and of a few samples; `symptom` asks them all, at a rung, in a few milliseconds. Sources:
ganhacks, "track failures early" (https://github.com/soumith/ganhacks, 10); mode collapse and a discriminator that nothing
can be learned from: arXiv 1606.03498, section 3; arXiv 1701.04862, theorem 2.4. A false alarm costs a good trial and a
missed one only time, so each threshold lies far from what healthy runs of any variant show (measured: tests/unit/
test_health.py), and nothing is said before there is enough to judge from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from trainers.core import Batch, Entry
from trainers.data import Split
from trainers.draws import Draws
from trainers.generator import Generator, evaluating
from trainers.loop import Training
from trainers.play import Play
from trainers.step import Game

Row = Mapping[str, float]

EXPLODED = "exploding losses"
SATURATED = "saturated critic"
DEAD = "dead critic"
CONSTANT = "constant outputs"
COLLAPSED = "mode collapse"
DUPLICATES = "duplicates"

FEWEST_ROWS = 8  # logged losses, the judged half of them at least 4: fewer are chance
LARGEST_LOSS = 1e5  # healthy losses on data of unit size are below 10; Wasserstein critics' grow with the data's size
GROWTH = 20.0  # and this many times as large as at first: an objective with large numbers is not exploding
UNMOVED = 0.4  # the generator's loss then: above 4.6 for -log D, 1 for hinge, 0.45 for half the least squares
CONSTANT_SPREAD = 1e-3  # of the data's mean distance between samples: below a grey level of 8 bits
COLLAPSED_SPREAD = 0.03  # one of 8 Gaussians on a ring has 0.014, two neighbouring ones 0.3
SAME = 1e-3  # of that distance: two samples this near are one
SAME_SHARE = 0.5  # of the samples have such a twin, and ten times as many as of the data
SETTLED = 0.1  # of all steps, and at least
SETTLED_STEPS = 200  # before, small first weights make small outputs
SAMPLES = {"points": 256, "image": 32}  # enough to tell these, and quick


@dataclass(frozen=True)
class Spread:
    """Mean distance between two samples, and the share of samples that have a twin, nearer than `SAME` of `unit`."""

    distance: float
    twins: float

    @classmethod
    def of(cls, x: Tensor, unit: float | None = None) -> Spread:
        """Of samples (n, *size), n at least 2; `unit` is their own mean distance unless told."""
        flat = x.flatten(1).double()
        n = len(flat)
        distances = torch.cdist(flat, flat)
        mean = float(distances.sum() / (n * (n - 1)))
        near = distances.fill_diagonal_(math.inf).amin(1) <= SAME * (mean if unit is None else unit)
        return cls(mean, float(near.double().mean()))


def symptom(training: Training) -> str | None:
    """What is wrong with a training, as "name: what was seen"; None where nothing is.

    The names are this module's constants. Changes nothing, not even a draw of the training.
    """
    game, rows = training.game, training.history.rows()
    found = exploding(rows) or saturated(rows, game)
    if found is None and training.step >= max(SETTLED * training.total, SETTLED_STEPS):
        split = training.data.split("train")
        found = collapsed(*samples(game, split)) or dead(game, split)
    return found


# --- of losses ----------------------------------------------------------------------------------------------------------


def exploding(rows: Sequence[Row]) -> str | None:
    """Losses that grew beyond all that is healthy."""
    for name in rows[-1] if len(rows) >= 2 else ():
        values = [abs(row[name]) for row in rows if row.get(name) is not None]
        early = sorted(values[: max(len(values) // 2, 1)])
        usual = early[len(early) // 2]
        if name != "step" and values[-1] > LARGEST_LOSS and values[-1] > GROWTH * usual:
            return f"{EXPLODED}: {name} is {values[-1]:.2g}, was {usual:.2g}"
    return None


def saturated(rows: Sequence[Row], game: Game) -> str | None:
    """A critic that is sure through the last half of the run, while its generator does not get better.

    Of objectives that can be satisfied: all terms of their critics are at least 0. A generator's loss is then high, or, of
    one that saturates (minimax), next to 0.
    """
    if len(rows) < FEWEST_ROWS:
        return None
    late = rows[len(rows) // 2 :]
    critic = [value for row in late for value in _terms(row, game, "critic", ("real", "fake", "adversarial"))]
    generator = [fmean(_terms(row, game, "generator", ("adversarial",)) or [math.nan]) for row in late]
    certain = game.variant.certain  # healthy logistic losses: 0.1 to 1
    if not critic or min(critic) < 0 or fmean(critic) > certain or any(map(math.isnan, generator)):
        return None
    vanished = "targets" in game.variant.offers and all(abs(value) < certain for value in generator)
    half = len(generator) // 2
    before, now = fmean(generator[:half]), fmean(generator[half:])
    if vanished or (now > UNMOVED and now > 0.95 * before):
        return f"{SATURATED}: its losses are below {certain:g}, the generator's went from {before:.2g} to {now:.2g}"
    return None


def _terms(row: Row, game: Game, role: str, starts: tuple[str, ...]) -> list[float]:
    """The losses of a role's phases in a row, by how their terms' names start."""
    phases = {phase.name for act in game.acts for phase in act.phases if phase.role == role}
    split = [(*name.rpartition("/")[::2], value) for name, value in row.items()]
    return [value for phase, term, value in split if phase in phases and term.startswith(starts) and value is not None]


# --- of networks --------------------------------------------------------------------------------------------------------


def dead(game: Game, split: Split) -> str | None:
    """A critic that says the same of whatever it is shown: its generator learns nothing."""
    if "real_entry" not in game.variant.offers:
        return None
    batch = _batch(game, split)
    play = Play(
        game.nets, Draws(game.seed, game.dtype), shape=game.shape, rows=range(len(batch.index)), device=game.device,
        dtype=game.dtype, variant=game.variant,
    )  # fmt: skip
    for name, part in game.parts.items():
        if part.role == "critic" and not part.stands_for:
            entry = game.variant.real_entry(name, batch, play)
            with torch.no_grad(), evaluating(game.nets):
                logits = torch.stack([play.critic(name, one).logits for one in (entry, _blurred(entry))]).float()
            if bool(logits.max() - logits.min() <= 1e-6 * logits.abs().max()):
                return f"{DEAD}: {name} says {float(logits.mean()):.3g} of everything"
    return None


def _batch(game: Game, split: Split) -> Batch:
    """Samples from all over the split."""
    places = torch.linspace(0, len(split) - 1, min(SAMPLES[game.shape.kind], len(split))).long()
    other = places % len(split.other) if split.other is not None else None
    return split.batch(places, device=game.device, dtype=game.dtype, other=other)


def _blurred(entry: Entry) -> Entry:
    """The same with as much noise as signal."""
    source = torch.Generator().manual_seed(0)
    noise = [torch.randn(x.shape, generator=source, dtype=torch.float32).to(x.device, x.dtype) for x in entry.inputs]
    inputs = tuple(x + (x.std() + 1e-3) * more for x, more in zip(entry.inputs, noise, strict=True))
    return entry._replace(inputs=inputs)


# --- of samples ---------------------------------------------------------------------------------------------------------


def collapsed(made: Tensor, real: Tensor) -> str | None:
    """Samples (n, *size) that are all alike, beside the data's (m, *size)."""
    if not bool(made.isfinite().all()):
        return f"{EXPLODED}: samples are not finite"
    data = Spread.of(real)
    if data.distance == 0.0:
        return None
    own = Spread.of(made, unit=data.distance)
    share = own.distance / data.distance
    if share < CONSTANT_SPREAD:
        return f"{CONSTANT}: samples are {share:.1g} times as far apart as the data"
    if share < COLLAPSED_SPREAD:
        return f"{COLLAPSED}: samples are {share:.2g} times as far apart as the data"
    if own.twins > SAME_SHARE and own.twins > 10 * data.twins:
        return f"{DUPLICATES}: {own.twins:.0%} of the samples have a twin, of the data {data.twins:.0%}"
    return None


def samples(game: Game, split: Split) -> tuple[Tensor, Tensor]:
    """A few samples as the model would give them, and of what they should look like."""
    generator, batch = Generator.of(game), _batch(game, split)
    if generator.given != "images":
        return generator.sample(len(batch.index)), batch.x
    wanted = batch.x if batch.other is None else batch.other.x
    return generator.sample(len(batch.index), source=batch.x), wanted

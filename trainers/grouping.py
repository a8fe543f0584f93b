"""Which trials can be trained together as a population, decided from their configurations alone, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from trainers import plugins
from trainers.compatibility import Choice, offered
from trainers.config import Optimizer, TrainConfig

LARGEST = 32  # beyond it a step's tensors leave the processor's cache, and nothing is gained


@dataclass(frozen=True)
class Grouping:
    """`together`: positions of configurations that are trained at once, at least two each; `alone`: position -> why not."""

    together: tuple[tuple[int, ...], ...]
    alone: Mapping[int, str]


def groups(configs: Sequence[TrainConfig], largest: int = LARGEST) -> Grouping:
    """Put configurations of one shape together, in order, at most `largest` in one group, of nearly equal sizes.

    All are for the same data. Raises ValueError for `largest` below 2.
    """
    if largest < 2:
        raise ValueError(f"a population has at least 2 members, not {largest}")
    alone: dict[int, str] = {}
    found: dict[str, list[int]] = {}
    for i, config in enumerate(configs):
        if why := obstacle(config):
            alone[i] = why
        else:
            found.setdefault(_shape(config), []).append(i)
    together = []
    for members in found.values():
        if len(members) == 1:
            alone[members[0]] = "no other trial has its shape"
        else:
            together += _pieces(members, largest)
    return Grouping(tuple(together), dict(sorted(alone.items())))


def obstacle(config: TrainConfig) -> str | None:
    """Why a configuration can be trained with no other; None where it can."""
    named = [("variants", config.variant), *(("hacks", hack) for hack in config.hacks)]
    offers = offered(plugins.describe("variants", config.variant.name), config.variant.params)
    if "owns_networks" not in offers:
        named += [("backbones", one) for one in (config.generator, config.critic)]
    for kind, one in named:
        attributes = plugins.describe(kind, one.name).attributes
        if not attributes.get("vectorizes"):
            why = f": {attributes['alone']}" if attributes.get("alone") else ""
            return f"{kind[:-1]} {one.name} cannot be trained as a population{why}"
    if "critic" in offers and "owns_networks" not in offers:
        side, one = ("decoder", config.generator) if "latent_critic" in offers else ("critic", config.critic)
        if "batch_norm" in offered(plugins.describe("backbones", one.name), one.params):
            # it takes away any shift of what it is shown, so that rounding alone moves the last bias of what made that
            return f"batch normalisation in the {side} lets rounding grow: a member would not equal itself alone"
    if config.settings.precision == "bf16":
        return "precision bf16 is for large networks, which a population does not help"
    if config.settings.microbatch is not None:
        return "microbatches are for large batches, which a population does not help"
    return None


def _pieces(members: Sequence[int], largest: int) -> list[tuple[int, ...]]:
    count = -(-len(members) // largest)
    bounds = [round(i * len(members) / count) for i in range(count + 1)]
    return [tuple(members[a:b]) for a, b in pairwise(bounds)]


def _shape(config: TrainConfig) -> str:
    """What must be equal: everything but `init`, the optimizers' numbers, and what plugins let vary."""
    settings = {key: value for key, value in asdict(config.settings).items() if key != "init"}
    kept = {
        "variant": _fixed("variants", config.variant),
        "hacks": [_fixed("hacks", hack) for hack in config.hacks],
        "backbones": [config.generator.to_json(), config.critic.to_json()],
        "optimizers": {role: _kind(optimizer) for role, optimizer in config.optimizers.items()},
        "settings": settings,
    }
    return json.dumps(kept, sort_keys=True)


def _fixed(kind: str, one: Choice) -> tuple[str, dict[str, Any]]:
    """A plugin without the numbers in which members may differ."""
    varies = plugins.describe(kind, one.name).attributes.get("varies", frozenset())
    free = {name for name, value in one.params.items() if name in varies and value is not None}
    return one.name, {name: "varies" if name in free else value for name, value in one.params.items()}


def _kind(optimizer: Optimizer) -> tuple[str, bool]:
    """What decides which state an optimizer keeps."""
    return optimizer.name, optimizer.momentum > 0

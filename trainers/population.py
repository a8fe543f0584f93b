"""Training a population: N games of one shape in one process, along a first dimension N.

Small networks are bound by overhead, not arithmetic: one batched product for N members costs little more than one for a
single member. Members may differ in their seeds, in everything about their optimizers that is a number, and in what their
variant and hacks let `vary`. Each gets what it would have got alone, but for rounding: its own weights, draws, order of the
data and optimizer state. Networks and optimizers of the members' own games are views of what is trained here, so a member
is sampled, saved and inspected as any game, and goes on alone whenever it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from trainers import plugins
from trainers.compatibility import Choice
from trainers.core import Act, Batch, Hack, Losses, Phase, Variant
from trainers.draws import Draws
from trainers.play import Play
from trainers.stacked import Stack, Unstackable, alone
from trainers.step import Game, hacked, hacked_losses, learning, run_act
from trainers.updates import Update

Fetch = Callable[[int], Batch]  # position of the batch in the stream -> every member's batch, (N, B, …)


class Population:
    """Games of one shape that are trained together. `games` are the members, in order.

    Raises Unstackable where their networks, hacks or settings cannot be trained so (`grouping.groups` tells beforehand).
    """

    def __init__(self, games: Sequence[Game]) -> None:
        first = games[0]
        self.settings, self.shape = first.config.settings, first.shape
        self.device, self.dtype, self.batch_size = first.device, first.dtype, first.batch_size
        if self.settings.precision == "bf16" or self.settings.microbatch is not None or first.workers.size > 1:
            raise Unstackable("a population trains in full precision, with whole batches, in one process")
        self._build(games)

    def _build(self, games: Sequence[Game]) -> None:
        self.games = tuple(games)
        first = games[0]
        self.stack = Stack([game.nets for game in games], list(first.parts))
        self.draws = Draws([game.seed for game in games], self.dtype)
        configs = [game.config for game in games]
        if (
            len({len(config.hacks) for config in configs}) > 1
            or len({replace(one.settings, init=None) for one in configs}) > 1
        ):
            raise Unstackable("members differ in their hacks or settings")
        self.variant: Variant = _merged("variants", [config.variant for config in configs], self.dtype)
        self.hacks: tuple[Hack, ...] = tuple(
            _merged("hacks", list(chosen), self.dtype)
            for chosen in zip(*(config.hacks for config in configs), strict=True)
        )
        if any(type(hack).gate is not Hack.gate for hack in self.hacks):
            raise Unstackable("a hack decides whether to update, which members would do differently")
        self.acts = hacked(self.variant.acts(self.shape), self.hacks)
        self.width = max(phase.repeats for act in self.acts for phase in act.phases)
        self.updates = {phase.name: Update(phase, games, self.stack) for act in self.acts for phase in act.phases}

    def __len__(self) -> int:
        return len(self.games)

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members only (positions in `games`); the others keep their state, for themselves."""
        staying = set(members)
        for i, game in enumerate(self.games):
            if i not in staying:
                leave(game)
        self.games = tuple(self.games[i] for i in members)
        if self.games:
            self._build(self.games)

    def finite(self) -> list[bool]:
        """For each member, whether all its weights, buffers and optimizer states are finite numbers."""
        held = [*self.stack.flat.values(), *self.stack.nets.buffers()]
        held += [value for update in self.updates.values() for part in update.state.values() for value in part.values()]
        sizes = [value.flatten(1).abs().amax(1) for value in held if value.is_floating_point() and value.numel()]
        fine: list[bool] = torch.stack([size.isfinite() for size in sizes]).all(0).tolist()
        return fine

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self, step: int, fetch: Fetch) -> Losses:
        """Run every phase that is due for all members; returns each term's means as `phase/term`, (N,)."""
        act = self.acts[self.games[0].act(step)]
        return run_act(
            act, step, lambda phase, repeat: self._update(step, act, phase, repeat, fetch(step * self.width + repeat))
        )

    def _update(self, step: int, act: Act, phase: Phase, repeat: int, batch: Batch) -> Losses:
        parts = [part for part in phase.updates if part in self.stack.flat]
        play = self._play(step, phase, act.phases, repeat)
        with learning([p for part in parts for p in self.stack.parameters[part]]):
            means = {name: term.mean(-1) for name, term in hacked_losses(phase, batch, play).items()}
            torch.stack(list(means.values())).sum().backward()
            with torch.no_grad():
                for hack in self.hacks:
                    hack.gradients(play)
                for part in parts:
                    self.stack.gather(part)
                self.updates[phase.name].apply(step)
                self.variant.stepped(play)
                for hack in self.hacks:
                    hack.stepped(play)
        return {name: value.detach() for name, value in means.items()}

    def _play(self, step: int, phase: Phase, phases: tuple[Phase, ...], repeat: int) -> Play:
        return Play(
            self.stack.nets,
            self.draws,
            shape=self.shape,
            rows=range(self.batch_size),
            step=step,
            total_steps=self.settings.total_steps,
            phase=phase,
            phases=phases,
            repeat=repeat,
            hacks=self.hacks,
            dtype=self.dtype,
            variant=self.variant,
        )


def leave(game: Game) -> None:
    """Give a member memory of its own: it is no longer trained with the others."""
    alone(game.nets)
    for optimizer in game.optimizers.values():
        for state in optimizer.state.values():
            state.update({key: value.clone() for key, value in state.items()})


def _merged(kind: str, choices: Sequence[Choice], dtype: torch.dtype) -> Any:
    """One plugin for all members: what they differ in becomes a tensor (N, 1). Raises Unstackable where it may not."""
    first = choices[0]
    cls = plugins.load(kind, first.name)
    if not cls.vectorizes:
        raise Unstackable(f"{first.name} cannot be trained as a population")
    if names := {choice.name for choice in choices} - {first.name}:
        raise Unstackable(f"members differ: {first.name} is not {names.pop()}")
    all_params = [plugins.complete(kind, choice.name, choice.params) for choice in choices]
    merged: dict[str, Any] = {}
    for name, value in all_params[0].items():
        values = [params[name] for params in all_params]
        if all(other == value for other in values):
            merged[name] = value
        elif name in cls.varies and all(isinstance(other, float | int) for other in values):
            merged[name] = torch.tensor(values, dtype=dtype).unsqueeze(-1)
        else:
            raise Unstackable(f"members differ in {first.name}.{name}")
    return cls(**merged)

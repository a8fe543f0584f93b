"""Optimizers of a population: each member with its own rates and its own state, in one flat tensor (N, P) for each part.

The arithmetic is that of `torch.optim`. Adam is torch's own fused kernel, called once for all members that share their
numbers: on a CPU it beats any sequence of batched operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainers.config import Optimizer
from trainers.core import Phase
from trainers.stacked import Stack

if TYPE_CHECKING:
    from trainers.step import Game

ALPHA = 0.99  # decay of RMSprop's squares, torch's default, which a single training has
Numbers = tuple[float, ...]


class Update:
    """The optimizer of one phase for all members.

    `state` maps part and key to (N, P); its slices are the states of the members' own optimizers, so that a member's
    checkpoint is written as if it were trained alone.
    """

    def __init__(self, phase: Phase, games: Sequence[Game], stack: Stack) -> None:
        self.phase, self.games, self.stack = phase, tuple(games), stack
        self.configs = [game.config.optimizers[phase.role] for game in games]
        self.total_steps = games[0].config.settings.total_steps
        self.parts = [part for part in phase.updates if part in stack.flat]
        self.name = self.configs[0].name
        self.steps: Tensor | None = None
        self.state: dict[str, dict[str, Tensor]] = {}
        self._rows: dict[str, list[list[Tensor]]] = {}  # every member's slice of what the kernel works on
        self._numbers: list[Numbers] = []
        self._groups: list[tuple[Numbers, dict[str, list[list[Tensor]]]]] = []  # by part, what the kernel works on
        self._steady = all(config.steady for config in self.configs)
        if any(game.optimizers[phase.name].state for game in games):
            self._take_up()

    def keys(self) -> tuple[str, ...]:
        """What each parameter has beside its count of steps."""
        if self.name in ("adam", "adamw"):
            return ("exp_avg", "exp_avg_sq")
        momentum = ("momentum_buffer",) if self.configs[0].momentum else ()
        return ("square_avg", *momentum) if self.name == "rmsprop" else momentum

    def _member(self, i: int, part: str) -> Iterator[tuple[Tensor, Any, slice, torch.Size]]:
        """(parameter, its optimizer's state by parameter, place in the flat tensor, shape) of a member."""
        own = self.games[i].nets[part].named_parameters()
        state = self.games[i].optimizers[self.phase.name].state
        for name, p in own:
            first, last, shape = self.stack.spans[part][name]
            yield p, state, slice(first, last), shape

    def _take_up(self) -> None:
        """Start from the states of the members' own optimizers."""
        self._begin()
        assert self.steps is not None
        for part in self.parts:
            for i in range(len(self.games)):
                for p, state, place, _ in self._member(i, part):
                    for key in self.keys():
                        self.state[part][key][i, place] = state[p][key].flatten()
                    if "step" in state[p]:
                        self.steps[i] = state[p]["step"]
        self._share()

    def _begin(self) -> None:
        self.state = {
            part: {key: torch.zeros_like(self.stack.flat[part]) for key in self.keys()} for part in self.parts
        }
        self.steps = torch.zeros(len(self.games))
        for part, state in self.state.items():
            each = (self.stack.flat[part], self.stack.gradients[part], *state.values(), self.steps)
            self._rows[part] = [list(one.unbind()) for one in each]

    def _share(self) -> None:
        """Let each member's own optimizer see its slice of the state."""
        assert self.steps is not None
        counted = {"step": self.steps} if self.name != "sgd" else {}
        for part in self.parts:
            for i in range(len(self.games)):
                for p, state, place, shape in self._member(i, part):
                    own = {key: value[i, place].view(shape) for key, value in self.state[part].items()}
                    if own or counted:
                        state[p] = {**{key: value[i] for key, value in counted.items()}, **own}

    def apply(self, step: int) -> None:
        """One update of every member at its own rate of this step."""
        if self.steps is None:
            self._begin()
            self._share()
        assert self.steps is not None
        self.steps += 1
        if not (self._steady and self._numbers):
            self._regroup([self._of(config, step) for config in self.configs])
        for part in self.parts:
            if self.name in ("adam", "adamw"):
                self._adam(part)
            else:
                flat, gradient = self.stack.flat[part], self.stack.gradients[part]
                columns = torch.tensor(self._numbers, dtype=flat.dtype).unsqueeze(-1).unbind(1)
                RULES[self.name](flat, gradient, self.state[part], *columns)

    def _of(self, config: Optimizer, step: int) -> Numbers:
        rate = config.rate(step, self.total_steps)
        if self.name in ("adam", "adamw"):
            return (rate, *config.betas, config.eps, config.weight_decay)
        return (rate, config.eps, config.momentum, config.weight_decay)

    def _regroup(self, numbers: list[Numbers]) -> None:
        """Members that share their numbers are updated by one call."""
        if numbers == self._numbers:
            return
        members: dict[Numbers, list[int]] = {}
        for i, one in enumerate(numbers):
            members.setdefault(one, []).append(i)
        self._numbers = numbers
        self._groups = [
            (shared, {part: [[rows[i] for i in those] for rows in each] for part, each in self._rows.items()})
            for shared, those in members.items()
        ]

    def _adam(self, part: str) -> None:
        kernel: Any = torch._fused_adam_ if self.name == "adam" else torch._fused_adamw_
        for (rate, beta1, beta2, eps, decay), rows in self._groups:
            *tensors, steps = rows[part]
            kernel(
                *tensors, [], steps, lr=rate, beta1=beta1, beta2=beta2, weight_decay=decay, eps=eps,
                amsgrad=False, maximize=False,
            )  # fmt: skip


def _rmsprop(
    p: Tensor, gradient: Tensor, state: dict[str, Tensor], rate: Tensor, eps: Tensor, momentum: Tensor, decay: Tensor
) -> None:
    """torch.optim.RMSprop; rate, eps, momentum and decay are (N, 1)."""
    gradient = gradient + decay * p if bool(decay.any()) else gradient
    squares = state["square_avg"].mul_(ALPHA).addcmul_(gradient, gradient, value=1 - ALPHA)
    direction = gradient / squares.sqrt().add_(eps)
    if "momentum_buffer" in state:
        direction = state["momentum_buffer"].mul_(momentum).add_(direction)
    p.sub_(direction * rate)


def _sgd(
    p: Tensor, gradient: Tensor, state: dict[str, Tensor], rate: Tensor, eps: Tensor, momentum: Tensor, decay: Tensor
) -> None:
    """torch.optim.SGD; rate, momentum and decay are (N, 1)."""
    gradient = gradient + decay * p if bool(decay.any()) else gradient
    if "momentum_buffer" in state:
        gradient = state["momentum_buffer"].mul_(momentum).add_(gradient)
    p.sub_(gradient * rate)


RULES: Mapping[str, Callable[..., None]] = {"rmsprop": _rmsprop, "sgd": _sgd}

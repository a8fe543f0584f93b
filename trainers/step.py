"""One step of a game: every phase of the current act, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainers import plugins
from trainers.config import Optimizer, TrainConfig
from trainers.core import Act, Backbones, Batch, DataShape, Hack, Losses, Part, Phase, Variant
from trainers.distributed import Workers
from trainers.draws import Draws, derive, own_generator
from trainers.play import Play

Fetch = Callable[[int, range], Batch]  # (position of the batch in the stream, rows of it) -> batch

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}


class Game:
    """A configuration made real: networks, phases with every hack applied, and one optimizer for each phase.

    Freshly initialised from `seed`; each part's and hack's weights depend on the seed and its own name only.
    """

    def __init__(
        self,
        config: TrainConfig,
        shape: DataShape,
        seed: int,
        *,
        device: torch.device | str = "cpu",
        workers: Workers | None = None,
    ) -> None:
        self.config, self.shape, self.seed = config, shape, seed
        self.device = torch.device(device)
        self.dtype = DTYPES[config.settings.precision]
        self.workers = workers or Workers()
        self.variant: Variant = plugins.build("variants", config.variant.name, config.variant.params)
        self.hacks: tuple[Hack, ...] = tuple(plugins.build("hacks", h.name, h.params) for h in config.hacks)
        self.draws = Draws(seed, self.dtype)
        self.parts = self._build_parts()
        self.nets = nn.ModuleDict({name: part.module for name, part in self.parts.items()})
        self._place()
        self.acts = hacked(self.variant.acts(shape), self.hacks)
        self.stream_width = max(phase.repeats for act in self.acts for phase in act.phases)
        self.optimizers = {name: self._optimizer(phase) for name, phase in self._distinct_phases().items()}
        self.gated = any(type(hack).gate is not Hack.gate for hack in self.hacks)
        self.nets.requires_grad_(False)

    def _build_parts(self) -> dict[str, Part]:
        make = {side: plugins.build("backbones", one.name, one.params) for side, one in (
            ("generator", self.config.generator), ("critic", self.config.critic))}  # fmt: skip
        with own_generator():
            torch.manual_seed(derive(self.seed, "networks"))
            parts = self.variant.networks(self.shape, Backbones(make["generator"], make["critic"]))
            for hack, chosen in zip(self.hacks, self.config.hacks, strict=True):
                torch.manual_seed(derive(self.seed, "networks", chosen.name))
                parts = hack.networks(parts, self.shape)
        return parts

    def _place(self) -> None:
        self.nets.to(self.device, self.dtype)
        if any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in self.nets.modules()):
            self.nets.to(memory_format=torch.channels_last)
        self.workers.broadcast([*self.nets.parameters(), *self.nets.buffers()])

    def _distinct_phases(self) -> dict[str, Phase]:
        """Phases by name. Acts may share one, with its optimizer. Raises ValueError where they only share the name."""
        found: dict[str, Phase] = {}
        for phase in (phase for act in self.acts for phase in act.phases):
            one = found.setdefault(phase.name, phase)
            if (one.updates, one.role) != (phase.updates, phase.role):
                raise ValueError(
                    f"two phases are called {phase.name}, and they update {one.updates} and {phase.updates}"
                )
        return found

    @property
    def batch_size(self) -> int:
        """Samples a step, over all workers and microbatches."""
        return self.config.settings.batch_size

    def parameters(self, phase: Phase) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything that a phase updates."""
        return [(f"{part}.{name}", p) for part in phase.updates for name, p in self.nets[part].named_parameters()]

    def _optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        return make_optimizer(self.config.optimizers[phase.role], [p for _, p in self.parameters(phase)])

    def sampling(self) -> nn.ModuleDict:
        """The networks as they are sampled from: averaged copies in place of what they stand for."""
        stand_ins = {part.stands_for: name for name, part in self.parts.items() if part.stands_for}
        return nn.ModuleDict(
            {name: self.nets[stand_ins.get(name, name)] for name, part in self.parts.items() if not part.stands_for}
        )

    # --- acts ---------------------------------------------------------------------------------------------------

    def act(self, step: int) -> int:
        """Which act a step belongs to."""
        last, total = 0.0, self.config.settings.total_steps
        for i, act in enumerate(self.acts):
            last += act.share
            if step < round(last * total):
                return i
        return len(self.acts) - 1

    def play(self, step: int, phase: Phase | None, phases: tuple[Phase, ...], repeat: int, rows: range) -> Play:
        return Play(
            self.nets,
            self.draws,
            shape=self.shape,
            rows=rows,
            step=step,
            total_steps=self.config.settings.total_steps,
            phase=phase,
            phases=phases,
            repeat=repeat,
            hacks=self.hacks,
            device=self.device,
            dtype=self.dtype,
            workers=self.workers,
            variant=self.variant,
            batch_size=self.config.settings.batch_size,
        )

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self, step: int, fetch: Fetch) -> dict[str, Tensor]:
        """Run every phase that is due; returns each term's mean as `phase/term` scalars (not averaged over workers)."""
        act = self.acts[self.act(step)]
        return run_act(act, step, lambda phase, repeat: self._update(step, act, phase, repeat, fetch))

    def _update(self, step: int, act: Act, phase: Phase, repeat: int, fetch: Fetch) -> dict[str, Tensor]:
        optimizer = self.optimizers[phase.name]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        means: dict[str, Tensor] = {}
        rows = self.workers.rows(self.batch_size)
        play = None
        with learning(parameters):
            for chunk in chunks(rows, self.config.settings.microbatch):
                play = self.play(step, phase, act.phases, repeat, chunk)
                losses = self._losses(phase, fetch(step * self.stream_width + repeat, chunk), play)
                share = len(chunk) / len(rows)
                terms = {name: term.mean(-1) * share for name, term in losses.items()}
                torch.stack([term.sum() for term in terms.values()]).sum().backward()
                for name, term in terms.items():
                    means[name] = means.get(name, 0) + term.detach()
            assert play is not None
            self._apply(optimizer, parameters, phase, step, play, means)
        return means

    def _losses(self, phase: Phase, batch: Batch, play: Play) -> Losses:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.settings.precision == "bf16"):
            losses = hacked_losses(phase, batch, play)
        return {name: term.to(self.dtype) for name, term in losses.items()}

    def _apply(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        phase: Phase,
        step: int,
        play: Play,
        means: dict[str, Tensor],
    ) -> None:
        with torch.no_grad():
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            self.workers.average(gradients)
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient
            if self._closed(means, play):
                return
            for hack in self.hacks:
                hack.gradients(play)
            rate = self.config.optimizers[phase.role].rate(step, self.config.settings.total_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            self.variant.stepped(play)
            for hack in self.hacks:
                hack.stepped(play)

    def _closed(self, means: dict[str, Tensor], play: Play) -> bool:
        """Whether a hack's gate skips this update; decided on the losses of all workers."""
        if not self.gated:
            return False
        whole = {name: value.clone() for name, value in means.items()}
        self.workers.average(whole.values())
        gates = [hack.gate(whole, play) for hack in self.hacks]
        return any(gate is not None and not bool(gate) for gate in gates)


def hacked(acts: Sequence[Act], hacks: Sequence[Hack]) -> tuple[Act, ...]:
    """The acts with every phase changed by every hack."""
    changed = []
    for act in acts:
        phases = []
        for plain in act.phases:
            phase = plain
            for hack in hacks:
                phase = hack.phase(phase, act.phases)
            phases.append(phase)
        changed.append(act._replace(phases=tuple(phases)))
    return tuple(changed)


def hacked_losses(phase: Phase, batch: Batch, play: Play) -> Losses:
    """A phase's terms after every hack."""
    losses = phase.loss(play.nets, batch, play)
    for hack in play.hacks:
        losses = hack.losses(losses, batch, play)
    return losses


def run_act(act: Act, step: int, update: Callable[[Phase, int], Losses]) -> Losses:
    """Run every phase that is due; returns the terms of the last `update(phase, repeat)` of each as `phase/term`."""
    told: Losses = {}
    for phase in act.phases:
        if step % phase.every:
            continue
        means: Losses = {}
        for repeat in range(phase.repeats):
            means = update(phase, repeat)
        told.update({f"{phase.name}/{term}": value for term, value in means.items()})
    return told


@contextmanager
def learning(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, these parameters have gradients, none at first; all others have none."""
    for p in parameters:
        p.requires_grad_(True)
        p.grad = None
    yield
    for p in parameters:
        p.requires_grad_(False)


def chunks(rows: range, size: int | None) -> Iterator[range]:
    """The rows in microbatches of at most `size`."""
    size = size or len(rows)
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))


def _without_compiler() -> None:
    """Make optimizers without torch's compiler.

    A new optimizer imports it (a second of processor time) for nothing but to keep it away from this one method, unless the
    method says that it is kept away already; here nothing compiles an optimizer.
    """
    plain = getattr(torch.optim.Optimizer.add_param_group, "__wrapped__", None)
    if plain is not None and not hasattr(plain, "__dynamo_disable"):
        plain.__dynamo_disable = plain


_without_compiler()


def make_optimizer(config: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The torch optimizer of a role. Learning rates are set each step."""
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name in ("adam", "adamw"):
        cls = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        return cls(parameters, betas=config.betas, eps=config.eps, fused=True, **common)
    if config.name == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **common)
    return torch.optim.RMSprop(parameters, eps=config.eps, momentum=config.momentum, **common)

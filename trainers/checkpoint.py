"""The whole state of a training as files, and back, bit for bit.

Named draws and schedules are functions of the step, so the state is: networks (averaged copies and hack buffers among
them), optimizers, and the step. What one worker holds alone (a replay buffer, its own batch statistics) is kept for each.

    state.safetensors   net/<name>, rank/<rank>/<name>, optimizer/<phase>/<parameter>/<key>
    state.json          the step, whose state it is, and what the arithmetic was done with

`restore` knows from the game alone which tensors there must be: one too few, one too many, or one of another shape is
refused by its name.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from trainers.core import Phase
from trainers.distributed import own_buffers, per_rank_buffers
from trainers.step import Game, make_optimizer

FORMAT = 2  # 1 kept batch statistics averaged, and pictures one by one
STATE, ABOUT = "state.safetensors", "state.json"
FIELDS = ("step", "stepped", "config", "shape", "seed", "arithmetic", "workers", "beside")
MAY_DIFFER = ("total_steps", "microbatch", "log_every", "sample_every", "checkpoint_every", "init")
Sizes = dict[str, tuple[torch.Size, torch.dtype]]


class Mismatch(ValueError):
    """A checkpoint that belongs to another training, or of which something is missing."""


@dataclass(frozen=True)
class Captured:
    """A state in memory, apart from the networks that go on training. `tensors` are copies on the CPU."""

    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]

    def files(self, beside: Mapping[str, Any] | None = None) -> dict[str, bytes]:
        """The state as bytes, with what `state.json` says of the files beside it; may be made in another thread."""
        about = {**self.about, "beside": dict(beside or {})}
        return {STATE: save(dict(self.tensors)), ABOUT: json.dumps(about, sort_keys=True).encode()}


def networks(game: Game) -> dict[str, Tensor]:
    """A copy of every parameter and buffer by name, contiguous, on the CPU."""
    return {name: _copy(value) for name, value in game.nets.state_dict().items()}


def optimizers(game: Game) -> dict[str, Tensor]:
    """A copy of every optimizer's state as `phase/parameter/key`."""
    return {name: _copy(value) for name, value in optimizer_state(game)}


def optimizer_state(game: Game) -> Iterator[tuple[str, Tensor]]:
    """The tensors that optimizers hold, themselves, as `phase/parameter/key`."""
    for phase in phases(game):
        states = game.optimizers[phase.name].state
        for name, p in game.parameters(phase):
            for key, value in states.get(p, {}).items():
                if isinstance(value, Tensor):
                    yield f"{phase.name}/{name}/{key}", value


def phases(game: Game) -> list[Phase]:
    """Every phase of the game once."""
    return list({phase.name: phase for act in game.acts for phase in act.phases}.values())


def capture(game: Game, step: int) -> Captured:
    """The state after `step` steps; changes nothing. Every worker calls it, and all get the same."""
    own = own_buffers(game.nets, game.workers.size)
    tensors = {f"net/{name}": _copy(value) for name, value in game.nets.state_dict().items() if name not in own}
    tensors |= {f"optimizer/{name}": _copy(value) for name, value in optimizer_state(game)}
    for rank, theirs in enumerate(game.workers.gather({name: _copy(value) for name, value in own.items()})):
        tensors |= {f"rank/{rank}/{name}": value for name, value in theirs.items()}
    return Captured(
        tensors, {"format": FORMAT, "step": step, "stepped": stepped(game), **identity(game), **means(game)}
    )


def stepped(game: Game) -> list[str]:
    """The phases whose optimizers hold a state: those that were updated at least once."""
    return [
        phase.name
        for phase in phases(game)
        if any(game.optimizers[phase.name].state.get(p) for _, p in game.parameters(phase))
    ]


def identity(game: Game) -> dict[str, Any]:
    """What must be the same where a training goes on."""
    config = {key: value for key, value in game.config.to_json().items() if key not in MAY_DIFFER}
    return {"config": json.loads(json.dumps(config)), "shape": game.shape.to_json(), "seed": game.seed}


def means(game: Game) -> dict[str, Any]:
    """What may differ where a training goes on, but changes how sums are rounded."""
    return {
        "arithmetic": {
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            "device": game.device.type,
            "microbatch": game.config.settings.microbatch,
        },
        "workers": game.workers.size,
    }


def restore(game: Game, files: Mapping[str, Path], say: Callable[[str], None] = lambda line: None) -> int:
    """Put a captured state back; returns its step.

    `say` gets one line where the training goes on from exactly this state, but not to the same bits as it would have
    without the stop. Raises Mismatch where the state is another game's or not whole.
    """
    about = read_about(files)
    tensors = _read_tensors(files)
    _check_identity(game, about)
    _put(game, tensors, about)
    if changes := _changes(about, means(game)):
        say(f"not bit-exact from step {about['step']} on: {'; '.join(changes)}")
    return int(about["step"])


def adopt(game: Game, files: Mapping[str, Path]) -> int:
    """Put another training's captured state into this one, which goes on from its step by numbers of its own.

    Networks, averaged copies, hacks' buffers and optimizers' moments are the other's; learning rates, betas, strengths,
    weights of penalties and all draws are this game's (exploit and explore, https://arxiv.org/abs/1711.09846). Returns the
    step. Raises Mismatch where the other's networks or optimizers are not of the same shape.
    """
    about = read_about(files)
    tensors = _read_tensors(files)
    try:
        _check_kin(game, about)
        _put(game, tensors, about)
    except Mismatch as error:
        raise Mismatch(f"a training cannot start from one that is not of its shape: {error}") from error
    return int(about["step"])


def _put(game: Game, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    _check_tensors(tensors, _expected(game, about))
    _restore_networks(game, tensors, about["workers"])
    _restore_optimizers(game, tensors, about["stepped"])


def read_about(files: Mapping[str, Path]) -> dict[str, Any]:
    """What `state.json` says. Raises Mismatch where it is not whole, or of another format."""
    try:
        about: dict[str, Any] = json.loads(_file(files, ABOUT).read_text())
    except ValueError as error:
        raise Mismatch(f"the checkpoint's {ABOUT} cannot be read: {error}") from error
    if about.get("format") != FORMAT:
        raise Mismatch(f"the checkpoint has format {about.get('format')}, this version reads {FORMAT}")
    if missing := [field for field in FIELDS if field not in about]:
        raise Mismatch(f"the checkpoint's {ABOUT} lacks {', '.join(missing)}")
    return about


def _read_tensors(files: Mapping[str, Path]) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(_file(files, STATE))
        return tensors
    except SafetensorError as error:
        raise Mismatch(f"the checkpoint's {STATE} cannot be read: {error}") from error


def _file(files: Mapping[str, Path], name: str) -> Path:
    if name not in files:
        raise Mismatch(f"the checkpoint lacks {name}")
    return files[name]


def _check_identity(game: Game, about: Mapping[str, Any]) -> None:
    mine = identity(game)
    here = {**mine.pop("config"), **mine}
    there = {**about["config"], "shape": about["shape"], "seed": about["seed"]}
    for key in {**here, **there}:
        if here.get(key) != there.get(key):
            what = f"its {key} is {there.get(key)}, not {here.get(key)}"
            raise Mismatch(f"the checkpoint belongs to another training: {what}")


def _check_kin(game: Game, about: Mapping[str, Any]) -> None:
    """Raises Mismatch for the state of another game, whose tensors may have the same names and shapes nevertheless."""
    mine, theirs = identity(game), about["config"]
    if about["shape"] != mine["shape"]:
        raise Mismatch(f"the checkpoint's data are {about['shape']}, not {mine['shape']}")
    for what, is_are in (("variant", "is"), ("hacks", "are")):
        there, here = (", ".join(sorted(config[what])) or "none" for config in (theirs, mine["config"]))
        if there != here:
            raise Mismatch(f"the checkpoint's {what} {is_are} {there}, not {here}")


def _expected(game: Game, about: Mapping[str, Any]) -> Sizes:
    """Every tensor that the checkpoint must have."""
    found: Sizes = {}
    per_rank = own_buffers(game.nets, about["workers"])
    for name, value in game.nets.state_dict().items():
        places = [f"rank/{rank}" for rank in range(about["workers"])] if name in per_rank else ["net"]
        found |= {f"{place}/{name}": (value.shape, value.dtype) for place in places}
    for phase in phases(game):
        if phase.name in about["stepped"]:
            keys = _state_keys(game, phase)
            for name, p in game.parameters(phase):
                found |= {
                    f"optimizer/{phase.name}/{name}/{key}": (p.shape if like else torch.Size(), dtype)
                    for key, (like, dtype) in keys.items()
                }
    return found


def _state_keys(game: Game, phase: Phase) -> dict[str, tuple[bool, torch.dtype]]:
    """What a phase's optimizer holds for each parameter once it has stepped: key -> (shaped as it, dtype)."""
    probe = torch.nn.Parameter(torch.zeros(2, 3, dtype=game.dtype))
    probe.grad = torch.zeros_like(probe)
    optimizer = make_optimizer(game.config.optimizers[phase.role], [probe])
    optimizer.step()
    state = optimizer.state[probe].items()
    return {key: (value.shape == probe.shape, value.dtype) for key, value in state if isinstance(value, Tensor)}


def _check_tensors(tensors: Mapping[str, Tensor], expected: Sizes) -> None:
    for name, (shape, dtype) in expected.items():
        if name not in tensors:
            raise Mismatch(f"the checkpoint lacks {name}")
        if (tensors[name].shape, tensors[name].dtype) != (shape, dtype):
            what = f"{tuple(tensors[name].shape)} {tensors[name].dtype}"
            raise Mismatch(f"the checkpoint's {name} is {what}, not {tuple(shape)} {dtype}")
    if surplus := sorted(tensors.keys() - expected.keys()):
        raise Mismatch(f"the checkpoint has {surplus[0]}, which this training does not know")


def _restore_networks(game: Game, tensors: Mapping[str, Tensor], made_by: int) -> None:
    """Own buffers: each worker's its own. Of another number of workers: see `_inherited`."""
    with torch.no_grad():
        for name, value in game.nets.state_dict().items():
            whole = tensors.get(f"net/{name}")
            value.copy_(_inherited(game, name, tensors, made_by) if whole is None else whole)


def _inherited(game: Game, name: str, tensors: Mapping[str, Tensor], made_by: int) -> Tensor:
    """A worker's own buffer where `made_by` workers have left theirs.

    As many workers as before: its own. Else batch statistics are averaged, and a buffer that belongs to rows of the batch
    comes from the worker that held this worker's first row.
    """
    rank, size = game.workers.rank, game.workers.size
    if made_by == size or name in per_rank_buffers(game.nets):
        return tensors[f"rank/{rank * made_by // size}/{name}"]
    return torch.stack([tensors[f"rank/{other}/{name}"] for other in range(made_by)]).mean(0)


def _restore_optimizers(game: Game, tensors: Mapping[str, Tensor], stepped: list[str]) -> None:
    for phase in phases(game):
        optimizer = game.optimizers[phase.name]
        optimizer.state.clear()
        if phase.name in stepped:
            keys = _state_keys(game, phase)
            for name, p in game.parameters(phase):
                prefix = f"optimizer/{phase.name}/{name}"
                optimizer.state[p] = {key: _like(p, tensors[f"{prefix}/{key}"]) for key in keys}


def _changes(about: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What the arithmetic was done with, where it is done with something else now."""
    then = {**about["arithmetic"], "workers": about["workers"]}
    here = {**now["arithmetic"], "workers": now["workers"]}
    return [f"{key} was {then.get(key)}, is {value}" for key, value in here.items() if then.get(key) != value]


def _copy(value: Tensor) -> Tensor:
    """Contiguous, on the CPU, sharing no memory."""
    return torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())


def _like(p: Tensor, value: Tensor) -> Any:
    """A state tensor laid out as its parameter, on its device."""
    if value.shape != p.shape:
        return value.to(p.device, copy=True)
    return torch.empty_like(p).copy_(value)

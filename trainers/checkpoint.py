"""The whole state of a training as files, and back, bit for bit.

Named draws and schedules are functions of the step, so the state is: networks (averaged copies and hack buffers among
them), optimizers, and the step. Batch statistics are averaged over workers as a checkpoint is taken; buffers that belong to one
worker are kept for each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from trainers.distributed import per_rank_buffers, shared_buffers
from trainers.step import Game

FORMAT = 1


def networks(game: Game) -> dict[str, Tensor]:
    """Every parameter and buffer by name, contiguous, on the CPU."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in game.nets.state_dict().items()}


def optimizers(game: Game) -> dict[str, Tensor]:
    """Every optimizer's state as `phase/parameter/key`."""
    found = {}
    for act in game.acts:
        for phase in act.phases:
            states = game.optimizers[phase.name].state
            for name, p in game.parameters(phase):
                for key, value in states.get(p, {}).items():
                    if isinstance(value, Tensor):
                        found[f"{phase.name}/{name}/{key}"] = value.detach().cpu().contiguous().clone()
    return found


def capture(game: Game, step: int) -> dict[str, bytes]:
    """The state after `step` steps as files. Every worker calls it; all get rank 0's view with each worker's own buffers."""
    game.workers.average(shared_buffers(game.nets).values())
    own = {name: buffer.detach().cpu().clone() for name, buffer in per_rank_buffers(game.nets).items()}
    tensors = {f"net/{name}": value for name, value in networks(game).items() if name not in own}
    tensors |= {f"optimizer/{name}": value for name, value in optimizers(game).items()}
    for rank, theirs in enumerate(game.workers.gather(own)):
        tensors |= {f"rank/{rank}/{name}": value for name, value in theirs.items()}
    about = {"format": FORMAT, "step": step, "seed": game.seed, "threads": torch.get_num_threads()}
    return {"state.safetensors": save(tensors), "state.json": json.dumps(about, sort_keys=True).encode()}


def restore(game: Game, files: Mapping[str, Path]) -> int:
    """Put a captured state back; returns its step. Raises ValueError where it belongs to another game."""
    about = json.loads(files["state.json"].read_text())
    if about.get("format") != FORMAT:
        raise ValueError(f"checkpoint format {about.get('format')} is not {FORMAT}")
    tensors = load_file(files["state.safetensors"])
    _restore_networks(game, tensors)
    _restore_optimizers(game, tensors)
    return int(about["step"])


def _restore_networks(game: Game, tensors: Mapping[str, Tensor]) -> None:
    own = per_rank_buffers(game.nets)
    ranks = len({name.split("/", 2)[1] for name in tensors if name.startswith("rank/")}) or 1
    for name, value in game.nets.state_dict().items():
        key = f"rank/{game.workers.rank % ranks}/{name}" if name in own else f"net/{name}"
        if key not in tensors or tensors[key].shape != value.shape:
            raise ValueError(f"the checkpoint has no fitting {name}")
        with torch.no_grad():
            value.copy_(tensors[key])


def _restore_optimizers(game: Game, tensors: Mapping[str, Tensor]) -> None:
    states: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            owner, key = name.removeprefix("optimizer/").rsplit("/", 1)
            states.setdefault(owner, {})[key] = value
    for act in game.acts:
        for phase in act.phases:
            optimizer = game.optimizers[phase.name]
            for name, p in game.parameters(phase):
                state = states.get(f"{phase.name}/{name}", {})
                optimizer.state[p] = {key: _like(p, value) for key, value in state.items()}


def _like(p: Tensor, value: Tensor) -> Any:
    """A state tensor laid out as its parameter, on its device."""
    if value.shape != p.shape:
        return value.to(p.device)
    return torch.empty_like(p).copy_(value)

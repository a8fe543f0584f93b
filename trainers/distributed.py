"""Averages over workers, done by hand after backward: no wrapper around the networks.

Plain modules and one flattened all-reduce a phase agree with one process on the whole batch to rounding error; the ways to
wrap two players are silently wrong (see docs/architecture.md). Every worker holds an equal share of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Workers:
    """This process among `size` workers; a process group must be initialised where `size` > 1."""

    rank: int = 0
    size: int = 1

    def rows(self, batch_size: int) -> range:
        """The rows of the batch that this worker holds. Raises ValueError where they cannot be shared equally."""
        if batch_size % self.size:
            raise ValueError(f"batch_size {batch_size} cannot be shared equally by {self.size} workers")
        share = batch_size // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the workers, in one all-reduce for each dtype."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for same in by_dtype.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            torch.distributed.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every worker rank 0's values."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), 0)  # into the same memory; no gradient goes through it

    def any(self, flag: bool, device: torch.device | str = "cpu") -> bool:
        """Whether any worker says so."""
        if self.size == 1:
            return flag
        told = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return bool(told)

    def told(self, number: int, device: torch.device | str = "cpu") -> int:
        """Worker 0's number, on every worker."""
        if self.size == 1:
            return number
        agreed = torch.tensor(number, device=device)
        torch.distributed.broadcast(agreed, 0)
        return int(agreed)

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value (anything that pickles), by rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, value)
        return gathered


def per_rank_buffers(nets: nn.ModuleDict) -> dict[str, Tensor]:
    """Buffers that belong to one worker (a replay buffer): those that a module names in `per_rank`."""
    found = {}
    for prefix, module in nets.named_modules():
        for name in getattr(module, "per_rank", ()):
            found[f"{prefix}.{name}" if prefix else name] = getattr(module, name)
    return found


def own_buffers(nets: nn.ModuleDict, size: int) -> dict[str, Tensor]:
    """Stored buffers in which `size` workers differ: per-rank ones, and with several workers their batch statistics."""
    found = per_rank_buffers(nets) | (shared_buffers(nets) if size > 1 else {})
    stored = nets.state_dict()
    return {name: buffer for name, buffer in found.items() if name in stored}


def shared_buffers(nets: nn.ModuleDict) -> dict[str, Tensor]:
    """Floating-point buffers that workers average (batch statistics)."""
    own = per_rank_buffers(nets)
    return {name: buffer for name, buffer in nets.named_buffers() if name not in own and buffer.is_floating_point()}

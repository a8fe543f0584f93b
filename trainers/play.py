"""What a loss and a hack may know and do in one phase of one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.core import Batch, DataShape, Entry, Hack, Judged, Networks, Phase, Score
from trainers.distributed import Workers
from trainers.draws import Draws

if TYPE_CHECKING:
    from trainers.core import Variant


class Play:
    """One phase of one step, on one slice of the batch.

    `nets`: the networks. `shape`: of one sample. `phase`: the phase being computed (None outside of training). `step`:
    completed steps before this one. `progress`: a scalar tensor, `step / total_steps`. `judged`: every critic call so far in
    this phase, in order. `rows`: the global rows of the batch that this worker or microbatch holds, as `range(first, last)`.
    """

    def __init__(
        self,
        nets: Networks,
        draws: Draws,
        *,
        shape: DataShape,
        rows: range,
        step: int = 0,
        total_steps: int = 1,
        phase: Phase | None = None,
        phases: Sequence[Phase] = (),
        repeat: int = 0,
        hacks: Sequence[Hack] = (),
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        workers: Workers | None = None,
        variant: Variant | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.nets = nets
        self.draws = draws
        self.shape = shape
        self.rows = rows
        self.step = step
        self.phase = phase
        self.phases = tuple(phases)
        self.repeat = repeat
        self.hacks = tuple(hacks)
        self.device = torch.device(device)
        self.dtype = dtype
        self.workers = workers or Workers()
        self.variant = variant
        self.whole_batch = batch_size
        self.judged: list[Judged] = []
        self.progress = torch.tensor(step / max(total_steps, 1), dtype=dtype)

    @property
    def role(self) -> str | None:
        """Role of the phase: generator, critic or autoencoder; None outside of training."""
        return self.phase.role if self.phase else None

    @property
    def batch_size(self) -> int:
        """Samples a step over all workers and microbatches."""
        return self.whole_batch or len(self.rows)

    # --- named draws: keyed by (seed, step, phase, repeat, name) and the global row -------------------------------

    def _key(self, name: str) -> tuple[Any, ...]:
        return (self.step, self.phase.name if self.phase else "", self.repeat, name)

    def normal(self, name: str, *shape: int) -> Tensor:
        """Standard normal (B, *shape); the same name gives the same tensor within a phase."""
        return self.draws.normal(self._key(name), self.rows, shape).to(self.device, self.dtype)

    def normal_like(self, name: str, x: Tensor) -> Tensor:
        """Standard normal, shaped as `x` (B, *shape)."""
        return self.normal(name, *x.shape[1 + self.draws.leading :])

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Uniform on [0, 1), (B, *shape)."""
        return self.draws.uniform(self._key(name), self.rows, shape).to(self.device, self.dtype)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), int64 (B, *shape)."""
        return self.draws.integers(self._key(name), self.rows, high, shape).to(self.device)

    def latent(self, name: str, dim: int, distribution: str = "normal") -> Tensor:
        """A latent (B, dim), normal or uniform on [-1, 1], after every hack's `latent`."""
        z = self.normal(name, dim) if distribution == "normal" else self.uniform(name, dim) * 2 - 1
        for hack in self.hacks:
            z = hack.latent(z, self)
        return z

    # --- critics -----------------------------------------------------------------------------------------------

    def judge(self, critic: str, entry: Entry, *, real: bool) -> Score:
        """Show an entry to a critic, through every hack's `entry`; the call is recorded in `judged`.

        Real and fake are shown apart: batch statistics of one never touch the other.
        """
        for hack in self.hacks:
            entry = hack.entry(entry, self, critic=critic, real=real)
        if self.role == "critic" and self._differentiates(real):
            entry = entry._replace(inputs=tuple(x.detach().requires_grad_() for x in entry.inputs))
        score = self.critic(critic, entry)
        self.judged.append(Judged(critic, entry, score, real))
        return score

    def _differentiates(self, real: bool) -> bool:
        side = "real" if real else "fake"
        if self.variant is not None and side in self.variant.differentiates:
            return True
        return any(side in hack.differentiates for hack in self.hacks)

    def critic(self, critic: str, entry: Entry) -> Score:
        """The critic's answer to exactly this entry: no hack, no record (gradient penalties)."""
        module = self.nets[critic]
        if entry.condition is None:
            return module(*entry.inputs)  # type: ignore[no-any-return]
        return module(*entry.inputs, condition=entry.condition)  # type: ignore[no-any-return]

    def real_counterpart(self, fake: Judged, batch: Batch) -> Score:
        """The critic's answer to the real entries that stand against `fake`: judged already, or shown now.

        Needs a variant that offers "real_entry".
        """
        for judged in self.judged:
            if judged.real and judged.critic == fake.critic:
                return judged.score
        if self.variant is None:
            raise RuntimeError("outside of training there is nothing real to compare with")
        entry = self.variant.real_entry(fake.critic, batch, self)
        for hack in self.hacks:
            entry = hack.entry(entry, self, critic=fake.critic, real=True)
        with torch.no_grad():
            return self.critic(fake.critic, entry)

    # --- objectives --------------------------------------------------------------------------------------------

    def target(self, like: Tensor, value: float, *, real: bool) -> Tensor:
        """A target shaped like `like`, filled with `value`, after every hack's `target`."""
        target = torch.full_like(like, value)
        for hack in self.hacks:
            target = hack.target(target, self, real=real)
        return target

    def objective(self, logits: Tensor, value: float, *, real: bool) -> Tensor:
        """Binary cross-entropy of logits (..., B) against the (hacked) target `value`, per sample."""
        return F.binary_cross_entropy_with_logits(logits, self.target(logits, value, real=real), reduction="none")

    def due(self, every: int) -> bool:
        """Whether something that happens every `every` steps happens now."""
        return self.step % every == 0

"""Instance noise (https://arxiv.org/abs/1701.04862; https://arxiv.org/abs/1610.04490)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from trainers.core import Entry, Hack
from trainers.layers import aligned
from trainers.play import Play


@dataclass(frozen=True)
class InstanceNoise(Hack):
    """Noise on everything that a critic sees (https://arxiv.org/abs/1701.04862; https://arxiv.org/abs/1610.04490).

    x + sigma(t) e with e standard normal, for real and fake, in every phase; sigma falls from `sigma` to 0 at `until` of the
    training, linearly, or stays.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic"})
    vectorizes: ClassVar[bool] = True
    varies: ClassVar[frozenset[str]] = frozenset({"sigma", "until"})
    neutral: ClassVar[dict[str, Any] | None] = {"sigma": 0.0}
    order: ClassVar[int] = 60

    sigma: Annotated[float, Ge(0)] = 0.1
    "Standard deviation at the start, in the data's units."
    decay: Literal["linear", "none"] = "linear"
    until: Annotated[float, Interval(gt=0, le=1)] = 1.0
    "Share of the training after which a linear decay has reached 0."

    def entry(self, entry: Entry, play: Play, *, critic: str, real: bool) -> Entry:
        left = (1 - play.progress / self.until).clamp(min=0) if self.decay == "linear" else 1.0
        side = "real" if real else "fake"
        noisy = tuple(
            x + aligned(self.sigma * left, x) * play.normal_like(f"instance_noise/{critic}/{side}/{i}", x)
            for i, x in enumerate(entry.inputs)
        )
        return entry._replace(inputs=noisy)

"""A search without trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator.stage import Context, Facts, Foresight, Stage
from tests.fake_stages._calls import CALLS

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact


@dataclass(frozen=True)
class Pick(Stage):
    """Pick a rate."""

    inputs: ClassVar[dict[str, str]] = {"dataset": "dataset"}
    outputs: ClassVar[dict[str, str]] = {"search": "search"}

    rate: float = 2.0

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        return Foresight({"search": {}})

    def run(self, context: Context) -> dict[str, Artifact]:
        CALLS.append(context.stage)
        return {"search": context.store.put("search", {}, {"winner": {"rate": self.rate}})}

"""Take notes and make notes: two of these can wait for each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator.stage import Context, Stage

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact


@dataclass(frozen=True)
class Echo(Stage):
    """Pass notes on."""

    inputs: ClassVar[dict[str, str]] = {"notes": "notes?"}
    outputs: ClassVar[dict[str, str]] = {"notes": "notes"}

    def run(self, context: Context) -> dict[str, Artifact]:
        return {"notes": context.store.put("notes", {})}

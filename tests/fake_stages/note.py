"""Look at models, and tell MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator.stage import Context, Stage
from tests.fake_stages._calls import CALLS

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact


@dataclass(frozen=True)
class Note(Stage):
    """Score models by their length."""

    inputs: ClassVar[dict[str, str]] = {"models": "model*"}
    tracks: ClassVar[bool] = True
    outputs: ClassVar[dict[str, str]] = {"scores": "scores"}

    def run(self, context: Context) -> dict[str, Artifact]:
        CALLS.append(context.stage)
        texts = [context.store.read(model, "text").decode() for model in context.inputs["models"]]
        return {"scores": context.store.put("scores", {"scores.json": repr(texts).encode()}, {"texts": texts})}

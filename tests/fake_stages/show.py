"""Look at models in a directory of their files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator.stage import Context, Stage
from tests.fake_stages._calls import CALLS

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact


@dataclass(frozen=True)
class Show(Stage):
    """Score models by what code finds that wants a directory."""

    inputs: ClassVar[dict[str, str]] = {"models": "model*"}
    outputs: ClassVar[dict[str, str]] = {"scores": "scores"}

    def run(self, context: Context) -> dict[str, Artifact]:
        CALLS.append(context.stage)
        folders = [context.store.directory(model) for model in context.inputs["models"]]
        texts = sorted((folder / "text").read_bytes() for folder in folders)
        return {"scores": context.store.put("scores", {"shown": b"\n".join(texts)}, {"count": len(texts)})}

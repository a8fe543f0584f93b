"""A training: steps, checkpoints, and a result that tells every step that was taken."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from orchestrator.errors import Interrupted
from orchestrator.stage import Complaint, Context, Facts, Foresight, Stage
from tests.fake_stages._calls import CALLS

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact


@dataclass(frozen=True)
class Grow(Stage):
    """Grow a text, one character a step."""

    inputs: ClassVar[dict[str, str]] = {"dataset": "dataset", "config": "search?"}
    outputs: ClassVar[dict[str, str]] = {"model": "model"}
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    extends: ClassVar[str | None] = "total_steps"

    total_steps: Annotated[int, Ge(1)] = 3
    rate: float | None = None
    pause_s: float = 0.0

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        if inputs["dataset"].get("length", 0) > 1000:
            return Foresight(complaints=[Complaint(("total_steps",), "too-long", "the data set is too long to grow")])
        return Foresight({"model": {"length": self.total_steps}})

    def run(self, context: Context) -> dict[str, Artifact]:
        CALLS.append(context.stage)
        data = context.store.read(context.inputs["dataset"], "data")
        found = context.checkpoints.latest(at_most=self.total_steps)
        step, text = (found[0], found[1]["text"].read_bytes()) if found else (0, b"")
        if step:
            context.progress.say(f"goes on from step {step}")
        while step < self.total_steps:
            text += data[step % len(data) : step % len(data) + 1]
            step += 1
            CALLS.append(f"step {step}")
            context.checkpoints.save(step, {"text": text})
            context.progress.update(step, self.total_steps, metrics={"length": len(text)})
            if context.stopping():
                raise Interrupted(15)
            time.sleep(self.pause_s)
        files = {"text": text, "seed": str(context.seed).encode()}
        return {"model": context.store.put("model", files, {"length": len(text)})}

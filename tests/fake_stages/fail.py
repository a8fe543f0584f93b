"""Fail in a chosen way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from orchestrator import errors
from orchestrator.stage import Context, Stage
from tests.fake_stages._calls import CALLS

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact

ERRORS: dict[str, Exception] = {
    "os": OSError("the cable is loose"),
    "type": TypeError("a mistake in code"),
    "bad_input": errors.BadInput("this data set has no images"),
    "diverged": errors.Diverged("loss is NaN at step 7"),
    "refused": errors.GateRefused("frechet_distance is 50, more than 40"),
    "unavailable": errors.Unavailable("no answer"),
}


@dataclass(frozen=True)
class Fail(Stage):
    """Fail so many times, then succeed; or hang."""

    outputs: ClassVar[dict[str, str]] = {"scores": "scores"}

    how: Literal["os", "type", "bad_input", "diverged", "refused", "unavailable", "hang"] = "os"
    times: int = 1000

    def run(self, context: Context) -> dict[str, Artifact]:
        CALLS.append(context.stage)
        while self.how == "hang" and not context.stopping():
            time.sleep(0.01)
        if self.how == "hang":
            raise errors.Interrupted(15)
        if CALLS.count(context.stage) <= self.times:
            raise ERRORS[self.how]
        return {"scores": context.store.put("scores", {}, {"failures": self.times})}

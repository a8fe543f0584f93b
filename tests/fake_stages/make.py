"""Make a data set of nothing but a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from orchestrator.stage import Complaint, Context, Facts, Foresight, Stage
from tests.fake_stages._calls import CALLS

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact


@dataclass(frozen=True)
class Make(Stage):
    """Make a data set."""

    outputs: ClassVar[dict[str, str]] = {"dataset": "dataset", "extra": "notes"}

    text: str = "abc"
    copies: Annotated[int, Ge(1)] = 1

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        if self.copies > 100:
            return Foresight(complaints=[Complaint(("copies",), "too-many", "too many copies")])
        return Foresight({"dataset": {"length": len(self.text) * self.copies}})

    def run(self, context: Context) -> dict[str, Artifact]:
        CALLS.append(context.stage)
        data = (self.text * self.copies).encode()
        return {
            "extra": context.store.put("notes", {"note": b"."}),
            "dataset": context.store.put("dataset", {"data": data}, {"length": len(data)}),
        }

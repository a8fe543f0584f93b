"""Work until somebody says that it is enough."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from orchestrator.errors import Interrupted
from orchestrator.stage import Context, Stage
from tests.fake_stages._calls import CALLS

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact


@dataclass(frozen=True)
class Hold(Stage):
    """Hold the pipeline until a file exists; the result names the run, so that two computations differ."""

    outputs: ClassVar[dict[str, str]] = {"notes": "notes"}

    until: str = ""

    def run(self, context: Context) -> dict[str, Artifact]:
        CALLS.append(context.stage)
        context.progress.update(0, 1)
        while self.until and not Path(self.until).exists():
            if context.stopping():
                raise Interrupted(15)
            time.sleep(0.02)
        return {"notes": context.store.put("notes", {"by": context.run_id.encode()})}

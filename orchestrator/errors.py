"""What can go wrong, by kind. The kind decides the exit code and what the engine does next (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One mistake in a spec: where, what, why, and what to do."""

    id: str  # "unknown-key", stable, kebab-case
    what: str
    why: str = ""
    hint: str = ""
    file: str = ""
    line: int = 0  # 1-based; 0 = no position (a command-line value, say)
    col: int = 0
    source: str = ""  # the source line, for the caret

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.col}: " if self.line else (f"{self.file}: " if self.file else "")
        text = f"{place}error[{self.id}]: " + "; ".join(part for part in (self.what, self.why, self.hint) if part)
        if self.source and self.line:
            text += f"\n  {self.source}\n  {' ' * (self.col - 1)}^"
        return text


class OrchestratorError(Exception):
    """Base of every error that we explain to a user."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failure"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}; {self.hint}" if self.hint else message


class StageFailed(OrchestratorError):
    """A stage failed; its cause and log are told."""

    kind = "stage"


class BadInput(OrchestratorError):
    """The spec, an argument or the data is wrong. Never retried."""

    exit_code = 2
    kind = "bad_input"


class SpecError(BadInput):
    """Every problem found in a spec, in one pass."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = list(problems)


class GateRefused(OrchestratorError):
    """A `require` gate refused the model."""

    exit_code = 3
    kind = "gate"


class Diverged(OrchestratorError):
    """Training produced NaN or Inf. Never retried unchanged."""

    exit_code = 3
    kind = "diverged"


class Unavailable(OrchestratorError):
    """Storage, MLflow or cluster cannot be reached, or the cluster is too small."""

    exit_code = 4
    kind = "unavailable"


class IntegrityError(OrchestratorError):
    """Stored bytes are damaged and nothing good is left."""

    exit_code = 5
    kind = "integrity"


class Busy(OrchestratorError):
    """Another run holds the pipeline."""

    exit_code = 6
    kind = "busy"


class Interrupted(OrchestratorError):
    """SIGINT (130) or SIGTERM (143) after saving."""

    kind = "interrupted"

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.exit_code = 128 + signum  # type: ignore[misc]


class Cancelled(Interrupted):
    """Stopped from elsewhere, by `orchestrate cancel`: what SIGTERM does, exit code 143 too."""

    kind = "cancelled"

    def __init__(self) -> None:
        super().__init__(15)
        self.args = ("cancelled by `orchestrate cancel`",)

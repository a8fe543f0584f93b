"""How a job ended, for whoever starts it again and for whoever waits for it elsewhere.

    verdicts/<job>/final.json   created once, never changed: no attempt after it does any work
    verdicts/<job>/last.json    of an attempt that another one goes on from

Kubernetes starts a job again after any exit code but 0, and keeps none. So an attempt that is told whose it is
(`orchestrate run --verdict JOB`) first looks here: after a final verdict it exits with the same code at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.errors import BadInput, OrchestratorError
from orchestrator.seals import Damaged, read_whole, sealed, unsealed

if TYPE_CHECKING:
    from orchestrator.artifacts import ArtifactStore
    from orchestrator.runs import RunRecord

FOLDER = "verdicts"
JOB = re.compile(r"[a-z0-9]([a-z0-9.-]{0,78}[a-z0-9])?")
FINAL = {
    0: "succeeded",
    2: "bad input",
    3: "refused or diverged",
    5: "damaged storage",
}  # another attempt changes nothing
NAMES = ("final", "last")
BUG = 70


@dataclass(frozen=True)
class Verdict:
    """How one attempt of a job ended. `final`: no later attempt will end otherwise."""

    job: str
    exit_code: int
    status: str  # of the run: succeeded | failed | interrupted | cancelled | refused | diverged
    final: bool
    message: str = ""  # the cause, in one line
    run: str = ""  # "" where it ended before a run began
    pipeline: str = ""
    ended: float = 0.0  # seconds since 1970 (UTC)

    def __str__(self) -> str:
        parts = [f"verdict {self.job}: exit {self.exit_code}", self.status, "final" if self.final else "not final"]
        return ", ".join(part for part in (*parts, self.run and f"run {self.run}") if part)


TOLD = re.compile(
    r"verdict (?P<job>\S+): exit (?P<code>\d+), (?P<status>[a-z ]+), (?P<final>final|not final)(, run (?P<run>\S+))?"
)


def of_run(job: str, record: RunRecord) -> Verdict:
    """The verdict of a finished run. A run that somebody cancelled is not wanted any more: that is final, too."""
    code = BUG if record.exit_code is None else record.exit_code
    final = code in FINAL or record.status == "cancelled"
    return Verdict(job, code, record.status, final, record.error, record.run_id, record.pipeline, time.time())


def of_error(job: str, error: BaseException) -> Verdict:
    """The verdict of an attempt that ended before its run began, or with a bug of ours."""
    if isinstance(error, OrchestratorError):
        code, text = error.exit_code, str(error)
    elif isinstance(error, KeyboardInterrupt):
        code, text = 128 + getattr(error, "signum", 2), "interrupted"
    else:
        code, text = BUG, f"a bug of ours: {type(error).__name__}: {error}"
    status = "interrupted" if code > 128 else "failed"
    return Verdict(job, code, status, code in FINAL, " ".join(text.split())[:1000], ended=time.time())


def read(store: ArtifactStore, job: str) -> Verdict | None:
    """The final verdict, else that of the last attempt, None where there is none (or none can be read any more).

    Raises BadInput for what is no job's name, Unavailable.
    """
    for name in NAMES:
        path = _path(job, name)
        try:
            return read_whole(store.files, path, partial(parse_verdict, job=job))
        except FileNotFoundError:
            continue
        except Damaged:
            store.told(f"{store.url}/{path} is damaged and passed over; `orchestrate fsck --repair` moves it away")
    return None


def write(store: ArtifactStore, verdict: Verdict) -> Verdict:
    """Store it; returns the verdict that holds, which is an earlier one where that was final. Raises Unavailable."""
    store.prepare()
    before = read(store, verdict.job)
    if before is not None and before.final:
        return before
    body = sealed(asdict(verdict))
    if not verdict.final:
        store.files.write(_path(verdict.job, "last"), body)
    elif not store.files.create(_path(verdict.job, "final"), body):
        return read(store, verdict.job) or verdict
    return verdict


def parse_verdict(data: bytes, job: str) -> Verdict:
    """Raises one of seals.MALFORMED for bytes that are no verdict of this job."""
    body = unsealed(data)
    verdict = Verdict(**{name: body[name] for name in Verdict.__dataclass_fields__})
    if verdict.job != job or not isinstance(verdict.exit_code, int) or not isinstance(verdict.final, bool):
        raise ValueError("another job")
    return verdict


def attempt(store: ArtifactStore, job: str, work: Callable[[], int], say: Callable[[str], None]) -> int:
    """One attempt of a job: `work` unless its verdict is final; returns the exit code, and raises what `work` raises.

    A finished run has stored its verdict itself, before it let go of the pipeline (`execute.Options.verdict`).
    """
    try:
        before = read(store, job)
        if before is not None and before.final:
            say(f"{before}; nothing is left to do" + (f": {before.message}" if before.message else ""))
            return before.exit_code
        if before is not None:
            say(f"goes on after an attempt that ended with exit {before.exit_code} ({before.status})")
        return work()
    except BaseException as error:
        _keep(store, of_error(job, error), say)
        raise


def _keep(store: ArtifactStore, verdict: Verdict, say: Callable[[str], None]) -> None:
    """Store the verdict of an attempt that failed; that this fails too must not hide why."""
    try:
        with store.files.brief(5.0):
            say(str(write(store, verdict)))
    except (OrchestratorError, OSError) as error:
        say(f"{verdict}; it could not be stored: {error}")


def jobs(store: ArtifactStore) -> list[str]:
    """Every job of which there is a verdict."""
    return [name for name in store.files.names(FOLDER) if JOB.fullmatch(name)]


def paths(job: str) -> list[str]:
    """Where a job's verdicts are, or would be."""
    return [_path(job, name) for name in NAMES]


def _path(job: str, name: str) -> str:
    if not JOB.fullmatch(job):
        raise BadInput(f"{job!r} is no job's name", hint="lower-case letters, digits, dots and dashes, 80 at most")
    return f"{FOLDER}/{job}/{name}.json"


def to_json(verdict: Verdict | None) -> dict[str, Any] | None:
    return None if verdict is None else asdict(verdict)


__all__ = ["FINAL", "Verdict", "attempt", "jobs", "of_error", "of_run", "parse_verdict", "paths", "read", "write"]

"""How a RayJob stands, and the exit code that belongs to how it ended. Pure.

Its submitter exits 0 whatever became of the job, and its status knows no exit code. So the code is that of the verdict
that the run itself has stored, as far as it fits what the status says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.kubernetes.render import JOB, STORED
from orchestrator.verdicts import Verdict

ENDED = ("Complete", "Failed", "ValidationFailed")
CODE = re.compile(r"exit code (\d{1,3})")
REASONS = {  # of a job that failed without its run having failed, and what it means here
    "DeadlineExceeded": (4, "it took longer than activeDeadlineSeconds; what was saved stands, submit it again"),
    "PreRunningDeadlineExceeded": (4, "its pods did not start in time; `orchestrate k8s debug` says why"),
    "SubmissionFailed": (4, "the submitter could not hand it to the head; `orchestrate k8s debug` says more"),
    "JobDeploymentStatusTransitionGracePeriodExceeded": (4, "the head stopped telling of it"),
    "JobStatusCheckTimeoutExceeded": (4, "the head stopped telling of it"),
    "ValidationFailed": (2, "KubeRay's operator refuses it"),
}
STOPPED = 143


@dataclass(frozen=True)
class State:
    """A RayJob, as far as it is told. Texts are "" where it has not come so far."""

    name: str
    namespace: str
    uid: str
    job: str  # whose verdict it is
    storage: str
    deployment: str  # jobDeploymentStatus: Initializing, Running, Suspended, Retrying, Complete, Failed, …
    status: str  # jobStatus: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED
    reason: str
    message: str
    cluster: str
    queue: str
    created: str
    ended_at: str
    attempts: int  # that failed so far

    @property
    def ended(self) -> bool:
        return self.deployment in ENDED

    @property
    def succeeded(self) -> bool:
        return self.deployment == "Complete" and self.status == "SUCCEEDED"

    @property
    def word(self) -> str:
        """One word for how it stands."""
        if self.succeeded:
            return "succeeded"
        if self.ended:
            return "stopped" if self.status == "STOPPED" else "failed"
        return {"": "new", "Suspended": "queued" if self.queue else "suspended"}.get(
            self.deployment, self.deployment.lower()
        )


@dataclass(frozen=True)
class Outcome:
    """How it ended, for a caller: exit code and why."""

    exit_code: int
    why: str
    verdict: Verdict | None = None


def read(document: Mapping[str, Any]) -> State:
    """The state of a RayJob as the API server gives it."""
    meta, status = document.get("metadata") or {}, document.get("status") or {}
    notes, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    return State(
        name=str(meta.get("name", "")),
        namespace=str(meta.get("namespace", "")),
        uid=str(meta.get("uid", "")),
        job=str(notes.get(JOB, "")),
        storage=str(notes.get(STORED, "")),
        deployment=str(status.get("jobDeploymentStatus", "")),
        status=str(status.get("jobStatus", "")),
        reason=str(status.get("reason", "")),
        message=" ".join(str(status.get("message", "")).split()),
        cluster=str(status.get("rayClusterName", "")),
        queue=str(labels.get("kueue.x-k8s.io/queue-name", "")),
        created=str(meta.get("creationTimestamp", "")),
        ended_at=str(status.get("endTime", "")),
        attempts=int(status.get("failed") or 0),
    )


def outcome(state: State, verdict: Verdict | None) -> Outcome:
    """The exit code of a job that ended, from the stored verdict and its status together."""
    if state.succeeded:
        if verdict is not None and verdict.final and verdict.exit_code:
            return Outcome(
                verdict.exit_code, f"KubeRay calls it succeeded, its verdict says: {_said(verdict)}", verdict
            )
        return Outcome(0, "succeeded", verdict)
    if verdict is not None and verdict.final:
        after = f"; the job failed after that: {_why(state)}" if verdict.exit_code == 0 else ""
        return Outcome(verdict.exit_code, _said(verdict) + after, verdict)
    if state.reason in REASONS or state.deployment == "ValidationFailed":
        code, hint = REASONS.get(state.reason) or REASONS["ValidationFailed"]
        return Outcome(code, f"{_why(state)}; {hint}", verdict)
    if verdict is not None and verdict.exit_code:
        return Outcome(verdict.exit_code, _said(verdict), verdict)
    if state.status == "STOPPED":
        return Outcome(STOPPED, "it was stopped", verdict)
    if (found := CODE.search(state.message)) and 0 < int(found[1]) < 256:
        return Outcome(int(found[1]), _why(state), verdict)
    return Outcome(1, _why(state), verdict)


def deleted(verdict: Verdict | None, name: str) -> Outcome:
    """A job that somebody deleted while it was waited for."""
    if verdict is not None and verdict.final:
        return Outcome(verdict.exit_code, f"{_said(verdict)}; RayJob {name} is deleted", verdict)
    return Outcome(4, f"RayJob {name} was deleted while it ran; what was saved stands, submit it again", verdict)


def _said(verdict: Verdict) -> str:
    run = f" (run {verdict.run})" if verdict.run else ""
    return f"{verdict.status}{run}" + (f": {verdict.message}" if verdict.message else "")


def _why(state: State) -> str:
    parts = [part for part in (state.reason, state.message[:400]) if part]
    return ": ".join(parts) or f"the job ended as {state.deployment} {state.status}".strip()


__all__ = ["Outcome", "State", "deleted", "outcome", "read"]

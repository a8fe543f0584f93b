"""A stage of a run, attempted until it succeeds or the policy gives up."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator import attempts, estimates, failures
from orchestrator.account import Account, StageProgress
from orchestrator.artifacts import Artifact, Damaged
from orchestrator.attempts import Deadline
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.cluster import Cluster, RayDied
from orchestrator.errors import OrchestratorError, StageFailed
from orchestrator.failures import Decision
from orchestrator.planning import Sealed
from orchestrator.results import Results
from orchestrator.runs import StageRecord
from orchestrator.stage import Context
from orchestrator.steps import Step
from orchestrator.tracking import NullTracker, RunTracker
from orchestrator.trouble import recognised

TICK_S = 0.2


class StageRuns:
    """Runs the stages of one run. `stopping` says whether the run is to end, `interruption` as what."""

    def __init__(
        self,
        account: Account,
        results: Results,
        cluster: Cluster,
        deadline: Deadline,
        scratch: Path,
        stopping: Callable[[], bool],
        interruption: Callable[[], OrchestratorError],
    ) -> None:
        self.account, self.results, self.store = account, results, results.store
        self.cluster, self.deadline, self.scratch = cluster, deadline, scratch
        self.tracker: RunTracker | NullTracker = NullTracker()
        self._stopping, self._interruption = stopping, interruption
        self._starts: dict[str, float] = {}  # of each step's last attempt

    def seconds(self, step: Step) -> float:
        """Since the last attempt at a step began; 0 where there was none."""
        return time.monotonic() - self._starts[step.id] if step.id in self._starts else 0.0

    def run(self, step: Step, sealed: Sealed, reason: str) -> dict[str, Artifact]:
        """Attempts until one succeeds or the policy gives up: then its failure is raised."""
        record = self.account.record.stage(step.id)
        record.state, record.reason, record.run = "running", reason, self.account.record.run_id
        count = 0
        while True:
            count += 1
            generation = self.cluster.generation
            self._begin(step, sealed, record)
            try:
                return self._attempt(step, sealed)
            except Exception as raised:
                error = recognised(raised, self.scratch) or raised
                if self._revived(error, generation):
                    count -= 1  # Ray's death is no failure of the stage
                    continue
                wait_s = self._retry_in(step, error, count)
                self.account.failure(step, error, wait_s)
                if wait_s is None and error is not raised:
                    raise error from raised
                if wait_s is None:
                    raise
                self._sleep(wait_s)

    def _begin(self, step: Step, sealed: Sealed, record: StageRecord) -> None:
        record.attempts, record.started = record.attempts + 1, time.time()
        self._starts[step.id] = time.monotonic()
        record.worked = estimates.work(step, self.store, sealed.lineage)
        self.account.started(step, record.reason, record.attempts)

    def _revived(self, error: Exception, generation: int) -> bool:
        """Whether Ray died under the stage, and is there again. Raises Unavailable where it cannot be."""
        why = self.cluster.died() or (str(error) if isinstance(error, RayDied) else "")
        if not why or self._stopping():
            return False
        if self.cluster.revive(generation, why):
            self.account.say("", f"{why}; started again")
        return True

    def _retry_in(self, step: Step, error: Exception, count: int) -> float | None:
        damaged = isinstance(error, Damaged)  # the walk goes back to who made it
        if damaged or self._stopping() or failures.decide(error, count, step.retry.max_failures) is Decision.GIVE_UP:
            return None
        return attempts.wait_s(step.retry, count)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._stopping():
                raise self._interruption()
            self.deadline.check()
            time.sleep(min(TICK_S, seconds))

    def _attempt(self, step: Step, sealed: Sealed) -> dict[str, Artifact]:
        """Run the stage once, in a thread that a time limit can outlive."""
        scratch = self.scratch / step.id
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        overdue = threading.Event()
        context = self._context(step, sealed, scratch, lambda: self._stopping() or overdue.is_set())
        try:
            outputs = attempts.run_once(
                lambda: step.stage.run(context),
                stage=step.id,
                limit_s=step.timeout_s,
                deadline=self.deadline,
                asked=overdue,
                cluster=self.cluster,
            )
        except BaseException as error:
            context.tracker.end("KILLED" if self._stopping() else "FAILED")
            if (lost := attempts.of_ray(error)) is not None and not self.cluster.died():
                raise lost from error
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        made = {name: artifact.kind for name, artifact in outputs.items()}
        if any(made.get(name) != kind for name, kind in step.outputs.items()):
            raise StageFailed(f"stage {step.id} made {made} instead of {dict(step.outputs)}")
        context.tracker.tags({f"artifact.{name}": artifact.digest for name, artifact in outputs.items()})
        context.tracker.end()
        return {name: outputs[name] for name in step.outputs}

    def _context(self, step: Step, sealed: Sealed, scratch: Path, stopping: Callable[[], bool]) -> Context:
        record = self.account.record
        return Context(
            stage=step.id,
            pipeline=record.pipeline,
            run_id=record.run_id,
            seed=step.seed,
            scale=step.scale,
            inputs=step.gather(self.results.of(step)),
            store=self.store,
            scratch=scratch,
            checkpoints=StoredCheckpoints(self.store, sealed.lineage),
            progress=StageProgress(self.account, step.id),
            tracker=self.tracker.child(step.id),
            cluster=self.cluster,
            stopping=stopping,
            tracking_uri=record.tracking_uri,
            max_failures=max(Context.max_failures, step.retry.max_failures),
            notes=record.stage(step.id).notes,
        )


__all__ = ["StageRuns"]

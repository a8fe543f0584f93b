"""Walks a plan: cache, run, retry, commit. There is no resume: the same call goes on where the last one stood."""

from __future__ import annotations

import shutil
import signal
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from orchestrator import collection, earlier, estimates, events, failures, runs, verdicts
from orchestrator.account import Account
from orchestrator.artifacts import Damaged
from orchestrator.attempts import Deadline
from orchestrator.cluster import Cluster, check_local
from orchestrator.errors import (
    Busy,
    Cancelled,
    Diverged,
    GateRefused,
    IntegrityError,
    Interrupted,
    OrchestratorError,
    SpecError,
    StageFailed,
    Unavailable,
)
from orchestrator.events import Listener
from orchestrator.eviction import Eviction
from orchestrator.files import scratch_cache
from orchestrator.log import Lease
from orchestrator.planning import Desk, Plan, PlannedStep, Sealed
from orchestrator.results import Results
from orchestrator.runs import Run, StageRecord
from orchestrator.signals import Stop
from orchestrator.stage_runs import StageRuns
from orchestrator.steps import Step, complaints
from orchestrator.tracking import NullTracker, RunTracker, Synced, Tracker, send_left
from orchestrator.trouble import Troubles, recognised

REWALKS = 3  # how often damage found in an input sends the run back to the stage that made it
TICK_S = 0.2
LEAVE_S = 6.0  # what an outage of the storage may cost, where MLflow has one too
FORWARD_S = 20.0  # for what earlier runs could not tell MLflow


@dataclass(frozen=True)
class Options:
    """How to run, nothing of which changes a result."""

    jobs: int = 1  # stages at once
    address: str | None = None  # of a Ray cluster
    wait_lease_s: float = 0.0
    wait_nodes_s: float | None = None  # for a cluster to have room
    ray: bool = True  # False: stages work in this process
    tracking: bool = True  # False: nothing is told to MLflow
    verdict: str = ""  # the job whose verdict is stored at the end; "": of none


def execute(plan: Plan, *, listener: Listener | None = None, options: Options | None = None) -> Run:
    """Run what the plan says. Returns the finished run, also one that failed: `Run.exit_code` and `record.error` tell.

    A plan without work gives the earlier run that made everything, and changes nothing. Raises SpecError (more workers
    than this machine has), errors.Busy, errors.Unavailable before anything is run.
    """
    options, listener = options or Options(), listener or Listener()
    _check_machine(plan, options)
    if (run := earlier.serve(plan, listener)) is not None:
        return run
    plan.store.prepare()
    run_id = runs.new_id(plan.spec.name, after=plan.log.state().runs)
    lease = plan.log.acquire(run_id, wait_s=options.wait_lease_s)
    try:
        collection.stand_clear(plan.store, run_id, wait_s=options.wait_lease_s)
        execution = Execution(plan, options, listener, run_id, lease)
    except BaseException as error:
        code = error.exit_code if isinstance(error, OrchestratorError) else Unavailable.exit_code
        with Troubles(plan.store.url).met():
            lease.release({"status": "failed", "exit_code": code}, {})
        if (known := recognised(error, plan.store.url)) is not None and known is not error:
            raise known from error
        raise
    return execution.run()


def _check_machine(plan: Plan, options: Options) -> None:
    if not options.ray:
        return
    problems = []
    for planned in plan.steps:
        if planned.state != "cached" and (found := check_local(planned.step.scale, options.address)):
            told = complaints(plan.spec, planned.step.name, [found])
            problems += [problem for problem in told if problem not in problems]
    if problems:
        raise SpecError(problems)


@dataclass
class Execution:
    """One run, from the lease to its release."""

    plan: Plan
    options: Options
    listener: Listener
    run_id: str
    lease: Lease

    def __post_init__(self) -> None:
        plan = self.plan
        self.store, self.spec = plan.store, plan.spec
        self.desk = Desk(plan.spec, plan.store, plan.log, verified=plan.verified if plan.asked.verify else None)
        self.account = Account(plan, self.run_id, self.listener)
        self.record, self.diary, self._say = self.account.record, self.account.diary, self.account.say
        self.results = Results(self.desk, self.lease, self.account)
        self.done = self.results.done
        self.deadline = Deadline(plan.spec.timeout_s)
        self.stop = Stop(lambda line: self._say("", line))
        local = self.store.files.local
        self.scratch = (local if local else scratch_cache()) / "scratch" / self.spec.name
        self.cluster = Cluster(
            self.options.address,
            log=self.diary.folder / "ray.log",
            disabled=not self.options.ray,
            nodes_s=self.options.wait_nodes_s,
        )
        self.eviction = Eviction(self.cluster)
        self.stages = StageRuns(
            self.account, self.results, self.cluster, self.deadline, self.scratch, self._stopping, self._interruption
        )
        self.tracker: RunTracker | NullTracker = self.stages.tracker
        self.store.told = self.plan.log.told = lambda line: self._say("", line)
        self.store.files.stopping = self._stopping
        self._failures: dict[str, BaseException] = {}
        self._began = time.monotonic()  # durations are no differences of clocks, which may be set meanwhile
        self._repeated: set[str] = set()  # forced steps that have run

    # --- the whole run -----------------------------------------------------------------------------------------

    def run(self) -> Run:
        """Walk the plan; whatever happens the record is closed and the lease released."""
        error: BaseException | None = None
        with self.stop:
            try:
                self._start()
                for _ in range(REWALKS + 1):
                    error = self._walk()
                    if not self._went_bad(error):
                        break
            except BaseException as raised:  # noqa: BLE001 - told in the record, then raised again where it is a bug
                error = raised
            return self._end(error)

    def _start(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)  # what a killed run left; the lease is ours
        self.store.files.sweep()
        self.diary.save()
        self._start_ahead()
        if self.options.tracking:
            self.tracker = self.stages.tracker = self._open_tracker()
        self.listener.run_started(events.RunStarted(self.run_id, self.plan, estimates.told(self.plan)))
        self.diary.event("run_started", {"pipeline": self.spec.name})
        self.results.deliver()

    def _start_ahead(self) -> None:
        """Ray starts beside the first steps, where later ones need it."""
        waiting = [planned.step for planned in self.plan.steps if planned.state != "cached"]
        if modules := [module for step in waiting for module in step.ahead]:
            self.cluster.ahead(dict.fromkeys(modules))

    def _open_tracker(self) -> RunTracker:
        tracking = self.spec.tracking
        uri = tracking if tracking is None or isinstance(tracking, str) else tracking.reveal()
        tracker = Tracker.open(
            self.store.url, uri, notice=lambda line: self._say("", line), busy=lambda: self.cluster.busy
        )
        self.record.tracking_uri = tracker.uri
        params = {"seed": self.spec.seed, "spec": self.record.spec_file, "profile": self.spec.profile or ""}
        return tracker.start_run(self.spec.name, self.run_id, params)

    def _walk(self) -> BaseException | None:
        """Every step once, independent ones side by side with `jobs`; the first failure, if any."""
        self.done.clear()
        self._failures.clear()
        waiting = {planned.step.id: planned for planned in self.plan.steps}
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(max(self.options.jobs, 1), thread_name_prefix="stage") as pool:
            while waiting or running:
                if not self._failures and not self._stopping():
                    for name, planned in list(waiting.items()):
                        ready = all(producer in self.done for producer in planned.step.producers)
                        if ready and len(running) < self.options.jobs:
                            del waiting[name]
                            running[pool.submit(self._step, planned)] = name
                if not running:
                    break
                self.stop.keep()
                if (self.lease.cancelled or self.eviction.announced()) and not self.stop.requested:
                    self.stop.request(signal.SIGTERM)
                finished, _ = wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED)
                for future in finished:
                    name = running.pop(future)
                    if (error := future.exception()) is not None:
                        self._failures[name] = error
        for name in waiting:
            self.record.stage(name).state = "skipped"
        if self._stopping() and (waiting or self._failures):
            return self._interruption()  # whatever the stages made of being stopped
        return next(iter(self._failures.values()), None)

    def _stopping(self) -> bool:
        return self.stop.requested or self.lease.lost or self.lease.cancelled

    def _interruption(self) -> OrchestratorError:
        if self.lease.lost:
            return Busy(f"{self.lease.loss}; this run stops")
        return Cancelled() if self.lease.cancelled else Interrupted(self.stop.signum or signal.SIGTERM)

    def _went_bad(self, error: BaseException | None) -> bool:
        """Whether the failure comes from damage: then the walk starts over, and what is not there any more is made again."""
        judged = isinstance(error, OrchestratorError) and not isinstance(error, (IntegrityError, StageFailed))
        if error is None or judged or self._stopping():
            return False
        for name in self._failures:
            step = self.plan.step(name).step
            for producer in step.producers:
                for artifact in self.done[producer].outputs.values():
                    if self.store.verify(artifact) or self.store.lacks(artifact.digest):
                        self._say("", f"{name} met a damaged input; {producer} runs again")
                        return True
        return isinstance(error, Damaged)  # of something that the stage itself had stored

    def _end(self, error: BaseException | None) -> Run:
        """Close everything; the verdict stands in the record and in the log."""
        record, troubles = self.record, Troubles(self.store.url)
        error = (recognised(error, self.store.url) or error) if error is not None else None
        bug = error is not None and not isinstance(error, (OrchestratorError, KeyboardInterrupt)) and not self._failures
        self._judge(error, bug)
        record.ended = record.started + time.monotonic() - self._began
        run = Run(self.store, record)
        if error is not None and bug:
            self.diary.log("run", "".join(traceback.format_exception(error)))
        shutil.rmtree(self.scratch, ignore_errors=True)
        with troubles.met():
            self.diary.save()
        if not self._stopping():
            with troubles.met():
                self._report()
        with troubles.met():
            self._close_tracker()
        self.cluster.stop()
        if error is None and troubles.first is None:
            with troubles.met():
                self._remember()
        if error is None and troubles.first is not None:
            self._judge(troubles.first, bug)
        self.diary.event("run_finished", {"status": record.status, "exit_code": record.exit_code})
        used = {name: done.entry.to_json() for name, done in self.done.items()}
        if self.options.verdict:  # before the next attempt can begin
            with troubles.met():
                verdicts.write(self.store, verdicts.of_run(self.options.verdict, record))
        with troubles.met():
            self.lease.release({"status": record.status, "exit_code": record.exit_code, "ended": record.ended}, used)
        if error is None and troubles.first is not None:
            self._judge(troubles.first, bug)
        with troubles.met():
            self.diary.close()
        self.listener.run_finished(events.RunFinished(run))
        if error is not None and bug:
            raise error
        return run

    def _judge(self, error: BaseException | None, bug: bool) -> None:
        record = self.record
        record.status, record.exit_code = ("failed", 70) if bug else _verdict(error)
        record.error = self.spec.redact(failures.one_line(error)) if error else ""

    def _remember(self) -> None:
        earlier.remember(self.plan, [self.done[p.step.id].entry.key for p in self.plan.steps], self.run_id)

    def _report(self) -> None:
        """The run's HTML file. A report that cannot be made is told; the results stand."""
        from orchestrator import report

        try:
            report.build(self.store, self.run_id)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001
            self.diary.log("report", "".join(traceback.format_exception(error)))
            self._say("", f"no report: {failures.one_line(error)}; see {self.diary.log_place('report')}")

    def _close_tracker(self) -> None:
        run = Run(self.store, self.record)
        local = self.store.files.local
        if local and run.report:
            self.tracker.artifact("report.html", Path(run.report))
        statuses = {"succeeded": "FINISHED", "interrupted": "KILLED", "cancelled": "KILLED"}
        self.tracker.end(statuses.get(self.record.status, "FAILED"))
        left = self.tracker.close(3.0, 3.0) if self._stopping() else self.tracker.close()
        self.record.mlflow_run = self.tracker.mlflow_run
        if left:
            self._leave_untold(left)
        elif self.record.mlflow_run and not self._stopping():
            sent = Synced()
            send_left(self.store.files, sent, within_s=FORWARD_S)
            if sent.sent:
                self._say("", f"MLflow was told {sent.sent} records that earlier runs had left")

    def _leave_untold(self, left: int) -> None:
        where = "" if self.store.files.local else f" --storage {self.store.url}"
        self._say("", f"MLflow has not been told {left} entries; the next run or `orchestrate sync{where}` sends them")
        try:
            with self.store.files.brief(LEAVE_S):
                self.tracker.leave(self.store.files)
        except (OrchestratorError, OSError) as error:
            self._say("", f"they wait on this machine alone, not in the storage: {failures.one_line(error)}")

    # --- one step ----------------------------------------------------------------------------------------------

    def _step(self, planned: PlannedStep) -> None:
        """Serve a step from the cache or run it. In a thread of its own."""
        step, record = planned.step, self.record.stage(planned.step.id)
        forced = planned.forced and step.id not in self._repeated
        try:
            sealed = self.desk.seal(step, self.results.of(step), forced=forced)
            record.key, record.lineage = sealed.key, sealed.lineage
            if not forced:
                entry, artifacts, _ = self.desk.lookup(step, sealed)
                if entry is not None:
                    self.results.serve(step, record, entry, artifacts)
                    return
            self._refuse_unchanged(sealed, forced)
            self.deadline.check()
            outputs = self.stages.run(step, sealed, self.desk.reason(planned, sealed))
            self.desk.settle(step)
            self.results.commit(step, sealed, record, outputs, self.stages.seconds(step), forced=forced)
            self._repeated.add(step.id)
        except BaseException as raised:
            error = recognised(raised, self.scratch) or raised
            self._failed(step, record, error)
            if error is not raised:
                raise error from raised
            raise

    def _refuse_unchanged(self, sealed: Sealed, forced: bool) -> None:
        verdict = self.plan.log.state().verdicts.get(sealed.key)
        if verdict and not forced:
            hint = "change something, or --force the stage"
            raise Diverged(f"{verdict['error']} (in run {verdict['run']}; not tried again unchanged)", hint=hint)

    def _failed(self, step: Step, record: StageRecord, error: BaseException) -> None:
        interrupted = isinstance(error, Interrupted) or self._stopping()
        if record.attempts == 0:  # it never started: nobody told of it yet
            self.account.failure(step, error, None)
        record.state = "interrupted" if interrupted else "failed"
        record.error, record.kind = self.spec.redact(failures.one_line(error)), failures.kind(error)
        record.seconds = self.stages.seconds(step)
        if isinstance(error, Diverged) and record.attempts:
            verdict = {"kind": "diverged", "error": record.error, "run": self.run_id}
            self.results.condemn(record.key, verdict)


def _verdict(error: BaseException | None) -> tuple[str, int]:
    """Status and exit code of a run."""
    if error is None:
        return "succeeded", 0
    if isinstance(error, Interrupted):
        return "cancelled" if isinstance(error, Cancelled) else "interrupted", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, GateRefused):
        return "refused", error.exit_code
    if isinstance(error, Diverged):
        return "diverged", error.exit_code
    return "failed", error.exit_code if isinstance(error, OrchestratorError) else 1


__all__ = ["Execution", "Options", "execute"]

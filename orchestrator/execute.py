"""Walks a plan: cache, run, retry, commit. There is no resume: the same call goes on where the last one stood."""

from __future__ import annotations

import platform
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator import attempts, collection, earlier, estimates, events, failures, keys, runs, verdicts
from orchestrator.artifacts import Artifact, Damaged
from orchestrator.attempts import Deadline
from orchestrator.cache import Entry
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.cluster import Cluster, RayDied, check_local
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
from orchestrator.failures import Decision
from orchestrator.files import scratch_cache
from orchestrator.log import Lease
from orchestrator.outbox import outbox
from orchestrator.planning import Desk, Plan, PlannedStep, Sealed
from orchestrator.runs import Diary, Run, RunRecord, StageRecord
from orchestrator.signals import Stop
from orchestrator.stage import Context
from orchestrator.steps import Step, complaints
from orchestrator.tracking import NullTracker, RunTracker, Tracker
from orchestrator.trouble import Outage, Troubles, recognised

REWALKS = 3  # how often damage found in an input sends the run back to the stage that made it
TICK_S = 0.2
SHOWN_EVERY_S = 1.0  # progress in events.jsonl


@dataclass(frozen=True)
class Options:
    """How to run, nothing of which changes a result."""

    jobs: int = 1  # stages at once
    address: str | None = None  # of a Ray cluster
    wait_lease_s: float = 0.0
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
class Done:
    """What a step came to."""

    outputs: dict[str, Artifact]
    entry: Entry
    cached: bool


@dataclass
class Execution:
    """One run, from the lease to its release."""

    plan: Plan
    options: Options
    listener: Listener
    run_id: str
    lease: Lease
    done: dict[str, Done] = field(default_factory=dict)
    fenced: bool = False

    def __post_init__(self) -> None:
        plan = self.plan
        self.store, self.spec = plan.store, plan.spec
        self.desk = Desk(plan.spec, plan.store, plan.log, verified=plan.verified if plan.asked.verify else None)
        self.record = self._new_record()
        self.diary = Diary(self.store, self.record)
        self.deadline = Deadline(plan.spec.timeout_s)
        self.stop = Stop(lambda line: self._say("", line))
        local = self.store.files.local
        self.scratch = (local if local else scratch_cache()) / "scratch" / self.spec.name
        self.cluster = Cluster(self.options.address, log=self.diary.folder / "ray.log", disabled=not self.options.ray)
        self.tracker: RunTracker | NullTracker = NullTracker()
        self.store.told = self.plan.log.told = lambda line: self._say("", line)
        self.store.files.stopping = self._stopping
        self.outbox = outbox(self.store)
        self._commits = threading.Lock()
        self._failures: dict[str, BaseException] = {}
        self._began = time.monotonic()  # durations are no differences of clocks, which may be set meanwhile
        self._starts: dict[str, float] = {}  # of each step's last attempt
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
        if self.options.tracking:
            self.tracker = self._open_tracker()
        self.listener.run_started(events.RunStarted(self.run_id, self.plan, estimates.told(self.plan)))
        self.diary.event("run_started", {"pipeline": self.spec.name})
        self._deliver()

    def _deliver(self) -> None:
        """Bring what an outage left on this machine into the storage. Raises Unavailable when it does not answer."""
        for what in self.outbox.deliver(self.store) if self.outbox else ():
            self._say("", f"brought from the outbox into the storage: {what}")

    def _open_tracker(self) -> RunTracker:
        tracking = self.spec.tracking
        uri = tracking if tracking is None or isinstance(tracking, str) else tracking.reveal()
        tracker = Tracker.open(self.store.url, uri, notice=lambda line: self._say("", line))
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
                if self.lease.cancelled and not self.stop.requested:
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
        if left := self.tracker.close(3.0 if self._stopping() else 8.0):
            self._say("", f"MLflow was not reached: {left} entries wait, `orchestrate sync` sends them")
        self.record.mlflow_run = self.tracker.mlflow_run

    # --- one step ----------------------------------------------------------------------------------------------

    def _step(self, planned: PlannedStep) -> None:
        """Serve a step from the cache or run it. In a thread of its own."""
        step, record = planned.step, self.record.stage(planned.step.id)
        outputs = {name: self.done[name].outputs for name in step.producers}
        forced = planned.forced and step.id not in self._repeated
        try:
            sealed = self.desk.seal(step, outputs, forced=forced)
            record.key, record.lineage = sealed.key, sealed.lineage
            if not forced:
                entry, artifacts, _ = self.desk.lookup(step, sealed)
                if entry is not None:
                    self._serve(step, record, entry, artifacts)
                    return
            self._refuse_unchanged(sealed, forced)
            self.deadline.check()
            self._run(planned, sealed, record)
        except BaseException as raised:
            error = recognised(raised, self.scratch) or raised
            self._failed(step, record, error)
            if error is not raised:
                raise error from raised
            raise

    def _serve(self, step: Step, record: StageRecord, entry: Entry, artifacts: dict[str, Artifact]) -> None:
        if self.desk.cache.get(entry.key) is None:  # a crash fell between the log and the shared cache
            self.desk.cache.put(entry)
        self.done[step.id] = Done(artifacts, entry, cached=True)
        record.state, record.reason, record.run = "cached", f"from run {entry.run}", entry.run
        record.outputs, record.seconds, record.started = dict(entry.outputs), entry.seconds, entry.started
        record.size = sum(artifact.size for artifact in artifacts.values())
        self.listener.stage_cached(events.StageCached(step.id, entry.seconds, entry.run))
        self.diary.event("stage_cached", {"stage": step.id, "run": entry.run})

    def _refuse_unchanged(self, sealed: Sealed, forced: bool) -> None:
        verdict = self.plan.log.state().verdicts.get(sealed.key)
        if verdict and not forced:
            hint = "change something, or --force the stage"
            raise Diverged(f"{verdict['error']} (in run {verdict['run']}; not tried again unchanged)", hint=hint)

    def _run(self, planned: PlannedStep, sealed: Sealed, record: StageRecord) -> None:
        """Attempts until one succeeds or the policy gives up."""
        step, reason = planned.step, self.desk.reason(planned, sealed)
        record.state, record.reason, record.run = "running", reason, self.run_id
        count = 0
        while True:
            count += 1
            generation = self.cluster.generation
            record.attempts, record.started = record.attempts + 1, time.time()
            self._starts[step.id] = time.monotonic()
            record.worked = estimates.work(step, self.store, sealed.lineage)
            self.diary.save()
            self.listener.stage_started(events.StageStarted(step.id, reason, record.attempts))
            self.diary.event("stage_started", {"stage": step.id, "reason": reason, "attempt": record.attempts})
            try:
                outputs = self._attempt(step, sealed)
                break
            except Exception as raised:
                error = recognised(raised, self.scratch) or raised
                if self._revived(error, generation):
                    count -= 1  # Ray's death is no failure of the stage
                    continue
                wait_s = self._retry_in(step, error, count)
                self._tell_failure(step, error, wait_s)
                if wait_s is None and error is not raised:
                    raise error from raised
                if wait_s is None:
                    raise
                self._sleep(wait_s)
        self.desk.settle(step)
        forced = planned.forced and step.id not in self._repeated
        self._commit(step, sealed, record, outputs, forced=forced)

    def _revived(self, error: Exception, generation: int) -> bool:
        """Whether Ray died under the stage, and is there again. Raises Unavailable where it cannot be."""
        why = self.cluster.died() or (str(error) if isinstance(error, RayDied) else "")
        if not why or self._stopping():
            return False
        if self.cluster.revive(generation, why):
            self._say("", f"{why}; started again")
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
        outputs = {name: self.done[name].outputs for name in step.producers}
        return Context(
            stage=step.id,
            pipeline=self.spec.name,
            run_id=self.run_id,
            seed=step.seed,
            scale=step.scale,
            inputs=step.gather(outputs),
            store=self.store,
            scratch=scratch,
            checkpoints=StoredCheckpoints(self.store, sealed.lineage),
            progress=_StageProgress(self, step.id),
            tracker=self.tracker.child(step.id),
            cluster=self.cluster,
            stopping=stopping,
            tracking_uri=self.record.tracking_uri,
            max_failures=max(Context.max_failures, step.retry.max_failures),
            notes=self.record.stage(step.id).notes,
        )

    def _commit(
        self, step: Step, sealed: Sealed, record: StageRecord, outputs: dict[str, Artifact], *, forced: bool
    ) -> None:
        """First the log, which refuses a fenced owner, then the cache that all pipelines share."""
        seconds = time.monotonic() - self._starts[step.id]
        own = Entry(
            key=sealed.key,
            outputs={name: artifact.digest for name, artifact in outputs.items()},
            ingredients=sealed.ingredients,
            run=self.run_id,
            pipeline=self.spec.name,
            stage=step.id,
            started=record.started,
            seconds=seconds,
            attempts=record.attempts,
            extra={**record.notes, "reason": record.reason},
        )
        try:
            self._deliver()
            entry, outputs = (own, outputs) if forced else self._first(step, own, outputs)
            self._log_commit(step, entry)
            if forced:
                self.desk.cache.put(entry)
            elif self.desk.cache.claim(entry).outputs != entry.outputs:
                entry, outputs = self._first(step, entry, outputs)
                self._log_commit(step, entry)
        except Outage:
            if self.outbox is not None:
                self.outbox.keep_entry(own)
                self._say(step.id, f"its result waits in {self.outbox.root}; the next run on this machine delivers it")
            raise
        self.done[step.id] = Done(outputs, entry, cached=False)
        self._repeated.add(step.id)
        record.state, record.outputs, record.seconds, record.error = "succeeded", dict(entry.outputs), seconds, ""
        record.size, record.run = sum(artifact.size for artifact in outputs.values()), entry.run
        self.diary.save()
        self.listener.stage_finished(events.StageFinished(step.id, seconds, entry.outputs))
        self.diary.event("stage_finished", {"stage": step.id, "seconds": seconds, "outputs": entry.outputs})

    def _log_commit(self, step: Step, entry: Entry) -> None:
        with self._commits:
            self.lease.append("commit", {"stage": step.id, "commit": entry.to_json()})

    def _first(self, step: Step, entry: Entry, outputs: dict[str, Artifact]) -> tuple[Entry, dict[str, Artifact]]:
        """The result that another pipeline came to meanwhile, where there is one: one key has one result."""
        found = self.desk.cache.get(entry.key)
        if found is None or found.outputs == entry.outputs or set(found.outputs) < set(entry.outputs):
            return entry, outputs
        artifacts, why = self.desk.cache.open(found)
        if why:
            return entry, outputs
        self._say(step.id, f"run {found.run} of {found.pipeline} had this result first; it is used")
        return found, artifacts

    def _failed(self, step: Step, record: StageRecord, error: BaseException) -> None:
        interrupted = isinstance(error, Interrupted) or self._stopping()
        if record.attempts == 0:  # it never started: nobody told of it yet
            self._tell_failure(step, error, None)
        record.state = "interrupted" if interrupted else "failed"
        record.error, record.kind = self.spec.redact(failures.one_line(error)), failures.kind(error)
        record.seconds = time.monotonic() - self._starts[step.id] if step.id in self._starts else 0.0
        if isinstance(error, Diverged) and record.attempts:
            verdict = {"kind": "diverged", "error": record.error, "run": self.run_id}
            with self._commits:
                self.lease.append("verdict", {"key": record.key, "verdict": verdict})

    def _tell_failure(self, step: Step, error: BaseException, retry_in_s: float | None) -> None:
        """The cause in one line for the user, the whole trace in the stage's log."""
        line = self.spec.redact(failures.one_line(error))
        trace = self.spec.redact("".join(traceback.format_exception(error)))
        self.diary.log(step.id, f"failed: {line}\n{trace}")
        place = self.diary.log_place(step.id)
        event = events.StageFailed(step.id, line, failures.kind(error), place, retry_in_s)
        self.listener.stage_failed(event)
        self.diary.event("stage_failed", {**vars(event)})

    def _say(self, stage: str, line: str) -> None:
        line = self.spec.redact(line)
        self.listener.stage_said(events.StageSaid(stage, line))
        self.diary.event("said", {"stage": stage, "line": line})
        self.diary.log(stage or "run", line)

    def _new_record(self) -> RunRecord:
        stages = [
            StageRecord(
                stage=planned.step.id,
                name=planned.step.name,
                uses=planned.step.uses,
                reason=planned.reason,
                inputs={port: [s.step for s in sources] for port, sources in planned.step.inputs.items()},
            )
            for planned in self.plan.steps
        ]
        packages = {package for planned in self.plan.steps for package in planned.step.packages}
        return RunRecord(
            run_id=self.run_id,
            pipeline=self.spec.name,
            started=time.time(),
            spec=self.spec.to_json(),
            spec_file=self.spec.document.file,
            profile=self.spec.profile,
            sets=list(self.spec.sets),
            host=platform.node(),
            versions={"python": platform.python_version(), **{name: keys.installed(name) for name in sorted(packages)}},
            stages=stages,
        )


class _StageProgress:
    """`stage.Progress`: to the listener at once, to the diary now and then."""

    def __init__(self, execution: Execution, stage: str) -> None:
        self._execution = execution
        self._stage = stage
        self._shown = 0.0

    def update(
        self,
        done: float,
        total: float,
        *,
        unit: str = "steps",
        note: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        event = events.StageProgress(self._stage, done, total, unit, note, dict(metrics or {}))
        self._execution.listener.stage_progress(event)
        now = time.monotonic()
        if now - self._shown >= SHOWN_EVERY_S or done >= total:
            self._shown = now
            self._execution.diary.event("stage_progress", vars(event))

    def say(self, line: str) -> None:
        self._execution._say(self._stage, line)


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

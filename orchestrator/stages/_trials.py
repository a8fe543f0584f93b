"""Running the trials of a search: what one does, and Ray Tune (or this process) going through the segments.

A file that is no stage. Each segment (trial 3 up to step 50) is a Tune trial whose actor is reused by the next one; a trial's
state between two segments is its own committed checkpoint, so it may go on anywhere.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from orchestrator.board import Event, Pen, ask, pin_up
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.cluster import RayDied
from orchestrator.errors import BadInput, Interrupted, Unavailable
from orchestrator.search import Conductor, Key, Outcome, Segment
from orchestrator.space import Space, flat
from orchestrator.stage import Context, Scale

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore
    from trainers.metric import Reference

STOP_WITHIN_S = 18.0
DEATHS = 2  # of a trial's worker, before the trial counts as failed
CLASSIFIER = "classifier.safetensors"


@dataclass(frozen=True)
class Task:
    """What every segment needs; it travels to the actors, the bytes travel through the store."""

    store: ArtifactStore
    lineage: str
    dataset: Artifact
    features: Artifact | None
    metric: Any
    eval_samples: int
    seed: int
    threads: int
    gpu: bool

    def checkpoints(self, index: int) -> StoredCheckpoints:
        """Those of one trial."""
        return StoredCheckpoints(self.store, f"{self.lineage}.trial-{index}")


def lineage_of(context: Context) -> str:
    """The lineage under which the search's own checkpoints are kept."""
    return str(getattr(context.checkpoints, "lineage", context.stage))


def forget(task: Task, count: int) -> None:
    """Drop the checkpoints of a finished search's trials."""
    for index in range(count):
        task.store.files.remove(task.checkpoints(index).folder)


# --- one segment --------------------------------------------------------------------------------------------------------


def attempt(
    task: Task, segment: Segment, user: Mapping[str, Any], tell: Callable[[Event], None], stopping: Callable[[], bool]
) -> dict[str, Any]:
    """Train a trial up to a step and score it. Every failure of the trial itself becomes an outcome."""
    from trainers import loop

    started = time.monotonic()
    outcome = Outcome(None)
    try:
        outcome = Outcome(_train_and_score(task, segment, user, tell, stopping))
        if not math.isfinite(outcome.score or 0.0):
            outcome = Outcome(None, 0.0, "diverged", "its score is not finite")
    except loop.Stopped:
        return {"interrupted": True}
    except (loop.NotFinite, FloatingPointError) as error:
        outcome = Outcome(None, 0.0, "diverged", str(error))
    except Unavailable:
        raise  # not the trial's fault
    except Exception as error:  # noqa: BLE001 - whatever a trial does costs that trial only, and is recorded
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
        outcome = Outcome(None, 0.0, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}")
    outcome = replace(outcome, seconds=time.monotonic() - started)
    tell(
        {
            "event": "rung",
            "trial": segment.index,
            "replicate": segment.replicate,
            "until": segment.until,
            "outcome": outcome.to_json(),
        }
    )
    return outcome.to_json()


def _train_and_score(
    task: Task, segment: Segment, user: Mapping[str, Any], tell: Callable[[Event], None], stopping: Callable[[], bool]
) -> float:
    import torch

    from trainers import config, evaluation, loop
    from trainers.data import Prepared
    from trainers.generator import Generator

    torch.set_num_threads(task.threads)
    total = config.resolve(user, facts=task.dataset.metadata).settings.total_steps
    quiet = {"sample_every": total, "checkpoint_every": max(total, 1)}  # rungs save; pictures are for the winner
    resolved = config.resolve({**quiet, **user}, facts=task.dataset.metadata)

    def report(event: dict[str, Any]) -> None:
        tell({"event": "step", "trial": segment.index, "step": event["step"], "metrics": event["metrics"]})

    asked = [False]

    def stop() -> bool:
        asked[0] = stopping()
        return asked[0] or training.step >= segment.until

    device = "cuda" if task.gpu else "cpu"
    training = loop.open_training(
        resolved,
        Prepared.open(task.store.directory(task.dataset)),
        seed=task.seed,
        checkpoints=task.checkpoints(segment.index),
        report=report,
        stop=stop,
        device=device,
    )
    tell({"event": "start", "trial": segment.index, "step": training.step, "user": dict(user)})
    if training.step < segment.until:
        try:
            training.run()
        except loop.Stopped:
            if asked[0] and training.step < segment.until:
                raise
    generator = Generator.of(training.game)
    reference = _reference(task, generator.given == "images", device)
    results = evaluation.score(generator, [task.metric], reference, task.eval_samples, seed=task.seed)
    return float(next(iter(results.values()))["value"])


def _reference(task: Task, other: bool, device: str) -> Reference:
    features = task.store.open(task.features, CLASSIFIER) if task.features else None
    return _opened(str(task.store.directory(task.dataset)), str(features or ""), task.dataset.digest, other, device)


@lru_cache(maxsize=2)
def _opened(directory: str, classifier: str, identity: str, other: bool, device: str) -> Reference:
    """The real samples and their features, once a process."""
    from pathlib import Path

    from trainers.data import Prepared
    from trainers.metric import Reference

    data = Prepared.open(Path(directory))
    return Reference(
        data, other=other, classifier=Path(classifier) if classifier else None, identity=identity, device=device
    )


# --- what is known so far -----------------------------------------------------------------------------------------------


class Ledger:
    """Outcomes as they come in, kept in the store; and what they look like to progress and tracker."""

    def __init__(self, context: Context, planned_steps: int) -> None:
        self._context = context
        self._planned = planned_steps
        self._steps: dict[int, int] = {}
        self._children: dict[int, Any] = {}
        self.known: dict[Key, Outcome] = {}
        self._resume()

    def _resume(self) -> None:
        found = self._context.checkpoints.latest()
        self._saved = found[0] if found else 0
        if found is None:
            return
        for line in json.loads(found[1]["outcomes.json"].read_text()):
            self.known[line["trial"], line.get("replicate", 0), line["until"]] = Outcome(**line["outcome"])
            self._steps[line["trial"]] = max(self._steps.get(line["trial"], 0), line["until"])
        self._context.progress.say(f"the search goes on: {len(self.known)} scores are known")

    def hear(self, event: Event) -> None:
        index = event["trial"]
        if event["event"] == "rung":
            self.record(Segment(index, event["until"], event.get("replicate", 0)), Outcome(**event["outcome"]))
        else:
            self._steps[index] = max(self._steps.get(index, 0), event["step"])
            if event["event"] == "step":
                self._child(index).metrics(event["metrics"], step=event["step"])
            elif event["step"] == 0:
                self._child(index).params(flat(event["user"]))
        self._show(index)

    def record(self, segment: Segment, outcome: Outcome) -> None:
        """Keep an outcome, in the store before anything follows from it."""
        self.known[segment.key] = outcome
        lines = [
            {"trial": index, "replicate": replicate, "until": until, "outcome": known.to_json()}
            for (index, replicate, until), known in sorted(self.known.items())
        ]
        self._saved += 1
        self._context.checkpoints.save(self._saved, {"outcomes.json": json.dumps(lines).encode()})
        self._steps[segment.index] = max(self._steps.get(segment.index, 0), segment.until)
        if outcome.score is not None:
            self._child(segment.index).metrics({"score": outcome.score, "seconds": outcome.seconds}, step=segment.until)
        else:
            self._context.progress.say(f"trial {segment.index} {outcome.status}: {outcome.error}")

    def close(self) -> None:
        for index, child in self._children.items():
            failed = any(o.score is None for (i, _, _), o in self.known.items() if i == index)
            child.end("FAILED" if failed else "FINISHED")

    def _child(self, index: int) -> Any:
        if index not in self._children:
            self._children[index] = self._context.tracker.child(f"trial-{index:03d}")
        return self._children[index]

    def _show(self, index: int) -> None:
        done = sum(self._steps.values())
        known = [o.score for o in self.known.values() if o.score is not None]
        note = f"trial {index}, {len(known)} scores"
        self._context.progress.update(min(done, self._planned), self._planned, unit="steps", note=note)


# --- all of them --------------------------------------------------------------------------------------------------------


def run(
    conductor: Conductor, task: Task, space: Space, context: Context, ledger: Ledger, max_concurrent: int | None
) -> None:
    """Run every segment that the conductor asks for; the ledger knows the outcomes afterwards.

    Raises Interrupted once asked to stop, with every running trial saved.
    """
    if context.scale.num_workers != 1:
        raise BadInput(
            "a search gives each trial one worker",
            hint="set its scale.num_workers to 1; scale.max_concurrent says how many trials run at once",
        )
    try:
        if context.cluster.disabled:
            _run_here(conductor, task, space, context, ledger)
        else:
            _run_on_ray(conductor, task, space, context, ledger, max_concurrent)
    finally:
        ledger.close()


def _run_here(conductor: Conductor, task: Task, space: Space, context: Context, ledger: Ledger) -> None:
    while (segment := conductor.next()) is not None:
        user = space.apply(conductor.trials[segment.index].point)
        told = attempt(task, segment, user, ledger.hear, context.stopping)
        if "interrupted" in told or context.stopping():
            raise Interrupted(15)
        conductor.tell(segment, Outcome(**told))


def _run_on_ray(
    conductor: Conductor, task: Task, space: Space, context: Context, ledger: Ledger, max_concurrent: int | None
) -> None:
    each = context.scale
    context.cluster.check(each, context.store.files.local)
    have = context.cluster.resources()
    room = int(
        min(have.cpus / each.cpus_per_worker, have.gpus / each.gpus_per_worker if each.gpus_per_worker else math.inf)
    )
    limit = min(max(room, 1), max_concurrent or 10_000, context.scale.max_concurrent or 10_000)
    board = pin_up()
    failed: list[BaseException] = []
    ended: list[tuple[Segment, Outcome]] = []

    def search() -> None:
        try:
            ended.extend(_tune(conductor, task, space, board, each, limit, str(context.scratch.absolute())))
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=search, daemon=True, name="ray-tune")
    thread.start()
    interrupted = _attend(thread, board, context, ledger)
    if (verdict := ask(board.verdict)) is not None:
        raise Unavailable(verdict["message"], hint=verdict["hint"])
    if interrupted:
        raise Interrupted(15)
    if why := context.cluster.died():
        raise RayDied(why)
    for segment, outcome in ended:  # what the board did not tell: of dead workers, and from before it was itself killed
        if segment.key not in ledger.known:
            ledger.record(segment, outcome)
    if failed:
        raise failed[0]


def _attend(thread: threading.Thread, board: Any, context: Context, ledger: Ledger) -> bool:
    """Pass on what the trials tell until the thread ends; returns whether it was asked to stop."""
    asked: float | None = None
    alive = True
    while alive:
        thread.join(0.1)
        alive = thread.is_alive()
        for event in ask(board.drain) or ():
            ledger.hear(event)
        if why := context.cluster.died():
            raise RayDied(why)
        if asked is None and context.stopping():
            asked = time.monotonic()
            board.stop.remote()
        if asked is not None and time.monotonic() - asked > STOP_WITHIN_S:
            break
    return asked is not None


def _tune(
    conductor: Conductor, task: Task, space: Space, board: Any, each: Scale, limit: int, storage: str
) -> list[tuple[Segment, Outcome]]:
    """Ray Tune over the conductor's segments; returns what came of each."""
    import logging
    import os

    from ray import tune
    from ray.tune.search import Searcher

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(limit)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

    class Guide(Searcher):  # type: ignore[misc]
        """The conductor as Tune asks for it."""

        def __init__(self) -> None:
            super().__init__()
            self.given: dict[str, Segment] = {}
            self.ended: list[tuple[Segment, Outcome]] = []
            self.stopped = False

        def suggest(self, trial_id: str) -> Any:
            if self.stopped or (len(self.given) >= limit):
                return Searcher.FINISHED if self.stopped else None
            segment = conductor.next()
            if segment is None:
                return Searcher.FINISHED if conductor.ended else None
            self.given[trial_id] = segment
            user = space.apply(conductor.trials[segment.index].point)
            return {"trial": segment.index, "until": segment.until, "user": json.dumps(user)}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            """Everything is said at the end."""

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            segment = self.given.pop(trial_id, None)
            if segment is None:
                return
            if error or result is None or ("interrupted" not in result and "seconds" not in result):
                self._tell(segment, Outcome(None, 0.0, "failed", f"its worker died {DEATHS + 1} times"))
            elif "interrupted" in result:
                self.stopped = True
            else:
                self._tell(segment, Outcome(**{f.name: result[f.name] for f in fields(Outcome)}))

        def _tell(self, segment: Segment, outcome: Outcome) -> None:
            self.ended.append((segment, outcome))
            conductor.tell(segment, outcome)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: what counts is in our own store."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing: see `save`."""

    resources = {"cpu": each.cpus_per_worker} | ({"gpu": each.gpus_per_worker} if each.gpus_per_worker else {})
    guide = Guide()
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(work, task=task, board=board), resources),
        tune_config=tune.TuneConfig(search_alg=guide, num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            name=f"search-{secrets.token_hex(6)}",
            storage_path=storage,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=DEATHS),
        ),
    )
    tuner.fit()
    return guide.ended


def work(config: dict[str, Any], task: Task, board: Any) -> dict[str, Any]:
    """A Tune trial: one segment."""
    import ray

    def tell(event: Event) -> None:
        if event["event"] == "rung":
            ray.get(board.push.remote(event))  # a score must have arrived before anything follows from it
        else:
            pen.write(event)

    pen = Pen(board)
    segment = Segment(config["trial"], config["until"])
    try:
        return attempt(task, segment, json.loads(config["user"]), tell, pen.stopping)
    except Unavailable as error:  # the search's failure, not the trial's
        ray.get(board.judge.remote({"message": error.args[0], "hint": error.hint}))
        return {"interrupted": True}


__all__ = ["Ledger", "Task", "attempt", "forget", "lineage_of", "run"]

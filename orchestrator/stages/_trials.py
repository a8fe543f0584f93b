"""Running the trials of a search: Ray Tune, or this process, going through the teams.

A file that is no stage. A team (one trial, or several that are trained together) is a Tune trial whose process is reused by
the next one; a training's state between two rungs is its own committed checkpoint, so it may go on anywhere.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from orchestrator import importance
from orchestrator.board import Event, Pen, ask, pin_up
from orchestrator.cluster import RayDied
from orchestrator.errors import Interrupted, Unavailable
from orchestrator.search import Conductor, Outcome
from orchestrator.space import Space
from orchestrator.stage import Context, Scale
from orchestrator.stages import _wide
from orchestrator.stages._ledger import Ledger
from orchestrator.stages._roster import Roster
from orchestrator.stages._segments import Member, Task, attempt, packed, release, unpacked
from orchestrator.stages._teams import Population

STOP_WITHIN_S = 18.0
TELL_EVERY_S = 0.25
SETTINGS = {  # of Tune; its own defaults write files and look around far more often than a search needs
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "{limit}",
}


def lineage_of(context: Context) -> str:
    """The lineage under which the search's own checkpoints are kept."""
    return str(getattr(context.checkpoints, "lineage", context.stage))


def forget(task: Task, count: int) -> None:
    """Drop the checkpoints of a finished search's trials."""
    prefix = f"{task.lineage}.trial-"
    for name in task.store.files.names("checkpoints"):
        if name.startswith(prefix):
            task.store.files.remove(f"checkpoints/{name}")


def run(
    conductor: Conductor,
    task: Task,
    space: Space,
    context: Context,
    ledger: Ledger,
    max_concurrent: int | None,
    population: Population = "auto",
) -> None:
    """Run every segment that the conductor asks for; the ledger knows the outcomes afterwards.

    Raises Interrupted once asked to stop, with every running trial saved.
    """
    try:
        if context.cluster.disabled:
            _run_here(Roster(conductor, space, task, ledger, 1, population), task, context, ledger)
            return
        say, stopping = context.progress.say, context.stopping
        shared = context.store.files.local
        context.cluster.check(context.scale, shared, warm=False, say=say, stopping=stopping)  # trials are actors
        processes = _processes(context, max_concurrent)
        if (
            context.scale.num_workers > 1 or task.gpu
        ):  # several workers share each batch; populations are for processors
            population = "off"
        roster = Roster(conductor, space, task, ledger, processes, population)
        _run_on_ray(roster, task, context, ledger, processes)
    finally:
        ledger.close()


def _run_here(roster: Roster, task: Task, context: Context, ledger: Ledger) -> None:
    try:
        while (team := roster.next()) is not None:
            roster.heard(team, attempt(task, team, ledger.hear, context.stopping))
            if roster.stopped or context.stopping():
                raise Interrupted(15)
    finally:
        release()


def _processes(context: Context, max_concurrent: int | None) -> int:
    """How many teams are trained at once."""
    room = context.cluster.room(context.scale) // context.scale.num_workers
    return max(1, min(room, max_concurrent or room, context.scale.max_concurrent or room))


# --- on Ray ---------------------------------------------------------------------------------------------------------------


def _run_on_ray(roster: Roster, task: Task, context: Context, ledger: Ledger, processes: int) -> None:
    board = pin_up()
    failed: list[BaseException] = []

    def search() -> None:
        try:
            _tune(roster, task, board, context, processes)
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
    if failed:
        raise failed[0]


def _attend(thread: threading.Thread, board: Any, context: Context, ledger: Ledger) -> bool:
    """Pass on what the trials tell until the thread ends; returns whether it was asked to stop."""
    asked: float | None = None
    alive, trained = True, False
    while alive:
        thread.join(0.1)
        alive = thread.is_alive()
        for event in ask(board.drain) or ():
            for one in event["events"]:
                ledger.hear(one)
            if not trained:  # what the end needs is made ready while there is nothing to do here but to wait
                trained = True
                threading.Thread(target=importance.load, daemon=True, name="load").start()
        if why := context.cluster.died():
            raise RayDied(why)
        if asked is None and context.stopping():
            asked = time.monotonic()
            board.stop.remote()
        if asked is not None and time.monotonic() - asked > STOP_WITHIN_S:
            break
    return asked is not None


def _tune(roster: Roster, task: Task, board: Any, context: Context, processes: int) -> None:
    """Ray Tune over the roster's teams."""
    import logging
    import os

    generation = context.cluster.generation
    from ray import tune
    from ray.tune.search import Searcher

    def over() -> bool:
        """Whether the Ray that this search began in is gone; another must not meet what belonged to it."""
        return context.cluster.generation != generation or bool(context.cluster.died())

    os.environ.update({name: value.format(limit=processes) for name, value in SETTINGS.items()})
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

    here = Here(roster, over)

    class Guide(Searcher):  # type: ignore[misc]
        """The roster as Tune asks for it."""

        def __init__(self) -> None:
            super().__init__()
            self.given: dict[str, list[Member]] = {}

        def suggest(self, trial_id: str) -> Any:
            if here.over():
                return Searcher.FINISHED
            team = here.roster.next() if len(self.given) < processes else None
            if team is None:
                return Searcher.FINISHED if here.roster.ended else None
            self.given[trial_id] = team
            return {"team": packed(team)}

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            """Everything is said at the end."""

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            team = self.given.pop(trial_id, None)
            if team is None or here.over():
                return
            if error or result is None or "outcomes" not in result:
                here.roster.died(team)
            else:
                told = json.loads(result["outcomes"])
                here.roster.heard(team, [None if one is None else Outcome(**one) for one in told])

        def save(self, checkpoint_path: str) -> None:
            """Nothing: what counts is in our own store."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing: see `save`."""

    tuner = tune.Tuner(
        _trainable(task, board, context),
        tune_config=tune.TuneConfig(search_alg=Guide(), num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            name=f"search-{secrets.token_hex(6)}",
            storage_path=str(context.scratch.absolute()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),  # the roster knows what to do about a death
        ),
    )
    if not here.over():
        tuner.fit()


class Here:
    """Lets Tune write its searcher to a file, as it insists on, without the roster: it lives in this process alone."""

    def __init__(self, roster: Any = None, over: Callable[[], bool] = lambda: True) -> None:
        self.roster, self.over = roster, over

    def __reduce__(self) -> tuple[type[Here], tuple[()]]:
        return Here, ()


def _trainable(task: Task, board: Any, context: Context) -> Any:
    from ray import tune

    each, wide = context.scale, None
    if each.num_workers > 1:
        asked: Any = _wide.resources()
        wide = each, context.max_failures
    else:
        asked = {"cpu": each.cpus_per_worker} | ({"gpu": each.gpus_per_worker} if each.gpus_per_worker else {})

    def one(config: dict[str, Any]) -> dict[str, Any]:  # not `with_parameters`: Ray ends the driver where a node dies
        return work(config, task, board, wide)  # that holds its objects

    return tune.with_resources(one, asked)


def work(config: dict[str, Any], task: Task, board: Any, wide: tuple[Scale, int] | None) -> dict[str, Any]:
    """A Tune trial: one team, in this process or (`wide`: on such workers, so many failures) as a group of workers."""
    import ray

    notes, team = Notes(board), unpacked(config["team"])
    try:
        if wide is None:
            outcomes = attempt(task, team, notes.tell, notes.stopping)
        else:
            outcomes = [_wide.attempt(task, one, *wide, notes.tell, notes.stopping) for one in team]
    except Unavailable as error:  # the search's failure, not the trials'
        ray.get(board.judge.remote({"message": error.args[0], "hint": error.hint}))
        outcomes = [None] * len(team)
    finally:
        notes.flush()
    return {"outcomes": json.dumps([None if one is None else one.to_json() for one in outcomes])}


class Notes:
    """What a team's members tell, in bundles: many of them speak at once."""

    def __init__(self, board: Any) -> None:
        self._pen = Pen(board)
        self._waiting: list[Event] = []
        self._told = -math.inf

    def tell(self, event: Event) -> None:
        self._waiting.append(event)

    def stopping(self) -> bool:
        if time.monotonic() - self._told > TELL_EVERY_S:
            self.flush()
        return self._pen.stopping()

    def flush(self) -> None:
        self._told = time.monotonic()
        if self._waiting:
            self._pen.write({"events": self._waiting})
            self._waiting = []


__all__ = ["Ledger", "Task", "forget", "lineage_of", "run"]

"""What a run told, in the order of time: its events and the logs of its stages, once or as they come.

A line belongs to a stage instance, or to "run" as a whole. What an event and a log both tell is shown once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from orchestrator import runs, standing
from orchestrator.artifacts import ArtifactStore
from orchestrator.errors import BadInput, OrchestratorError
from orchestrator.runs import Run
from orchestrator.units import duration, number
from orchestrator.wording import printable, suggest

STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d{1,6})?(Z)? ")
WHOLE = "run"  # the log of what concerns no stage
LOOK_S = 0.4  # between two looks at a local storage; a remote one gets new lines every runs.UPLOAD_EVERY_S
STANDING_EVERY_S = 1.5


@dataclass(frozen=True)
class Line:
    """Something told at a time (seconds since 1970); a failure's text has many lines."""

    time: float
    stage: str
    text: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Journal:
    """Reads a run's events and logs on, from where the last reading ended."""

    def __init__(self, run: Run, stage: str | None = None) -> None:
        """`stage`: an instance, or a stage's name for all its instances. Raises BadInput for an unknown one."""
        self.run = run
        self.stages = _chosen(run, stage)
        self._read: dict[str, int] = {}  # path -> bytes taken in
        self._begun: dict[str, float] = {}  # path -> time of its last line

    def lines(self) -> list[Line]:
        """Everything told since the last call, in the order of time."""
        found = [line for event in self._events() if (line := _narrated(event)) is not None]
        for name in self.run.store.files.names(f"{self.run.folder}/logs"):
            if name.endswith(".log"):
                found += self._log(name.removesuffix(".log"))
        found = [replace(line, text=line.text.rstrip()) for line in found]
        return sorted((line for line in found if self._wanted(line.stage)), key=lambda line: line.time)

    def _wanted(self, stage: str) -> bool:
        return self.stages is None or stage in self.stages

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self._new(f"{self.run.folder}/events.jsonl"):
            if (event := runs.parsed(line)) is not None:
                yield event

    def _log(self, stage: str) -> list[Line]:
        path = f"{self.run.folder}/logs/{stage}.log"
        found: list[Line] = []
        for line in self._new(path):
            when, text = _stamped(line)
            if when is not None:
                self._begun[path] = when
                found.append(Line(when, stage, printable(text)))
            elif found:  # it goes on with what came before it: a trace
                found[-1] = Line(found[-1].time, stage, f"{found[-1].text}\n{printable(text)}")
            else:
                found.append(Line(self._begun.get(path, self.run.record.started), stage, printable(text)))
        return found

    def _new(self, path: str) -> list[str]:
        """Whole lines added since the last look."""
        files, start = self.run.store.files, self._read.get(path, 0)
        size = files.size(path)
        if size is None or size <= start:
            return []
        try:
            if files.local is not None:
                with open(files.local / path, "rb") as file:
                    file.seek(start)
                    data = file.read()
            else:
                data = files.read(path)[start:]
        except FileNotFoundError:  # `gc` took it
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = start + len(whole)
        return whole.decode(errors="replace").split("\n")[:-1]


def follow(run: Run, stage: str | None = None, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[list[Line]]:
    """A run's lines: first all there are, then new ones as they come, until the run ends or its process is gone."""
    journal, look_s = Journal(run, stage), LOOK_S if run.store.files.local else runs.UPLOAD_EVERY_S / 2
    checked, over = -STANDING_EVERY_S, False
    while not over:
        if time.monotonic() - checked >= STANDING_EVERY_S:
            over, checked = _over(run.store, run.run_id), time.monotonic()  # before reading: nothing comes afterwards
        yield journal.lines()
        if not over:
            sleep(look_s)


def _over(store: ArtifactStore, run_id: str) -> bool:
    try:
        return standing.status(runs.read(store, run_id)) != "running"
    except BadInput:  # removed
        return True
    except OrchestratorError:  # unreadable this moment: it is looked at again
        return False


def _chosen(run: Run, stage: str | None) -> set[str] | None:
    if stage is None:
        return None
    found = {one.stage for one in run.record.stages if stage in (one.stage, one.name)}
    if stage == WHOLE:
        found.add(WHOLE)
    if not found:
        known = [one.stage for one in run.record.stages]
        raise BadInput(f"run {run.run_id} has no stage {stage!r}", hint=suggest(stage, [*known, WHOLE]))
    return found


def _stamped(line: str) -> tuple[float | None, str]:
    """When a line of a log was written, and what it says."""
    found = STAMP.match(line)
    if not found:
        return None, line
    try:  # logs of earlier versions were in local time
        moment = datetime.fromisoformat(f"{found[1]}T{found[2]}{found[3] or ''}")
        when = moment.replace(tzinfo=UTC).timestamp() if found[4] else moment.timestamp()
    except (ValueError, OverflowError):
        return None, line
    return when, line[found.end() :]


def _narrated(event: Mapping[str, Any]) -> Line | None:
    """An event as a line; None for one that the logs tell of (with the trace of a failure), and for later versions'."""
    text = ""
    try:
        match event["event"]:
            case "run_started":
                text = f"{event.get('pipeline', '')} started"
            case "stage_started":
                again = f", attempt {event['attempt']}" if event.get("attempt", 1) > 1 else ""
                text = f"started ({event['reason']}{again})"
            case "stage_cached":
                text = f"cached, from run {event['run']}"
            case "stage_progress":
                metrics = [f"{name} {number(float(value))}" for name, value in event.get("metrics", {}).items()]
                portion = f"{event['done']:g}/{event['total']:g} {event['unit']}"
                text = "  ".join(part for part in (portion, event.get("note", ""), *metrics) if part)
            case "stage_finished":
                text = f"done in {duration(event['seconds'])}"
            case "run_finished":
                text = f"{event['status']}, exit code {event['exit_code']}"
    except (KeyError, TypeError, ValueError):
        return None
    return Line(event["time"], event.get("stage") or WHOLE, printable(text)) if text else None


__all__ = ["Journal", "Line", "follow"]

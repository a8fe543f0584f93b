"""What is known of a search so far: outcomes, kept in the store as they come in, and what they look like to the user.

A file that is no stage. An outcome is in the store before anything is decided from it: a search that is killed repeats what
was running, and nothing else.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from orchestrator.board import Event
from orchestrator.search import Key, Outcome, Segment
from orchestrator.space import flat
from orchestrator.stage import Context
from orchestrator.tracking import NullTracker

FILE = "outcomes.json"


class Ledger:
    """Outcomes by (trial, replicate, step). May be told from several threads."""

    def __init__(self, context: Context, planned_steps: int, *, followed: bool = True) -> None:
        """`followed`: each training is told to the tracker as a nested run."""
        self._context = context
        self._followed = followed
        self._planned = planned_steps
        self._steps: dict[tuple[int, int], int] = {}
        self._done = 0
        self._scores = 0
        self._children: dict[tuple[int, int], Any] = {}
        self._lock = threading.RLock()
        self._began, self._before = time.monotonic(), 0.0
        self._at: dict[Key, float] = {}  # seconds into the search
        self._lines: dict[Key, str] = {}  # of the file: it is written again for every team that ends
        self.known: dict[Key, Outcome] = {}
        self._resume()

    @property
    def elapsed_s(self) -> float:
        """How long the search has run; of what was killed, until its last outcome."""
        return self._before + time.monotonic() - self._began

    def _resume(self) -> None:
        found = self._context.checkpoints.latest()
        self._saved = found[0] if found else 0
        if found is None:
            return
        for line in json.loads(found[1][FILE].read_text()):
            key = line["trial"], line.get("replicate", 0), line["until"]
            self.known[key] = Outcome(**line["outcome"])
            self._at[key] = line.get("at_s", 0.0)
            self._reached(*key)
            self._note(key)
        self._before = max(self._at.values(), default=0.0)
        self._scores = sum(outcome.score is not None for outcome in self.known.values())
        self._context.progress.say(f"the search goes on: {len(self.known)} scores are known")

    def hear(self, event: Event) -> None:
        """What a training tells of itself: {"event": "start" or "step", "trial", "replicate", "step", …}."""
        with self._lock:
            index, replicate = event["trial"], event["replicate"]
            self._reached(index, replicate, event["step"])
            if event["event"] == "step":
                self._child(index, replicate).metrics(event["metrics"], step=event["step"])
            elif event["step"] == 0:
                self._child(index, replicate).params(flat(event["user"]))
            self._show(f"trial {index}")

    def record(self, outcomes: Mapping[Segment, Outcome]) -> None:
        """Keep outcomes, in the store before anything follows from them; those that are known stay as they are."""
        with self._lock:
            fresh = {segment: outcome for segment, outcome in outcomes.items() if segment.key not in self.known}
            if not fresh:
                return
            self.known |= {segment.key: outcome for segment, outcome in fresh.items()}
            self._at |= dict.fromkeys((segment.key for segment in fresh), self.elapsed_s)
            for segment in fresh:
                self._note(segment.key)
            self._scores += sum(outcome.score is not None for outcome in fresh.values())
            self._save()
            for segment, outcome in fresh.items():
                self._tell(segment, outcome)
            self._show(f"trial {max(segment.index for segment in fresh)}")

    def _note(self, key: Key) -> None:
        index, replicate, until = key
        told = {"trial": index, "replicate": replicate, "until": until, "at_s": self._at[key]}
        self._lines[key] = json.dumps({**told, "outcome": self.known[key].to_json()})

    def _save(self) -> None:
        lines = ",\n".join(self._lines[key] for key in sorted(self._lines))
        self._saved += 1
        self._context.checkpoints.save(self._saved, {FILE: f"[{lines}]".encode()})

    def _tell(self, segment: Segment, outcome: Outcome) -> None:
        self._reached(*segment.key)
        if outcome.score is not None:
            told = outcome.values or {"score": outcome.score}
            child = self._child(segment.index, segment.replicate)
            child.metrics({**told, "score": outcome.score, "seconds": outcome.seconds}, step=segment.until)
        else:
            which = f"trial {segment.index}" + (f", replicate {segment.replicate}" if segment.replicate else "")
            self._context.progress.say(f"{which} {outcome.status}: {outcome.error}")

    def close(self) -> None:
        """End the tracked trials."""
        with self._lock:
            failed = {(i, r) for (i, r, _), outcome in self.known.items() if outcome.score is None}
            for which, child in self._children.items():
                child.end("FAILED" if which in failed else "FINISHED")

    def _reached(self, index: int, replicate: int, step: int) -> None:
        before = self._steps.get((index, replicate), 0)
        if step > before:
            self._steps[index, replicate] = step
            self._done += step - before

    def _child(self, index: int, replicate: int) -> Any:
        if not self._followed:
            return NullTracker()
        if (index, replicate) not in self._children:
            name = f"trial-{index:03d}" + (f".{replicate}" if replicate else "")
            self._children[index, replicate] = self._context.tracker.child(name)
        return self._children[index, replicate]

    def _show(self, note: str) -> None:
        done = min(self._done, self._planned)
        self._context.progress.update(done, self._planned, unit="steps", note=f"{note}, {self._scores} scores")


__all__ = ["Ledger"]

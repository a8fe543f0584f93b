"""Checkpoints written in the background, one at a time.

Training goes on while a checkpoint is made into bytes, hashed and written. It waits for it in three cases: after `slack`
more steps, before anything of a later step is told, and at the end. So at most one copy of the state is in memory, and what
a killed run loses of what it has told is never more than one interval.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

Files = Mapping[str, bytes | Path]


class Checkpoints(Protocol):
    """Where committed checkpoints live."""

    def save(self, step: int, files: Files) -> None: ...
    def latest(self, *, at_most: int | None = None) -> tuple[int, dict[str, Path]] | None: ...


class Saver:
    """Saves for one training. `committed` is the step of the newest checkpoint that is in the store."""

    def __init__(self, checkpoints: Checkpoints, slack: int) -> None:
        self._checkpoints, self._slack = checkpoints, slack
        self._writing: _Write | None = None
        self.committed: int | None = None

    def begin(self, step: int, files: Callable[[], Files]) -> None:
        """Start to save what `files` makes (called in the background); waits for the one before, and raises its error."""
        self.settle()
        self._writing = _Write(self._checkpoints, step, files)
        if not self._slack:
            self.settle()

    def advance(self, step: int) -> None:
        """Called after each step: raises what went wrong in the background, waits where training is too far ahead."""
        if self._writing and (self._writing.done or step - self._writing.step >= self._slack):
            self.settle()

    def settle(self) -> None:
        """Wait until nothing is being written. Raises what went wrong."""
        writing, self._writing = self._writing, None
        if writing:
            writing.wait()
            self.committed = writing.step


class _Write:
    """One checkpoint on its way into the store. Its thread ends with the process: a manifest comes last, so all is whole."""

    def __init__(self, checkpoints: Checkpoints, step: int, files: Callable[[], Files]) -> None:
        self.step = step
        self._checkpoints, self._files = checkpoints, files
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"checkpoint-{step}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._checkpoints.save(self.step, self._files())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that trains
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error

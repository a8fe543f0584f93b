"""A process that has imported everything and then runs pipelines of fake stages in forks of itself: a run costs
milliseconds, and a real SIGKILL ends it at the n-th operation on its storage.

    with Forks() as forks:
        outcome = forks.run(spec, storage, die_at=17)

As a program (`python -m tests.faults.forks`) it is that process: requests and outcomes are JSON lines. With FORKS=real in
its environment the stages are the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]


@dataclass
class Outcome:
    """How a run in a fork ended. `signal` is 9 where it was killed."""

    signal: int = 0
    code: int = 0
    operations: int = 0
    last: str = ""  # the operation that was about to be done
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)  # stage -> output -> digest
    computed: list[str] = field(default_factory=list)  # stages that ran
    steps: list[str] = field(default_factory=list)  # what the fake stages did, in order
    said: list[str] = field(default_factory=list)
    error: str = ""


class Forks:
    """The warmed process, seen from a test."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        command = [sys.executable, "-m", "tests.faults.forks"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def run(self, spec: Path, storage: str, *, die_at: int = 0, **asked: Any) -> Outcome:
        """`die_at` 0: to the end. `asked` goes to `orchestrator.plan`; `remote=True` counts through fsspec."""
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {"spec": str(spec), "storage": storage, "die_at": die_at, "asked": asked}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the warmed process is gone"
        return Outcome(**json.loads(line))


def serve() -> None:
    """Answer requests until stdin ends."""
    warm()
    for line in sys.stdin:
        print(json.dumps(asdict(_forked(json.loads(line)))), flush=True)


def warm() -> None:
    """Import what a run imports, and leave out what only costs time here: nothing outlives a power cut in a test."""
    import pytest

    import orchestrator.execute
    import orchestrator.mending
    import orchestrator.report  # noqa: F401
    from orchestrator import log, report
    from tests import fake_stages
    from tests.faults import disk

    if os.environ.get("FORKS") == "real":
        _warm_training()
    else:
        fake_stages.install(pytest.MonkeyPatch())
        for name in ("echo", "fail", "grow", "judge", "make", "note", "pick", "show"):
            __import__(f"tests.fake_stages.{name}")
    disk.register()
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    if "FORKS_REPORT" not in os.environ:
        report.build = lambda *_: Path()  # type: ignore[assignment]
    log.STALE_S, log.BEAT_S = 0.6, 0.05


def _warm_training() -> None:
    """The stages of a pipeline that trains; nothing is computed, so that torch has no threads yet."""
    import torch

    from trainers import loop  # noqa: F401

    torch.set_num_threads(1)
    for name in ("evaluate", "prepare", "train"):
        __import__(f"orchestrator.stages.{name}")


def _forked(request: dict[str, Any]) -> Outcome:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        code = 70
        try:
            code = _child(request, write)
        except BaseException:  # noqa: BLE001 - told, and the fork ends here
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as told:
        said = [json.loads(line) for line in told]
    _, status = os.waitpid(child, 0)
    outcome = Outcome(**{key: value for line in said for key, value in line.items()})
    outcome.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    outcome.code = os.waitstatus_to_exitcode(status)
    return outcome


def _child(request: dict[str, Any], write: int) -> int:
    import orchestrator
    from orchestrator import files
    from orchestrator.errors import OrchestratorError
    from orchestrator.execute import Options, execute
    from tests.fake_stages._calls import CALLS

    def tell(**values: Any) -> None:
        os.write(write, (json.dumps(values) + "\n").encode())

    heard = _listener()
    count = 0

    def observe(operation: str, path: str) -> None:
        nonlocal count
        if "/beat/" in path:  # by the clock: where they fall says nothing
            return
        count += 1
        if count == request["die_at"]:
            tell(operations=count, last=f"{operation} {path}")
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the signal comes before the next instruction of this thread, others must not go on either

    sys.stderr = heard.err  # type: ignore[assignment]
    files.observe = observe
    try:
        plan = orchestrator.plan(request["spec"], storage=request["storage"], **request["asked"])
        run = execute(plan, listener=heard, options=Options(ray=False, tracking=False))
    except OrchestratorError as error:
        tell(error=str(error), said=heard.said, steps=list(CALLS), operations=count)
        return error.exit_code
    outputs = {stage.stage: stage.outputs for stage in run.record.stages}
    tell(outputs=outputs, computed=heard.computed, said=heard.said, steps=list(CALLS), operations=count)
    if run.record.error:
        tell(error=run.record.error)
    return run.exit_code


def _listener() -> Any:
    import io

    from orchestrator import events

    class Heard(events.Listener):
        def __init__(self) -> None:
            self.computed: list[str] = []
            self.err = io.StringIO()
            self.lines: list[str] = []

        @property
        def said(self) -> list[str]:
            return [*self.lines, *self.err.getvalue().splitlines()]

        def stage_said(self, event: events.StageSaid) -> None:
            self.lines.append(event.line)

        def stage_failed(self, event: events.StageFailed) -> None:
            self.lines.append(f"{event.stage} failed: {event.error}")

        def stage_finished(self, event: events.StageFinished) -> None:
            self.computed.append(event.stage)

    return Heard()


if __name__ == "__main__":
    serve()

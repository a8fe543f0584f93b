"""`orchestrate run` as a process of its own, that a test can hit: its processes, its checkpoints, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SPEC = """\
version: 1
name: small
stages:
  data: {uses: prepare, with: {dataset: {ring8: {num_points: 1000}}, num_shards: 1}}
  train:
    uses: train
    inputs: {dataset: data}
    with: {variant: gan, backbone: {mlp: {width: 16}}, total_steps: STEPS, batch_size: 16, checkpoint_every: 50}
  evaluate:
    uses: evaluate
    inputs: {dataset: data, model: train}
    with: {metrics: [mode_coverage], num_samples: 500}
"""
PROGRAM = "import sys; sys.argv[0] = 'orchestrate'; from orchestrator.cli import main{}; main()"


@dataclass
class Command:
    """A run under way in `folder`, with everything that it started."""

    folder: Path
    steps: int = 2000
    arguments: tuple[str, ...] = ()
    spec: str = SPEC
    before: str = ""  # what its program does first
    process: subprocess.Popen[str] = field(init=False)
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "small.yaml").write_text(self.spec.replace("STEPS", str(self.steps)))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        self.out, self.err = self.folder / "out.txt", self.folder / "err.txt"
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM.format(self.before and f"; {self.before}"),
                "run",
                "small.yaml",
                *self.arguments,
            ],
            cwd=self.folder,
            env=environment,
            stdout=self.out.open("w"),
            stderr=self.err.open("w"),
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        for one in [*self.seen.values()]:
            if one.is_running():
                one.kill()
        self.process.kill()
        self.process.wait()

    def look(self) -> dict[int, psutil.Process]:
        """Every process that it has started so far."""
        try:
            for one in psutil.Process(self.process.pid).children(recursive=True):
                self.seen.setdefault(one.pid, one)
        except psutil.NoSuchProcess:
            pass
        return self.seen

    def named(self, name: str) -> list[psutil.Process]:
        """Its living processes whose command line begins so."""
        found = []
        for one in self.look().values():
            try:
                first = one.cmdline()[:1]
            except psutil.Error:
                continue
            if first and (first[0].startswith(name) or first[0].rsplit("/", 1)[-1] == name):
                found.append(one)
        return found

    @property
    def checkpoints(self) -> list[int]:
        """Steps of the committed checkpoints."""
        return sorted(int(path.stem) for path in self.folder.glob("runs/checkpoints/*/*.json") if path.stem.isdigit())

    def began(self, stage: str, *, last: bool = False) -> bool:
        """Whether one of the folder's runs, or the newest of them, has started the stage."""
        paths = sorted(self.folder.glob("runs/runs/*/events.jsonl"))[-1 if last else 0 :]
        lines = [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.endswith("}")]
        return any(line.get("event") == "stage_started" and line.get("stage") == stage for line in lines)

    def until(self, true: Callable[[], object], within_s: float = 150.0) -> None:
        """Wait until something holds; the command must still be running then."""
        deadline = time.monotonic() + within_s
        while not true():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, self.err.read_text()
            self.look()
            time.sleep(0.05)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, within_s: float = 150.0) -> int:
        """Its exit code; without a traceback for the user."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.said
            self.look()
            time.sleep(0.05)
        assert "Traceback" not in self.said
        return self.process.returncode

    @property
    def said(self) -> str:
        return self.err.read_text()

    def orphans(self, within_s: float) -> list[str]:
        """What is left of its processes once it has had so long to vanish."""
        deadline = time.monotonic() + within_s
        while left := [one for one in self.seen.values() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
            if time.monotonic() > deadline:
                return [" ".join(one.cmdline()[:3]) for one in left]
            time.sleep(0.2)
        return []


__all__ = ["Command", "signal"]

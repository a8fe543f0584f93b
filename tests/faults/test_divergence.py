"""NaN on two real workers: stopped in time, told, and never tried again unchanged."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.faults.command import SPEC, Command

WILD = SPEC.replace(
    "train:\n    uses: train\n    inputs: {dataset: data}\n    with: {",
    "train:\n    uses: train\n    inputs: {dataset: data}\n    scale: {num_workers: 2}\n"
    "    retry: {max_failures: 3}\n    with: {optimizers: {generator: {name: sgd, lr: 1.0e+30},"
    " critic: {name: sgd, lr: 1.0e+30}}, ",
)


@pytest.mark.long
def test_nan_on_two_workers_is_divergence_and_is_refused_unchanged(tmp_path: Path) -> None:
    with Command(tmp_path, steps=10_000, spec=WILD) as command:
        assert command.ended() == 3
        found = re.search(r"training diverged: .*step (\d+)", command.said + command.out.read_text())
        assert found, command.said
        assert int(found[1]) < 50
        assert all(step < 100 for step in command.checkpoints)
        assert "worker" not in command.said.split("diverged")[0], command.said  # no loss of a worker, no restart
        assert command.orphans(90) == []
    started = time.monotonic()
    with Command(tmp_path, steps=10_000, spec=WILD) as command:
        assert command.ended() == 3
        assert "not tried again unchanged" in command.said + command.out.read_text()
        assert command.named("raylet") == []
    assert time.monotonic() - started < 30

"""Drivers, workers and raylets killed at random moments: the same command always goes on, to the very same bytes."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.faults.command import Command
from tests.faults.test_nodes import trained

STEPS = 600
MOST_TRIES = 6
ENDINGS = {0, 4, -9}  # done, Ray could not be had again, killed itself


def kills() -> int:
    """How many runs are hit."""
    return 50 if os.environ.get("ORCHESTRATOR_PROOF") == "full" else 4


def strike(command: Command, rng: random.Random) -> str:
    """Kill something of a run at a random moment; returns what it was."""
    if rng.random() < 0.7:
        command.until(lambda: command.checkpoints)
        time.sleep(rng.random() * 2)
    else:
        time.sleep(rng.random() * 15)
    what = rng.choice(["driver", "ray::RayTrainWorker", "ray::", "raylet", "gcs_server"])
    if what == "driver":
        command.look()
        command.process.kill()
        return what
    found = command.named(what)
    if found:
        rng.choice(found).kill()
    return what


@pytest.mark.long
def test_whatever_is_killed_the_same_command_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    with Command(whole, steps=STEPS) as command:
        assert command.ended() == 0, command.said
    for seed in range(kills()):
        folder, rng = tmp_path / f"hit-{seed}", random.Random(seed)
        folder.mkdir()
        story = []
        for attempt in range(MOST_TRIES):
            with Command(folder, steps=STEPS) as command:
                if attempt < 2 and command.process.poll() is None:
                    try:
                        story.append(strike(command, rng))
                    except AssertionError:  # it had ended before
                        story.append("nothing")
                code = command.ended(200)
            story.append(str(code))
            assert code in ENDINGS, (seed, story, command.said)
            if code == 0:
                break
        assert story[-1] == "0", (seed, story)
        assert trained(folder) == trained(whole), (seed, story)

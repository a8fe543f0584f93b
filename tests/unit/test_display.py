"""The display: what is printed when, with a clock of its own."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator import display, events


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plan(**states: str) -> Any:
    steps = [
        SimpleNamespace(step=SimpleNamespace(id=name, label=name), state=state, reason="never run")
        for name, state in states.items()
    ]
    return SimpleNamespace(steps=steps, spec=SimpleNamespace(name="small"))


def progress(stage: str, done: float, **metrics: float) -> events.StageProgress:
    return events.StageProgress(stage, done, 100, "steps", "", metrics)


def test_lines_are_throttled_by_stage_and_time() -> None:
    out, clock = io.StringIO(), Clock()
    lines = display.Lines(out, every_s=10, clock=clock)
    lines.run_started(events.RunStarted("small-1", plan(data="cached", train="run")))
    lines.stage_cached(events.StageCached("data", 3.0, "small-0"))
    lines.stage_started(events.StageStarted("train", "never run"))
    for step in range(0, 100, 5):
        lines.stage_progress(progress("train", step, loss=1 / (step + 1)))
        clock.now += 1
    lines.stage_said(events.StageSaid("train", "a worker came back"))
    lines.stage_finished(events.StageFinished("train", 20.0, {}))
    text = out.getvalue()
    assert text.count("/100 steps") == 2
    assert "2 stages, 1 cached" in text
    assert "cached, from run small-0" in text
    assert "50/100 steps  5 steps/s  10 s left" in text
    assert "a worker came back" in text
    assert "done in 20 s  loss 0.01042" in text


def test_rate_forgets_what_was_before_a_restart() -> None:
    clock = Clock()
    rows = display.Rows(clock)
    for step in (0, 50, 90):
        rows.stage_progress(progress("train", step))
        clock.now += 1
    rows.stage_progress(progress("train", 50))
    clock.now += 1
    rows.stage_progress(progress("train", 52))
    assert rows.row("train").rate == pytest.approx(2)
    assert rows.row("train").left_s == pytest.approx(24)


def test_the_time_left_is_told_from_bursts_as_from_a_flow() -> None:
    """Teams of trials end together: 5 % of the work is done at once every minute, and next to nothing in between."""
    clock = Clock()
    rows = display.Rows(clock)
    told = []
    for second in range(600):
        done = 5 * (second // 60) + 0.01 * (second % 60 // 30)
        rows.stage_progress(progress("search", done))
        clock.now += 1
        if second >= 200:
            told.append(rows.row("search").left_s or 0.0)
    assert max(told) < 3 * 100 / (5 / 60)


def test_failure_names_cause_log_and_retry() -> None:
    out = io.StringIO()
    lines = display.Lines(out, clock=Clock())
    lines.stage_failed(events.StageFailed("train", "a worker died", "stage", "runs/train.log", 2.0))
    assert "failed [stage]: a worker died; again in 2 s; its log: runs/train.log" in out.getvalue()
    assert lines.row("train").state == "waiting"
    assert lines.row("train").seconds == 0.0


def test_table_shows_every_stage_as_it_stands() -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    table = display.Table(console, clock=clock)
    table.run_started(events.RunStarted("small-1", plan(data="run", train="run", evaluate="run")))
    table.stage_started(events.StageStarted("data", "never run"))
    table.stage_finished(events.StageFinished("data", 2.0, {}))
    table.stage_started(events.StageStarted("train", "never run"))
    table.stage_progress(progress("train", 0))
    clock.now += 4
    table.stage_progress(progress("train", 40, loss=0.5))
    table.close()
    final = out.getvalue()
    assert "✓  data" in final
    assert "40/100 steps" in final
    assert "10 steps/s  6 s left  loss 0.5" in final
    assert "·  evaluate" in final


def test_a_cached_run_starts_no_table() -> None:
    out = io.StringIO()
    table = display.Table(Console(file=out, force_terminal=True))
    table.run_started(events.RunStarted("small-1", plan(data="cached")))
    assert table.live is None
    assert out.getvalue() == ""


def test_who_listens() -> None:
    assert type(display.listener(quiet=True)) is events.Listener
    assert isinstance(display.listener(out=io.StringIO()), display.Lines)

"""Progress on the screen: a live table on a terminal, time-stamped lines elsewhere. All of it goes to stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator import events
from orchestrator.units import duration, number

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LINE_EVERY_S = 10.0  # between two progress lines of one stage
VERBOSE_EVERY_S = 1.0
RATE_WINDOW_S = 20.0
MOST_METRICS = 4
GLYPHS = {"pending": "·", "running": "▸", "cached": "=", "succeeded": "✓", "failed": "✗", "waiting": "↻"}
STYLES = {
    "pending": "dim",
    "running": "bold",
    "cached": "cyan",
    "succeeded": "green",
    "failed": "red",
    "waiting": "yellow",
}


@dataclass
class Row:
    """What is known of a stage. `total` is 0 before its first progress."""

    label: str
    state: str = "pending"
    reason: str = ""
    attempt: int = 1
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    note: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    started: float = 0.0
    seconds: float = 0.0
    told: float = 0.0  # when a line last spoke of it
    since: float = 0.0  # when the work that `seen` looks at began
    seen: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=200))

    def advance(self, event: events.StageProgress, now: float) -> None:
        if event.unit != self.unit or event.done < self.done:  # another kind of work, or begun again from a checkpoint
            self.seen.clear()
        self.done, self.total, self.unit, self.note = event.done, event.total, event.unit, event.note
        self.metrics = event.metrics or self.metrics
        self.since = now if not self.seen else self.since
        self.seen.append((now, event.done))
        window = max(
            RATE_WINDOW_S, (now - self.since) / 3
        )  # teams of trials end in bursts, which a short one would miss
        while now - self.seen[0][0] > window and len(self.seen) > 2:
            self.seen.popleft()

    @property
    def rate(self) -> float:
        """Units a second, lately; 0 when unknown."""
        if len(self.seen) < 2 or self.seen[-1][0] <= self.seen[0][0]:
            return 0.0
        return (self.seen[-1][1] - self.seen[0][1]) / (self.seen[-1][0] - self.seen[0][0])

    @property
    def left_s(self) -> float | None:
        """Seconds until done, None when unknown."""
        return (self.total - self.done) / self.rate if self.rate > 0 and self.total else None

    def values(self) -> list[str]:
        """The latest values, as short texts."""
        return [f"{name} {number(value)}" for name, value in list(self.metrics.items())[:MOST_METRICS]]

    def facts(self) -> list[str]:
        """Note, rate, time left and the latest values, as short texts."""
        rate = f"{number(self.rate)} {self.unit}/s" if self.rate >= 1 else ""
        left = f"{duration(self.left_s)} left" if self.left_s is not None and self.done < self.total else ""
        return [text for text in (self.note, rate, left, *self.values()) if text]


class Rows(events.Listener):
    """Keeps a row a stage; what it means to show one is the subclass's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows: dict[str, Row] = {}
        self.clock = clock
        self.lock = threading.RLock()

    def row(self, stage: str) -> Row:
        return self.rows.setdefault(stage, Row(stage))

    def run_started(self, event: events.RunStarted) -> None:
        with self.lock:
            for planned in event.plan.steps:
                self.rows[planned.step.id] = Row(planned.step.label, reason=planned.reason)

    def stage_started(self, event: events.StageStarted) -> None:
        with self.lock:
            row = self.row(event.stage)
            row.state, row.reason, row.attempt, row.started = "running", event.reason, event.attempt, self.clock()
            row.seen.clear()

    def stage_cached(self, event: events.StageCached) -> None:
        with self.lock:
            row = self.row(event.stage)
            row.state, row.seconds, row.reason = "cached", event.seconds, f"from run {event.run}"

    def stage_progress(self, event: events.StageProgress) -> None:
        with self.lock:
            self.row(event.stage).advance(event, self.clock())

    def stage_finished(self, event: events.StageFinished) -> None:
        with self.lock:
            row = self.row(event.stage)
            row.state, row.seconds = "succeeded", event.seconds

    def stage_failed(self, event: events.StageFailed) -> None:
        with self.lock:
            row = self.row(event.stage)
            row.state = "failed" if event.retry_in_s is None else "waiting"
            row.seconds = self.clock() - row.started if row.started else 0.0
            row.reason = event.error


class Lines(Rows):
    """One time-stamped line for each event; progress at most every `every_s` seconds a stage."""

    def __init__(
        self, out: TextIO, *, every_s: float = LINE_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self.out = out
        self.every_s = every_s

    def line(self, stage: str, text: str) -> None:
        with self.lock:
            name = self.row(stage).label if stage else "run"
            print(f"{time.strftime('%H:%M:%S')}  {name:<12}  {text}", file=self.out, flush=True)

    def run_started(self, event: events.RunStarted) -> None:
        super().run_started(event)
        outlook = f"; {event.outlook}" if event.outlook else ""
        self.line("", f"{event.run_id} started: {_counts(event.plan.steps)}{outlook}")

    def stage_started(self, event: events.StageStarted) -> None:
        super().stage_started(event)
        again = f", attempt {event.attempt}" if event.attempt > 1 else ""
        self.line(event.stage, f"started ({event.reason}{again})")

    def stage_cached(self, event: events.StageCached) -> None:
        super().stage_cached(event)
        self.line(event.stage, f"cached, {self.row(event.stage).reason}")

    def stage_progress(self, event: events.StageProgress) -> None:
        super().stage_progress(event)
        with self.lock:
            row = self.row(event.stage)
            if self.clock() - row.told < self.every_s and row.told:
                return
            row.told = self.clock()
            self.line(event.stage, "  ".join([_portion(row), *row.facts()]))

    def stage_said(self, event: events.StageSaid) -> None:
        self.line(event.stage, event.line)

    def stage_finished(self, event: events.StageFinished) -> None:
        super().stage_finished(event)
        self.line(event.stage, "  ".join([f"done in {duration(event.seconds)}", *self.row(event.stage).values()]))

    def stage_failed(self, event: events.StageFailed) -> None:
        super().stage_failed(event)
        self.line(event.stage, _failure(event))


class Table(Rows):
    """A table that follows the stages in place; what is worth keeping scrolls by above it."""

    def __init__(self, console: Console, *, verbose: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self.console = console
        self.verbose = verbose
        self.live: Live | None = None

    def __rich__(self) -> RenderableType:
        with self.lock:
            return self._drawn()

    def run_started(self, event: events.RunStarted) -> None:
        super().run_started(event)
        if all(planned.state == "cached" for planned in event.plan.steps):
            return  # over before it could be seen; importing and starting the table would take longer
        from rich.live import Live

        head = f"[bold]{event.plan.spec.name}[/]  [dim]{event.run_id}  {event.outlook}[/]"
        self.console.print(head, highlight=False)
        self.live = Live(self, console=self.console, refresh_per_second=5)
        self.live.start()
        self.console.show_cursor(True)  # a process that is killed cannot bring it back

    def stage_said(self, event: events.StageSaid) -> None:
        from rich.text import Text

        name = self.row(event.stage).label if event.stage else "run"
        self.console.print(Text(f"{name}: {event.line}", style="dim"))

    def stage_failed(self, event: events.StageFailed) -> None:
        super().stage_failed(event)
        from rich.text import Text

        self.console.print(Text(f"{self.row(event.stage).label}: {_failure(event)}", style="red"))

    def run_finished(self, event: events.RunFinished) -> None:
        self.close()

    def close(self) -> None:
        """Leave the table as it stands. Also called when a run ends without a word."""
        live, self.live = self.live, None
        if live is not None:
            live.stop()

    def _drawn(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid.grid(padding=(0, 2), expand=True)
        for width in (1, None, 18, None, None):
            grid.add_column(width=width, no_wrap=True)
        grid.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        for row in self.rows.values():
            style = STYLES[row.state]
            running = row.state == "running"
            bar: Any = ProgressBar(total=row.total, completed=row.done, width=18) if running and row.total else ""
            spent = self.clock() - row.started if running else row.seconds
            time_text = duration(round(spent)) if running else duration(spent) if spent else ""
            grid.add_row(
                Text(GLYPHS[row.state], style=style),
                Text(row.label, style=style),
                bar,
                Text(_portion(row) if running else ""),
                Text(time_text, style="dim" if row.state == "cached" else "", justify="right"),
                Text(_latest(row), style="" if running else "dim"),
            )
        return grid


def listener(*, quiet: bool = False, verbose: bool = False, out: TextIO | None = None) -> events.Listener:
    """The display that suits where stderr goes."""
    out = out or sys.stderr
    if quiet:
        return events.Listener()
    if not out.isatty():
        return Lines(out, every_s=VERBOSE_EVERY_S if verbose else LINE_EVERY_S)
    from rich.console import Console

    return Table(Console(file=out, stderr=out is sys.stderr), verbose=verbose)


def _latest(row: Row) -> str:
    """The last column: what is going on, what came out, or why."""
    if row.state == "running" and row.total:
        return "  ".join(row.facts())
    return "  ".join(row.values()) if row.state == "succeeded" else row.reason


def _portion(row: Row) -> str:
    """Done and total: 120/1500 steps."""
    return f"{row.done:g}/{row.total:g} {row.unit}" if row.total else ""


def _failure(event: events.StageFailed) -> str:
    again = "" if event.retry_in_s is None else f"; again in {duration(event.retry_in_s)}"
    log = f"; its log: {event.log}" if event.log else ""
    return f"failed [{event.kind}]: {event.error}{again}{log}"


def _counts(steps: Any) -> str:
    cached = sum(planned.state == "cached" for planned in steps)
    return f"{len(steps)} stages, {cached} cached" if cached else f"{len(steps)} stages"

"""Options and ways of printing that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.errors import BadInput

if TYPE_CHECKING:
    from orchestrator.runs import Run

F = TypeVar("F", bound=Callable[..., Any])
LEAST_WIDTH = 4  # of a column that is cut: a narrower one says nothing
JSON_VERSION = 1  # of everything that --json prints
STORAGE = "ORCHESTRATOR_STORAGE"  # the variable that a pod, say, tells its storage by


def complete_pipelines(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Shell completion: the pipelines at hand, then any file."""
    from click.shell_completion import CompletionItem

    found: list[Any] = [CompletionItem(path) for path in pipelines() if path.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: the runs of the storage, newest first."""
    from orchestrator import runs
    from orchestrator.artifacts import ArtifactStore

    store = ArtifactStore(ctx.params.get("storage") or "runs")
    return [name for name in runs.ids(store) if name.startswith(incomplete)]


def find_run(url: str, name: str | None) -> Run:
    """A run by id, the newest run of a pipeline by its name, or the newest of all. Raises BadInput."""
    from orchestrator import runs
    from orchestrator.artifacts import ArtifactStore

    store = ArtifactStore(url)
    store.format()
    if name is None or "-" not in name:
        return runs.latest(store, name)
    return runs.read(store, name)


def pipeline(function: F) -> F:
    """PIPELINE: the path of a YAML file that exists."""
    return click.argument("pipeline", callback=_existing, shell_complete=complete_pipelines)(function)


def overrides(function: F) -> F:
    """--set, --profile and --storage: what may change a spec from outside of its file."""
    for option in (
        click.option(
            "--storage",
            metavar="URL",
            envvar=STORAGE,
            help=f"Where runs are kept; any fsspec URL instead of the spec's. Also ${STORAGE}.",
        ),
        click.option("--profile", metavar="NAME", help="A profile of the spec."),
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change one value, as stages.train.with.total_steps=4000. Repeatable.",
        ),
    ):
        function = option(function)
    return function


def which_stages(function: F) -> F:
    """--force, --from, --until, --no-cache and --verify."""
    function = verify(function)
    for option in (
        click.option("--no-cache", is_flag=True, help="Run every stage again."),
        click.option("--until", metavar="STAGE", help="Stop after this stage."),
        click.option("--from", "from_", metavar="STAGE", help="Run this stage and all that follow from it again."),
        click.option(
            "--force", multiple=True, metavar="STAGE", help="Run this stage again although cached. Repeatable."
        ),
    ):
        function = option(function)
    return function


def verify(function: F) -> F:
    """--verify: bytes altered in place with their time kept are found."""
    return click.option("--verify", is_flag=True, help="Hash what is cached: damaged artifacts are made again.")(
        function
    )


def storage(function: F) -> F:
    """--storage for commands that look at runs, with the default of a spec."""
    return click.option(
        "--storage",
        default="runs",
        show_default=True,
        metavar="URL",
        envvar=STORAGE,
        help=f"Where the runs are kept; any fsspec URL. Also ${STORAGE}.",
    )(function)


def as_json(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs on stdout.")(function)


def emit(**values: Any) -> None:
    """One versioned JSON object on stdout."""
    click.echo(json.dumps({"version": JSON_VERSION, **values}, indent=2, default=plain))


def plain(value: Any) -> Any:
    """What JSON does not know: sets as sorted lists, tuples as lists, anything else as text."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else str(value)


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Aligned columns, two spaces apart; the last one runs free, and is cut where a terminal ends."""
    lines = [tuple(head), *(tuple(row) for row in rows)] if head else [tuple(row) for row in rows]
    if not lines:
        return ""
    widths = [max(_width(line[i]) for line in lines) for i in range(len(lines[0]))]
    widths[-1] = 0
    room = _columns() - sum(widths) - 2 * (len(widths) - 1)
    texts = []
    for line in lines:
        *cells, last = line
        padded = [cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=False)]
        if cells and _width(last) > room:
            last = click.unstyle(last)[: max(room - 1, 0)] + "…" if room > LEAST_WIDTH else ""
        texts.append("  ".join([*padded, last]).rstrip())
    if head:
        texts[0] = click.style(texts[0], dim=True)
    return "\n".join(texts)


def _width(cell: str) -> int:
    return len(click.unstyle(cell))


def _columns() -> int:
    """Of the terminal; without one a line may be as long as it is."""
    import shutil
    import sys

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 1_000_000


def echo(text: str = "") -> None:
    """A result line on stdout; without colour where NO_COLOR is set."""
    click.echo(text, color=_color())


def tell(text: str) -> None:
    """Anything that is no result, on stderr."""
    click.echo(text, err=True, color=_color())


def pipelines(folder: str = "pipelines") -> list[str]:
    """The pipeline files at hand."""
    return sorted(str(path) for path in Path(folder).glob("*.y*ml"))


def _color() -> bool | None:
    import os

    return False if os.environ.get("NO_COLOR") else None


def one_line(value: Any) -> str:
    """A value as JSON in one line, cut where it is long."""
    text = json.dumps(value, default=plain)
    return text if len(text) <= 120 else text[:119] + "…"


def results(run: Run) -> dict[str, Any]:
    """What a run came to: `outcome`, and a `samples` picture to open, None where absent."""
    pictures = [artifact for _, artifact in run.artifacts("scores") if "grid.png" in artifact.files]
    samples = str(run.store.directory(pictures[-1]) / "grid.png") if pictures else None
    return {**outcome(run), "samples": samples}


def outcome(run: Run) -> dict[str, Any]:
    """A run's `scores` by name, and the registered `model`, None where absent."""
    found: dict[str, Any] = {"scores": {}, "model": None}
    for _, artifact in run.artifacts("scores"):
        values = artifact.metadata.get("values") or {}
        found["scores"] |= {name: value for name, value in values.items() if isinstance(value, (int, float))}
    for _, artifact in run.artifacts("registration"):
        facts = artifact.metadata
        alias = f"@{facts['alias']}" if facts.get("promoted") and facts.get("alias") else f"/{facts.get('version', '')}"
        found["model"] = f"models:/{facts.get('model', '')}{alias}"
    return found


def check_file(value: str) -> str:
    """The path, where it is a file. Raises BadInput that names the pipelines at hand."""
    if Path(value).is_file():
        return value
    from difflib import get_close_matches

    near = get_close_matches(value, pipelines(), n=1)
    there = ", ".join(pipelines())
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"there are {there}"
        if there
        else "`orchestrate list pipelines` looks in ./pipelines"
    )
    raise BadInput(f"no such file: {value}" if not Path(value).is_dir() else f"{value} is a directory", hint=hint)


def _existing(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    return check_file(value)

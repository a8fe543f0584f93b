"""The command line: one command a file, imported only when it is called or listed.

Nothing here computes: a command parses its arguments, calls the Python API and prints. Results go to stdout, everything
else to stderr. Exit codes are those of `orchestrator.errors`; an exception that nobody foresaw is a bug of ours: one
line, exit 70, and its trace in a file.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from gc import freeze
from importlib import import_module
from typing import Any, NoReturn

import click

from orchestrator.errors import OrchestratorError, SpecError
from orchestrator.trouble import recognised

SECTIONS: dict[str, tuple[str, ...]] = {
    "Run a pipeline": ("run", "validate", "plan", "why"),
    "Look at runs": ("runs", "status", "logs", "trials", "diff", "report", "sample", "reproduce", "cancel"),
    "On a cluster": ("k8s",),
    "Find out": ("list", "schema", "explain", "completion"),
    "Look after it": ("doctor", "fsck", "gc", "sync"),
}
BUG = 70
LEAVE_WITHIN_S = 10.0


class Commands(click.Group):
    """Finds `orchestrate NAME` in `orchestrator/cli/NAME.py`, whose command is the attribute `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        found = import_module(f"orchestrator.cli.{cmd_name}").command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:  # click would look for near names among commands already imported
            raise click.NoSuchCommand(error.command_name, possibilities=self.list_commands(ctx), ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                found = [(name, self.get_command(ctx, name)) for name in names]
                formatter.write_dl([(name, command.get_short_help_str(80)) for name, command in found if command])


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"orchestrate {version('gan-orchestrator')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def orchestrate() -> None:
    """Train GANs from one YAML file: raw data to a registered, evaluated model.

    \b
    Start with:
      orchestrate plan pipelines/dcgan.yaml     what would run, and why
      orchestrate run pipelines/dcgan.yaml      run it; again, and it goes on or is cached
      orchestrate list variants                 what a pipeline can be made of
    """


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The entry point: run the command line and exit with its code."""
    code = invoke(argv)
    last = threading.Timer(LEAVE_WITHIN_S, os._exit, (code,))  # whatever Ray or MLflow may still be waiting for
    last.daemon = True
    last.start()
    freeze()  # the last collection would walk everything that ray, torch and mlflow made: seconds on a busy machine
    if "ray" in sys.modules:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    """End at once. All is said and kept by now, and a thread that still waits inside a Ray that died could crash while the
    interpreter is taken down: the code would be that of the crash."""
    import logging

    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def invoke(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code and never raises."""
    from orchestrator import signals

    try:
        with signals.raised():
            result: Any = orchestrate.main(args=argv, prog_name="orchestrate", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        click.echo(f"interrupted; {signals.goes_on()}", err=True)
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        return 128 + getattr(cause, "signum", 2)
    except OrchestratorError as error:
        click.echo(describe(error), err=True)
        return error.exit_code
    except Exception as error:  # noqa: BLE001
        if (known := recognised(error, os.getcwd())) is not None:
            click.echo(describe(known), err=True)
            return known.exit_code
        click.echo(_bug(error), err=True)
        return BUG


def describe(error: OrchestratorError) -> str:
    """What a user reads on stderr: the problems of a spec with their places, or one `error[kind]: …` line."""
    text = str(error)
    if isinstance(error, SpecError):
        count = len(error.problems)
        return f"{text}\n{count} problem{'s' if count != 1 else ''}; `orchestrate explain ID` says more about one"
    return click.style(f"error[{error.kind}]", fg="red") + f": {text}"


def _bug(error: Exception) -> str:
    """One line for an unforeseen exception; its trace goes to a file of the user's own temporary directory."""
    import tempfile
    import traceback

    message = f"error[bug]: a bug of ours: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="orchestrate-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"orchestrate {' '.join(sys.argv[1:])}\n\n")
            file.write("".join(traceback.format_exception(error)))
    except OSError as full:
        return f"{message}; its trace could not be kept: {full}"
    return f"{message}; its trace: {file.name}"

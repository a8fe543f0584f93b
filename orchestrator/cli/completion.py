"""`orchestrate completion SHELL`: the script that makes a shell complete our commands."""

from __future__ import annotations

import click

from orchestrator.cli import options

HOW = {
    "bash": 'eval "$(orchestrate completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(orchestrate completion zsh)"    # in ~/.zshrc',
    "fish": "orchestrate completion fish | source   # in ~/.config/fish/config.fish",
}


@click.command(short_help="A completion script for bash, zsh or fish.")
@click.argument("shell", type=click.Choice(tuple(HOW)))
def command(shell: str) -> None:
    """Print the completion script of a SHELL.

    \b
    eval "$(orchestrate completion bash)"   # in ~/.bashrc
    eval "$(orchestrate completion zsh)"    # in ~/.zshrc
    orchestrate completion fish | source    # in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from orchestrator.cli import orchestrate

    found = get_completion_class(shell)
    assert found is not None
    options.echo(found(orchestrate, {}, "orchestrate", "_ORCHESTRATE_COMPLETE").source())

"""k8s/README.md says nothing that is not there: commands, options, paths, Secrets and their keys, and the kept copies."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from orchestrator.cli import orchestrate
from tests.k8s.built import K8S, OVERLAYS, ROOT
from tests.k8s.test_manifests import RENDERED

TEXT = (K8S / "README.md").read_text()
COMMANDS = sorted(
    {line.strip() for line in re.findall(r"(?m)^(orchestrate .*)$", TEXT)}
    | set(re.findall(r"`(orchestrate [^`]+)`", TEXT))
)


def leaf(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words lead to, and what is left of them."""
    found: click.Command = orchestrate
    while isinstance(found, click.Group) and words:
        context = click.Context(found)
        below = found.get_command(context, words[0])
        assert below is not None, f"no command {words[0]}"
        found, words = below, words[1:]
    return found, words


@pytest.mark.parametrize("line", COMMANDS)
def test_command_exists(line: str) -> None:
    command, words = leaf(shlex.split(line)[1:])
    known = {name for param in command.params for name in [*param.opts, *param.secondary_opts]} | {"--help"}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{line}: no option {word}"
        if word.startswith("pipelines/"):
            assert (ROOT / word).exists(), word


def test_paths_exist() -> None:
    paths = set(re.findall(r"(?<![\w./])(?:k8s|components|overlays|base|jobs|pipelines|tests)/[\w./-]*\w", TEXT))
    assert len(paths) > 15
    for path in paths:
        assert (ROOT / path).exists() or (K8S / path).exists(), path


def test_secrets_are_those_of_the_examples() -> None:
    told = {
        name: set(re.findall(r"`([A-Z0-9_]+)`", keys))
        for name, keys in re.findall(r"(?m)^\| `([a-z-]+)` \| (`[A-Z].*?) \|", TEXT)
    }
    there: dict[str, set[str]] = {}
    for name in OVERLAYS:
        for path in (K8S / "overlays" / name / "secrets").glob("*.example"):
            keys = set(re.findall(r"(?m)^(\w+)=", path.read_text()))
            there.setdefault(path.name.partition(".")[0], set()).update(keys)
    assert told == there


def test_statuses_are_kuberays() -> None:
    """Each status in the table is one that the operator can set."""
    from orchestrator.kubernetes import standing

    table = TEXT.partition("| RayJob status |")[2].partition("\n\n")[0]
    told = set(
        re.findall(r"`([A-Z][a-z]+)`", " ".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    )
    assert told >= {"Initializing", "Running", "Suspended", "Retrying", "Complete", "Failed", "Waiting"}
    source = Path(standing.__file__).read_text()
    assert all(word in source for word in told & {"Complete", "Failed", "Suspended", "Retrying"})


def test_kept_copies_have_their_commands() -> None:
    """The command beside each copy is the one that the test of the copies means."""
    for path, wish in RENDERED.items():
        line = next(line for line in COMMANDS if line.endswith(f"-o k8s/{path}"))
        words = shlex.split(line)
        assert wish.pipeline in words
        for option, value in (("--name", wish.name), ("--profile", wish.profile), ("--storage", wish.storage)):
            assert (words[words.index(option) + 1] if option in words else None) == (value or None), (path, option)
        assert ("--cluster" in words) == wish.cluster

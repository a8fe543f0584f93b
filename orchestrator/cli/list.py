"""`orchestrate list KIND [NAME]`: what a pipeline can be made of, read from the files themselves."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from trainers.plugins import Description, Param

KINDS = ("variants", "hacks", "datasets", "metrics", "backbones", "stages", "pipelines")


def _names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    kind = ctx.params.get("kind")
    if kind is None or kind == "pipelines":
        return []
    from trainers import plugins

    return [name for name in plugins.names(kind) if name.startswith(incomplete)]


@click.command(short_help="What pipelines can be made of: variants, hacks, data …")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", required=False, shell_complete=_names)
@click.option("-v", "--verbose", is_flag=True, help="With the parameters of each.")
@options.as_json
def command(kind: str, name: str | None, verbose: bool, as_json: bool) -> None:
    """List what there is of a KIND, or everything about one NAME.

    \b
    orchestrate list variants
    orchestrate list variants wgan_gp
    orchestrate list hacks -v
    """
    if kind == "pipelines":
        return _pipelines(as_json)
    from orchestrator.errors import BadInput
    from trainers import plugins

    try:
        found = [plugins.describe(kind, one) for one in ([name] if name else plugins.names(kind))]
    except plugins.PluginError as error:
        raise BadInput(str(error)) from error
    if as_json:
        options.emit(kind=kind, plugins=[_plain(one) for one in found])
    elif name:
        options.echo(_whole(found[0]))
    elif verbose:
        options.echo("\n\n".join(_brief(one) for one in found))
    else:
        options.echo(options.table([(one.name, _cut(one.summary)) for one in found]))
    return None


def _pipelines(as_json: bool) -> None:
    from pathlib import Path

    found = []
    for path in options.pipelines():
        head = Path(path).read_text(encoding="utf-8").splitlines()[:1]
        found.append((path, head[0].lstrip("# ").strip() if head and head[0].startswith("#") else ""))
    if as_json:
        options.emit(kind="pipelines", pipelines=[{"path": path, "summary": summary} for path, summary in found])
    elif found:
        options.echo(options.table(found))
    else:
        options.tell("no pipelines/*.yaml here")


def _whole(one: Description) -> str:
    """Everything about a plugin: its text, parameters, and what it offers and needs."""
    parts = [click.style(one.name, bold=True) + f"  ({one.kind[:-1]}, class {one.cls})", one.doc.strip()]
    if one.params:
        parts.append("parameters:\n" + textwrap.indent(_params(one.params), "  "))
    else:
        parts.append("no parameters")
    shown = [(key, _text(value)) for key, value in sorted(one.attributes.items()) if value not in (None, (), {}, "")]
    shown = [(key, text) for key, text in shown if text]
    if shown:
        parts.append("attributes:\n" + textwrap.indent(options.table(shown), "  "))
    return "\n\n".join(parts)


def _brief(one: Description) -> str:
    text = f"{click.style(one.name, bold=True)}  {_cut(one.summary)}"
    return text + ("\n" + textwrap.indent(_params(one.params), "  ") if one.params else "")


def _params(params: tuple[Param, ...]) -> str:
    rows = []
    for param in params:
        default = "required" if param.required else f"= {_text(param.default)}"
        rows.append((param.name, param.type, default, " ".join(param.doc.split())))
    return options.table(rows)


def _plain(one: Description) -> dict[str, Any]:
    return {
        "name": one.name,
        "class": one.cls,
        "summary": one.summary,
        "doc": one.doc,
        "params": [
            {
                "name": param.name,
                "type": param.type,
                "required": param.required,
                "default": None if param.required else param.default,
                "bounds": dict(param.bounds),
                "choices": list(param.choices),
                "doc": param.doc,
            }
            for param in one.params
        ],
        "attributes": dict(one.attributes),
    }


def _text(value: Any) -> str:
    """A value as YAML would have it, in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, (set, frozenset)):
        return ", ".join(sorted(map(str, value)))
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    return str(value)


def _cut(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"

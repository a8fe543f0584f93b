"""`orchestrate schema`: the JSON Schema of pipelines, for editors."""

from __future__ import annotations

import click

from orchestrator.cli import options


@click.command(short_help="The JSON Schema of pipelines, for editors.")
def command() -> None:
    """Print the JSON Schema of a pipeline's YAML.

    \b
    orchestrate schema > pipelines/schema.json
    # and as a pipeline's first line, for editors with a YAML language server:
    # yaml-language-server: $schema=schema.json
    """
    import json

    from orchestrator.schema import schema

    options.echo(json.dumps(schema(), indent=2))

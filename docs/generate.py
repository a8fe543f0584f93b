"""Write what the documentation takes from the code: docs/cli.md, and the generated parts of docs/spec.md.

    python docs/generate.py            bring both up to date
    python docs/generate.py --check    exit 1 where one is not (a test does this)

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


# --- docs/cli.md ----------------------------------------------------------------------------------------------------------


def cli() -> str:
    """The help of every command, as it prints itself."""
    os.environ["NO_COLOR"] = "1"
    import click

    from orchestrator.cli import SECTIONS, orchestrate

    def helped(command: click.Command, *names: str) -> str:
        settings = {**orchestrate.context_settings, "terminal_width": 100}
        parent = click.Context(orchestrate, info_name="orchestrate", **settings)
        for name in names[1:-1]:
            parent = click.Context(click.Group(name), info_name=name, parent=parent, **settings)
        context = click.Context(command, info_name=names[-1], parent=parent, **settings) if names[1:] else parent
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        return f"```text\n$ {' '.join(names)} --help\n{text}\n```\n"

    parts = ["# The command line\n", "Made by `python docs/generate.py` from the commands themselves.\n"]
    parts.append(helped(orchestrate, "orchestrate"))
    for title, names in SECTIONS.items():
        parts.append(f"## {title}\n")
        for name in names:
            command = orchestrate.get_command(click.Context(orchestrate), name)
            assert command is not None
            parts += [f"### orchestrate {name}\n", helped(command, "orchestrate", name)]
            if isinstance(command, click.Group):
                for below, one in command.commands.items():
                    parts.append(helped(one, "orchestrate", name, below))
    return "\n".join(parts)


# --- docs/spec.md ---------------------------------------------------------------------------------------------------------


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def keys_of(schema: Mapping[str, Any]) -> str:
    """The keys of one mapping of the frame."""
    from orchestrator.frame import words

    def row(key: str, about: Mapping[str, Any]) -> tuple[str, ...]:
        what = str(about["const"]) if "const" in about else words(dict(about))
        if "null" in about.get("type", ()):
            what += ", or null"
        default = (
            "required" if key in schema.get("required", ()) else yaml(about["default"]) if "default" in about else ""
        )
        return f"`{key}`", what, default, about.get("description", "")

    return table(("key", "value", "default", ""), (row(key, about) for key, about in schema["properties"].items()))


def yaml(value: Any) -> str:
    """A default as YAML has it."""
    words = {True: "true", False: "false", None: "null", "": '""'}
    if isinstance(value, tuple):
        value = list(value)
    return f"`{words[value] if isinstance(value, bool | None) or value == '' else value}`"


def engine() -> str:
    from orchestrator import frame

    parts = []
    for title, schema in (
        ("The file", frame.SPEC),
        ("A stage", frame.STAGE),
        ("`scale`", frame.SCALE),
        ("`retry`", frame.RETRY),
    ):
        parts.append(
            f"### {title}\n\n{schema.get('description', '')}\n\n".replace("\n\n\n\n", "\n\n") + keys_of(schema)
        )
    return "\n".join(parts)


def documented(cls: type[Any]) -> str:
    """The fields of a dataclass as the train configuration reads them, with the texts under them."""
    import ast
    import inspect

    from trainers.config import _forms

    body = next(node for node in ast.walk(ast.parse(inspect.getsource(cls))) if isinstance(node, ast.ClassDef)).body
    texts: dict[str, str] = {}
    for node, following in pairwise(body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            texts[ast.unparse(node.target)] = " ".join(str(following.value.value).split())
    forms = _forms(cls)

    def row(field: Any) -> tuple[str, ...]:
        return (
            f"`{field.name}`",
            str(forms[field.name]).replace("None", "null"),
            yaml(field.default),
            texts.get(field.name, ""),
        )

    return table(("key", "value", "default", ""), (row(field) for field in fields(cls)))


def training() -> str:
    from trainers.config import Settings

    return documented(Settings)


def optimizers() -> str:
    from trainers.config import Optimizer

    return documented(Optimizer)


def stages() -> str:
    """Ports and parameters of every stage."""
    from trainers import plugins

    parts = []
    for name in ("prepare", "features", "tune", "train", "evaluate", "register"):
        about = plugins.describe("stages", name)
        ports = ", ".join(
            f"`{port}` ({kind.rstrip('?*')}{', optional' if '?' in kind else ''})"
            for port, kind in about.attributes.get("inputs", {}).items()
        )
        outputs = ", ".join(f"`{port}`" for port in about.attributes.get("outputs", {}))
        rows = (
            (
                f"`{param.name}`",
                param.type.replace("None", "null"),
                "required" if param.required else yaml(param.default),
                " ".join(param.doc.split()),
            )
            for param in about.params
        )
        text = f"### {name}\n\n{about.doc.strip()}\n\nInputs: {ports or 'none'}. Outputs: {outputs}.\n\n"
        parts.append(text + table(("parameter", "value", "default", ""), rows))
    return "\n".join(parts)


def codes() -> str:
    """Exit codes by kind, from the errors themselves."""
    from orchestrator import errors
    from orchestrator.cli import BUG
    from orchestrator.cli.plan import WORK

    found: dict[int, list[str]] = {0: ["everything went well, or was cached"]}
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, errors.OrchestratorError) and cls is not errors.SpecError:
            if cls in (errors.OrchestratorError, errors.Interrupted):
                continue
            text = " ".join((cls.__doc__ or "").split())
            found.setdefault(cls.exit_code, []).append(f"`{cls.kind}`: {text.rstrip('.')}")
    found[WORK] = ["`plan --detailed-exitcode` alone: there is work"]
    found[BUG] = ["`bug`: an exception that nobody foresaw; its trace is in the file that the line names"]
    found[130] = found[143] = ["`interrupted`: SIGINT (130) or SIGTERM (143), after saving"]
    return "".join(f"- **{code}** {'; '.join(texts)}\n" for code, texts in sorted(found.items()))


def errors() -> str:
    """What `orchestrate explain` says of every id."""
    from orchestrator.cli.explain import TEXTS

    return "".join(f"- `{name}`: {text}\n" for name, text in TEXTS.items())


def spec(text: str) -> str:
    """The page with every generated part made anew."""
    makers = {maker.__name__: maker for maker in (engine, training, optimizers, stages, codes, errors)}
    return PART.sub(lambda found: f"{found[1]}{makers[found[2]]()}{found[3]}", text)


def main() -> int:
    page = DOCS / "spec.md"
    wanted = {DOCS / "cli.md": cli(), page: spec(page.read_text())}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if "--check" in sys.argv[1:]:
            print(f"docs/{path.name} is not what the code says; run: python docs/generate.py")
        else:
            path.write_text(wanted[path])
            print(f"wrote docs/{path.name}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())

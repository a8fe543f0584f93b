"""Manifests from files or a pipe: every finding with its place, what is wrong, why that matters, and what to do.

`read` gives documents with the positions of their fields; `check` judges them together: `model` and `shapes` (what the API
server and KubeRay refuse), `policy` (what this project asks for), and what is wrong with the YAML itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.kubernetes.advice import ADVICE
from orchestrator.kubernetes.workloads import Json, name_of

PIPE = "<stdin>"
MAKERS = ("kustomization.yaml", "kustomization.yml", "Kustomization")


@dataclass(frozen=True)
class Document:
    """One object, and where its fields are."""

    value: Json
    node: Any  # of yaml
    file: str

    def place(self, path: str) -> tuple[int, int]:
        """Line and column (1-based) of a field, or of the innermost one that is there."""
        node = self.node
        while path:
            found = _step(node, path)
            if found is None:
                break
            node, path = found
        return node.start_mark.line + 1, node.start_mark.column + 1


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    rule: str  # "seccomp", stable
    document: str  # "Deployment mlflow"; "" for all of them together
    path: str
    what: str
    why: str = ""
    hint: str = ""
    file: str = ""
    line: int = 0
    col: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.col}: " if self.line else f"{self.file}: " if self.file else ""
        where = " ".join(part for part in (self.document, self.path) if part)
        told = f"{where}: {self.what}" if where else self.what
        return f"{place}error[{self.rule}]: " + "; ".join(part for part in (told, self.why, self.hint) if part)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Report:
    documents: int
    findings: Sequence[Finding]
    notes: Sequence[str] = field(default=())


# --- reading ----------------------------------------------------------------------------------------------------------


def gather(paths: Sequence[str], pipe: str = "") -> tuple[list[Document], list[Finding]]:
    """The documents of files, folders and "-" (`pipe`), and what is wrong with their YAML. Raises BadInput."""
    found: list[Document] = []
    faults: list[Finding] = []
    for path in paths:
        for file, text in [(PIPE, pipe)] if path == "-" else _texts(Path(path)):
            documents, wrong = read(text, file)
            found += documents
            faults += wrong
    return found, faults


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir() and any((path / name).exists() for name in MAKERS):
        yield f"{path} (built)", _built(path)
        return
    files = sorted(one for one in path.rglob("*") if one.suffix in (".yaml", ".yml")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{path} has no .yaml file", hint="name a file, a kustomization, or - for standard input")
    for file in files:
        try:
            yield str(file), file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            told = error.strerror if isinstance(error, OSError) else "is no text"
            raise BadInput(f"cannot read {file}: {(told or str(error)).lower()}") from None


def _built(folder: Path) -> str:
    """What kustomize makes of a folder."""
    import shutil
    import subprocess
    import sys

    program = shutil.which("kubectl") or shutil.which("kubectl", path=str(Path(sys.executable).parent))
    if program is None:
        hint = f"build it where there is one: kubectl kustomize {folder} | orchestrate k8s check -"
        raise BadInput(f"{folder} is a kustomization, and there is no kubectl to build it", hint=hint)
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        told = done.stderr.strip().rpartition("err=")[2].strip('"') or f"exit {done.returncode}"
        hint = "copy each secrets/NAME.env.example to NAME.env" if ".env" in told else ""
        raise BadInput(f"kustomize cannot build {folder}: {told}", hint=hint)
    return done.stdout


def read(text: str, file: str) -> tuple[list[Document], list[Finding]]:
    """The documents of one text; those of a List one by one."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    found: list[Document] = []
    faults: list[Finding] = []
    try:
        while loader.check_node():
            node = loader.get_node()
            faults += _doubles(node, file)
            value = loader.construct_document(node)
            if value is not None:
                found += _single(value, node, file)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, col = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = str(getattr(error, "problem", None) or "no YAML")
        faults.append(_finding("syntax", "", "", what, file, line, col))
    finally:
        loader.dispose()
    for document in [one for one in found if not isinstance(one.value, Mapping)]:
        found.remove(document)
        faults.append(_finding("syntax", "", "", "is no mapping", file, *document.place("")))
    return found, faults


def _single(value: Any, node: Any, file: str) -> list[Document]:
    if not isinstance(value, Mapping) or value.get("kind") != "List" or not isinstance(value.get("items"), list):
        return [Document(value, node, file)]
    nodes = next(below for key, below in node.value if key.value == "items")
    return [Document(item, below, file) for item, below in zip(value["items"], nodes.value, strict=True)]


def _doubles(node: Any, file: str) -> Iterator[Finding]:
    """Keys that stand twice: readers take the last one and say nothing."""
    pairs = node.value if node.id == "mapping" else []
    seen: set[str] = set()
    for key, below in pairs:
        if key.id == "scalar" and key.value in seen and key.value != "<<":
            mark = key.start_mark
            yield _finding("twice", "", key.value, "stands twice in one mapping", file, mark.line + 1, mark.column + 1)
        seen.add(str(key.value))
        yield from _doubles(below, file)
    for below in node.value if node.id == "sequence" else []:
        yield from _doubles(below, file)


def _step(node: Any, path: str) -> tuple[Any, str] | None:
    """The node below, and what is left of the path. Keys may have dots (labels): the longest one that fits counts."""
    if node.id == "sequence" and path.startswith("["):
        number, _, rest = path[1:].partition("]")
        if number.isdigit() and int(number) < len(node.value):
            return node.value[int(number)], rest.removeprefix(".")
        return None
    if node.id == "sequence":  # of named things: env.HOME
        for item in node.value:
            for key, below in item.value if item.id == "mapping" else []:
                if key.value == "name" and path.startswith(str(below.value)) and below.id == "scalar":
                    return item, path[len(below.value) :].removeprefix(".")
        return None
    best: tuple[str, Any] | None = None
    for key, below in node.value if node.id == "mapping" else []:
        name = str(key.value)
        ends = path[len(name) : len(name) + 1] in ("", ".", "[") if path.startswith(name) else False
        if ends and (best is None or len(name) > len(best[0])):
            best = name, below if below.id != "scalar" else key
    return None if best is None else (best[1], path[len(best[0]) :].removeprefix("."))


# --- judging ----------------------------------------------------------------------------------------------------------


def check(documents: Sequence[Document]) -> Report:
    """Every finding in documents, as one installation where they are one, in the order of their places."""
    from orchestrator.kubernetes import model, policy

    values = [one.value for one in documents]
    found: list[Finding] = []
    for one in documents:
        for fault in model.check(one.value):
            found.append(
                _finding(fault.kind, name_of(one.value), fault.path, fault.what, one.file, *one.place(fault.path))
            )
    for violation in policy.check_bundle(values):
        found.append(_placed(violation.rule, violation.where, violation.what, documents))
    return Report(len(documents), _once(found), _unknown(documents))


def _placed(rule: str, where: str, what: str, documents: Sequence[Document]) -> Finding:
    """`where` begins with the document's name, if it is about one."""
    best: Document | None = None
    for one in documents:
        name = name_of(one.value)
        if (where == name or where.startswith(f"{name} ")) and (best is None or len(name) > len(name_of(best.value))):
            best = one
    if best is None:
        return _finding(rule, "", where, what)
    name = name_of(best.value)
    path = where[len(name) :].strip()
    return _finding(rule, name, path, what, best.file, *best.place(path.partition(" ")[0]))


def _finding(rule: str, document: str, path: str, what: str, file: str = "", line: int = 0, col: int = 0) -> Finding:
    why, hint = ADVICE.get(rule, ("", ""))
    return Finding(rule, document, path, what, why, hint, file, line, col)


def _once(found: Sequence[Finding]) -> list[Finding]:
    """Each fault once: what two rules tell of one field is told by the first."""
    kept: dict[tuple[str, str, str], Finding] = {}
    for one in found:
        whole = one.document and one.path
        if not any(whole and one.path == path and one.document == name for name, path, _ in kept):
            kept.setdefault((one.document, one.path, one.what), one)
    return sorted(kept.values(), key=lambda one: (one.file, one.line, one.col))


def _unknown(documents: Sequence[Document]) -> list[str]:
    """Kinds of other operators, which nobody here can judge."""
    from orchestrator.kubernetes import model, objects

    notes = []
    for one in documents:
        version, kind = str(one.value.get("apiVersion", "")), one.value.get("kind")
        if kind not in objects.KINDS and kind not in model.KINDS:
            notes.append(
                f"{name_of(one.value)} ({version}) is of a kind that is not known here: only its place was checked"
            )
    return notes


__all__ = ["Document", "Finding", "Report", "check", "gather", "read"]

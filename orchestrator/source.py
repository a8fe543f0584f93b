"""What first-party source a stage computes with: found by following imports, digested without comments.

An edit of code that a stage reaches changes its cache key; an edit of comments, docstrings or formatting does not.
Nothing is imported: files are parsed. What a stage names by parameter (a variant, a hack) is reached by no import
statement, so the plan adds those plugins' modules to the stage's own.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from trainers import syntax

PACKAGES = ("orchestrator", "trainers")

# What carries a computation and cannot change its result: records, display, storage, planning, the description and
# checking of parameters (parameters after defaults are in the key themselves). An engine module that is missing here
# only costs a run again after an edit; one that is here wrongly would let a stale result pass, so only such stand here
# whose output no artifact's bytes depend on. `x.*` stands for everything below x.
ENGINE = frozenset(
    {
        "orchestrator",
        "orchestrator.account",
        "orchestrator.artifacts",
        "orchestrator.attempts",
        "orchestrator.board",
        "orchestrator.cache",
        "orchestrator.checkpoints",
        "orchestrator.cli.*",
        "orchestrator.cluster",
        "orchestrator.credentials",
        "orchestrator.document",
        "orchestrator.earlier",
        "orchestrator.errors",
        "orchestrator.events",
        "orchestrator.execute",
        "orchestrator.exhibits",
        "orchestrator.failures",
        "orchestrator.files",
        "orchestrator.frame",
        "orchestrator.importance",
        "orchestrator.inspection",
        "orchestrator.keys",
        "orchestrator.log",
        "orchestrator.losses",
        "orchestrator.mending",
        "orchestrator.outcomes",
        "orchestrator.overrides",
        "orchestrator.owner",
        "orchestrator.planning",
        "orchestrator.pulse",
        "orchestrator.report.*",
        "orchestrator.results",
        "orchestrator.runs",
        "orchestrator.schema",
        "orchestrator.seals",
        "orchestrator.sender",
        "orchestrator.signals",
        "orchestrator.source",
        "orchestrator.spec",
        "orchestrator.spool",
        "orchestrator.stage",
        "orchestrator.stage_runs",
        "orchestrator.stages",
        "orchestrator.steps",
        "orchestrator.tracking",
        "orchestrator.wording",
        "orchestrator.workers",
        "trainers.compatibility",  # what it judges is in the key: the complete configuration
        "trainers.forms",
        "trainers.plugins",
    }
)
DATA_FILE = re.compile(r"(?!.*\.py$)(?:[\w-][\w.-]*/)*[\w-][\w.-]*\.\w{1,8}", re.ASCII)
_FORMAT = 2  # of the digest and of the cache file


class _Read(NamedTuple):
    """One source file: the digest of its code, the first-party modules that it names, and what may be files beside it."""

    digest: str
    imports: tuple[str, ...]
    files: tuple[str, ...]


def reach(module: str | Path) -> dict[str, str]:
    """Every first-party module that `module` (or a source file) reaches by imports, with the digest of its code.

    Imports inside of functions and of parent packages count; those under `if TYPE_CHECKING:` and those of `ENGINE` do
    not. Raises ModuleNotFoundError for a module that has no source file, SyntaxError for one that cannot be parsed.
    """
    return digests([module])


def digests(modules: Iterable[str | Path]) -> dict[str, str]:
    """What several modules (or source files) reach together: module -> digest of its code, sorted by name.

    A data file that lies beside a module and that the module names counts as well, as package/file -> digest of its bytes.
    """
    asked = [_module(module) if isinstance(module, Path) else module for module in modules]
    found: dict[str, str] = {}
    waiting = [*asked]
    while waiting:
        name = waiting.pop()
        if name in found or (_is_engine(name) and name not in asked):
            continue
        path = _file(name)
        if path is not None:
            read = _open(name, path)
            found[name] = read.digest
            found |= _beside(name, path, read.files)
            waiting += [*read.imports, *_parents(name)]
        elif name in asked:
            raise ModuleNotFoundError(f"no source file of {name}", name=name)
    _Known.open().save()
    return dict(sorted(found.items()))


def place(name: str) -> str:
    """The file of a module, or of data beside one, as `digests` names them: trainers/variants/gan.py."""
    if "/" in name:
        return name
    path = _file(name)
    return name.replace(".", "/") + ("/__init__.py" if path is not None and path.name == "__init__.py" else ".py")


def digest(modules: Iterable[str | Path]) -> str:
    """One digest of everything that the modules reach."""
    return hashlib.sha256(json.dumps(digests(modules)).encode()).hexdigest()


def _module(path: Path) -> str:
    """The name of a source file's module."""
    for package in PACKAGES:
        root = _root(package)
        if root is not None and path.is_relative_to(root):
            parts = [package, *path.relative_to(root).with_suffix("").parts]
            return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    raise ModuleNotFoundError(f"{path} is in none of the packages {', '.join(PACKAGES)}")


def _is_engine(name: str) -> bool:
    return name in ENGINE or any(f"{parent}.*" in ENGINE for parent in (name, *_parents(name)))


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


@cache
def _root(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)  # of a top package: executes nothing
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _file(module: str) -> Path | None:
    """A first-party module's source file; None for anything else."""
    top, *rest = module.split(".")
    root = _root(top) if top in PACKAGES else None
    if root is None:
        return None
    path = root.joinpath(*rest)
    for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file
    return None


def _beside(module: str, path: Path, names: Iterable[str]) -> dict[str, str]:
    """Digests of the data files that a module names, where they lie beside it."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = {}
    for name in names:
        file = path.parent / name
        if file.is_file():
            found[f"{package.replace('.', '/')}/{name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _open(module: str, path: Path) -> _Read:
    stat = path.stat()
    return _read(module, path, (stat.st_mtime_ns, stat.st_size))


@cache
def _read(module: str, path: Path, _version: tuple[int, int]) -> _Read:
    """What one file holds. Known contents are not parsed again: parsing takes 5 ms a file, hashing 0.05 ms."""
    data = path.read_bytes()
    key = hashlib.sha256(f"{_FORMAT} {module} {path.name}\n".encode() + data).hexdigest()
    known = _Known.open()
    if key not in known.entries:
        tree = syntax.module(data, str(path))
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        named = sorted({name for name in _imports(tree.body, package) if name.split(".")[0] in PACKAGES})
        code = _code_digest(tree)  # takes the docstrings out
        known.add(key, _Read(code, tuple(named), tuple(sorted(set(_files(tree))))))
    return known.entries[key]


# --- reading a syntax tree --------------------------------------------------------------------------------------------


def _code_digest(tree: ast.Module) -> str:
    """A digest of the code alone: positions, comments and docstrings left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # Also the strings under fields and attributes, which document them.
            node.body = [item for item in node.body if not _is_text(item)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _files(tree: ast.Module) -> Iterator[str]:
    """Texts in the code that look like the name of a data file: inception.json, tables/weights.csv."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and DATA_FILE.fullmatch(node.value):
            yield node.value


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(body: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Names of modules imported anywhere in `body`. For `from a import b` both a and a.b, whichever exists."""
    for node in body:
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                yield from _imports(node.orelse, package)
                continue
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                name = ".".join([*base, *([module] if module else [])])
                yield name
                yield from (f"{name}.{alias.name}" for alias in names)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name
            case ast.Call(func=ast.Attribute(attr="with_name"), args=[ast.Constant(value=str(name))]):
                if name.endswith(".py"):  # `Path(__file__).with_name("x.py")`: source used as a file
                    yield f"{package}.{name[:-3]}"
            case _:
                pass
        yield from _imports(ast.iter_child_nodes(node), package)


# --- known contents ---------------------------------------------------------------------------------------------------


class _Known:
    """What files of known contents hold, kept between processes; keyed by contents, so it cannot be stale."""

    LIMIT = 2000  # files; the newest are kept
    _instance: _Known | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, _Read] = {}
        self._saved = True
        with suppress(OSError, ValueError, TypeError, AttributeError):  # only a cache: absent or damaged means empty
            stored: dict[str, Any] = json.loads(path.read_bytes())
            self.entries = {key: _Read(str(a), tuple(b), tuple(c)) for key, (a, b, c) in stored.items()}

    @classmethod
    def open(cls) -> _Known:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(home) / "gan-orchestrator" / "source.json"
        if cls._instance is None or cls._instance.path != path:
            cls._instance = cls(path)
        return cls._instance

    def add(self, key: str, read: _Read) -> None:
        self.entries[key] = read
        self._saved = False

    def save(self) -> None:
        """Write what is new. Only a cache: where it cannot be written, the next process parses again."""
        if self._saved:
            return
        self._saved = True
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(dict(list(self.entries.items())[-self.LIMIT :])))
            temporary.replace(self.path)

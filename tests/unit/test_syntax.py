"""Syntax trees from several threads at a time."""

from __future__ import annotations

import ast
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainers import plugins, syntax

SOURCES = sorted(Path(plugins.__file__).parent.glob("*.py"))


def test_threads_read_side_by_side() -> None:
    """Collections in the middle of a tree let other threads in."""
    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        with ThreadPoolExecutor(4) as pool:
            trees = list(pool.map(lambda path: syntax.module(path.read_bytes(), str(path)), SOURCES * 2))
    finally:
        gc.set_threshold(*before)
    assert [ast.dump(tree) for tree in trees[: len(SOURCES)]] == [ast.dump(tree) for tree in trees[len(SOURCES) :]]


def test_an_internal_error_of_the_interpreter_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = ast.parse, [SystemError("depth"), SystemError("depth")]

    def parse(*args: object) -> ast.AST:
        if failures:
            raise failures.pop()
        return real(*args)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(ast, "parse", parse)
    assert ast.unparse(syntax.expression("a | None")) == "a | None"
    assert failures == []
    monkeypatch.setattr(ast, "parse", lambda *args: (_ for _ in ()).throw(SystemError("depth")))
    with pytest.raises(SystemError):
        syntax.expression("a")
    monkeypatch.undo()
    with pytest.raises(SyntaxError):
        syntax.module(b"def")

"""Syntax trees of source text, from several threads.

CPython 3.11 counts the depth of a tree for all threads together, and calls it an internal error (SystemError) where two
of them build one at a time. So one is built after the other, and again where code that is not ours was in between.
"""

from __future__ import annotations

import ast
import threading

TRIES = 5
_one_at_a_time = threading.Lock()


def module(source: str | bytes, filename: str = "<unknown>") -> ast.Module:
    """The tree of a file. Raises SyntaxError."""
    tree = _parsed(source, filename, "exec")
    assert isinstance(tree, ast.Module)
    return tree


def expression(source: str) -> ast.expr:
    """The tree of one expression. Raises SyntaxError."""
    tree = _parsed(source, "<unknown>", "eval")
    assert isinstance(tree, ast.Expression)
    return tree.body


def _parsed(source: str | bytes, filename: str, mode: str) -> ast.AST:
    for _ in range(TRIES - 1):
        try:
            with _one_at_a_time:
                return ast.parse(source, filename, mode)
        except SystemError:
            continue
    with _one_at_a_time:
        return ast.parse(source, filename, mode)

"""A YAML file is changed as its author would: what is meant changes, every other byte stays."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from orchestrator import document
from orchestrator.manuscript import Manuscript, Unwritable, in_line

PIPELINES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml"))
TEXT = """\
# The head stays.

a: 1   # one
# above b
b:
  c: {d: 2, e: [1, 2]}   # two
  # above f
  f: 'x'
    # below f

  g:
    h: null
# above i
i: {j: 1, k: {l: 2}}
m: |
  text
"""

NEW: tuple[Any, ...] = (7, "a text: with # signs", {"x": {"y": [1, "on"]}}, [], 1e-5, None, True)


def value(text: str) -> Any:
    return document.parse(text, "spec").value


def paths(value: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, item in value.items() if isinstance(value, dict) else ():
        yield (*before, key)
        yield from paths(item, (*before, key))


def removed(whole: Any, path: tuple[str, ...]) -> Any:
    """The same done to the value."""
    made = deepcopy(whole)
    chain = [made]
    for part in path[:-1]:
        chain.append(chain[-1][part])
    for parent, part in zip(reversed(chain), reversed(path), strict=True):
        del parent[part]
        if parent:
            break
    return made


@pytest.mark.parametrize(
    "text", [TEXT, *(path.read_text() for path in PIPELINES)], ids=["text", *(p.stem for p in PIPELINES)]
)
def test_every_entry_can_be_taken_out_and_replaced(text: str) -> None:
    whole = value(text)
    for number, path in enumerate(paths(whole)):
        paper = Manuscript(text)
        paper.remove(path)
        assert value(paper.text) == removed(whole, path), path
        assert set(paper.text.splitlines()) - set(text.splitlines()) <= {*_joined(text, paper.text)}
        for new in (NEW[number % len(NEW)], NEW[(number + 2) % len(NEW)]):
            paper, expected = Manuscript(text), deepcopy(whole)
            inside = expected
            for part in path[:-1]:
                inside = inside[part]
            inside[path[-1]] = new
            try:
                paper.put(path, new)
            except Unwritable:
                assert isinstance(whole.get("m"), str)
                continue
            assert value(paper.text) == expected, (path, new)


def _joined(before: str, after: str) -> list[str]:
    """Lines of which a part was taken out: each is shorter than one that was there."""
    old = before.splitlines()
    return [line for line in after.splitlines() if line not in old and any(len(line) < len(one) for one in old)]


def test_comments_go_with_their_entry_and_no_other() -> None:
    paper = Manuscript(TEXT)
    paper.remove(("b", "f"))
    assert "above f" not in paper.text
    assert "below f" not in paper.text
    assert paper.text == TEXT.replace("  # above f\n  f: 'x'\n    # below f\n", "")
    paper.remove(("i",))
    assert "above i" not in paper.text
    paper.remove(("a",))
    assert paper.text.startswith("# The head stays.\n\n# above b\nb:")


def test_what_is_added_stands_where_its_neighbours_do() -> None:
    paper = Manuscript(TEXT)
    paper.put(("b", "c", "new"), 2e-4)
    paper.put(("b", "g", "new"), "x", note="why")
    paper.put(("i", "k", "l"), 3)
    paper.put(("n", "o"), {"p": 1})
    assert "  c: {d: 2, e: [1, 2], new: 0.0002}   # two\n" in paper.text
    assert "    h: null\n    # why\n    new: x\n" in paper.text
    assert "i: {j: 1, k: {l: 3}}" in paper.text
    assert paper.text.endswith("m: |\n  text\nn: {o: {p: 1}}\n")


def test_equal_values_are_left_as_they_are_written() -> None:
    text = "a: {lr: 1.0e-3, on: 0x10}   # kept\nb: [1,   2]\n"
    paper = Manuscript(text)
    paper.put(("a",), {"lr": 0.001, "on": 16})
    paper.put(("b",), [1, 2])
    assert paper.text == text


def test_a_long_value_is_written_over_several_lines() -> None:
    paper = Manuscript("a:\n  b: 1\n")
    long = {f"key_{i}": {"value": i} for i in range(12)}
    paper.put(("a", "c"), long)
    assert value(paper.text) == {"a": {"b": 1, "c": long}}
    assert max(map(len, paper.text.splitlines())) <= 110


@pytest.mark.parametrize("text", ["a: &x {b: 1}\nc: *x\n", "a: &x {b: 1}\nc: {d: *x}\n"])
def test_what_an_alias_stands_for_is_not_changed(text: str) -> None:
    path = ("c", "b") if "c: *x" in text else ("c", "d", "b")
    with pytest.raises(Unwritable):
        Manuscript(text).put(path, 2)


@pytest.mark.parametrize(
    "text", ["yes", "no", "1", "1e3", "null", "a: b", "- x", "#", "", " x", "wgan_gp", "é", "a\nb", "~", "{"]
)
def test_texts_stay_texts(text: str) -> None:
    assert value(f"a: {in_line(text)}") == {"a": text}
    assert value(f"a: {{{in_line(text)}: [{in_line(text)}]}}") == {"a": {text: [text]}}

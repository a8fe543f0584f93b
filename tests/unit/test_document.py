"""YAML with positions: what values mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import document
from orchestrator.errors import SpecError


def problems(text: str) -> list[tuple[str, int, int]]:
    """Id, line and column of every problem of a text."""
    try:
        found = document.parse(text, "a.yaml").problems
    except SpecError as error:
        found = error.problems
    return [(problem.id, problem.line, problem.col) for problem in found]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1.0e-4", 1e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("-3", -3),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-11-22", "2026-11-22"),
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    found = document.parse(f"a: {text}", "a.yaml").value["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", ("duplicate-key", 3, 1)),
        ("a: {b: 1, 'b': 2}", ("duplicate-key", 1, 11)),
        ("a: !!str 1", ("tag", 1, 4)),
        ("a: !!python/object:os.system {}", ("tag", 1, 4)),
        ("a: &x {b: 1}\nc: {<<: *x}", ("merge-key", 2, 5)),
        ("a: 1\n---\nb: 2", ("several-documents", 2, 1)),
        ("%YAML 1.1\n---\na: 1", ("directive", 1, 1)),
        ("1: a", ("key-not-text", 1, 1)),
        ("true: a", ("key-not-text", 1, 1)),
        ("? [a]\n: b", ("key-not-text", 1, 3)),
        ("a: .inf", ("not-finite", 1, 4)),
        ("a: [.nan]", ("not-finite", 1, 5)),
        ("a: 1e999", ("not-finite", 1, 4)),
        ("a: 9223372036854775808", ("huge-integer", 1, 4)),
        ("a: " + "9" * 6000, ("huge-integer", 1, 4)),
        ("a: " + "[" * 33 + "]" * 33, ("too-deep", 1, 35)),
        ("a: " + "[" * 500_000, ("too-deep", 1, 35)),
        ("a: " + "{b: " * 100_000, ("too-deep", 1, 128)),
        ("- 1\n" * 10_001, ("too-many-nodes", 10_000, 3)),
        ("a: *b", ("unknown-alias", 1, 4)),
        ("a: &b [*b]", ("unknown-alias", 1, 8)),
        ("a: \x1b[31m", ("control-character", 1, 4)),
        ("a:\n\tb: 1", ("syntax", 2, 1)),
        ("a: b: c", ("syntax", 1, 5)),
        ("a: [1, 2\nb: 3\n", ("syntax", 2, 2)),
        ("a: [1, 2", ("syntax", 1, 4)),
    ],
)
def test_what_could_mean_something_else_is_refused_where_it_stands(text: str, expected: tuple[str, int, int]) -> None:
    assert problems(text) == [expected]


def test_aliases_are_written_out_and_counted() -> None:
    assert document.parse("a: &x [1, 2]\nb: *x", "a.yaml").value == {"a": [1, 2], "b": [1, 2]}
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    assert [error_id for error_id, _, _ in problems(laughs)] == ["too-many-nodes"]


def test_several_mistakes_are_told_at_once() -> None:
    assert problems("a: !x 1\nb: .nan\nb: 2\n3: 4") == [
        ("tag", 1, 4),
        ("not-finite", 2, 4),
        ("duplicate-key", 3, 1),
        ("key-not-text", 4, 1),
    ]


def test_values_and_keys_know_their_places() -> None:
    found = document.parse("a:\n  b: [x, {c: 1}]\n", "a.yaml")
    assert found.place(("a", "b"))[:2] == (2, 6)
    assert found.place(("a", "b"), key=True)[:2] == (2, 3)
    assert found.place(("a", "b", 1, "c"))[:2] == (2, 14)
    assert found.place(("a", "b", 1, "missing", "deeper"))[:2] == (2, 10)
    assert found.place(("nowhere",))[:2] == (1, 1)


def test_messages_cannot_move_the_cursor_or_reveal_passwords() -> None:
    (problem,) = document.parse("a: !x 's3://user:hunter2@host \u202e'", "a\x1b.yaml").problems
    text = str(problem)
    assert "hunter2" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert text.splitlines()[2].index("^") == 2 + 3


@pytest.mark.parametrize(
    ("data", "error_id"),
    [(None, "no-file"), (b"a: \xff", "not-utf8"), (b"#" * (2**20 + 1), "too-large")],
)
def test_files_that_cannot_be_read(tmp_path: Path, data: bytes | None, error_id: str) -> None:
    path = tmp_path / "a.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SpecError) as caught:
        document.read(path)
    assert [problem.id for problem in caught.value.problems] == [error_id]


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: !x 2\r\n")
    found = document.read(path)
    assert found.value == {"a": 1, "b": 2}
    assert (found.problems[0].line, found.problems[0].source) == (2, "b: !x 2")

"""Plugins are described, checked and built by the name of their file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainers import plugins
from trainers.forms import show

SAMPLE = '''"""A file."""
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal
from annotated_types import Ge, Gt, Interval
from trainers.core import Hack

raise RuntimeError("a description must not import")

@dataclass(frozen=True)
class SampleHack(Hack):
    """One line (https://example.org).

    More.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits", "targets"})
    order: ClassVar[int] = 10 * 2
    size: int
    "How large."
    rate: Annotated[float, Interval(ge=0, le=1)] = 0.5
    "Of what."
    betas: tuple[float, float] = (0.0, 0.99)
    widths: tuple[Annotated[int, Ge(1)], ...] = (64, 64)
    mode: Literal["hard", "soft"] = "hard"
    floor: Annotated[float, Gt(0)] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    flip: bool = False
    side: Literal["a"] | int = 2**3
'''


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of hacks with one file in it, `sample.py`."""
    package = tmp_path / "dropped_in" / "hacks"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise RuntimeError('a description must not import')\n")
    (package / "sample.py").write_text(SAMPLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(plugins.KINDS, "hacks", "dropped_in.hacks")
    plugins._folder.cache_clear()
    yield package
    plugins._folder.cache_clear()


def ids(params: Any) -> list[tuple[tuple[str | int, ...], str]]:
    return [(fault.path, fault.id) for fault in plugins.check("hacks", "sample", params, ("hacks", 0))]


def test_a_file_is_a_plugin_and_is_described_without_import(sample: Path) -> None:
    (sample / "_private.py").write_text("")
    assert plugins.names("hacks") == ("sample",)
    description = plugins.describe("hacks", "sample")
    assert (description.cls, description.summary) == ("SampleHack", "One line (https://example.org).")
    assert [param.name for param in description.params][:3] == ["size", "rate", "betas"]
    size, rate = description.params[:2]
    assert (size.required, size.type, size.doc) == (True, "int", "How large.")
    assert (rate.default, rate.bounds, rate.doc) == (0.5, {"ge": 0, "le": 1}, "Of what.")
    floor = description.param("floor")
    assert floor is not None
    assert floor.bounds == {"gt": 0}
    assert description.attributes["needs"] == frozenset({"logits", "targets"})
    assert description.attributes["order"] == 20
    assert description.attributes["forbids"] == frozenset()  # the base's default
    assert "dropped_in" not in sys.modules


def test_an_edited_file_is_described_anew(sample: Path) -> None:
    assert plugins.describe("hacks", "sample").params[1].default == 0.5
    (sample / "sample.py").write_text(SAMPLE.replace("= 0.5", "= 0.25"))
    assert plugins.describe("hacks", "sample").params[1].default == 0.25


@pytest.mark.parametrize(
    ("params", "path", "error_id"),
    [
        ({"size": True}, ("size",), "wrong-type"),  # a bool is no number
        ({"size": 1.0}, ("size",), "wrong-type"),
        ({"size": "3"}, ("size",), "wrong-type"),
        ({"size": 3, "rate": 1.5}, ("rate",), "out-of-range"),
        ({"size": 3, "rate": float("nan")}, ("rate",), "wrong-type"),
        ({"size": 3, "rate": 10**400}, ("rate",), "wrong-type"),
        ({"size": 3, "betas": [0.5]}, ("betas",), "wrong-length"),
        ({"size": 3, "betas": [0.5, "x"]}, ("betas", 1), "wrong-type"),
        ({"size": 3, "widths": [64, 0]}, ("widths", 1), "out-of-range"),
        ({"size": 3, "widths": 64}, ("widths",), "wrong-type"),
        ({"size": 3, "mode": "sof"}, ("mode",), "not-a-choice"),
        ({"size": 3, "floor": 0}, ("floor",), "out-of-range"),
        ({"size": 3, "floor": "low"}, ("floor",), "wrong-type"),
        ({"size": 3, "flip": "yes"}, ("flip",), "wrong-type"),
        ({"size": 3, "extra": [1]}, ("extra",), "wrong-type"),
        ({"size": 3, "ratte": 0.1}, ("ratte",), "unknown-key"),
        ({}, (), "missing-key"),
        ([3], (), "wrong-type"),
    ],
)
def test_mistakes_are_found_where_they_are(sample: Path, params: Any, path: tuple[Any, ...], error_id: str) -> None:
    assert ids(params) == [(("hacks", 0, *path), error_id)]


def test_every_mistake_is_told_with_a_remedy(sample: Path) -> None:
    faults = {
        fault.path[-1]: fault
        for fault in plugins.check(
            "hacks", "sample", {"size": 2.0, "ratte": 1, "mode": "sof", "flip": "on", "rate": "1"}
        )
    }
    assert faults["size"].hint == "write 2"
    assert faults["ratte"].hint == "did you mean 'rate'?"
    assert faults["mode"].hint == "did you mean 'soft'?"
    assert faults["flip"].hint == "write true"
    assert faults["rate"].hint == "remove the quotes"


def test_spellings_of_one_value_complete_to_the_same(sample: Path) -> None:
    one = plugins.complete("hacks", "sample", {"size": 3, "rate": 1, "betas": [0, 1], "floor": 2})
    two = plugins.complete("hacks", "sample", {"betas": [0.0, 1.0], "floor": 2.0, "rate": 1.0, "size": 3})
    assert repr(one) == repr(two)
    assert (one["rate"], one["betas"], one["side"]) == (1.0, (0.0, 1.0), 8)
    one["extra"]["changed"] = True
    assert plugins.complete("hacks", "sample", {"size": 3})["extra"] == {}


def test_an_unknown_name_is_a_fault_with_the_nearest_one() -> None:
    (fault,) = plugins.check("backbones", "dcgann", None, ("backbone",))
    assert (fault.path, fault.id, fault.hint) == (("backbone",), "unknown-backbone", "did you mean 'dcgan'?")
    with pytest.raises(plugins.PluginError, match="did you mean 'dcgan'"):
        plugins.describe("backbones", "dcgann")


@pytest.mark.parametrize("name", ["../core", "trainers.core", "__init__", "", "a b"])
def test_a_name_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(plugins.PluginError):
        plugins.load("variants", name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", "sample.py:1"),
        ("x = 1", "must define one"),
        (SAMPLE.replace("int\n", "complex\n", 1), "no type of a parameter"),
        (SAMPLE.replace("= 0.5", "= compute()"), "not a literal"),
        (SAMPLE.replace("frozen=True", ""), "must define one"),
    ],
)
def test_a_broken_file_is_told_and_does_not_hide_others(sample: Path, text: str, message: str) -> None:
    (sample / "sample.py").write_text(text)
    with pytest.raises(plugins.PluginError, match=message):
        plugins.describe("hacks", "sample")
    assert ids({}) == [(("hacks", 0), "broken-plugin")]


def test_build_checks_before_it_imports_and_converts() -> None:
    backbone = plugins.build("backbones", "mlp", {"width": 8})
    assert (type(backbone).__name__, backbone.width) == ("MLP", 8)
    with pytest.raises(plugins.BadParametersError, match="did you mean 'width'"):
        plugins.build("backbones", "mlp", {"widht": 8})


def test_values_are_safe_to_print() -> None:
    assert show("\x1b[31m\u202e") == "'\\x1b[31m\\u202e'"
    assert len(show("x" * 1000)) == 60
    assert (show(True), show(None)) == ("true", "null")

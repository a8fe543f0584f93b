"""Source digests: an edit of reachable code changes them, an edit of comments does not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from orchestrator import source
from trainers import plugins

FILES = {
    "__init__.py": "",
    "a.py": '''
        """Doc."""
        from __future__ import annotations
        import os
        from typing import TYPE_CHECKING
        from ours import b
        if TYPE_CHECKING:
            from ours import only_for_types
        def f(x):
            """Adds."""
            from .deep import inner  # inside of a function
            return x + 1
    ''',
    "b.py": "from ours.c import value\n",
    "c.py": "value = 1\n",
    "deep/__init__.py": "from ..d import *\n",
    "deep/inner.py": "from . import side\nfrom .. import e\n",
    "deep/side.py": "",
    "d.py": "import ours.a\n",  # a circle
    "e.py": "from pathlib import Path\nCODE = Path(__file__).with_name('shipped.py')\n",
    "shipped.py": "x = 1\n",
    "only_for_types.py": "",
    "unrelated.py": "",
}
REACHED = [
    "ours",
    *(f"ours.{name}" for name in ("a", "b", "c", "d", "deep", "deep.inner", "deep.side", "e", "shipped")),
]


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "ours"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(source, "PACKAGES", ("ours",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source._root.cache_clear()
    return root


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_imports_are_followed_everywhere_but_for_types(ours: Path) -> None:
    assert list(source.reach("ours.a")) == REACHED
    assert list(source.reach(ours / "a.py")) == REACHED
    assert list(source.reach("ours.unrelated")) == ["ours", "ours.unrelated"]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a.py", "Doc.", "Other words."),
        ("a.py", "Adds.", "Subtracts."),
        ("a.py", "# inside", "# outside"),
        ("a.py", "x + 1", "(x  +  1)"),
        ("c.py", "value = 1", "\n\nvalue = 1\n'its text'"),
        ("only_for_types.py", "", "x = 1"),
        ("unrelated.py", "", "x = 1"),
    ],
)
def test_what_cannot_change_a_result_does_not_count(ours: Path, name: str, old: str, new: str) -> None:
    before = source.digest(["ours.a"])
    edit(ours / name, old, new)
    assert source.digest(["ours.a"]) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a.py", "x + 1", "x + 2"),
        ("c.py", "value = 1", "value = 1.0"),
        ("deep/side.py", "", "x = 1"),
        ("shipped.py", "x = 1", "x = 2"),
        ("__init__.py", "", "import sys"),
    ],
)
def test_what_can_does(ours: Path, name: str, old: str, new: str) -> None:
    before = source.digests(["ours.a"])
    edit(ours / name, old, new)
    after = source.digests(["ours.a"])
    module = ".".join(["ours", *Path(name).with_suffix("").parts]).removesuffix(".__init__")
    assert [key for key in after if after[key] != before[key]] == [module]


def test_the_order_of_modules_does_not_matter(ours: Path) -> None:
    assert source.digest(["ours.a", "ours.unrelated"]) == source.digest(["ours.unrelated", "ours.a"])


def test_an_unknown_module_is_told(ours: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"ours\.missing"):
        source.reach("ours.missing")


def test_known_contents_are_kept_between_processes_and_damage_is_harmless(ours: Path, tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "gan-orchestrator" / "source.json"
    first = source.digest(["ours.a"])
    assert kept.stat().st_size > 0
    for damage in ("{", "[1]", '{"a": 3}'):
        kept.write_text(damage)
        source._Known._instance = None
        source._read.cache_clear()
        assert source.digest(["ours.a"]) == first


# --- of this project --------------------------------------------------------------------------------------------------


def test_engine_modules_that_are_named_exist() -> None:
    for name in source.ENGINE:
        assert (
            source._file(name.removesuffix(".*")) is not None
            or (source._root("orchestrator") or Path()).joinpath(*name.removesuffix(".*").split(".")[1:]).is_dir()
        ), name


@pytest.mark.parametrize("name", plugins.names("stages"))
def test_a_stage_reaches_what_it_computes_with_and_not_the_engine(name: str) -> None:
    found = source.reach(plugins.file("stages", name))
    assert f"orchestrator.stages.{name}" in found
    assert not [module for module in found if source._is_engine(module)]
    # What a run names by parameter is added by the plan: no stage depends on every plugin there is.
    homes = tuple(f"{home}." for kind, home in plugins.KINDS.items() if kind != "stages")
    assert not [module for module in found if module.startswith(homes) and module.split(".")[-1][0] != "_"]


def test_training_reaches_its_loop() -> None:
    assert {"trainers.loop", "trainers.step", "trainers.draws"} <= set(source.reach("orchestrator.stages.train"))


def test_nothing_is_imported() -> None:
    code = (
        "import sys\nfrom orchestrator import source\nsource.digest(['orchestrator.stages.train'])\n"
        "print([m for m in sys.modules if m in ('torch', 'numpy', 'ray', 'trainers.loop', 'orchestrator.stages.train')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

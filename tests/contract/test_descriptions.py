"""Each plugin's description, read without importing it, equals the class that importing it gives."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from trainers import plugins

PLUGINS = [(kind, name) for kind in plugins.KINDS for name in plugins.names(kind)]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_description_equals_the_imported_class(kind: str, name: str) -> None:
    description, cls = plugins.describe(kind, name), plugins.load(kind, name)
    assert description.cls == cls.__name__
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    fields = dataclasses.fields(cls)
    assert [param.name for param in description.params] == [field.name for field in fields]
    for param, field in zip(description.params, fields, strict=True):
        default = _default(field)
        assert param.required == (default is dataclasses.MISSING), param.name
        if not param.required:
            assert param.default == default, param.name
            assert type(param.default) is type(default), param.name
    for attribute, value in description.attributes.items():
        assert getattr(cls, attribute) == value, attribute


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_summary_names_the_paper(kind: str, name: str) -> None:
    description = plugins.describe(kind, name)
    assert description.summary
    if kind in ("variants", "hacks", "backbones"):
        assert "http" in description.summary


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_defaults_are_accepted_by_the_check(kind: str, name: str) -> None:
    description = plugins.describe(kind, name)
    optional = {param.name: param.default for param in description.params if not param.required}
    required = {param.name for param in description.params if param.required}
    faults = plugins.check(kind, name, json.loads(json.dumps(optional)))
    assert [fault for fault in faults if fault.id != "missing-key"] == []
    if not required:
        assert plugins.build(kind, name) == plugins.load(kind, name)()


def test_describing_everything_imports_no_plugin_and_nothing_heavy() -> None:
    code = (
        "import sys\nfrom trainers import plugins\n"
        "[plugins.describe(kind, name) for kind in plugins.KINDS for name in plugins.names(kind)]\n"
        "print([m for m in sys.modules if m in ('torch', 'numpy', 'ray', 'mlflow', 'pydantic')"
        " or any(m.startswith(home + '.') for home in plugins.KINDS.values())])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default

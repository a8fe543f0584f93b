"""What a search is for: one metric, or several, as written under `metric`. A file that is no stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.domains import Path
from orchestrator.search import Objective
from orchestrator.stage import Facts
from trainers.plugins import Fault


def written(metric: Any) -> list[Any]:
    """Every metric, each as it is written."""
    return list(metric) if isinstance(metric, list | tuple) else [metric]


def named(one: Any) -> tuple[str, dict[str, Any] | None]:
    """A metric's name and its parameters."""
    return (one, None) if isinstance(one, str) else next(iter(one.items()))


def objectives(metric: Any) -> tuple[Objective, ...]:
    """What is optimized, each in its metric's own direction."""
    from trainers import plugins

    names = [named(one)[0] for one in written(metric)]
    return tuple(Objective(name, plugins.describe("metrics", name).attributes["direction"]) for name in names)


def faults(metric: Any, dataset: Facts, features: bool) -> list[Fault]:
    """Mistakes in `metric`, and what it needs and the inputs do not have."""
    several = isinstance(metric, list | tuple)
    if several and not metric:
        return [Fault(("metric",), "wrong-type", "`metric` must name at least one metric")]
    found: list[Fault] = []
    names: list[str] = []
    for i, one in enumerate(written(metric)):
        place: Path = ("metric", i) if several else ("metric",)
        if not (isinstance(one, str) or (isinstance(one, Mapping) and len(one) == 1)):
            what = "`metric` must be a name, one name with its parameters, or a list of such"
            found.append(Fault(place, "wrong-type", what))
            continue
        name = named(one)[0]
        if name in names:
            found.append(Fault(place, "duplicate", f"`metric` lists {name} twice"))
        else:
            found += _faults(one, place, dataset, features)
        names.append(name)
    return found


def _faults(one: Any, place: Path, dataset: Facts, features: bool) -> list[Fault]:
    from trainers import plugins

    name, params = named(one)
    path = (*place, name) if isinstance(one, Mapping) else place
    if wrong := plugins.check("metrics", name, params, path):
        return list(wrong)
    complete = plugins.complete("metrics", name, params)
    attributes = plugins.describe("metrics", name).attributes
    needs = set(attributes.get("needs", ()))
    for need, when in attributes.get("needs_when", {}).items():
        needs |= {need} if any(complete.get(key) in values for key, values in when.items()) else set()
    offered = _offered(dataset, features)
    missing = sorted(need for need in needs if offered is not None and not offered & set(need.split("|")))
    hint = "connect a features stage: `inputs: {features: …}`" if any("features" in need for need in missing) else ""
    return [Fault(path, "unmet-need", f"metric {name} needs {need.replace('|', ' or ')}", "", hint) for need in missing]


def _offered(dataset: Facts, features: bool) -> set[str] | None:
    """What metrics may need and is there; None where the data set is not known yet."""
    shape = dataset.get("shape")
    if not shape:
        return None
    found = {shape["kind"], "inception"} | ({"features"} if features else set())
    found |= {"labels"} if shape.get("num_classes") else set()
    return found | ({"mixture"} if dataset.get("mixture") else set())


__all__ = ["faults", "named", "objectives", "written"]

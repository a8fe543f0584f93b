"""Cache keys: what a stage's result depends on, and why a result no longer serves.

The ingredients are kept beside each result, so that a reason can be told: "total_steps 1500 -> 4000". Key order, log
level and the number of workers are not in them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from orchestrator.artifacts import digest_json
from orchestrator.source import place

Ingredients = dict[str, Any]
SHOWN = 3  # differences that a reason names before it says "and n more"


def ingredients(
    *,
    uses: str,
    version: int,
    params: Mapping[str, Any],
    inputs: Mapping[str, Sequence[str]],
    seed: int,
    source: Mapping[str, str],
    packages: Iterable[str],
    gpus: bool,
    outside: Mapping[str, Any] | None = None,
    tracking: str | None = None,
) -> Ingredients:
    """Everything a key covers, as JSON.

    `params` with defaults filled in; `inputs` artifact digests by port; `source` digests of first-party modules;
    `packages` distribution names, whose installed versions are looked up; `outside` fingerprints of data that no
    artifact holds; `tracking` where MLflow is, for a stage whose result stands there ("" for the storage's own database).
    """
    where = {} if tracking is None else {"tracking": tracking}
    return {
        "stage": uses,
        "version": version,
        "params": dict(params),
        "inputs": {port: list(digests) for port, digests in inputs.items()},
        "seed": seed,
        "source": dict(source),
        "packages": {name: installed(name) for name in packages},
        "gpus": gpus,
        "outside": dict(outside or {}),
        **where,
    }


def key(parts: Ingredients) -> str:
    """The cache key (hex)."""
    return digest_json(parts)


def lineage(parts: Ingredients, extends: str | None, generation: int = 0) -> str:
    """Names the checkpoints that such a stage may go on from: the key without the parameter that may grow.

    `generation` counts forced repetitions, which start afresh.
    """
    params = {name: value for name, value in parts["params"].items() if name != extends}
    return digest_json({**parts, "params": params, "generation": generation})


@cache
def installed(distribution: str) -> str:
    """The installed version, "" when it is not installed."""
    name = re.sub(r"[-_.]+", "_", distribution).lower()
    for folder in sys.path:
        if name in (found := _distributions(folder)):
            return found[name]
    from importlib import metadata  # slow to import: only for what is installed in another way

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


@cache
def _distributions(folder: str) -> dict[str, str]:
    """Name -> version of what is installed in a folder, by the names of its .dist-info directories."""
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return {}
    pairs = (name.removesuffix(".dist-info").rpartition("-") for name in names if name.endswith(".dist-info"))
    return {re.sub(r"[-_.]+", "_", name).lower(): version for name, _, version in pairs}


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, producers: Mapping[str, str] | None = None
) -> list[str]:
    """What changed between two sets of ingredients, in the user's words, the most telling first.

    `producers` names for each port the stage that makes it. Ports that `new` lacks are not compared.
    """
    found: list[str] = []
    if old.get("stage") != new["stage"]:
        return [f"stage kind {old.get('stage')} -> {new['stage']}"]
    found += _values(old.get("params", {}), new["params"])
    found += _named("seed", old.get("seed"), new["seed"])
    for port, digests in new["inputs"].items():
        if old.get("inputs", {}).get(port) != digests:
            maker = (producers or {}).get(port, "")
            found.append(f"input {port} changed" + (f" (stage {maker})" if maker else ""))
    found += [f"input {port} removed" for port in old.get("inputs", {}) if port not in new["inputs"]]
    if old.get("outside", {}) != new.get("outside", {}):
        found.append("the files that it reads changed")
    found += _sources(old.get("source", {}), new["source"])
    found += _values(old.get("packages", {}), new["packages"])
    found += _named("version of the stage", old.get("version"), new["version"])
    found += _named("asks for GPUs", old.get("gpus"), new["gpus"])
    found += _named("tracking", old.get("tracking") or None, new.get("tracking") or None)
    return found


def sentence(found: Sequence[str]) -> str:
    """The first few differences in one line."""
    more = len(found) - SHOWN
    return ", ".join(found[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _named(name: str, old: Any, new: Any) -> list[str]:
    return [] if old == new else [f"{name} {_show(old)} -> {_show(new)}"]


def _values(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = list(_changes(old, new))
    return [line for chosen in (True, False) for line, is_choice in found if is_choice is chosen]


def _changes(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    """A line for each value that differs; where something is chosen by name the choice (True), not what belongs to it."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and (old or new):
        if path and len(old) == len(new) == 1 and set(old) != set(new) and _choices(old) and _choices(new):
            yield f"{path} {next(iter(old))} -> {next(iter(new))}", True
            return
        for name in [*new, *(name for name in old if name not in new)]:
            below = f"{path}.{name}" if path else str(name)
            if name in old and name in new:
                yield from _changes(old[name], new[name], below)
            elif isinstance(new.get(name, old.get(name)), Mapping) and path:
                yield f"{below} {'added' if name in new else 'removed'}", True
            else:
                yield from _changes(old.get(name), new.get(name), below)
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield f"{path} {_show(old)} -> {_show(new)}", False


def _choices(value: Mapping[str, Any]) -> bool:
    return all(isinstance(item, Mapping) for item in value.values())


def _sources(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    changed = sorted(module for module in {*old, *new} if old.get(module) != new.get(module))
    if not changed:
        return []
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return [f"source of {place(changed[0])}{more} changed"]


def _show(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


__all__ = ["Ingredients", "differences", "ingredients", "installed", "key", "lineage", "sentence"]

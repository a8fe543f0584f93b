"""What the report shows of each kind of artifact: a section is a title and blocks, and the template draws each block.

An artifact kind that is not known here gets no section of its own; it still stands in the lineage.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.report import charts
from orchestrator.units import number

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore

MAX_FRAMES = 14
MAX_IMAGE_BYTES = 4_000_000  # a larger picture would make the page slow; its name is told instead
SMALL_IMAGE_PX = 700  # narrower pictures are enlarged without smoothing

Block = dict[
    str, Any
]  # `kind` names how the template draws it: charts, search, frames, images, facts, table, text, source


@dataclass
class Section:
    """A titled part of the page."""

    anchor: str
    title: str
    note: str = ""
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, and the value that sorting compares ("" sorts last)."""

    text: str
    sort: str


def section(stage: str, artifact: Artifact, store: ArtifactStore) -> Section | None:
    """The section of one artifact, None where its kind has none."""
    build = BUILDERS.get(artifact.kind)
    return build(stage, artifact, store) if build else None


def _dataset(stage: str, artifact: Artifact, store: ArtifactStore) -> Section:
    facts = dict(artifact.metadata)
    shape = facts.pop("shape", None) or {}
    rows = [
        ("data set", facts.pop("dataset", "")),
        ("one sample", f"{shape.get('kind', '')} {' x '.join(map(str, shape.get('size', [])))}"),
        ("splits", ", ".join(f"{name} {count:,}" for name, count in (facts.pop("splits", None) or {}).items())),
    ]
    corrupt = facts.pop("corrupt", None) or []
    rows += _pairs({key: value for key, value in facts.items() if value not in (None, [], {})})
    if corrupt:
        rows.append(("unreadable files", f"{len(corrupt)}: {', '.join(map(str, corrupt[:10]))}"))
    return Section(stage, f"Data: {stage}", blocks=[{"kind": "facts", "facts": rows}])


def _features(stage: str, artifact: Artifact, store: ArtifactStore) -> Section:
    shown = {key: value for key, value in artifact.metadata.items() if key not in ("shape", "state")}
    return Section(stage, f"Feature space: {stage}", blocks=[{"kind": "facts", "facts": _pairs(shown)}])


def _search(stage: str, artifact: Artifact, store: ArtifactStore) -> Section:
    from orchestrator.report import search  # which is made of what stands here

    return search.section(stage, artifact, store)


def _model(stage: str, artifact: Artifact, store: ArtifactStore) -> Section:
    facts = artifact.metadata
    made = Section(stage, f"Training: {stage}", note=f"{facts.get('step', '?')} steps, seed {facts.get('seed', '?')}")
    frames = _frames(artifact, store)
    if frames:
        made.blocks.append({"kind": "frames", "title": "Samples over training", "frames": frames})
    if "history.jsonl" in artifact.files:
        made.blocks += _curves(store.read(artifact, "history.jsonl").decode())
    config = facts.get("config")
    if config:
        text = json.dumps(config, indent=2, sort_keys=True)
        made.blocks.append({"kind": "source", "summary": "The whole train configuration", "text": text})
    return made


def _curves(history: str) -> list[Block]:
    """One chart a phase with its terms, one chart for each value outside of phases, from JSON lines."""
    points: dict[str, tuple[list[float], list[float]]] = {}
    for line in history.splitlines():
        record = json.loads(line)
        step = float(record.get("step", 0))
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                xs, ys = points.setdefault(name, ([], []))
                xs.append(step)
                ys.append(float(value))
    groups: dict[str, list[charts.Series]] = {}
    for name, (xs, ys) in points.items():
        phase, _, term = name.rpartition("/")
        groups.setdefault(phase or name, []).append(charts.Series(term, xs, ys))
    drawn = [
        {"title": group, "svg": marked_safe(svg), "legend": [s.name for s in series] if len(series) > 1 else []}
        for group, series in groups.items()
        if (svg := charts.lines(series, label=f"{group} over steps"))
    ]
    return [{"kind": "charts", "title": "Losses over steps", "charts": drawn}] if drawn else []


def _frames(artifact: Artifact, store: ArtifactStore) -> list[dict[str, str]]:
    """Sample grids over training, at most MAX_FRAMES evenly chosen, the last always among them."""
    names = sorted(name for name in artifact.files if name.startswith("samples/") and name.endswith(".png"))
    if len(names) > MAX_FRAMES:
        names = [names[round(i * (len(names) - 1) / (MAX_FRAMES - 1))] for i in range(MAX_FRAMES)]
    frames = []
    for name in names:
        digits = "".join(char for char in name.rsplit("/", 1)[-1] if char.isdigit())
        caption = f"step {int(digits):,}" if digits else name
        frames.append({"uri": _uri(store.read(artifact, name)), "caption": caption})
    return frames


def _scores(stage: str, artifact: Artifact, store: ArtifactStore) -> Section:
    facts = artifact.metadata
    made = Section(
        stage, f"Evaluation: {stage}", note=f"{facts.get('num_samples', '?')} samples, seed {facts.get('seed', '?')}"
    )
    names = ("metric", "score", "value", "better", "further values", "protocol")
    columns = [{"name": name, "numeric": name == "value"} for name in names]
    rows = [{"marked": False, "cells": _score(metric, score)} for metric, score in facts.get("scores", {}).items()]
    made.blocks.append({"kind": "table", "sortable": False, "columns": columns, "rows": rows})
    images = _images(artifact, store)
    if images:
        made.blocks.append({"kind": "images", "title": "Pictures", "images": images})
    return made


def _score(metric: str, score: Mapping[str, Any]) -> list[Cell]:
    """A metric's row: its primary value and what is better, the other values, and how all were measured."""
    values, primary = dict(score.get("values", {})), score.get("primary")
    main = values.pop(primary, score.get("value"))
    better = {"minimize": "lower", "maximize": "higher"}.get(score.get("direction", ""), "")
    further = ", ".join(f"{name} {text_of(value)}" for name, value in values.items())
    protocol = ", ".join(
        f"{name} {text_of(value)}" for name, value in score.get("protocol", {}).items() if name != "metric"
    )
    return [cell(one) for one in (metric, primary, main, better, further, protocol)]


def _registration(stage: str, artifact: Artifact, store: ArtifactStore) -> Section:
    shown = (
        "model",
        "version",
        "alias",
        "promoted",
        "reason",
        "artifact",
        "tracking_uri",
    )  # `reason` sums up the findings
    facts = {name: artifact.metadata[name] for name in shown if artifact.metadata.get(name) is not None}
    return Section(stage, f"Registry: {stage}", blocks=[{"kind": "facts", "facts": _pairs(facts)}])


def _images(artifact: Artifact, store: ArtifactStore) -> list[dict[str, Any]]:
    found = []
    for name in sorted(artifact.files):
        if not name.endswith(".png") or name.startswith("samples/") or artifact.files[name].size > MAX_IMAGE_BYTES:
            continue
        data = store.read(artifact, name)
        width = int.from_bytes(data[16:20], "big")  # from the PNG header
        caption = name.removesuffix(".png").replace("_", " ").replace("/", ": ")
        found.append({"uri": _uri(data), "caption": caption, "small": width < SMALL_IMAGE_PX})
    return found


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def marked_safe(svg: str) -> Any:
    """Marks our own SVG (its texts are escaped where it is made) as markup for the template."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704


def _pairs(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), text_of(value)) for name, value in facts.items()]


def numeric(values: Iterable[Any]) -> bool:
    """Whether a column is one of numbers."""
    present = [value for value in values if value is not None]
    return bool(present) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in present)


def cell(value: Any) -> Cell:
    """A value as a reader wants it, sorted by itself."""
    return Cell("", "") if value is None else Cell(text_of(value), str(value))


def text_of(value: Any) -> str:
    """A value as a reader wants it: short numbers, lists and mappings in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10000 else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {text_of(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        shown = ", ".join(text_of(item) for item in value[:20])
        return f"{shown}, … ({len(value)})" if len(value) > 20 else shown or "none"
    text = str(value)
    return text[:12] if len(text) == 64 and all(char in "0123456789abcdef" for char in text) else text


BUILDERS: dict[str, Callable[[str, Artifact, ArtifactStore], Section]] = {
    "dataset": _dataset,
    "features": _features,
    "search": _search,
    "model": _model,
    "scores": _scores,
    "registration": _registration,
}

"""One self-contained HTML page a run, made from what is stored: it loads nothing, so it can be mailed or attached."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from orchestrator import runs
from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.errors import IntegrityError
from orchestrator.report import charts
from orchestrator.report.sections import Section, marked_safe, section, text_of
from orchestrator.units import duration, size

if TYPE_CHECKING:
    from orchestrator.runs import Run, RunRecord, StageRecord


@dataclass
class Page:
    """What the template draws."""

    pipeline: str
    run_id: str
    state: str
    made: str
    tiles: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    gantt: Any = ""
    stages: list[dict[str, Any]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    spec: str = ""


def build(storage: str | ArtifactStore, run_id: str) -> str:
    """Make `report.html` of a run and store it beside the run's record; returns its path or URL.

    Raises errors.BadInput for an unknown run and errors.Unavailable when the storage fails. An artifact that is gone or
    damaged is told in its section; the others are shown.
    """
    store = ArtifactStore(storage) if isinstance(storage, str) else storage
    run = runs.read(store, run_id)
    path = f"{run.folder}/{runs.REPORT}"
    store.files.write(path, render(gather(run)).encode())
    return runs.place(store, path)


def render(page: Page) -> str:
    """The page as HTML; every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    folder = files("orchestrator.report")
    style, script, template = (
        (folder / name).read_text("utf-8") for name in ("report.css", "report.js", "report.html.j2")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(page=page, style=marked_safe(style), script=marked_safe(script))


def gather(run: Run) -> Page:
    """Everything the page shows, from the run's record and artifacts."""
    record = run.record
    made = {stage.stage: _artifacts(stage, run.store) for stage in record.stages}
    page = Page(record.pipeline, record.run_id, record.status, f"Run of {_clock(record.started)}.")
    page.failures = [_failure(stage, run) for stage in record.stages if stage.error]
    if record.error and not page.failures:
        page.failures = [{"stage": "run", "kind": "", "message": record.error, "log": ""}]
    page.gantt = marked_safe(charts.gantt(_bars(record)))
    page.stages = [_stage(stage, made[stage.stage]) for stage in record.stages]
    page.sections = [one for stage in record.stages for one in _sections(stage, made[stage.stage], run.store)]
    page.lineage = [row for stage in record.stages for row in _lineage(stage, made[stage.stage])]
    page.tiles = _tiles(record, [artifact for found in made.values() for artifact in found.values()])
    page.facts = _facts(record)
    page.spec = _yaml(record.spec)
    return page


def _artifacts(stage: StageRecord, store: ArtifactStore) -> dict[str, Artifact]:
    """A stage's outputs by name, without those that are gone."""
    found = {name: store.find(digest) for name, digest in stage.outputs.items()}
    return {name: artifact for name, artifact in found.items() if artifact is not None}


UNTOLD = (LookupError, TypeError, ValueError, AttributeError)  # of facts that a plugin tells in another form, or not


def _sections(stage: StageRecord, made: Mapping[str, Artifact], store: ArtifactStore) -> Iterable[Section]:
    for name in stage.outputs:
        try:
            one = section(stage.stage, made[name], store) if name in made else None
        except IntegrityError as error:
            one = Section(stage.stage, stage.stage, blocks=[{"kind": "text", "text": str(error)}])
        except UNTOLD as error:
            text = f"{name} is a {made[name].kind} that does not tell what this report shows of one: {error!r}"
            one = Section(stage.stage, stage.stage, blocks=[{"kind": "text", "text": text}])
        if one is not None:
            one.anchor = f"{stage.stage}-{name}"
            yield one


def _bars(record: RunRecord) -> list[charts.Bar]:
    """The stages that worked in this run; one still at work ends now."""
    ran = [stage for stage in record.stages if stage.started and stage.state not in ("cached", "pending", "skipped")]
    bars = []
    for stage in ran:
        start = max(stage.started - record.started, 0.0)
        bars.append(charts.Bar(stage.stage, start, start + stage.seconds, stage.state))
    return bars


def _stage(stage: StageRecord, made: Mapping[str, Artifact]) -> dict[str, Any]:
    outputs = []
    for name, digest in stage.outputs.items():
        held = size(made[name].size) if name in made else "gone"
        outputs.append(f"{name} {digest[:12]} ({held})")
    return {
        "name": stage.stage,
        "uses": stage.uses,
        "state": stage.state,
        "took": duration(stage.seconds) if stage.seconds else "",
        "attempts": stage.attempts or "",
        "why": stage.reason,
        "outputs": outputs,
    }


def _failure(stage: StageRecord, run: Run) -> dict[str, str]:
    log = runs.place(run.store, f"{run.folder}/logs/{stage.stage}.log") if run.log(stage.stage) else ""
    return {"stage": stage.stage, "kind": stage.kind, "message": stage.error, "log": log}


def _lineage(stage: StageRecord, made: Mapping[str, Artifact]) -> Iterable[dict[str, Any]]:
    sources = "; ".join(f"{port}: {', '.join(instances)}" for port, instances in stage.inputs.items())
    for name, digest in stage.outputs.items():
        artifact = made.get(name)
        yield {
            "stage": stage.stage,
            "output": name,
            "kind": artifact.kind if artifact else "gone",
            "digest": digest,
            "size": size(artifact.size) if artifact else "",
            "inputs": sources,
            "key": stage.key,
        }


def _tiles(record: RunRecord, artifacts: Sequence[Artifact]) -> list[dict[str, str]]:
    """The few numbers a reader looks for first: duration, primary scores, registered version."""
    seconds = (record.ended - record.started) if record.ended else None
    cached = sum(stage.state == "cached" for stage in record.stages)
    tiles = [
        {"name": "took", "value": duration(seconds) if seconds is not None else "unfinished", "note": ""},
        {"name": "stages", "value": str(len(record.stages)), "note": f"{cached} cached" if cached else ""},
    ]
    for artifact in artifacts:
        if artifact.kind == "scores":
            told = artifact.metadata.get("values")
            values = [(name, v) for name, v in (told if isinstance(told, dict) else {}).items() if "." not in name]
            tiles += [{"name": name.replace("_", " "), "value": text_of(v), "note": ""} for name, v in values[:4]]
        if artifact.kind == "registration":
            facts = artifact.metadata
            value = f"{facts.get('model', '')} v{facts.get('version', '?')}"
            alias = f"@{facts['alias']}" if facts.get("promoted") and facts.get("alias") else "not promoted"
            tiles.append({"name": "registered", "value": value, "note": alias})
    return tiles


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    facts = [
        ("started", _clock(record.started)),
        ("ended", _clock(record.ended) if record.ended else ""),
        ("spec", record.spec_file),
        ("profile", record.profile or ""),
        ("changed by --set", ", ".join(record.sets)),
        ("seed", str(record.spec.get("seed", ""))),
        ("host", record.host),
        ("tracking", record.tracking_uri),
        ("MLflow run", record.mlflow_run),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items()))),
    ]
    return [(name, value) for name, value in facts if value]


def _yaml(spec: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True, width=110)) if spec else ""


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

"""What a storage has to keep: everything that kept runs, the newest results of each stage and registered models reach.

Only what is read for certain makes something removable: where a record cannot be read, or MLflow does not answer, more is
kept. Nothing here changes the storage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import runs
from orchestrator.artifacts import Artifact, ArtifactStore, manifest_path
from orchestrator.errors import BadInput
from orchestrator.log import Log, State
from orchestrator.runs import RunRecord
from orchestrator.seals import Damaged, read_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient

FINISHED = ("succeeded", "cached")
ANSWER_WITHIN_S = 15.0  # of MLflow


@dataclass(frozen=True)
class Wish:
    """What to keep beyond what is in use. `keep` names runs."""

    keep_last: int = 5  # runs of each pipeline
    keep: tuple[str, ...] = ()
    older_than_s: float = 0.0  # runs younger than this stay, too
    grace_s: float = 86_400.0  # what no record knows of stays for so long: somebody may be about to name it


@dataclass
class Reach:
    """What is kept. `dropped` holds the records of the other runs, None for one that cannot be read (its run is kept)."""

    runs: set[str] = field(default_factory=set)
    dropped: dict[str, RunRecord] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    artifacts: set[str] = field(default_factory=set)
    lineages: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)  # lineages of work that some kept run has begun and not ended
    states: dict[str, State] = field(default_factory=dict)  # of each pipeline's log
    notes: list[str] = field(default_factory=list)


def reach(store: ArtifactStore, wish: Wish, *, now: float | None) -> Reach:
    """Mark. `now` by the storage's own clock, None where it has none. Raises BadInput for an unknown run in `wish.keep`."""
    found = Reach()
    for name in pipelines(store):
        log = Log(store.files, name)
        log.told = found.notes.append
        found.states[name] = log.state()
    records = _records(store, found)
    for run_id in wish.keep:
        if run_id not in records:
            raise BadInput(f"there is no run {run_id!r} in {store.url}", hint="`orchestrate runs` lists them")
    registered, champions = _registered(store, records.values(), found.notes)
    by_pipeline: dict[str, list[str]] = {}
    for run_id in records:
        by_pipeline.setdefault(run_id.rsplit("-", 3)[0], []).append(run_id)
    for pipeline, ids in by_pipeline.items():
        state = found.states.get(pipeline, State())
        ids.sort(key=lambda run_id: _order(state, run_id), reverse=True)
        found.runs |= _kept(store, ids, records, state, wish, now)
    found.runs |= {run_id for run_id in (*wish.keep, *champions) if run_id in records}
    for run_id, record in records.items():
        if run_id not in found.runs and record is not None:
            found.dropped[run_id] = record
        elif record is not None:
            _mark(found, record)
    for state in found.states.values():
        for commit in state.commits.values():
            found.keys.add(commit["key"])
            found.artifacts |= set(commit["outputs"].values())
    known = [stage for record in records.values() if record is not None for stage in record.stages]
    found.lineages |= {stage.lineage for stage in known if stage.lineage and stage.key in found.keys}
    found.artifacts |= registered
    return found


def pipelines(store: ArtifactStore) -> list[str]:
    """Every pipeline that the storage has a log of; looked up twice, since a listing may be cut short."""
    return sorted({*store.files.names("pipelines"), *store.files.names("pipelines")})


def _records(store: ArtifactStore, found: Reach) -> dict[str, RunRecord | None]:
    records: dict[str, RunRecord | None] = {}
    for run_id in sorted({*runs.ids(store), *runs.ids(store)}):
        try:
            records[run_id] = read_whole(store.files, f"runs/{run_id}/run.json", runs.parse_record)
        except FileNotFoundError:
            continue
        except Damaged:
            records[run_id] = None
            found.notes.append(f"the record of run {run_id} is damaged: every run of its pipeline is kept")
    return records


def _order(state: State, run_id: str) -> tuple[int, str]:
    """By their place in the log; by the clock of their host where the log does not know them."""
    return int(state.runs.get(run_id, {}).get("n", 0)), run_id.split("-", 1)[1]


def _kept(
    store: ArtifactStore,
    ids: list[str],
    records: Mapping[str, RunRecord | None],
    state: State,
    wish: Wish,
    now: float | None,
) -> set[str]:
    """Those of one pipeline's runs, newest first, that stay: the last few, the last that succeeded, the one at work."""
    if any(records[run_id] is None for run_id in ids):
        return set(ids)
    kept = set(ids[: wish.keep_last])
    kept |= set([run_id for run_id in ids if getattr(records[run_id], "status", "") == "succeeded"][:1])
    kept |= {state.lease.run} if state.lease else set()
    for run_id in ids:
        if wish.older_than_s and run_id not in kept:
            written = store.files.written(f"runs/{run_id}/run.json")
            if now is None or written is None or now - written < wish.older_than_s:
                kept.add(run_id)
    return kept


def _mark(found: Reach, record: RunRecord) -> None:
    for stage in record.stages:
        found.keys |= {stage.key} if stage.key else set()
        found.artifacts |= set(stage.outputs.values())
        if stage.lineage:
            found.lineages.add(stage.lineage)
            if stage.state not in FINISHED:
                found.unfinished.add(stage.lineage)


def _registered(
    store: ArtifactStore, records: Iterable[RunRecord | None], notes: list[str]
) -> tuple[set[str], set[str]]:
    """Digests of the models that MLflow has registered, and the runs whose models hold an alias (a champion)."""
    tracked: dict[str, list[RunRecord]] = {}
    for record in records:
        if record is not None and record.tracking_uri:
            tracked.setdefault(record.tracking_uri, []).append(record)
    digests: set[str] = set()
    champions: set[str] = set()
    for uri, its in tracked.items():
        try:
            made, held = _asked(uri)
        except Exception as error:  # noqa: BLE001 - whatever MLflow and its databases raise: then the storage itself tells
            from orchestrator.mlflow_calls import brief
            from orchestrator.registry import redact

            made, held = _remembered(store, its)
            why = f"MLflow at {redact(uri)} did not answer ({brief(error)})"
            notes.append(f"{why}: every model of the {len(its)} runs tracked there is kept")
        digests |= made
        champions |= held
    return digests, champions


def _asked(uri: str) -> tuple[set[str], set[str]]:
    from orchestrator import registry

    if uri.startswith(registry.SQLITE) and not Path(uri.removeprefix(registry.SQLITE)).exists():
        raise FileNotFoundError("its database is not there")
    from orchestrator.mlflow_calls import Patient
    from orchestrator.promotion import DIGEST_TAG

    client: Any = Patient(registry.connect(uri), ANSWER_WITHIN_S)
    digests: set[str] = set()
    champions: set[str] = set()
    for model in _pages(client, "search_registered_models"):
        aliased = {str(version) for version in dict(model.aliases or {}).values()}
        quoted = model.name.replace("'", "")
        for version in _pages(client, "search_model_versions", f"name = '{quoted}'"):
            if DIGEST_TAG in version.tags:
                digests.add(version.tags[DIGEST_TAG])
                champions |= {version.tags.get("run_id", "")} if str(version.version) in aliased else set()
    return digests, champions - {""}


def _pages(client: MlflowClient, method: str, query: str | None = None) -> Iterable[Any]:
    token = None
    while True:
        page = getattr(client, method)(query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _remembered(store: ArtifactStore, records: Iterable[RunRecord]) -> tuple[set[str], set[str]]:
    """What the storage knows of registrations: models, also those of registrations that a gate refused."""
    digests: set[str] = set()
    champions: set[str] = set()
    for record in records:
        for digest in {digest for stage in record.stages for digest in stage.outputs.values()}:
            artifact = manifest(store, digest)
            if artifact is None:
                continue
            if artifact.kind == "model":
                digests.add(digest)
            if artifact.kind == "registration":
                digests |= {digest, str(artifact.metadata.get("artifact", ""))}
                champions |= {record.run_id} if artifact.metadata.get("promoted") else set()
    return digests, champions


def manifest(store: ArtifactStore, digest: str) -> Artifact | None:
    """An artifact by its digest; None when absent. Unlike `store.get` it moves nothing away. Raises Damaged."""

    def parse(data: bytes) -> Artifact:
        artifact = Artifact.from_json(json.loads(data)["artifact"])
        if artifact.digest != digest:
            raise ValueError("altered")
        return artifact

    try:
        return read_whole(store.files, manifest_path(digest), parse)
    except FileNotFoundError:
        return None


__all__ = ["Reach", "Wish", "manifest", "pipelines", "reach"]

"""What MLflow did long after we gave its request up: a second run of one key, a second version of one model artifact.

The next run of the pipeline, and the next registration, remove them; where there is none, `orchestrate sync` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from orchestrator import registry
from orchestrator.mlflow_calls import Patient

RECENT = 10  # runs of a pipeline that are asked where they were tracked
ANSWER_WITHIN_S = 5.0


@dataclass
class Removed:
    """How much was removed, and why something could not be looked at."""

    runs: int = 0
    versions: int = 0
    notes: list[str] = field(default_factory=list)


def remove(storage: str, away: Iterable[str] = ()) -> Removed:
    """Remove what came late to the servers that the runs of a storage were told to; not to those that are `away`.

    Local databases have no late requests. Never raises for a server or a storage that does not answer: nothing is lost by
    trying again another day, and `notes` tells of it.
    """
    removed = Removed()
    for uri, pipelines in sorted(_places(storage, removed).items()):
        if uri in away:
            continue
        try:
            _remove(Patient(registry.connect(uri), ANSWER_WITHIN_S), sorted(pipelines), removed)
        except Exception as error:  # noqa: BLE001  # whatever a server or what stands in for one may do
            removed.notes.append(f"not looked for what came late: {registry.unavailable(uri, error)}")
    return removed


def _places(storage: str, removed: Removed) -> dict[str, set[str]]:
    """The pipelines by the server that they were told to."""
    from orchestrator import runs
    from orchestrator.artifacts import ArtifactStore
    from orchestrator.errors import OrchestratorError
    from orchestrator.reach import pipelines

    found: dict[str, set[str]] = {}
    try:
        store = ArtifactStore(storage)
        for pipeline in pipelines(store):
            for run in runs.recent(store, pipeline, limit=RECENT):
                if run.record.tracking_uri.startswith(("http://", "https://")):
                    found.setdefault(run.record.tracking_uri, set()).add(pipeline)
    except (OrchestratorError, OSError) as error:
        removed.notes.append(f"not looked for what came late: {error}")
    return found


def _remove(client: Patient, pipelines: list[str], removed: Removed) -> None:
    models: set[str] = set()
    for pipeline in pipelines:
        experiment = client.get_experiment_by_name(pipeline)
        if experiment is None:
            continue
        removed.runs += registry.remove_late(client, experiment.experiment_id)
        registered = client.search_runs([experiment.experiment_id], "tags.`registered.model` LIKE '%'")
        models |= {run.data.tags["registered.model"] for run in registered}
    for model in sorted(models):
        removed.versions += _tidied(client, model)


def _tidied(client: Patient, model: str) -> int:
    """Versions removed. A registration that is going on does it itself."""
    from orchestrator.errors import Unavailable
    from orchestrator.promotion import Versions, locked

    versions = Versions(client, model)
    if versions.late():
        with suppress(Unavailable), locked(client, model, wait_s=ANSWER_WITHIN_S):
            return len(versions.tidy())
    return 0


__all__ = ["Removed", "remove"]

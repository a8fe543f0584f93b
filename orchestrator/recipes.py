"""What a registered model carries so that it can be made again: the file `recipe.json` beside it.

The pipeline as it was resolved, without credentials, and a search's winner in place of the search; for each stage what its
result depended on (parameters, seed, digests of inputs, source and outside data, package versions); the digests and scores
to be met; the kind of machine. It stands at the version, under a digest of its own.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator import runs
from orchestrator.artifacts import ArtifactStore, canonical
from orchestrator.cache import Cache
from orchestrator.errors import BadInput

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact
    from orchestrator.runs import RunRecord

FILE = "recipe.json"
TAG = "orchestrator.recipe"  # of a version: the file's SHA-256
FORMAT = 1
WEIGHTS = "model.safetensors"
_LEFT_OUT = ("storage", "storage_options", "tracking", "profiles", "profile")


def write(
    store: ArtifactStore, run_id: str, stage: str, model: Artifact, scores: Artifact | None
) -> tuple[bytes, str] | None:
    """The recipe of a model that `stage` of a run registers, and its digest; None where the run has no record."""
    try:
        record = runs.read(store, run_id).record
        inputs = record.stage(stage).inputs
    except (BadInput, KeyError):
        return None
    made_by = inputs["model"][0]
    target = inputs["scores"][0] if scores is not None else made_by
    kept = _ancestors(record, target)
    spec, frozen = _frozen(record, kept, made_by, store)
    cache = Cache(store)
    stages = {}
    for name in kept:
        one = record.stage(name)
        if one.name not in spec["stages"]:
            continue
        entry = cache.get(one.key)
        ingredients = entry.ingredients if entry is not None else {}
        stages[name] = {"uses": one.uses, "outputs": one.outputs, "ingredients": ingredients, "notes": one.notes}
    recipe = {
        "format": FORMAT,
        "pipeline": record.pipeline,
        "run_id": run_id,
        "spec": spec,
        "frozen": frozen,
        "model_stage": made_by,
        "target": target,
        "stages": stages,
        "model": {"artifact": model.digest, "files": {name: ref.digest for name, ref in model.files.items()}},
        "scores": scores.metadata.get("scores", {}) if scores is not None else {},
        "machine": machine(),
    }
    body = canonical(recipe)
    return body, hashlib.sha256(body).hexdigest()


def machine() -> dict[str, Any]:
    """What decides how sums are rounded, as far as this process can tell."""
    import torch

    return {
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def _ancestors(record: RunRecord, target: str) -> list[str]:
    """The stages that a stage's result comes from, itself included, in running order."""
    wanted, waiting = set[str](), [target]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += [source for sources in record.stage(name).inputs.values() for source in sources]
    return [one.stage for one in record.stages if one.stage in wanted]


def _frozen(
    record: RunRecord, kept: list[str], made_by: str, store: ArtifactStore
) -> tuple[dict[str, Any], dict[str, str]]:
    """The spec of the stages that matter, and which stages' choice is written out in it: {stage: its search}."""
    names = {record.stage(name).name for name in kept}
    spec = {key: value for key, value in record.spec.items() if key not in _LEFT_OUT and value is not None}
    spec["stages"] = {name: _plain(stage) for name, stage in record.spec["stages"].items() if name in names}
    frozen = {}
    for name in kept:
        one = record.stage(name)
        stage = spec["stages"][one.name]
        searches = [s for s in one.inputs.get("config", []) if _is_search(record, s, store)]
        if len(searches) == 1 and not stage.get("matrix"):
            from trainers import config

            winner = store.get(next(iter(record.stage(searches[0]).outputs.values()))).metadata["winner"]
            stage["with"] = config.merge(winner, stage.get("with", {}))
            del stage["inputs"]["config"]
            frozen[name] = searches[0]
    if frozen:  # what only a search needed is not made again
        needed, waiting = set[str](), [record.stage(kept[-1]).name, record.stage(made_by).name]
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting += [text.partition(".")[0] for text in spec["stages"][name].get("inputs", {}).values()]
        spec["stages"] = {name: stage for name, stage in spec["stages"].items() if name in needed}
    return spec, frozen


def _is_search(record: RunRecord, name: str, store: ArtifactStore) -> bool:
    found = [store.find(digest) for digest in record.stage(name).outputs.values()]
    return any(one is not None and one.kind == "search" for one in found)


def _plain(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage as one would write it: without what says nothing."""
    kept = {key: value for key, value in stage.items() if value is not None and value != {}}
    kept["scale"] = {key: value for key, value in stage.get("scale", {}).items() if value is not None}
    return kept


__all__ = ["FILE", "FORMAT", "TAG", "WEIGHTS", "machine", "write"]

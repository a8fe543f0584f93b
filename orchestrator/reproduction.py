"""Make a registered model again, from what its version in the registry holds, and say how near it comes.

Three answers: the weights are the same bytes; or they are not, but every score lies in the interval in which the rebuilt
model's own scores lie; or it is another model. The interval is a 95 % prediction interval: the rebuilt model is scored
with several other seeds of samples, and one more such score lies within mean ± t·s·sqrt(1 + 1/n). It knows how much a score
varies with the samples drawn, and nothing of how much it varies from training to training.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import keys, recipes, registry, source
from orchestrator.errors import BadInput, IntegrityError, OrchestratorError
from orchestrator.mlflow_calls import Patient, brief, error_code

if TYPE_CHECKING:
    from orchestrator.events import Listener
    from orchestrator.runs import Run

RESCORINGS = 5
T_95 = 2.776  # Student's t, 97.5 %, RESCORINGS - 1 degrees of freedom
REGISTERED = "models:/"


@dataclass(frozen=True)
class Comparison:
    """A registered score, and where the rebuilt model's scores lie."""

    metric: str
    registered: float
    rebuilt: float
    low: float
    high: float

    @property
    def within(self) -> bool:
        return self.low <= self.registered <= self.high

    def __str__(self) -> str:
        place = "within" if self.within else "outside"
        return f"{self.metric}: registered {self.registered:.6g}, {place} {self.low:.6g} … {self.high:.6g}"


@dataclass
class Reproduction:
    """What came of it. `verdict`: bit-equal, within (the intervals), different, or failed (the run did)."""

    uri: str
    version: str
    verdict: str
    differences: list[str]  # between then and here, of what the result depends on
    run_id: str
    storage: str
    weights: str = ""  # SHA-256 of the rebuilt weights
    expected: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    error: str = ""
    exit_code: int = 0


def reproduce(
    uri: str,
    storage: str,
    *,
    tracking: str | None = None,
    ray: bool = True,
    listener: Listener | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Reproduction:
    """Rebuild `models:/name@alias` or `models:/name/version` of the MLflow at `tracking` in `storage`.

    Nothing is told to MLflow. Raises BadInput (no such version, no recipe, data that is gone), IntegrityError (an altered
    recipe), Unavailable.
    """
    recipe, version = fetch(uri, registry.tracking_uri("runs", tracking))
    early = installed(recipe)
    for line in early:
        say(line)
    run = _run(recipe, storage, ray, listener)
    expected = recipe["model"]["files"][recipes.WEIGHTS]
    found = Reproduction(uri, version, "failed", early, run.run_id, storage, expected=expected)
    if run.exit_code:
        found.error, found.exit_code = run.record.error, run.exit_code
        return found
    late = [line for line in _differences(recipe, run) if line not in early]
    for line in late:
        say(line)
    found.differences = [*early, *late]
    found.weights = run.artifact(recipe["model_stage"]).files[recipes.WEIGHTS].digest
    if found.weights == expected:
        found.verdict = "bit-equal"
        return found
    say("the weights are other bytes; its scores are compared")
    found.comparisons = _compare(recipe, storage, ray, run)
    same = bool(found.comparisons) and all(one.within for one in found.comparisons)
    found.verdict, found.exit_code = ("within", 0) if same else ("different", 1)
    return found


# --- what the registry holds ------------------------------------------------------------------------------------------


def fetch(uri: str, tracking_uri: str) -> tuple[dict[str, Any], str]:
    """A version's recipe, and its number. Raises BadInput, IntegrityError, Unavailable."""
    name, at, alias = uri.removeprefix(REGISTERED).partition("@")
    version = ""
    if not at:
        name, _, version = name.partition("/")
    if not uri.startswith(REGISTERED) or not name or not (alias or version):
        raise BadInput(f"{uri!r} names no registered model", hint="write models:/name@alias or models:/name/version")
    plain = registry.plain_uri(tracking_uri)
    if plain.startswith(registry.SQLITE) and not Path(plain.removeprefix(registry.SQLITE)).exists():
        raise BadInput(f"there is no MLflow database {plain.removeprefix(registry.SQLITE)}", hint="give --tracking")
    try:
        body, expected, version = _download(name, alias, version, plain)
    except OrchestratorError:
        raise
    except Exception as error:
        if error_code(error) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise BadInput(f"there is no {uri} in {registry.redact(plain)}", hint=brief(error)) from error
        raise registry.unavailable(plain, error) from error
    if hashlib.sha256(body).hexdigest() != expected:
        raise IntegrityError(f"the recipe of {uri} is not what was registered", hint="it was altered or damaged")
    recipe: dict[str, Any] = json.loads(body)
    if recipe["format"] > recipes.FORMAT:
        raise BadInput(f"the recipe of {uri} has format {recipe['format']}", hint="upgrade")
    return recipe, version


def _download(name: str, alias: str, version: str, uri: str) -> tuple[bytes, str, str]:
    """The recipe, the digest it was registered with, and the version's number."""
    from tempfile import TemporaryDirectory

    client = Patient(registry.connect(uri), limit_s=10.0)
    found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    number, digest = str(found.version), found.tags.get(recipes.TAG)
    if digest is None:
        raise BadInput(
            f"version {number} of {name} has no recipe", hint="it was registered by an earlier version of this"
        )
    from mlflow.artifacts import download_artifacts

    where = f"{client.get_model_version_download_uri(name, number).rstrip('/')}/{recipes.FILE}"
    with TemporaryDirectory() as folder:
        path = client.again(download_artifacts, artifact_uri=where, dst_path=folder, tracking_uri=uri)
        return Path(path).read_bytes(), str(digest), number


# --- then and here ------------------------------------------------------------------------------------------------------


def installed(recipe: Mapping[str, Any]) -> list[str]:
    """How this installation and machine differ from those of then, told before anything is run."""
    found = {}
    then = {name: value for name, value in recipe["machine"].items() if name != "threads"}  # the spec's `scale` decides
    for name, value in recipes.machine().items():
        if name in then and then[name] != value:
            found[f"{name} {then[name]} -> {value}"] = True
    for stage, one in recipe["stages"].items():
        for package, version in one["ingredients"].get("packages", {}).items():
            if keys.installed(package) != version:
                found[f"package {package} {version} -> {keys.installed(package) or 'none'}"] = True
        then_source = one["ingredients"].get("source", {})
        try:
            now = source.digests(then_source)
        except ModuleNotFoundError as error:
            found[f"{stage}: its source {error.name} is not here"] = True
            continue
        changed = [module for module in then_source if now.get(module) != then_source[module]]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            found[f"{stage}: source of {changed[0]}{more} changed"] = True
    return list(found)


def _differences(recipe: Mapping[str, Any], run: Run) -> list[str]:
    """What each stage's result depended on then and depends on here."""
    from orchestrator.cache import Cache

    cache, found = Cache(run.store), []
    for stage in run.record.stages:
        then, entry = recipe["stages"].get(stage.stage), cache.get(stage.key) if stage.key else None
        if then is None or entry is None:
            continue
        old = {**then["ingredients"], "source": {}, "packages": {}}  # told before
        new = {**entry.ingredients, "source": {}, "packages": {}}
        if stage.stage in recipe["frozen"]:  # what its search chose stands in its parameters here
            inputs = {port: digests for port, digests in old["inputs"].items() if port in new["inputs"]}
            old |= {"params": new["params"], "inputs": inputs}
        found += [f"{stage.stage}: {line}" for line in keys.differences(old, new)]
        if then["notes"] != stage.notes:
            found.append(f"{stage.stage}: came about otherwise: {then['notes']} -> {stage.notes}")
    return found


# --- the run and its scores -----------------------------------------------------------------------------------------------


def _run(
    recipe: Mapping[str, Any],
    storage: str,
    ray: bool,
    listener: Listener | None = None,
    sets: tuple[str, ...] = (),
) -> Run:
    """Run the recipe's pipeline up to the model (and its scores)."""
    from tempfile import TemporaryDirectory

    import yaml

    import orchestrator
    from orchestrator.execute import Options, execute

    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{recipe['pipeline']}.yaml"
        path.write_text(yaml.safe_dump(recipe["spec"], sort_keys=False, allow_unicode=True), "utf-8")
        plan = orchestrator.plan(path, storage=storage, until=recipe["target"], sets=sets)
        return execute(plan, listener=listener, options=Options(ray=ray, tracking=False))


def _compare(recipe: Mapping[str, Any], storage: str, ray: bool, run: Run) -> list[Comparison]:
    """Each registered score, and the interval of the rebuilt model's. Empty where none were registered."""
    if not recipe["scores"]:
        return []
    stage = run.record.stage(recipe["target"])
    first: dict[str, Any] = run.artifact(stage.stage).metadata["scores"]
    seed = int(run.artifact(stage.stage).metadata["seed"])
    values: dict[str, list[float]] = {metric: [] for metric in recipe["scores"]}
    for number in range(1, RESCORINGS + 1):
        again = _run(recipe, storage, ray, sets=(f"stages.{stage.name}.with.seed={seed + number}",))
        if again.exit_code:
            raise IntegrityError(f"the rebuilt model cannot be scored again: {again.record.error}")
        scores = again.artifact(stage.stage).metadata["scores"]
        for metric, found in values.items():
            found.append(float(scores[metric]["value"]))
    return [
        _interval(metric, float(then["value"]), float(first[metric]["value"]), values[metric])
        for metric, then in recipe["scores"].items()
    ]


def _interval(metric: str, registered: float, rebuilt: float, values: list[float]) -> Comparison:
    mean = statistics.fmean(values)
    half = T_95 * statistics.stdev(values) * math.sqrt(1 + 1 / len(values))
    half += 1e-9 * abs(mean)  # rounding, where a score does not vary at all
    return Comparison(metric, registered, rebuilt, mean - half, mean + half)


__all__ = ["Comparison", "Reproduction", "fetch", "installed", "reproduce"]

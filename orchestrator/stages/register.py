"""Register a model in MLflow, as something that others load without this package, and promote it if it is good enough.

A model that misses a requirement is registered as a version without the alias, with the reason, and the stage fails with
exit code 3: whoever knows better can still give it the alias by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator import gate
from orchestrator.errors import BadInput, GateRefused, Interrupted
from orchestrator.stage import Complaint, Context, Facts, Foresight, Stage

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact
    from orchestrator.mlflow_calls import Patient
    from orchestrator.promotion import Versions

MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,199}")
ALIAS = re.compile(r"(?!latest$)(?!v\d+$)[A-Za-z_][A-Za-z0-9_-]{0,199}", re.IGNORECASE)
PATIENCE_S = 15.0  # how long one call to MLflow is made again while it fails


@dataclass(frozen=True)
class Register(Stage):
    """Register a model in MLflow and give it an alias, if it meets what `require` says."""

    version: ClassVar[int] = 2
    inputs: ClassVar[dict[str, str]] = {"model": "model", "scores": "scores?"}
    outputs: ClassVar[dict[str, str]] = {"registration": "registration"}
    packages: ClassVar[tuple[str, ...]] = ("torch", "mlflow", "numpy")
    tracks: ClassVar[bool] = True

    model: str
    "Name of the registered model."
    alias: str | None = "champion"
    "Given to the version when every requirement is met; null: none."
    require: dict[str, Any] = field(default_factory=dict)
    "For a metric or one of its values (mode_coverage.high_quality): max, min, better_than: an alias."
    description: str = ""
    "Of the version."
    tags: dict[str, str] = field(default_factory=dict)
    "Of the version."

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        scores = inputs.get("scores")
        complaints = [*self._names(), *gate.check(self.require, scores.get("metrics") if scores else None)]
        if self.require and scores is None:
            hint = "add the evaluate stage to `inputs`: {scores: …}"
            complaints.append(Complaint((), "missing-input", "`require` needs the input `scores`", hint=hint))
        facts = {"model": self.model, "alias": self.alias}
        return Foresight({"registration": facts}, complaints)

    def _names(self) -> list[Complaint]:
        told = []
        if not MODEL.fullmatch(self.model) or self.model.endswith(".lock"):
            why = "it has letters, digits, space and _.- and does not end in .lock"
            told.append(Complaint(("model",), "bad-name", f"{self.model!r} cannot name a registered model", why))
        aliases: dict[tuple[str, ...], str | None] = {("alias",): self.alias}
        for name, conditions in self.require.items():
            if isinstance(conditions, Mapping) and isinstance(conditions.get("better_than"), str):
                aliases["require", name, "better_than"] = conditions["better_than"]
        for path, alias in aliases.items():
            if alias is not None and not ALIAS.fullmatch(alias):
                why = "it has letters, digits, _ and -, and is neither `latest` nor like `v1`"
                told.append(Complaint(path, "bad-name", f"{alias!r} cannot be an alias", why))
        return told

    def run(self, context: Context) -> dict[str, Artifact]:
        model: Artifact = context.inputs["model"]
        scores = self._scores(context, model)
        context.progress.update(0, 3, unit="steps", note="packaging")
        directory = _packaged(context, model)
        recipe = self._recipe(context, model, directory)
        context.progress.update(1, 3, unit="steps", note="registering")
        told = self._patiently(context, model, directory, scores, recipe)
        context.progress.update(3, 3, unit="steps")
        context.tracker.tags({f"registered.{name}": str(told[name]) for name in ("model", "version", "promoted")})
        if not told["met"]:
            self._refuse(told)
        body = json.dumps(told, indent=2, sort_keys=True).encode()
        return {"registration": context.store.put("registration", {"registration.json": body}, told)}

    def _scores(self, context: Context, model: Artifact) -> gate.Scores:
        artifact: Artifact | None = context.inputs.get("scores")
        if artifact is None:
            return {}
        if artifact.metadata.get("model", model.digest) != model.digest:
            raise BadInput("the scores are those of another model", hint="connect the evaluation of this model")
        scores: gate.Scores | None = artifact.metadata.get("scores")
        if scores is None:
            raise BadInput("the scores tell no metric", hint="connect an `evaluate` stage")
        return scores

    def _recipe(self, context: Context, model: Artifact, directory: Path) -> str:
        """Put beside the packaged model how it can be made again; returns the recipe's digest, "" where there is none."""
        from orchestrator import recipes

        written = recipes.write(context.store, context.run_id, context.stage, model, context.inputs.get("scores"))
        if written is None:
            return ""
        (directory / recipes.FILE).write_bytes(written[0])
        return written[1]

    def _patiently(
        self, context: Context, model: Artifact, directory: Path, scores: gate.Scores, recipe: str = ""
    ) -> dict[str, Any]:
        """Register and promote. Calls that fail are made again; nothing is done twice."""
        from mlflow.exceptions import MlflowException

        from orchestrator import registry
        from orchestrator.mlflow_calls import Patient

        uri = registry.plain_uri(registry.tracking_uri(context.store.url, context.tracking_uri or None))
        said: set[str] = set()

        def say(reason: str) -> None:
            if reason not in said:
                said.add(reason)
                context.progress.say(f"MLflow at {registry.redact(uri)} fails, trying again: {reason}")
            if context.stopping():
                raise Interrupted(15)

        try:
            client = Patient(registry.connect(uri), PATIENCE_S, say)
            return self._register(client, uri, context, model, directory, scores, recipe)
        except (MlflowException, OSError) as error:
            raise registry.unavailable(uri, error) from error

    def _register(
        self,
        client: Patient,
        uri: str,
        context: Context,
        model: Artifact,
        directory: Path,
        scores: gate.Scores,
        recipe: str,
    ) -> dict[str, Any]:
        from orchestrator import recipes
        from orchestrator.promotion import Versions, locked

        versions = Versions(client, self.model)
        source = run = ""
        if versions.find(model.digest) is None:  # the files first: only what takes a moment is done under the lock
            run = _mlflow_run(client, uri, context)
            source = _uploaded(client, run, directory)
        with locked(client, self.model) as still_ours:
            versions.tidy()
            version = versions.find(model.digest)
            if version is None:
                described = self.description or _description(context, model)
                tags = {recipes.TAG: recipe} if recipe else {}
                version = versions.create(model.digest, source, run, described, tags)
                versions.tidy()
            versions.keep_scores(version, scores)
            versions.tag(version, {"run_id": context.run_id, "pipeline": context.pipeline, **self.tags})
            findings, promoted = self._promote(versions, version, scores, still_ours)
        met = all(finding.passed for finding in findings)
        reason = "; ".join(finding.text for finding in findings if finding.passed is met) or "nothing is required"
        versions.tag(version, {"gate": ("passed: " if met else "refused: ") + reason})
        return {
            "model": self.model,
            "version": version,
            "alias": self.alias,
            "promoted": promoted,
            "met": met,
            "reason": reason,
            "findings": [finding.to_json() for finding in findings],
            "artifact": model.digest,
            "tracking_uri": uri,
        }

    def _promote(
        self, versions: Versions, version: str, scores: gate.Scores, still_ours: Callable[[], bool]
    ) -> tuple[list[gate.Finding], bool]:
        """Judge against whoever holds the aliases now, and move the alias, while nobody else can."""
        required = gate.requirements(self.require)
        rivals = {one.better_than for one in required if one.better_than}
        holders = {alias: versions.holder(alias) for alias in rivals}
        others = {alias: None if h and h.version == version else h for alias, h in holders.items()}
        findings = gate.judge(required, scores, others)
        if self.alias is None or not all(finding.passed for finding in findings):
            return findings, False
        if not still_ours():
            raise ConnectionError(f"the lock of {self.model} was taken over while it was being promoted")
        versions.promote(self.alias, version)
        return findings, True

    def _refuse(self, told: Mapping[str, Any]) -> None:
        aliased = f"without the alias {self.alias}" if self.alias else "but it is not good enough"
        raise GateRefused(
            f"{told['reason']}; {self.model} version {told['version']} is registered {aliased}",
            hint="the model and its scores are kept",
        )


def _packaged(context: Context, model: Artifact) -> Path:
    from orchestrator.packaging.export import package
    from trainers.generator import load_generator

    names = ("config.json", "model.safetensors")
    generator = load_generator({name: context.open(model, name) for name in names})
    described = {"pipeline": context.pipeline, "run_id": context.run_id, "artifact": model.digest}
    return package(generator, context.scratch / "model", metadata={"orchestrator": described})


def _uploaded(client: Patient, run: str, directory: Path) -> str:
    """Store the packaged model with its run; returns where."""
    from orchestrator import registry

    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        folder = Path("model", file.relative_to(directory)).parent
        registry.upload(client, run, file, folder.as_posix())
    return f"{client.get_run(run).info.artifact_uri.rstrip('/')}/model"


def _mlflow_run(client: Patient, uri: str, context: Context) -> str:
    """The MLflow run of this stage, which the tracker may not have told yet."""
    from orchestrator import registry

    where = registry.artifact_location(context.store.url, uri, context.pipeline)
    experiment = registry.experiment(client, context.pipeline, where)
    parent = registry.ensure_run(client, experiment, context.run_id)
    return registry.ensure_run(client, experiment, f"{context.run_id}/{context.stage}", parent=parent)


def _description(context: Context, model: Artifact) -> str:
    config = model.metadata.get("config", {}).get("variant", "generator")
    variant = config if isinstance(config, str) else next(iter(config), "generator")
    return f"{variant}, {model.metadata.get('step', '?')} steps, pipeline {context.pipeline}, run {context.run_id}"

"""Models to sample from: of a run, of a local file or directory, or registered in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import registry, runs
from orchestrator.artifacts import Artifact, ArtifactStore
from orchestrator.errors import BadInput
from orchestrator.mlflow_calls import error_code

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from orchestrator.runs import Run
    from trainers.generator import Generator

MODEL_FILES = ("config.json", "model.safetensors")
REGISTERED = "models:/"


@dataclass(frozen=True)
class LoadedRun:
    """A run's model. Loading reads nothing yet: the networks are built when first sampled."""

    run: Run
    model: Artifact
    stage: str

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def config(self) -> dict[str, Any]:
        """The train configuration, every default filled in."""
        return dict(self.model.metadata.get("config", {}))

    @property
    def scores(self) -> dict[str, Any]:
        """Metric -> value, values and protocol; {} when this model was not evaluated."""
        for _, artifact in self.run.artifacts("scores"):
            if artifact.metadata.get("model", self.model.digest) == self.model.digest:
                return dict(artifact.metadata.get("scores", {}))
        return {}

    @property
    def report_path(self) -> str | None:
        """Where the report is, None when the run has none yet."""
        return self.run.report

    @cached_property
    def generator(self) -> Generator:
        """The networks, on the CPU, averaged weights where there are some."""
        from trainers.generator import load_generator

        return load_generator({name: self.run.store.open(self.model, name) for name in MODEL_FILES})

    def sample(
        self,
        n: int,
        seed: int = 0,
        labels: Sequence[int] | None = None,
        *,
        source: NDArray[np.uint8] | None = None,
        truncation: float | None = None,
    ) -> NDArray[Any]:
        """`n` samples: uint8 (n, H, W, C) images or float32 (n, D) points; one seed gives one answer.

        `labels`: class ids for a conditional model (in turn when not given). `source`: uint8 (n, H, W, C) images for a
        translator (of its data set's test split when not given). `truncation` in (0, 1] scales normal latents.
        Raises BadInput for what this model cannot take.
        """
        from trainers.generator import as_float

        generator, options = self.generator, dict[str, Any](seed=seed, truncation=truncation)
        if generator.given == "labels":
            options["labels"] = in_turn(n, generator.num_labels) if labels is None else list(labels)
        elif labels is not None:
            raise BadInput(f"the model of run {self.run_id} is not conditional: it takes no labels")
        if generator.given == "images":
            options["source"] = as_float(self._sources(n, seed) if source is None else source)
        elif source is not None:
            raise BadInput(f"the model of run {self.run_id} takes no source images")
        try:
            return generator.images(n, **options)
        except ValueError as error:
            raise BadInput(str(error)) from error

    def _sources(self, n: int, seed: int) -> NDArray[np.uint8]:
        """Images of the first domain of the run's data set, chosen by the seed."""
        import torch

        from trainers.data import Prepared
        from trainers.draws import Draws

        found = self.run.artifacts("dataset")
        if not found:
            raise BadInput("this model translates images, and its data set is gone", hint="give source images")
        data = Prepared.open(self.run.store.directory(found[0][1]))
        split = data.split("test" if data.metadata["splits"].get("test") else "train")
        order = Draws(seed).permutation(("sources",), len(split))
        return split.raw(order[torch.arange(n) % len(split)])


def load(storage: str | ArtifactStore, run: str = "latest", *, stage: str | None = None) -> LoadedRun:
    """The model of a run: a run id, a pipeline's name (its newest run with a model), or "latest" of all.

    `stage` chooses where a run made several models. Raises BadInput when there is none.
    """
    store = ArtifactStore(storage) if isinstance(storage, str) else storage
    if runs.RUN_ID.fullmatch(run):
        return _loaded(runs.read(store, run), stage)
    for run_id in runs.ids(store, None if run == "latest" else run):
        candidate = runs.read(store, run_id)
        if candidate.artifacts("model"):
            return _loaded(candidate, stage)
    known = sorted({name.rsplit("-", 3)[0] for name in runs.ids(store)})
    hint = f"pipelines with runs there: {', '.join(known)}" if known else "there is no run there yet"
    raise BadInput(f"{run!r} is no run with a model, and no pipeline that made one, in {store.url}", hint=hint)


def _loaded(run: Run, stage: str | None) -> LoadedRun:
    made = run.artifacts("model")
    chosen = [(record, model) for record, model in made if stage is None or stage in (record.stage, record.name)]
    if len({model.digest for _, model in chosen}) > 1:
        names = ", ".join(record.stage for record, _ in chosen)
        raise BadInput(f"run {run.run_id} made several models: {names}", hint="choose one by `stage`")
    if not chosen:
        where = f"by stage {stage!r}" if stage else "yet"
        raise BadInput(f"run {run.run_id} made no model {where}", hint=f"its status is {run.status}")
    record, model = chosen[0]
    return LoadedRun(run, model, record.stage)


def sample_source(
    source: str,
    n: int,
    seed: int = 0,
    *,
    labels: Sequence[int] | None = None,
    truncation: float | None = None,
    storage: str = "runs",
    tracking_uri: str | None = None,
    stage: str | None = None,
) -> NDArray[Any]:
    """Samples, as `LoadedRun.sample` gives them, of a run id, pipeline or "latest" in `storage`, of a local model, or of
    `models:/name@alias` (or `models:/name/version`) in the MLflow at `tracking_uri` (default: of `storage`).

    A local model is the directory of a model artifact or of an MLflow model, or one of its files.
    """
    directory = _model_directory(Path(source))
    if source.startswith(REGISTERED):
        directory = download(source, registry.tracking_uri(storage, tracking_uri))
    elif directory is None:
        return load(storage, source, stage=stage).sample(n, seed, labels, truncation=truncation)
    if (directory / "MLmodel").is_file():
        return _sample_packaged(directory, n, seed, labels, truncation)
    return _sample_files(directory, n, seed, labels, truncation)


def _model_directory(path: Path) -> Path | None:
    """The model's directory when `path` is one, or lies in one."""
    for directory in (path, path.parent, path.parent.parent):
        whole = all((directory / name).is_file() for name in MODEL_FILES)
        if path.exists() and (whole or (directory / "MLmodel").is_file()):
            return directory
    return None


def download(uri: str, tracking_uri: str) -> Path:
    """The files of a registered model, `models:/name@alias` or `models:/name/version`.

    Raises BadInput when there is none, Unavailable when MLflow cannot be reached.
    """
    plain = registry.plain_uri(tracking_uri)
    name, at, alias = uri.removeprefix(REGISTERED).partition("@")
    version = ""
    if not at:
        name, _, version = name.partition("/")
    if not name or not (alias or version):
        raise BadInput(f"{uri!r} names no registered model", hint="write models:/name@alias or models:/name/version")
    try:
        client = registry.connect(plain)
        from mlflow.artifacts import download_artifacts

        if alias:
            version = str(client.get_model_version_by_alias(name, alias).version)
        where = client.get_model_version_download_uri(name, version)
        return Path(download_artifacts(artifact_uri=where, tracking_uri=plain))
    except Exception as error:
        if error_code(error) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise BadInput(
                f"there is no {uri} in {registry.redact(plain)}", hint=str(error).split("\n", 1)[0]
            ) from error
        raise registry.unavailable(plain, error) from error


def _sample_packaged(
    directory: Path, n: int, seed: int, labels: Sequence[int] | None, truncation: float | None
) -> NDArray[Any]:
    registry.quieten()
    import mlflow.pyfunc
    import numpy as np

    model = mlflow.pyfunc.load_model(str(directory))
    facts = (model.metadata.metadata or {}).get("generator", {})
    if facts.get("inputs") == "images":
        raise BadInput("this model translates images", hint="sample the run that made it, which has its data set")
    given = np.zeros(n, dtype=np.int64)
    if facts.get("inputs") == "classes":
        given = np.asarray(in_turn(n, facts["num_classes"]) if labels is None else labels, dtype=np.int64)
    elif labels is not None:
        raise BadInput("this model is not conditional: it takes no labels")
    params = {"seed": seed, "truncation": 1.0 if truncation is None else truncation}
    made: NDArray[Any] = model.predict(given, params=params)
    return made


def _sample_files(
    directory: Path, n: int, seed: int, labels: Sequence[int] | None, truncation: float | None
) -> NDArray[Any]:
    from trainers.generator import load_generator

    try:
        generator = load_generator(directory)
        if labels is None and generator.given == "labels":
            labels = in_turn(n, generator.num_labels)
        return generator.images(n, seed=seed, labels=labels, truncation=truncation)
    except ValueError as error:
        raise BadInput(f"{directory}: {error}") from error


def in_turn(n: int, classes: int) -> list[int]:
    """0, 1, 2, … classes - 1, 0, 1, …: n class ids."""
    return [i % max(classes, 1) for i in range(n)]

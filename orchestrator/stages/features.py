"""Train the small classifier whose features and confidence judge generated samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Gt, Interval

from orchestrator.errors import BadInput, Interrupted
from orchestrator.stage import Complaint, Context, Facts, Foresight, Stage

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.artifacts import Artifact, ArtifactStore

FILE = "classifier.safetensors"
SMALLEST, LARGEST = 8, 256  # pixels


@dataclass(frozen=True)
class Features(Stage):
    """Train a small classifier of the real data; search and evaluate measure in its features.

    A convolutional network for images, a perceptron for points. Data without labels is refused: measure it by `fid`, or by
    `{frechet_distance: {space: raw}}`.
    """

    version: ClassVar[int] = 1
    inputs: ClassVar[dict[str, str]] = {"dataset": "dataset"}
    outputs: ClassVar[dict[str, str]] = {"features": "features"}
    packages: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "numpy")

    epochs: Annotated[int, Interval(ge=1, le=10_000)] = 10
    "Passes over the training split (at least 200 steps)."
    max_steps: Annotated[int, Interval(ge=1)] = 3_000
    "Steps at most, however large the data set is."
    batch_size: Annotated[int, Interval(ge=2, le=65536)] = 64
    "Samples a step."
    lr: Annotated[float, Gt(0)] = 3e-3
    "Highest learning rate of the one cycle."
    dim: Annotated[int, Interval(ge=2, le=2048)] = 64
    "Features."
    width: Annotated[int, Interval(ge=4, le=512)] = 16
    "Channels of the first convolution."

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        shape = inputs.get("dataset", {}).get("shape")
        if not shape:
            return Foresight({"features": {"space": "classifier", "dim": self.dim}})
        known = {"space": "classifier", "dim": self.dim, "shape": shape, "num_classes": shape.get("num_classes")}
        return Foresight({"features": known}, _complaints(shape))

    def run(self, context: Context) -> dict[str, Artifact]:
        dataset: Artifact = context.inputs["dataset"]
        shape = dataset.metadata["shape"]
        if complaints := _complaints(shape):
            raise BadInput(complaints[0].what, hint=complaints[0].hint)
        settings = {"epochs": self.epochs, "max_steps": self.max_steps, "batch_size": self.batch_size, "lr": self.lr}
        job = Job(context.store, dataset, settings, self.dim, self.width, context.seed)
        threads = max(1, int(context.scale.cpus_per_worker))
        if context.cluster.disabled or (context.cluster.local and not context.scale.gpus_per_worker):
            trained = train(job, threads, "cpu", lambda *told: _tell(context, *told))
        else:
            trained = _train_remotely(job, context, threads)
        metadata = {"space": "classifier", "dim": self.dim, "shape": shape, **trained["metadata"]}
        context.tracker.metrics({key: value for key, value in metadata.items() if isinstance(value, float)})
        return {"features": context.store.put("features", {FILE: trained["file"]}, metadata)}


@dataclass(frozen=True)
class Job:
    """What the process that trains needs; the data travels through the store."""

    store: ArtifactStore
    dataset: Artifact
    settings: dict[str, Any]
    dim: int
    width: int
    seed: int


def _complaints(shape: Mapping[str, Any]) -> list[Complaint]:
    if shape.get("num_classes") is None:
        hint = "leave this stage out and measure by `fid`, or by {frechet_distance: {space: raw}}"
        return [Complaint((), "needs-labels", "features need labels, and this data set has none", "", hint)]
    sides = shape["size"][1:]
    if shape["kind"] == "image" and not SMALLEST <= min(sides) <= max(sides) <= LARGEST:
        what = f"features are made of images from {SMALLEST} to {LARGEST} pixels, these have {max(sides)}"
        return [Complaint((), "image-size", what, "", "change the data set's `image_size`")]
    return []


def _tell(context: Context, step: int, total: int, metrics: dict[str, float]) -> None:
    context.progress.update(step, total, metrics=metrics)
    context.tracker.metrics(metrics, step=step)
    if context.stopping():
        raise Interrupted(15)


def _train_remotely(job: Job, context: Context, threads: int) -> dict[str, Any]:
    """As one Ray task: the cluster has the GPU, or the larger machine."""
    context.cluster.check(context.scale, say=context.progress.say, stopping=context.stopping)
    import ray

    scale = context.scale
    options = {"num_cpus": scale.cpus_per_worker, "num_gpus": scale.gpus_per_worker, "max_retries": 3}
    task = ray.remote(**options)(train).remote(job, threads, "cuda" if scale.gpus_per_worker else "cpu")
    while not ray.wait([task], timeout=0.2)[0]:
        if context.stopping():
            ray.cancel(task, force=True)
            raise Interrupted(15)
    trained: dict[str, Any] = ray.get(task)
    context.progress.update(1, 1)
    return trained


def train(job: Job, threads: int, device: str, report: Any = None) -> dict[str, Any]:
    """Train and measure: {"file": bytes, "metadata": {…}}. The thread count is fixed, so that a seed means one result."""
    import tempfile
    from pathlib import Path

    import torch

    from trainers import classifier
    from trainers.data import Prepared

    data = Prepared.open(job.store.directory(job.dataset))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        architecture = classifier.of(data.shape, dim=job.dim, width=job.width)
        settings = classifier.Training(**job.settings)
        told = {} if report is None else {"report": report}
        made = classifier.train(data, architecture, settings, seed=job.seed, device=device, **told)
        measured = "test" if data.metadata["splits"].get("test") else "train"
        accuracy = classifier.accuracy(made, data, measured)
    finally:
        torch.set_num_threads(before)
    with tempfile.TemporaryDirectory() as folder:
        path: Path = Path(folder) / FILE
        made.save(path)
        facts = {
            "digest": made.digest,
            "num_classes": architecture.num_classes,
            f"{measured}_accuracy": accuracy,
            "num_train": len(data.split("train")),
        }
        return {"file": path.read_bytes(), "metadata": facts}

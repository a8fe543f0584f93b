"""Score a model: draw samples, hold them against real ones, write scores with their protocol, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from orchestrator.stage import Complaint, Context, Facts, Foresight, Stage
from trainers import plugins

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact
    from orchestrator.stages._scoring import Job, Scored

POINTS, IMAGES = 10_000, 2_000  # samples drawn unless told otherwise
CONFIDENCE = "class_confidence"  # always recorded where it can be


@dataclass(frozen=True)
class Evaluate(Stage):
    """Score a model against real samples, in shards over Ray tasks; the number of shards never changes a score."""

    version: ClassVar[int] = 1
    inputs: ClassVar[dict[str, str]] = {"dataset": "dataset", "model": "model", "features": "features?"}
    outputs: ClassVar[dict[str, str]] = {"scores": "scores"}
    packages: ClassVar[tuple[str, ...]] = ("torch", "numpy", "scipy")

    metrics: tuple[Any, ...] = ()
    "Names, or {name: {parameter: value}}; none: those that suit the data."
    num_samples: Annotated[int, Interval(ge=16, le=1_000_000)] | None = None
    "Samples to draw; none: 10,000 points or 2,000 images."
    split: Literal["train", "test"] = "train"
    "Real samples to hold them against. The literature takes train; test needs to be large."
    num_reference: Annotated[int, Interval(ge=16)] | None = None
    "Real samples to use, spread evenly over the split; none: all."
    batch_size: Annotated[int, Interval(ge=1, le=65536)] = 256
    "Samples drawn in one forward pass."
    seed: Annotated[int, Ge(0)] | None = None
    "Seed of the samples; none: the run's."

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        dataset, model = inputs.get("dataset", {}), inputs.get("model", {})
        offered = offers(dataset, "features" in inputs, model)
        complaints = [complaint for i, entry in enumerate(self.metrics) for complaint in _check(entry, i, offered)]
        complaints += _doubled(self.metrics)
        complaints += _features_complaints(inputs)
        split = dataset.get("splits", {}).get(self.split, 1)
        if not split:
            complaints.append(
                Complaint(("split",), "empty-split", f"the data set has no samples in split {self.split}")
            )
        if complaints:
            return Foresight({"scores": {}}, complaints)
        names = [_name(entry) for entry in self.chosen(dataset, "features" in inputs, model)]
        facts = {"metrics": {name: _described(name) for name in names}}
        return Foresight({"scores": facts}, plugins=[("metrics", name) for name in names], notes=_notes(names))

    def chosen(self, dataset: Facts, features: bool, model: Facts) -> tuple[Any, ...]:
        """The metrics as asked for, or those that suit; and the classifier's confidence where it can be had."""
        offered = offers(dataset, features, model)
        metrics = self.metrics or suiting(offered)
        names = [_name(entry) for entry in metrics]
        if CONFIDENCE not in names and {"features", "labels", "image"} <= offered and "translator" not in offered:
            metrics = (*metrics, CONFIDENCE)
        return tuple(metrics)

    def run(self, context: Context) -> dict[str, Artifact]:
        from orchestrator.stages import _scoring

        dataset, model, features = (context.inputs.get(port) for port in ("dataset", "model", "features"))
        if dataset is None or model is None:
            raise ValueError("evaluate needs the inputs dataset and model")
        metrics = self.chosen(dataset.metadata, features is not None, model.metadata)
        points = dataset.metadata["shape"]["kind"] == "points"
        protocol = _scoring.Protocol(
            metrics,
            self.num_samples or (POINTS if points else IMAGES),
            self.split,
            self.num_reference,
            context.seed if self.seed is None else self.seed,
            self.batch_size,
        )
        device = "cuda" if context.scale.gpus_per_worker else "cpu"
        job = _scoring.Job(context.store, dataset, model, features, protocol, device)
        try:
            scored = _scoring.score(job, context)
            figures = {"grid.png": _picture(job), **scored.figures}
        finally:
            _scoring.opened.cache_clear()
        return {"scores": _keep(scored, figures, job, context)}


def offers(dataset: Facts, features: bool, model: Facts) -> set[str] | frozenset[str]:
    """What metrics may need and is there; everything where the data set is not known yet."""
    shape = dataset.get("shape")
    if not shape:
        return {"image", "points", "labels", "mixture", "inception", *(["features"] if features else [])}
    found = {shape["kind"], "inception"}
    if _translates(model):
        found.add("translator")
        shape = shape.get("other") or shape
    found |= {"labels"} if shape.get("num_classes") is not None else set()
    found |= {"mixture"} if dataset.get("mixture") and "translator" not in found else set()
    return found | ({"features"} if features else set())


def suiting(offered: set[str] | frozenset[str]) -> tuple[Any, ...]:
    """Metrics for data that offers this."""
    if "mixture" in offered and "points" in offered:
        return ("mode_coverage", "frechet_distance")
    if "points" in offered or "features" in offered:
        return ("frechet_distance", "precision_recall", "nearest_neighbors")
    return ({"precision_recall": {"space": "raw"}}, "nearest_neighbors")


def _check(entry: Any, position: int, offered: set[str] | frozenset[str]) -> list[Complaint]:
    """Mistakes in one metric as written, and what it needs and the data does not have."""
    here: tuple[str | int, ...] = ("metrics", position)
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, params = next(iter(entry.items()))
        here = (*here, name)
    elif isinstance(entry, str):
        name, params = entry, None
    else:
        what = "a metric is a name, or one name with its parameters"
        return [
            Complaint(
                here, "wrong-type", what, "", "write `- frechet_distance` or `- {frechet_distance: {space: raw}}`"
            )
        ]
    if faults := plugins.check("metrics", name, params, here):
        return [Complaint(fault.path, fault.id, fault.what, fault.why, fault.hint) for fault in faults]
    complete = plugins.complete("metrics", name, params)
    missing = [need for need in _needs(name, complete) if not offered & set(need.split("|"))]
    return [Complaint(here, "unmet-need", *_wording(name, need, offered)) for need in missing]


def _needs(name: str, params: Mapping[str, Any]) -> list[str]:
    attributes = plugins.describe("metrics", name).attributes
    needs = set(attributes.get("needs", ()))
    for need, when in attributes.get("needs_when", {}).items():
        if any(params.get(param) in values for param, values in when.items()):
            needs.add(need)
    return sorted(needs)


def _wording(name: str, need: str, offered: set[str] | frozenset[str]) -> tuple[str, str, str]:
    """What is missing, why, and what to do."""
    if "features" in need:
        hint = "add a stage that uses features, and `inputs: {features: …}`"
        unlabelled = "" if "labels" in offered else "; without labels take `fid`, or {frechet_distance: {space: raw}}"
        return (
            f"metric {name} needs the input `features`",
            "it measures in the features of a classifier",
            hint + unlabelled,
        )
    words = {
        "image": ("images", "this data set holds points"),
        "points": ("points", "this data set holds images"),
        "labels": ("labels", "this data set has none"),
        "mixture": ("a mixture whose modes are known", "this data set has none"),
    }
    what, why = words.get(need, (need, ""))
    return f"metric {name} needs {what}", why, f"suitable: {', '.join(map(_name, suiting(offered)))}"


def _doubled(metrics: tuple[Any, ...]) -> list[Complaint]:
    names = [_name(entry) for entry in metrics]
    return [
        Complaint(("metrics", i), "duplicate", f"metric {name} is named twice", "scores are kept by name")
        for i, name in enumerate(names)
        if name in names[:i]
    ]


def _features_complaints(inputs: Mapping[str, Facts]) -> list[Complaint]:
    """A classifier of another data set's samples judges nothing."""
    ours, theirs = inputs.get("dataset", {}).get("shape"), inputs.get("features", {}).get("shape")
    if not ours or not theirs or list(ours["size"]) == list(theirs["size"]):
        return []
    what = f"the features are of samples {_size(theirs)}, the data set's are {_size(ours)}"
    return [Complaint((), "wrong-features", what, "", "train the features stage on the same data set")]


def _size(shape: Mapping[str, Any]) -> str:
    return "x".join(str(n) for n in shape["size"])


def _translates(model: Facts) -> bool:
    """Whether the model turns images into images, as far as its configuration says."""
    variant = model.get("config", {}).get("variant")
    name = next(iter(variant), None) if isinstance(variant, Mapping) else variant
    if not isinstance(name, str) or name not in plugins.names("variants"):
        return False
    return bool(plugins.describe("variants", name).attributes.get("given") == "images")


def _notes(names: list[str]) -> list[str]:
    from importlib.util import find_spec

    if "fid" in names and find_spec("torch_fidelity") is None:
        return ["fid needs the package torch-fidelity where it runs: install the extra `fid`"]
    return []


def _name(entry: Any) -> str:
    return str(next(iter(entry), "")) if isinstance(entry, Mapping) else str(entry)


def _described(name: str) -> dict[str, Any]:
    attributes = plugins.describe("metrics", name).attributes
    return {key: attributes[key] for key in ("direction", "primary", "directions")}


def _picture(job: Job) -> bytes:
    """The grid of samples (or the cloud of points) as training draws it."""
    from orchestrator.stages import _scoring
    from trainers.data import Prepared
    from trainers.loop import picture

    data = Prepared.open(job.store.directory(job.dataset))
    return picture(_scoring.opened(job).generator, data)


def _keep(scored: Scored, figures: Mapping[str, bytes], job: Job, context: Context) -> Artifact:
    import json

    from trainers.evaluation import flat

    values = flat(scored.results)
    metadata = {
        "scores": scored.results,
        "values": values,
        "metrics": {name: _described(name) for name in scored.results},
        "num_samples": scored.num_samples,
        "seed": job.protocol.seed,
        "model": job.model.digest,
    }
    context.tracker.metrics(values)
    for name, png in figures.items():
        context.tracker.figure(name, png)
    text = json.dumps(metadata, indent=2, sort_keys=True, allow_nan=False) + "\n"
    return context.store.put("scores", {"scores.json": text.encode(), **figures}, metadata)

"""Prepare a data set: from any source to memory-mapped shards of one size, made by Ray tasks side by side."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from annotated_types import Ge, Gt, Interval

from orchestrator.errors import BadInput, Interrupted, Unavailable
from orchestrator.failures import TaskLost
from orchestrator.stage import Complaint, Context, Facts, Foresight, Stage
from trainers import plugins
from trainers.core import DataShape
from trainers.dataset import DataError, UnreachableError

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore, FileRef
    from trainers.dataset import Opened
    from trainers.shards import Place, Recipe

AUGMENT = {"flip": False, "crop": 0}
NAMED_CORRUPT = 100  # unreadable examples named in the metadata; index.json names them all
SAID_CORRUPT = 20  # told as they are met
POLL_S = 0.25
FEW = 200_000  # points: made before a process for them would have begun


class Chosen(NamedTuple):
    """A data set as the spec names it."""

    name: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Prepare(Stage):
    """Bring a data set to one size, split it, and store it as memory-mapped shards.

    Images are centre-cropped to a square and resized bicubically with antialiasing. What cannot be read is left out,
    named and counted.
    """

    outputs: ClassVar[dict[str, str]] = {"dataset": "dataset"}
    packages: ClassVar[tuple[str, ...]] = ("numpy", "pillow")

    dataset: Any
    """The data set: a name, or {name: {parameter: value}}."""
    image_size: Annotated[int, Interval(ge=4, le=1024)] | None = None
    """Height and width of the images, in pixels; the data set's usual size unless given."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour; as the data set has them unless given."""
    subset: Annotated[float, Gt(0)] | None = None
    """At most 1: this share of the examples; above: so many. Chosen by the seed."""
    split: dict[str, Annotated[float, Interval(gt=0, le=1)]] | None = None
    """Shares that add up to 1, "train" among them; the data set's own splits, else 0.8 and 0.2, unless given."""
    augment: dict[str, Any] = field(default_factory=dict)
    """flip: mirror half of the images; crop: pixels to pad by before cropping at random. Drawn while training."""
    num_shards: Annotated[int, Ge(1)] | None = None
    """Tasks that share the work; one for each shard unless given. The result is the same."""

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        """The shape of what it will make, and every mistake in the parameters."""
        try:
            chosen = self._chosen()
        except ValueError as error:
            return Foresight(complaints=[Complaint(("dataset",), "wrong-type", str(error))])
        path = ("dataset", chosen.name) if isinstance(self.dataset, Mapping) else ("dataset",)
        faults = plugins.check("datasets", chosen.name, chosen.params, path)
        complaints = [Complaint(f.path, f.id, f.what, f.why, f.hint) for f in faults]
        complaints += [*_check_split(self.split), *_check_augment(self.augment)]
        if any(fault.id in ("unknown-dataset", "broken-plugin") for fault in faults):
            return Foresight(complaints=complaints)
        about = plugins.describe("datasets", chosen.name).attributes
        if missing := [key for key in ("kind", "channels", "num_classes") if key not in about]:
            what = f"datasets/{chosen.name}.py does not state {', '.join(missing)}"
            return Foresight(complaints=[Complaint(path, "broken-plugin", what, "", "see trainers/dataset.py")])
        points = about["kind"] == "points"
        complaints += self._check_points(chosen.name) if points else self._check_image(chosen.name, about)
        if complaints:
            return Foresight(complaints=complaints)
        # The same data in any number of shards.
        params = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "num_shards"}
        params["dataset"] = {chosen.name: plugins.complete("datasets", chosen.name, chosen.params)}
        facts = self._facts(chosen.name, about)
        return Foresight({"dataset": facts}, plugins=[("datasets", chosen.name)], params=params)

    def _chosen(self) -> Chosen:
        """`name` or `{name: {parameter: value}}`. Raises ValueError for anything else."""
        match self.dataset:
            case str(name):
                return Chosen(name, {})
            case Mapping() as one if len(one) == 1:
                name, params = next(iter(one.items()))
                if params is None or isinstance(params, Mapping):
                    return Chosen(str(name), dict(params or {}))
        raise ValueError("dataset must be a name or {name: {parameter: value}}")

    def _check_points(self, name: str) -> Iterator[Complaint]:
        for key in ("image_size", "channels"):
            if getattr(self, key) is not None:
                yield Complaint(
                    (key,), "not-for-points", f"{name} holds points: {key} says nothing", "", "leave it out"
                )
        for key, value in self.augment.items():
            if value and key in AUGMENT:
                what = f"{name} holds points, which cannot take {key}"
                yield Complaint(("augment", key), "not-for-points", what, "", "leave it out")

    def _check_image(self, name: str, about: Mapping[str, Any]) -> Iterator[Complaint]:
        if self.channels is not None and about["channels"] not in (1, 3, self.channels):
            what = f"{name} has {about['channels']} channels, which cannot become {self.channels}"
            yield Complaint(("channels",), "channels", what, "", "leave `channels` out")
        size, crop = self.image_size or about["image_size"], self.augment.get("crop", 0)
        if isinstance(crop, int) and crop > size // 2:
            what = f"a crop of {crop} pixels is more than half of the image's {size}"
            yield Complaint(("augment", "crop"), "out-of-range", what)

    def _facts(self, name: str, about: Mapping[str, Any]) -> Facts:
        """Of the artifact's metadata, what needs no data. `mixture` only tells how many components there are."""
        shape = self._shape(about, about["num_classes"])
        if about["domains"] == 2:
            shape = DataShape(shape.kind, shape.size, shape.num_classes, shape.bounded, other=shape)
        return {
            "dataset": name,
            "shape": shape.to_json(),
            "domains": about["domains"],
            "mixture": {"components": about["components"]} if about["components"] else None,
            "augment": {**AUGMENT, **self.augment},
        }

    def _shape(self, about: Mapping[str, Any], num_classes: int | None) -> DataShape:
        if about["kind"] == "points":
            return DataShape("points", (about["channels"],), num_classes, bounded=False)
        size = self.image_size or about["image_size"]
        return DataShape("image", (self.channels or about["channels"], size, size), num_classes)

    def fingerprint(self) -> dict[str, Any]:
        """What the data set says of the bytes it reads: sizes, times and checksums."""
        chosen = self._chosen()
        if not plugins.describe("datasets", chosen.name).attributes.get("external"):
            return {}
        with explained():
            found = plugins.build("datasets", chosen.name, chosen.params).resolve().fingerprint()
        return dict(found)

    def run(self, context: Context) -> dict[str, Artifact]:
        """Open the data set once to lay out its shards, have them made, and name them in one artifact."""
        from trainers import shards

        chosen = self._chosen()
        with explained():
            recipe = self._recipe(chosen, context)
            opened = recipe.dataset.open(context.seed)
            places = shards.places(opened, recipe)
            made = _make_all(context, opened, recipe, places, self.num_shards or len(places))
            artifact = self._store(context, opened, recipe, made)
        _tell(context, artifact)
        return {"dataset": artifact}

    def _recipe(self, chosen: Chosen, context: Context) -> Recipe:
        from trainers.shards import Recipe

        about = plugins.describe("datasets", chosen.name).attributes
        image = about["kind"] == "image"
        return Recipe(
            dataset=plugins.build("datasets", chosen.name, chosen.params).resolve(),
            name=chosen.name,
            seed=context.seed,
            image_size=(self.image_size or about["image_size"]) if image else None,
            channels=(self.channels or about["channels"]) if image else None,
            subset=self.subset,
            fractions=tuple(self.split.items()) if self.split else None,
            token=f"{context.run_id}/{context.stage}",
        )

    def _store(self, context: Context, opened: Opened, recipe: Recipe, made: Sequence[Made]) -> Artifact:
        """The artifact of all shards. Raises DataError where nothing of a split could be read."""
        corrupt = [name for one in made for name in one.corrupt]
        splits: dict[str, Any] = {}
        for one in made:
            sides = splits.setdefault(one.place.split, {"shards": [], "other": []})
            if one.rows:
                x, y = f"{one.place.stem}.x.npy", f"{one.place.stem}.y.npy" if one.y else None
                sides["other" if one.place.other else "shards"].append({"x": x, "y": y, "rows": one.rows})
        for name, sides in splits.items():
            if not sides["shards"] or (opened.other and not sides["other"]):
                raise DataError(f"nothing of split {name} could be read", "; ".join(corrupt[:3]))
        if len({one.y is None for one in made if one.rows}) > 1:
            raise DataError(f"data set {recipe.name} labels some examples and others not")
        metadata = self._metadata(opened, recipe, made, splits)
        metadata |= {"corrupt": corrupt[:NAMED_CORRUPT], "num_corrupt": len(corrupt)}
        index = {"format": 1, "metadata": metadata, "splits": splits, "corrupt": corrupt}
        files: dict[str, bytes | FileRef] = {"index.json": json.dumps(index, sort_keys=True).encode()}
        for one in (one for one in made if one.rows):
            files[f"{one.place.stem}.x.npy"] = one.x
            if one.y:
                files[f"{one.place.stem}.y.npy"] = one.y
        return context.store.put("dataset", files, metadata)

    def _metadata(
        self, opened: Opened, recipe: Recipe, made: Sequence[Made], splits: Mapping[str, Any]
    ) -> dict[str, Any]:
        about = plugins.describe("datasets", recipe.name).attributes
        labelled = any(one.y for one in made)
        known = len(opened.classes) if opened.classes else about["num_classes"]
        shape = self._shape(about, known if labelled else None)
        if opened.other:
            shape = DataShape(shape.kind, shape.size, shape.num_classes, shape.bounded, other=shape)
        return {
            "dataset": recipe.name,
            "shape": shape.to_json(),
            "splits": {name: sum(shard["rows"] for shard in sides["shards"]) for name, sides in splits.items()},
            "classes": list(opened.classes) if opened.classes and labelled else None,
            "domains": 2 if opened.other else 1,
            "mixture": opened.mixture.to_json() if opened.mixture else None,
            "augment": {**AUGMENT, **self.augment},
        }


# --- parameters -------------------------------------------------------------------------------------------------------


def _check_split(split: Mapping[str, float] | None) -> Iterator[Complaint]:
    if split is None:
        return
    if "train" not in split:
        yield Complaint(("split",), "split", "a split needs a share for 'train'", "", "{train: 0.8, test: 0.2}")
    for name in split:
        if not str(name).isidentifier() or not str(name).isascii() or len(str(name)) > 40:
            yield Complaint(
                ("split", name), "bad-name", f"'{name}' is no name for a split", "", "letters, digits and _"
            )
    if split and abs(sum(split.values()) - 1) > 1e-6:
        what = f"the shares of a split add up to {sum(split.values()):g}"
        yield Complaint(("split",), "split", what, "they must add up to 1", "use `subset` to take less than everything")


def _check_augment(augment: Mapping[str, Any]) -> Iterator[Complaint]:
    for key, value in augment.items():
        if key not in AUGMENT:
            what = f"augment has no key '{key}'"
            yield Complaint(("augment", key), "unknown-key", what, "", plugins.suggest(key, AUGMENT))
        elif key == "flip" and not isinstance(value, bool):
            yield Complaint(("augment", key), "wrong-type", "flip must be true or false")
        elif key == "crop" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            yield Complaint(("augment", key), "wrong-type", "crop must be a number of pixels, 0 or more")


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """What the data set raises, as the engine's kinds of errors."""
    try:
        yield
    except UnreachableError as error:
        raise Unavailable(str(error.args[0]), hint=error.hint) from error
    except DataError as error:
        raise BadInput(str(error.args[0]), hint=error.hint) from error


# --- making shards ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """The small record of a stored shard."""

    place: Place
    rows: int
    x: FileRef
    y: FileRef | None
    corrupt: tuple[str, ...]


def _make_all(context: Context, opened: Opened, recipe: Recipe, places: Sequence[Place], num_tasks: int) -> list[Made]:
    """Every shard, in order; on Ray unless the run works without it."""
    groups = [list(places[i::num_tasks]) for i in range(min(num_tasks, len(places)))]
    total = sum(place.stop - place.start for place in places)
    made: dict[str, Made] = {}
    said: list[str] = []

    def hear(news: Sequence[Made]) -> None:
        for one in news:
            made[one.place.stem] = one
            for name in one.corrupt[: max(SAID_CORRUPT - len(said), 0)]:
                said.append(name)
                context.progress.say(f"left out {name}")
        done = sum(one.place.stop - one.place.start for one in made.values())
        context.progress.update(done, total, unit="examples", note=f"shard {len(made)}/{len(places)}")

    context.progress.update(0, total, unit="examples")
    few = recipe.image_size is None and total <= FEW
    if few or context.cluster is None or context.cluster.disabled:
        for group in groups:
            for place in group:
                if context.stopping():
                    raise Interrupted(15)
                hear([_make(context.store, opened, recipe, place)])
    else:
        _make_on_ray(context, recipe, groups, hear)
    return [made[place.stem] for place in places]


def _make_on_ray(
    context: Context, recipe: Recipe, groups: Sequence[Sequence[Place]], hear: Callable[[Sequence[Made]], None]
) -> None:
    """One task for each group, `max_concurrent` at a time; a task whose worker dies runs again."""
    context.cluster.start()
    import ray

    work = ray.remote(num_cpus=context.scale.cpus_per_worker, max_retries=context.max_failures)(_make_group)
    shared = (context.store, recipe)  # small, and not put: Ray ends the driver where a node dies that holds its objects
    waiting: list[Sequence[Place]] = list(groups)
    running: list[Any] = []
    most = context.scale.max_concurrent or len(groups)
    try:
        while waiting or running:
            while waiting and len(running) < most:
                running.append(work.remote(shared, waiting.pop(0)))
            ready, running = ray.wait(running, timeout=POLL_S)
            for task in ready:
                hear(ray.get(task))
            if context.stopping():
                raise Interrupted(15)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise TaskLost(f"a worker was lost while preparing data: {str(error).splitlines()[0]}") from error
    finally:
        for task in running:
            ray.cancel(task)


_opened: dict[str, Opened] = {}  # what this worker has open: one data set serves all of its tasks


def _make_group(shared: tuple[ArtifactStore, Recipe], places: Sequence[Place]) -> list[Made]:
    """A Ray task: some shards, stored; small records come back."""
    store, recipe = shared
    key = repr(recipe)
    if key not in _opened:
        _opened.clear()
        _opened[key] = recipe.dataset.open(recipe.seed)
    return [_make(store, _opened[key], recipe, place) for place in places]


def _make(store: ArtifactStore, opened: Opened, recipe: Recipe, place: Place) -> Made:
    from trainers import shards

    shard = shards.make(opened, recipe, place)
    y = None if shard.label is None else store.blob(_npy(shard.label))
    return Made(place, len(shard.x), store.blob(_npy(shard.x)), y, shard.corrupt)


def _npy(array: Any) -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _tell(context: Context, artifact: Artifact) -> None:
    """Counts, and a picture of the first examples, in the stage's MLflow run."""
    import numpy as np

    from trainers import pictures

    facts = artifact.metadata
    if facts["num_corrupt"]:
        context.progress.say(f"unreadable and left out: {facts['num_corrupt']} of the examples, named in index.json")
    counts = {f"examples/{name}": n for name, n in facts["splits"].items()}
    context.tracker.metrics({**counts, "examples/corrupt": facts["num_corrupt"]})
    name = min(name for name in artifact.files if name.startswith("train-") and name.endswith(".x.npy"))
    first = np.load(context.open(artifact, name), mmap_mode="r", allow_pickle=False)[:64]
    whole = pictures.grid(first) if first.ndim == 4 else pictures.scatter(first, first)
    context.tracker.figure("examples.png", pictures.png(whole))


__all__ = ["Prepare"]

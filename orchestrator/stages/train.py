"""Train a GAN: from a prepared data set to a model, on one or more Ray Train workers.

What the user writes under `with` wins over a search's winner (port `config`), which wins over the variant's defaults. The
truth about progress are our own committed checkpoints: a killed worker, run or machine goes on from the newest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from orchestrator import losses
from orchestrator.errors import BadInput, Diverged, IntegrityError, Interrupted, StageFailed
from orchestrator.space import flat
from orchestrator.stage import Checkpoints, Complaint, Context, Facts, Foresight, Stage

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore
    from orchestrator.workers import Ended, Seat
    from trainers.config import TrainConfig

SMALLEST = 2  # samples at once: fewer have no variance
KEPT_FACTS = ("shape", "dataset", "classes", "mixture")
COMPATIBILITY = (
    "incompatible",
    "no-effect",
    "backbone-kind",
    "image-size",
)  # faults that depend on the whole configuration


@dataclass(frozen=True)
class Train(Stage):
    """Train a model. The keys are those of the train configuration; what is left out comes from `config` or the variant."""

    version: ClassVar[int] = 1
    inputs: ClassVar[dict[str, str]] = {
        "dataset": "dataset",
        "config": "search?",
        "model": "model?",
        "features": "features?",
    }
    outputs: ClassVar[dict[str, str]] = {"model": "model"}
    packages: ClassVar[tuple[str, ...]] = ("torch", "safetensors", "numpy")
    ahead: ClassVar[tuple[str, ...]] = ("ray.train",)
    extends: ClassVar[str | None] = "total_steps"

    variant: Any = None
    "The objective: a name, or {name: {parameter: value}}."
    hacks: Any = None
    "Training tricks: a list of names and {name: {parameter: value}}, or one mapping."
    backbone: Any = None
    "The networks: a name, {name: {parameter: value}}, or one for each side: {generator: …, critic: …}."
    optimizers: dict[str, Any] | None = None
    "For each role (generator, critic, autoencoder): name, lr, betas, schedule, …"
    total_steps: Annotated[int, Ge(1)] | None = None
    "Steps of the whole training; a finished training goes on when this grows."
    batch_size: Annotated[int, Interval(ge=2, le=65536)] | None = None
    "Samples a step, over all workers."
    microbatch: Annotated[int, Ge(1)] | None = None
    "Samples a worker handles at once, gradients accumulated."
    precision: Literal["float32", "float64", "bf16"] | None = None
    "bf16 is autocast; parameters stay float32."
    log_every: Annotated[int, Ge(1)] | None = None
    "Steps between logged losses."
    sample_every: Annotated[int, Ge(1)] | None = None
    "Steps between sample grids."
    checkpoint_every: Annotated[int, Ge(1)] | None = None
    "Steps between checkpoints."
    init: str | None = None
    "Start from these weights: models:/name@alias, or the directory of a model."

    @property
    def given(self) -> dict[str, Any]:
        """What the user wrote."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        from trainers import config

        dataset = inputs.get("dataset", {})
        known = {key: dataset[key] for key in KEPT_FACTS if key in dataset}
        user, is_open = self._merged(inputs)
        faults = config.check(user, dataset)
        if is_open:  # the search may still choose what fits
            faults = [fault for fault in faults if fault.id not in COMPATIBILITY or "variant" in self.given]
        complaints = [Complaint(*_mine(f.path, self.given), f.id, f.what, f.why, f.hint) for f in faults]
        if self.init is not None and "model" in inputs:
            complaints.append(
                Complaint(("init",), "two-sources", "`init` and the input `model` both give the first weights")
            )
        if complaints:
            return Foresight({"model": known}, complaints)
        resolved = config.resolve(user, facts=dataset, checked=True)
        if is_open:
            return Foresight({"model": known}, plugins=resolved.plugins() if "variant" in self.given else ())
        whole = resolved.to_json()
        metadata = {**known, "config": whole, "step": resolved.settings.total_steps}
        return Foresight({"model": metadata}, plugins=resolved.plugins(), params=whole)

    def _merged(self, inputs: Mapping[str, Facts]) -> tuple[dict[str, Any], bool]:
        """The user's values over the winner's, and whether the winner is still open."""
        from trainers import config

        if "config" not in inputs:
            return self.given, False
        winner = inputs["config"].get("winner")
        return (self.given, True) if winner is None else (config.merge(winner, self.given), False)

    def run(self, context: Context) -> dict[str, Artifact]:
        from orchestrator.artifacts import Artifact
        from trainers import config, plugins

        dataset: Artifact = context.inputs["dataset"]
        facts = {port: one.metadata for port, one in context.inputs.items()}
        try:
            resolved = config.resolve(self._merged(facts)[0], facts=dataset.metadata)
        except plugins.BadParametersError as error:
            raise BadInput(str(error)) from error
        if resolved.settings.batch_size % context.scale.num_workers:
            raise BadInput(
                f"batch_size {resolved.settings.batch_size} cannot be shared equally by {context.scale.num_workers} workers"
            )
        job = Job(resolved, context.seed, context.store, context.checkpoints, dataset, _init(resolved, context))
        context.tracker.params(flat(resolved.to_json()))
        return {"model": Artifact.from_json(_fit(job, context))}


@dataclass(frozen=True)
class Job:
    """What a worker needs. It is pickled: data and weights travel through the store."""

    config: TrainConfig
    seed: int
    store: ArtifactStore
    checkpoints: Checkpoints
    dataset: Artifact
    init: Artifact | None
    microbatch: int | None = None  # smaller than the configuration's, since memory ran out

    @property
    def running(self) -> TrainConfig:
        """The configuration that is worked with: the results carry `config`."""
        if self.microbatch is None:
            return self.config
        return replace(self.config, settings=replace(self.config.settings, microbatch=self.microbatch))

    def at_once(self, workers: int) -> int:
        """Samples that a worker handles at once."""
        share = self.config.settings.batch_size // workers
        return min(self.microbatch or self.config.settings.microbatch or share, share)


class OutOfMemory(StageFailed):
    """Memory ran out, and a smaller microbatch is impossible or did not help."""

    kind = "out_of_memory"


def _fit(job: Job, context: Context) -> dict[str, Any]:
    """Train; once, where memory runs out, with half the microbatch."""
    from orchestrator.workers import Ended

    listener = Listener(context, job.config.settings.total_steps)
    ended = _ended(job, context, listener)
    if isinstance(ended, Ended) and ended.kind == losses.MEMORY:
        smaller = _smaller(job, context, ended)
        listener.shrunk(job.at_once(context.scale.num_workers), smaller.at_once(context.scale.num_workers))
        ended = _ended(smaller, context, listener)
        if isinstance(ended, Ended) and ended.kind == losses.MEMORY:
            raise OutOfMemory(
                f"out of memory again, with microbatch {smaller.microbatch}: {ended}",
                hint="lower batch_size or set microbatch, take smaller networks, or give the workers more memory",
            )
    if isinstance(ended, Ended):
        raise _told(ended)
    listener.close()
    return ended


def _smaller(job: Job, context: Context, ended: Ended) -> Job:
    """The same with half the microbatch. Raises OutOfMemory where the batch cannot be split."""
    size = job.at_once(context.scale.num_workers)
    coupled = _coupled(job.config)
    if coupled or size < SMALLEST * 2:
        why = f"{', '.join(coupled)} compare the samples of a batch" if coupled else f"{size} samples at once are few"
        raise OutOfMemory(
            f"out of memory at batch {size} ({ended}); not tried with a smaller microbatch: {why}",
            hint="lower batch_size, take smaller networks, or give the workers more memory",
        )
    half = size // 2
    context.notes["out_of_memory"] = {"batch": size, "microbatch": half, "step": ended.facts.get("step")}
    context.tracker.tags({"microbatch": str(half), "out_of_memory": f"at batch {size}"})
    return replace(job, microbatch=half)


def _coupled(config: TrainConfig) -> list[str]:
    """What in a configuration has losses that only the whole batch has."""
    from trainers import plugins

    named = [name for name in config.plugins() if name[0] in ("variants", "hacks")]
    return [name for kind, name in named if plugins.describe(kind, name).attributes.get("coupled")]


def _ended(job: Job, context: Context, listener: Listener) -> dict[str, Any] | Ended:
    """What training came to: the model's record, or why it ended."""
    from orchestrator.workers import Ended, run_group, run_here

    try:
        if context.cluster.disabled:
            made = run_here(train, job, hear=listener, stopping=context.stopping)
        else:
            say, stopping = context.progress.say, context.stopping
            context.cluster.check(context.scale, context.store.files.local, say=say, stopping=stopping)
            made = run_group(
                train,
                job,
                cluster=context.cluster,
                scale=context.scale,
                scratch=context.scratch,
                max_failures=context.max_failures,
                hear=listener,
                stopping=context.stopping,
                committed=lambda: max(context.checkpoints.steps(), default=0),
            )
    except Ended as ended:
        return ended
    return dict(made)


def _told(ended: Ended) -> Exception:
    if ended.kind == "diverged":
        return Diverged(str(ended), hint="lower the learning rates, or use an objective with a bounded critic")
    if ended.kind == "stopped":
        return Interrupted(15)
    if ended.kind == "mismatch":
        hint = f"to train from the start, remove {ended.facts['folder']} from the storage"
        return IntegrityError(f"training cannot go on: {ended}", hint=hint)
    return BadInput(str(ended))


class Listener:
    """Passes what workers tell on to progress and tracking."""

    def __init__(self, context: Context, total: int) -> None:
        self._progress, self._tracker, self._total = context.progress, context.tracker, total
        self._lost = self._shrunk = ""

    def shrunk(self, size: int, half: int) -> None:
        """Memory ran out at `size` samples at once; it goes on with `half`."""
        self._shrunk = f"out of memory at batch {size}: continued with microbatch {half} (gradients accumulated)"

    def __call__(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "step":
                self._progress.update(event["step"], event["total_steps"], metrics=event["metrics"])
                self._tracker.metrics(event["metrics"], step=event["step"])
            case "figure":
                self._tracker.figure(event["name"], event["png"])
            case "lost":
                self._lost = event["line"]
                self._progress.update(0, self._total, note=f"{self._lost}; the group starts again")
            case "start":
                self._started(event["step"])
            case "say":
                self._progress.say(event["line"])

    def _started(self, step: int) -> None:
        """One line says what happened and what was done."""
        if self._shrunk:
            self._progress.say(f"{self._shrunk} at step {step}")
        elif self._lost:
            self._progress.say(f"{self._lost}, {f'resumed at step {step}' if step else 'started again from step 0'}")
        elif step:
            self._progress.say(f"training goes on from step {step}")
        self._lost = self._shrunk = ""
        self._progress.update(step, self._total)

    def close(self) -> None:
        self._progress.update(self._total, self._total)


def _init(config: TrainConfig, context: Context) -> Artifact | None:
    """The model whose weights are taken over, as an artifact of the store, so that every worker can read it."""
    given: Artifact | None = context.inputs.get("model")
    where = config.settings.init
    if given is not None or where is None:
        return given
    folder = _downloaded(where, context) if where.startswith("models:/") else Path(where).expanduser()
    found = sorted(folder.rglob("model.safetensors"))
    if not found:
        raise BadInput(f"init: there is no model.safetensors in {where}")
    return context.store.put("model", {"model.safetensors": found[0]}, {})


def _downloaded(uri: str, context: Context) -> Path:
    import mlflow

    try:
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(context.scratch / "init"), tracking_uri=context.tracking_uri or None
        )
    except mlflow.exceptions.MlflowException as error:
        raise BadInput(f"init: {uri} cannot be read: {str(error).splitlines()[0]}") from error
    return Path(path)


def train(job: Job, seat: Seat) -> dict[str, Any] | None:
    """One worker's part. Worker 0 stores the model and returns its record as JSON."""
    from orchestrator.workers import Ended
    from trainers import checkpoint, loop
    from trainers.data import Prepared
    from trainers.distributed import Workers

    job.store.told = lambda line: seat.tell({"event": "say", "line": line})
    shown: set[str] = set()

    def report(event: dict[str, Any]) -> None:
        seat.tell({"event": "step", **event})
        show()

    def show() -> None:
        for name in sorted(training.grids.keys() - shown):
            shown.add(name)
            seat.tell({"event": "figure", "name": name, "png": training.grids[name]})

    try:
        training = loop.open_training(
            job.running,
            Prepared.open(job.store.directory(job.dataset)),
            seed=job.seed,
            checkpoints=job.checkpoints,
            report=report,
            stop=seat.stopping,
            say=lambda line: seat.tell({"event": "say", "line": line}),
            workers=Workers(seat.rank, seat.size),
            device=seat.device,
            init={name: job.store.open(job.init, name) for name in job.init.files} if job.init else None,
        )
        if seat.rank == 0:
            seat.tell({"event": "start", "step": training.step})
        training.run()
        training.game.config = job.config  # the model carries what was asked for
        fitted = training.finish()
    except loop.NotFinite as error:
        kept = f"the state of step {error.kept} is kept" if error.kept else "nothing was saved before"
        raise Ended("diverged", f"training diverged: {error}; {kept}", step=error.step) from error
    except loop.Stopped as error:
        raise Ended("stopped", str(error), step=error.step) from error
    except checkpoint.Mismatch as error:
        raise Ended("mismatch", str(error), folder=getattr(job.checkpoints, "folder", "checkpoints")) from error
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        raise Ended(losses.MEMORY, _first_line(error)) from error
    if seat.rank > 0:
        return None
    show()
    return job.store.put("model", fitted.files, fitted.metadata).to_json()


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on the device or beside it (where torch raises no kind of its own)."""
    import torch

    signs = ("can't allocate memory", "cannot allocate memory", "out of memory", "std::bad_alloc")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(error).lower() for sign in signs)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _mine(path: tuple[str | int, ...], given: Mapping[str, Any]) -> tuple[tuple[str | int, ...]]:
    """A fault's path, where the user wrote what it is about; else the whole of `with`."""
    return (path if path and path[0] in given else (),)


__all__ = ["Train"]

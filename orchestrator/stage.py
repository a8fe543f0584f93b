"""What a stage is, and what it is given to work with.

A stage is one file in `orchestrator/stages/`: a frozen dataclass whose fields are its YAML parameters. Importing it must
be cheap: ray, torch, torchvision and mlflow are imported inside `run`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore
    from orchestrator.cluster import Cluster

Facts = dict[str, Any]  # JSON: what is known of an artifact, from its metadata or foreseen from the spec


@dataclass(frozen=True)
class Complaint:
    """A mistake in a stage's parameters, found when planning. `path` is relative to `with` (or to the stage: `at="stage"`)."""

    path: tuple[str | int, ...]
    id: str
    what: str
    why: str = ""
    hint: str = ""
    at: str = "with"


@dataclass(frozen=True)
class Foresight:
    """What planning knows of a stage without running it."""

    outputs: Mapping[str, Facts] = field(default_factory=dict)  # output name -> facts for the stages that consume it
    complaints: Sequence[Complaint] = ()
    plugins: Sequence[tuple[str, str]] = ()  # ("variants", "wgan_gp"): their source is in the cache key
    notes: Sequence[str] = ()  # told by `plan`
    params: Mapping[str, Any] | None = (
        None  # the parameters in one spelling, for the cache key; None: as they are given
    )


@dataclass(frozen=True)
class Scale:
    """The spec's `scale`: never in the cache key, except whether GPUs are asked for."""

    num_workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    max_concurrent: int | None = None  # trials or tasks at once; None: what the cluster holds


class Progress(Protocol):
    """Where a stage tells how far it is. Never blocks, never raises."""

    def update(
        self,
        done: float,
        total: float,
        *,
        unit: str = "steps",
        note: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """`done` of `total` units; `note` is a short text ("trial 3"), `metrics` the latest values by name."""

    def say(self, line: str) -> None:
        """One line worth keeping: a restart, a corrupt file."""


class StageTracker(Protocol):
    """This stage's nested MLflow run, through the spool. Never blocks, never raises."""

    def params(self, values: Mapping[str, Any]) -> None: ...
    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None: ...
    def figure(self, name: str, png: bytes) -> None: ...
    def artifact(self, name: str, content: bytes | Path) -> None: ...
    def tags(self, values: Mapping[str, str]) -> None: ...
    def child(self, name: str) -> StageTracker:
        """A nested run (a trial)."""

    def end(self, status: str = "FINISHED") -> None: ...


class Checkpoints(Protocol):
    """Committed checkpoints of one training lineage, in the store. Picklable: it travels to Ray workers."""

    def save(self, step: int, files: Mapping[str, bytes | Path]) -> None:
        """Commit a checkpoint; visible only when whole. Keeps the newest two."""

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending."""

    def latest(self, *, at_most: int | None = None) -> tuple[int, dict[str, Path]] | None:
        """The newest whole checkpoint (with step <= at_most) as verified local files; damaged ones are skipped and told."""


@dataclass
class Context:
    """Everything a stage may use. `inputs` holds an Artifact for each port, or a list where the port collects (matrix)."""

    stage: str  # instance id: "train", "train.seed-0"
    pipeline: str
    run_id: str
    seed: int
    scale: Scale
    inputs: Mapping[str, Any]
    store: ArtifactStore
    scratch: Path  # an empty local directory, removed afterwards
    checkpoints: Checkpoints
    progress: Progress
    tracker: StageTracker
    cluster: Cluster  # lazy: `cluster.start()` starts or joins Ray once a run
    stopping: Callable[[], bool]  # True once a signal came: save and return by raising errors.Interrupted
    tracking_uri: str = ""
    notes: dict[str, Any] = field(
        default_factory=dict
    )  # how it came about (JSON): recorded beside the result, not in it
    max_failures: int = 3  # deaths of workers that a stage survives by itself (the spec's `retry`, where it says more)

    def open(self, artifact: Artifact, name: str) -> Path:
        """A verified local file of an artifact."""
        return self.store.open(artifact, name)


class Stage(ABC):
    """One kind of work. Class attributes are literals, read without importing the file."""

    version: ClassVar[int] = 1
    inputs: ClassVar[
        dict[str, str]
    ] = {}  # port -> artifact kind; a trailing "?" makes it optional, "*" collects a list
    outputs: ClassVar[dict[str, str]] = {}  # output name -> artifact kind; the first is the default output
    packages: ClassVar[tuple[str, ...]] = ()  # distributions whose versions are in the cache key
    tracks: ClassVar[bool] = False  # its result stands in MLflow: the spec's `tracking` is in the cache key
    ahead: ClassVar[tuple[str, ...]] = ()  # modules of Ray, which then starts as the pipeline does
    extends: ClassVar[str | None] = None  # the parameter that may grow: a finished run goes on instead of restarting

    def foresee(self, inputs: Mapping[str, Facts]) -> Foresight:
        """Check parameters against what is known of the inputs, without importing torch or reading data.

        `inputs` maps each connected port to facts (an artifact's metadata, or what the producing stage foresaw; {} when
        unknown until that stage has run). Never raises for bad parameters: returns complaints.
        """
        return Foresight()

    def look_up(self, store: ArtifactStore) -> Sequence[Complaint]:
        """What parameters name in the store and is not there. Asked when planning a stage that has to run."""
        return ()

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the bytes that this stage reads from outside of the store (JSON); part of its cache key.

        The engine calls it whenever it makes the stage's key, so that changed content at the same path is no cache hit.
        It must be cheap: sizes, times and checksums of files, never their content. {} when everything comes from inputs
        and parameters. Raises BadInput (nothing there) or Unavailable (storage unreachable).
        """
        return {}

    @abstractmethod
    def run(self, context: Context) -> dict[str, Artifact]:
        """Do the work; returns an artifact for each output."""

"""Scoring a stored model, in shards over Ray tasks or in this process, with one answer.

A file that is no stage: stages that score (evaluate; register, when it scores a champion again) share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from orchestrator.errors import BadInput, Diverged, Interrupted, StageFailed, Unavailable
from orchestrator.stage import Context

if TYPE_CHECKING:
    from orchestrator.artifacts import Artifact, ArtifactStore
    from trainers.evaluation import Metrics, States
    from trainers.generator import Generator
    from trainers.metric import Array, Reference

FEATURES = "classifier.safetensors"
TASKS_PER_SLOT = 3  # enough for progress and balance, few enough for Ray


@dataclass(frozen=True)
class Protocol:
    """What is scored how: everything but the artifacts. `metrics` as written in the spec; None: every real sample."""

    metrics: tuple[Any, ...]
    num_samples: int
    split: str = "train"
    num_reference: int | None = None
    seed: int = 0
    batch_size: int = 256


@dataclass(frozen=True, eq=False)
class Job:
    """A protocol and its artifacts. It travels to workers; the bytes travel through the store."""

    store: ArtifactStore
    dataset: Artifact
    model: Artifact
    features: Artifact | None
    protocol: Protocol
    device: str = "cpu"

    @property
    def key(self) -> str:
        digests = [
            self.store.url,
            self.dataset.digest,
            self.model.digest,
            self.features.digest if self.features else "",
        ]
        return json.dumps([*digests, asdict(self.protocol), self.device], sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class Opened:
    """What a process needs to work on a job."""

    generator: Generator
    reference: Reference
    metrics: Metrics


@dataclass(frozen=True)
class Scored:
    """Results by metric (see `trainers.evaluation.conclude`) and figures by file name."""

    results: dict[str, dict[str, Any]]
    figures: dict[str, bytes]
    num_samples: int


@lru_cache(maxsize=1)
def opened(job: Job) -> Opened:
    """Model, reference and metrics of a job, once a process."""
    from trainers import evaluation
    from trainers.data import Prepared
    from trainers.generator import load_generator
    from trainers.metric import Reference

    files = {name: job.store.open(job.model, name) for name in ("config.json", "model.safetensors")}
    generator = load_generator(files, device=job.device)
    reference = Reference(
        Prepared.open(job.store.directory(job.dataset)),
        split=job.protocol.split,
        limit=job.protocol.num_reference,
        other=generator.given == "images",
        classifier=job.store.open(job.features, FEATURES) if job.features else None,
        identity=job.dataset.digest,
        device=job.device,
    )
    return Opened(generator, reference, evaluation.build(job.protocol.metrics))


def observe(job: Job, first: int, last: int) -> States:
    """Metrics' states after samples first to last."""
    from trainers import evaluation

    had = opened(job)
    rows, protocol = range(first, last), job.protocol
    return evaluation.observe(had.generator, had.metrics, had.reference, rows, protocol.seed, protocol.batch_size)


def embed(job: Job, metric: str, number: int, split: str, first: int, last: int) -> Array:
    """Features of the real samples first to last in one of a metric's spaces."""
    import numpy as np

    from trainers.metric import embed as features

    had = opened(job)
    space = had.metrics[metric].spaces(had.reference)[number]
    return features(space, had.reference.samples(split, np.arange(first, last)))


def score(job: Job, context: Context) -> Scored:
    """Score a job. Raises errors.Diverged for a model that makes NaN, errors.Unavailable where weights cannot be had."""
    from trainers import evaluation

    with _explained(), _threads(context):
        had = opened(job)
        count = evaluation.available(had.generator, had.reference, job.protocol.num_samples)
        slots = _slots(context)
        calls: list[Call] = [(observe, (job, a, b)) for a, b in _ranges(count, slots)]
        wanted = [
            (name, number, split)
            for (_, digest, _), (name, number, split) in evaluation.needed(had.metrics, had.reference).items()
            if digest  # features without weights are the samples themselves: quicker made than sent
        ]
        for name, number, split in wanted:
            calls += [(embed, (job, name, number, split, a, b)) for a, b in _ranges(had.reference.count(split), slots)]
        answers = _answers(calls, context)
        _put_features(had, wanted, calls, answers)
        observed = [answer for (function, _), answer in zip(calls, answers, strict=True) if function is observe]
        states = evaluation.merged(had.metrics, observed, had.reference)
        results = evaluation.conclude(had.metrics, states)
        figures: dict[str, bytes] = {}
        for name, metric in had.metrics.items():
            figures |= metric.figures(states[name])
    return Scored(results, figures, count)


Call = tuple[Callable[..., Any], tuple[Any, ...]]


def _put_features(
    had: Opened, wanted: Sequence[tuple[str, int, str]], calls: Sequence[Call], answers: Sequence[Any]
) -> None:
    import numpy as np

    for name, number, split in wanted:
        parts = [
            (arguments[4], answer)
            for (function, arguments), answer in zip(calls, answers, strict=True)
            if function is embed and arguments[1:4] == (name, number, split)
        ]
        whole = np.concatenate([answer for _, answer in sorted(parts, key=lambda part: part[0])])
        had.reference.put(had.metrics[name].spaces(had.reference)[number], split, whole)


def _ranges(n: int, slots: int) -> list[tuple[int, int]]:
    """range(n) in ranges of whole blocks, `TASKS_PER_SLOT` for each slot where there are so many."""
    from trainers.metric import BLOCK

    num_blocks = -(-n // BLOCK)
    step = max(1, -(-num_blocks // (slots * TASKS_PER_SLOT))) * BLOCK
    return [(first, min(first + step, n)) for first in range(0, n, step)]


def _slots(context: Context) -> int:
    """Tasks at once."""
    if context.cluster.disabled:
        return 1
    scale, have = context.scale, context.cluster.resources()
    room = [have.cpus / scale.cpus_per_worker] if scale.cpus_per_worker else []
    room += [have.gpus / scale.gpus_per_worker] if scale.gpus_per_worker else []
    return max(1, min(int(min(room, default=1)), scale.max_concurrent or 1_000))


def _answers(calls: Sequence[Call], context: Context) -> list[Any]:
    """The answer of each call, in their order. Progress counts samples: drawn ones, and real ones that are embedded."""
    answers: list[Any] = [None] * len(calls)
    sizes = [arguments[-1] - arguments[-2] for _, arguments in calls]
    done = 0
    for position, answer in _here(calls, context) if context.cluster.disabled else _tasks(calls, context):
        answers[position] = answer
        done += sizes[position]
        context.progress.update(done, sum(sizes), unit="samples")
    return answers


def _here(calls: Sequence[Call], context: Context) -> Iterator[tuple[int, Any]]:
    for position, (function, arguments) in enumerate(calls):
        if context.stopping():
            raise Interrupted(15)
        yield position, function(*arguments)


def _tasks(calls: Sequence[Call], context: Context) -> Iterator[tuple[int, Any]]:
    """Answers as Ray tasks end. A task whose worker died is run again by Ray, up to three times."""
    import ray

    scale, slots = context.scale, _slots(context)
    options = {"num_cpus": scale.cpus_per_worker, "num_gpus": scale.gpus_per_worker, "max_retries": 3}
    shared = calls[0][1][0] if calls else None  # not put: Ray ends the driver where a node dies that holds its objects
    waiting = list(enumerate(calls))
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < slots:
                position, (function, arguments) = waiting.pop(0)
                remote = ray.remote(**options)(function)
                running[remote.remote(shared, *arguments[1:])] = position
            if context.stopping():
                raise Interrupted(15)
            for ready in ray.wait(list(running), timeout=0.2)[0]:
                yield running.pop(ready), ray.get(ready)
    finally:
        for task in running:
            ray.cancel(task, force=True)


@contextmanager
def _threads(context: Context) -> Iterator[None]:
    """As many threads here as a task has, so that both ways give one answer."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(context.scale.cpus_per_worker)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _explained() -> Iterator[None]:
    """Errors of the trainers, from here or from a task, as errors with a kind."""
    from trainers.inception import UnavailableError
    from trainers.metric import NotFiniteError
    from trainers.plugins import BadParametersError

    try:
        yield
    except (OSError, ValueError) as error:
        cause = getattr(error, "cause", None) or error  # Ray wraps what a task raised
        match cause:
            case UnavailableError():
                raise Unavailable(str(cause.args[0]), hint=cause.hint) from error
            case NotFiniteError():
                raise Diverged(
                    str(cause), hint="the model is broken: lower its learning rates and train again"
                ) from error
            case BadParametersError():
                raise BadInput(str(cause)) from error
            case ValueError():
                raise StageFailed(f"scoring failed: {cause}") from error
        raise

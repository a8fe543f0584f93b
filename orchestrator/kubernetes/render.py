"""A pipeline as Kubernetes documents: a ConfigMap with the resolved spec, and the RayJob that runs it.

No cluster is needed, and equal input gives equal bytes. The spec travels with its profile and every `--set` applied, so
that nothing of it has to pass through a shell; references to credentials stay references, which the pods' Secrets fill.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.errors import BadInput, Problem, SpecError
from orchestrator.kubernetes import pods, policy, sizes
from orchestrator.kubernetes.model import Cluster, Group, Job
from orchestrator.kubernetes.rules import LABEL, LABEL_VALUE, MAX_NAME, QUEUE
from orchestrator.kubernetes.writing import dump, dump_all

if TYPE_CHECKING:
    from orchestrator.spec import Spec

Json = dict[str, Any]

NAMESPACE = "gan-orchestrator"
TRACKING = "http://mlflow:5000"  # the namespace's own server
CLAIM = "runs"  # a volume for a storage that is a directory, and where it is mounted
MOUNT = "/runs"
FILE = "pipeline.yaml"
MAX_CONFIG = 1_000_000  # bytes; the API server takes 1 MiB with all that is around them
WEEK_S = 7 * 86_400
MARGIN_S = 1800  # for a cluster to start, beside the run's own limit
WAIT_NODES_S = 1200  # pods wait for nodes that an autoscaler starts, and for images
WAIT_LEASE_S = 120  # an attempt before this one may be saving still
HEAD = pods.Size(2, 6 * pods.GIB)
JOB = "gan-orchestrator/job"  # annotation: whose verdict the job is
STORED = "gan-orchestrator/storage"  # annotation: where the verdict is
IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:-]*?(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?")
ANOTHER_MACHINE = {"env-not-set", "missing-tracking"}  # problems here, and none in the pods


@dataclass(frozen=True)
class Wish:
    """What a user may ask for beside the spec; None and "" leave it to the spec, or to what is usual."""

    pipeline: str
    sets: Sequence[str] = ()
    profile: str | None = None
    storage: str | None = None
    tracking: str | None = None
    name: str = ""
    image: str = ""
    namespace: str = NAMESPACE
    queue: str = ""
    workers: int | None = None
    max_workers: int | None = None  # more than `workers`: the autoscaler chooses
    gpus: int | None = None  # of each worker
    memory: int | None = None  # bytes of each worker
    claim: str = CLAIM
    deadline_s: int | None = None
    retries: int = 3
    cluster: bool = False  # a RayCluster that stays, instead of a RayJob
    once: str = ""  # tells this submission from others of the same name
    pull_secrets: Sequence[str] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rendered:
    """The documents, and what is worth telling of them."""

    name: str
    job: str  # whose verdict the run stores
    storage: str
    config: Json
    main: Json  # RayJob or RayCluster
    text: str
    notes: Sequence[str] = ()


def render(wish: Wish) -> Rendered:
    """The documents of a pipeline. Raises SpecError with every mistake of the spec, BadInput for what is asked beside it."""
    spec, spelled = _spec(wish)
    name = _name(wish, spec)
    image = _image(wish.image)
    storage, claim, notes = _storage(wish, spec)
    text = _header(wish) + dump(spelled)
    if len(text.encode()) > MAX_CONFIG:
        what = f"the pipeline is {len(text.encode()):,} bytes as it travels, and a ConfigMap holds {MAX_CONFIG:,}"
        raise BadInput(what, hint="move lists into the data set, or build the file into the image")
    config = f"{name}-pipeline"
    setting = pods.Setting(name, image, config, claim, storage if claim else "", wish.pull_secrets, wish.node_selector)
    cluster = _cluster(wish, spec, name, setting)
    job = f"{name}-{wish.once or _digest(text, cluster.to_json(), storage)}"
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": config, "namespace": wish.namespace, "labels": pods.labels(name, "pipeline")},
        "data": {FILE: text},
    }
    main = cluster.document() if wish.cluster else _job(wish, spec, name, job, storage, cluster, setting).document()
    if found := policy.check([document, main]):
        raise BadInput(
            f"this must not run on a cluster: {found[0]}", hint=f"{len(found)} such places; change the pipeline"
        )
    whole = dump_all([document, main], _comment(wish))
    return Rendered(name, job, storage, document, main, whole, notes)


def _spec(wish: Wish) -> tuple[Spec, Json]:
    """The checked spec, and its value as it travels."""
    from orchestrator import spec as specs
    from orchestrator.steps import expand

    found: list[Problem] = []
    sets = [*wish.sets, *([f"tracking={wish.tracking}"] if wish.tracking else [])]
    spec = specs.load(wish.pipeline, sets=sets, profile=wish.profile, storage=wish.storage, problems=found)
    expand(spec, [problem for problem in found if problem.id not in ANOTHER_MACHINE])
    spelled = specs.resolved(wish.pipeline, sets=sets, profile=wish.profile)
    if open_secrets := list(_open_secrets(spelled.get("storage_options"), spec.storage_options, ("storage_options",))):
        what = "a credential would stand in a ConfigMap, which is no Secret"
        hint = "write ${env:NAME}, and put it into the Secret `storage` of the namespace"
        raise SpecError([spec.problem(path, "plain-credential", what, "", hint) for path in open_secrets])
    spelled.pop("storage", None)  # the entrypoint says it
    return spec, {**spelled, "tracking": spelled.get("tracking") or TRACKING}


def _open_secrets(raw: Any, settled: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Paths of credentials that are written out."""
    from orchestrator.credentials import Secret

    if isinstance(raw, dict) and isinstance(settled, Mapping):
        for key, value in raw.items():
            yield from _open_secrets(value, settled.get(key), (*path, key))
    elif isinstance(settled, Secret) and isinstance(raw, str) and "${env:" not in raw:
        yield path


def _name(wish: Wish, spec: Spec) -> str:
    name = wish.name or spec.name.replace("_", "-").strip("-")
    if len(name) > MAX_NAME or not LABEL.fullmatch(name):
        hint = f"lower-case letters, digits and dashes, {MAX_NAME} at most, a letter first"
        raise BadInput(f"{name!r} is no name for a RayJob", hint=hint)
    for what, text in (("namespace", wish.namespace), ("queue", wish.queue), ("claim", wish.claim)):
        if text and (len(text) > 63 or not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", text)):
            raise BadInput(f"{text!r} is no name for a {what}", hint="lower-case letters, digits and dashes")
    for key, value in wish.node_selector.items():
        if not key or len(value) > 63 or not LABEL_VALUE.fullmatch(value):
            raise BadInput(f"{key}={value} selects no node", hint="write --node-selector LABEL=VALUE")
    return name


def _image(given: str) -> str:
    """An image that names one build: with a tag that is not `latest`, or a digest."""
    from importlib.metadata import version

    image = given or f"gan-orchestrator:{version('gan-orchestrator')}"
    found = IMAGE.fullmatch(image)
    tag = found[1] or "" if found else ""
    if found is None or not (tag or found[2]) or (tag == ":latest" and not found[2]):
        hint = "name one build, as gan-orchestrator:0.1.0 or …@sha256:…: pods of one job must not differ"
        raise BadInput(f"the image {image!r} has no tag, or one that moves", hint=hint)
    return image


def _storage(wish: Wish, spec: Spec) -> tuple[str, str, list[str]]:
    """Where the run is kept, the claim that holds it where that is a directory, and what is worth telling."""
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)(://|::)", spec.storage)
    if scheme and scheme[1] not in ("file", "local", "memory"):
        return spec.storage, "", []
    path = spec.storage.partition("://")[2] if scheme else spec.storage
    place = path if path.startswith("/") else MOUNT
    note = (
        f"runs are kept in the volume of the claim `{wish.claim}`, at {place}; --storage s3://BUCKET/runs for a bucket"
    )
    return place, wish.claim, [note]


def _cluster(wish: Wish, spec: Spec, name: str, setting: pods.Setting) -> Cluster:
    from importlib.metadata import version

    groups = sizes.workers(stage.scale for stage in spec.stages.values())
    groups = sizes.changed(groups, wish.workers, wish.gpus, wish.memory)
    most = wish.max_workers
    if most is not None and most < groups[0].count:
        raise BadInput(f"--max-workers {most} is less than the {groups[0].count} workers to begin with")
    scales = most is not None and most > groups[0].count
    if not scales and groups[0].count < 1:
        raise BadInput(
            "--workers 0 leaves nobody to train", hint="let Ray add pods as they are needed: --max-workers N"
        )
    if scales and wish.queue:
        raise BadInput(
            "--max-workers does not go with --queue", hint="Kueue admits jobs of a fixed size: say --workers"
        )
    made = []
    for number, group in enumerate(groups):
        params = {"num-cpus": str(group.size.cpus), "object-store-memory": str(group.size.objects)}
        if group.size.gpus:
            params["num-gpus"] = str(group.size.gpus)
        made.append(
            Group(
                "gpu" if group.size.gpus else "cpu",
                group.count,
                pods.worker(setting, group.size),
                params,
                most=most if scales and number == 0 else None,
            )
        )
    return Cluster(
        name=name,
        namespace=wish.namespace,
        labels=_labels(wish, name),
        ray_version=version("ray"),
        head=pods.head(setting, HEAD, scales=scales),
        params={"num-cpus": "0", "object-store-memory": str(HEAD.objects), "dashboard-host": "0.0.0.0"},  # noqa: S104
        groups=made,
        autoscaler=pods.autoscaler(setting) if scales else None,
    )


def _job(wish: Wish, spec: Spec, name: str, job: str, storage: str, cluster: Cluster, setting: pods.Setting) -> Job:
    entrypoint = ["orchestrate", "run", f"{pods.PIPELINE}/{FILE}", "--storage", storage]
    entrypoint += ["--wait-lease", str(WAIT_LEASE_S), "--wait-nodes", str(WAIT_NODES_S), "--verdict", job]
    attempts = wish.retries + 1
    deadline = wish.deadline_s
    if deadline is None:
        deadline = math.ceil(spec.timeout_s + MARGIN_S) * attempts if spec.timeout_s else WEEK_S
    return Job(
        name=name,
        namespace=wish.namespace,
        labels=_labels(wish, name),
        annotations={JOB: job, STORED: storage},
        entrypoint=entrypoint,
        cluster=cluster,
        submitter=pods.submitter(setting),
        deadline_s=min(deadline, 2**31 - 1),
        start_within_s=min(MARGIN_S, max(1, deadline // 2)),
        retries=wish.retries,
    )


def _labels(wish: Wish, name: str) -> dict[str, str]:
    found = dict(pods.labels(name, "pipeline"))
    return {**found, QUEUE: wish.queue} if wish.queue else found


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _header(wish: Wish) -> str:
    from orchestrator.wording import mask, printable

    parts = [wish.pipeline.rpartition("/")[2], *([f"profile {wish.profile}"] if wish.profile else [])]
    parts += [f"--set {mask(text)}" for text in wish.sets]
    return "# " + printable("; ".join(parts)) + "\n"


def _comment(wish: Wish) -> str:
    from importlib.metadata import version

    lines = [
        f"Made by `orchestrate k8s render`, {version('gan-orchestrator')}. Apply both documents; the job runs once."
    ]
    return "".join(f"# {line}\n" for line in lines)


__all__ = ["JOB", "NAMESPACE", "STORED", "Rendered", "Wish", "render"]

"""`orchestrate doctor`: can this machine, its storage, MLflow and Ray run a pipeline? Found out by using them."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import click

from orchestrator.cli import options
from orchestrator.errors import OrchestratorError, Unavailable

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "scikit-learn", "scipy", "numpy", "pyyaml", "fsspec", "optuna")
ENOUGH_DISK_GIB = 5
ENOUGH_MEMORY_GIB = 4


@dataclass(frozen=True)
class Check:
    """One line of the examination. `remedy` says what to do where it is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    seconds: float = 0.0


@click.command(short_help="Check versions, storage, MLflow, Ray, CPU/GPU, disk by using them.")
@click.option(
    "--storage", default="runs", show_default=True, metavar="URL", help="The storage to write to and read from."
)
@click.option("--tracking", metavar="URI", help="The MLflow server to use; a throw-away sqlite file otherwise.")
@click.option("--address", metavar="ADDRESS", help="The Ray cluster to join; a local one is started otherwise.")
@options.as_json
def command(storage: str, tracking: str | None, address: str | None, as_json: bool) -> int:
    """Check this machine by really using what a run uses.

    Writes and reads a small artifact in the storage, logs to MLflow and reads it back, starts (or joins) Ray and runs a
    task. Exit code 0 when all is well, 4 otherwise.
    """
    checks = []
    for check in _examine(storage, tracking, address):
        checks.append(check)
        if not as_json:
            options.echo(_line(check))
    failed = [check.name for check in checks if not check.ok]
    if as_json:
        options.emit(ok=not failed, checks=[asdict(check) for check in checks])
    elif failed:
        options.tell(f"not fit: {', '.join(failed)}")
    else:
        options.echo("all is well; next: orchestrate run pipelines/dcgan.yaml")
    return Unavailable.exit_code if failed else 0


def _examine(storage: str, tracking: str | None, address: str | None) -> Iterator[Check]:
    yield _python()
    yield _versions()
    yield _try("cpu and memory", _machine, "")
    yield _try("gpu", _gpu, "check the driver with nvidia-smi")
    yield _try("disk", lambda: _disk(storage), "free some space, or choose another --storage")
    yield _try(
        "storage", lambda: _storage(storage), "check the URL, the credentials and that the folder can be written"
    )
    yield _try("mlflow", lambda: _mlflow(tracking), "check the tracking URI, and that the server answers")
    yield _try(
        "ray", lambda: _ray(address), "check the address and that the versions agree; without --address Ray starts here"
    )


def _try(name: str, work: Callable[[], str], remedy: str) -> Check:
    """Do one check; whatever goes wrong is its answer, so that the others still follow."""
    began = time.monotonic()
    try:
        detail, ok, hint = work(), True, ""
    except OrchestratorError as error:
        detail, ok, hint = Exception.__str__(error), False, error.hint or remedy
    except Exception as error:  # noqa: BLE001
        detail, ok, hint = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", False, remedy
    return Check(name, ok, detail, hint, round(time.monotonic() - began, 2))


def _line(check: Check) -> str:
    mark = click.style("ok  ", fg="green") if check.ok else click.style("FAIL", fg="red", bold=True)
    text = f"{mark}  {check.name:<15} {check.detail}"
    return text if check.ok else f"{text}\n      remedy: {check.remedy}"


def _python() -> Check:
    import sys

    ok = sys.version_info >= (3, 11)
    return Check(
        "python",
        ok,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "install Python 3.11 or newer",
    )


def _versions() -> Check:
    from importlib.metadata import PackageNotFoundError, version

    found, missing = [], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    detail = ", ".join(found) + (f"; missing: {', '.join(missing)}" if missing else "")
    return Check("packages", not missing, detail, "pip install -e . -c constraints.txt")


def _machine() -> str:
    import psutil

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    if memory.available < ENOUGH_MEMORY_GIB * 2**30:
        raise Unavailable(
            f"{memory.available / 2**30:.1f} GiB of memory free",
            hint=f"{ENOUGH_MEMORY_GIB} GiB are enough for the small pipelines",
        )
    return f"{cpus} CPUs, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB memory free"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none; training runs on the CPU"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    torch.ones(8, device="cuda").sum().item()
    return f"{len(names)}: {', '.join(names)}"


def _disk(storage: str) -> str:
    if "://" in storage and not storage.startswith(("file://", "local://")):
        folder = os.getcwd()
    else:
        folder = os.path.abspath(storage.split("://", 1)[-1])
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free / 2**30
    if free < ENOUGH_DISK_GIB:
        raise Unavailable(f"{free:.1f} GiB free at {folder}")
    return f"{free:.1f} GiB free at {folder}"


def _storage(storage: str) -> str:
    """Write, read and remove a file, and see that of two exclusive creates one is refused."""
    from secrets import token_hex

    from orchestrator.files import open_files

    files, name, data = open_files(storage), f"tmp/doctor-{token_hex(6)}", os.urandom(4096)
    empty = not files.exists("format.json")
    try:
        files.write(name, data)
        if files.read(name) != data:
            raise Unavailable(f"{storage} returned other bytes than were written")
        if not files.create(f"{name}.x", b"one") or files.create(f"{name}.x", b"two"):
            raise Unavailable(
                f"{storage} does not create files exclusively",
                hint="two runs could not be kept apart; use another storage",
            )
    finally:
        files.remove(name)
        files.remove(f"{name}.x")
    return f"{files.url}: written, read back, exclusive create holds" + ("; empty so far" if empty else "")


def _mlflow(tracking: str | None) -> str:
    """Log a metric to a run of its own and read it back; the run is deleted again."""
    import tempfile

    from orchestrator import registry
    from orchestrator.mlflow_calls import Patient

    with tempfile.TemporaryDirectory() as folder:
        client = Patient(registry.connect(tracking or f"sqlite:///{folder}/mlflow.db"), limit_s=5.0)
        experiment = registry.experiment(client, "orchestrate-doctor", None if tracking else folder)
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "answer", 42.0, step=1)
        seen = client.get_run(run).data.metrics.get("answer")
        client.set_status(run, "FINISHED", int(time.time() * 1000))
        client.delete_run(run)
    if seen != 42.0:
        raise Unavailable(f"MLflow returned {seen} for a metric of 42")
    return f"{registry.redact(tracking) if tracking else 'a sqlite file'}: a run was logged and read back"


def _ray(address: str | None) -> str:
    """Start or join Ray as a run does, and run one task."""
    from orchestrator.cluster import Cluster

    began = time.monotonic()
    with Cluster(address) as cluster:
        cluster.start()
        started = time.monotonic() - began
        import ray

        answer = ray.get(ray.remote(_double).options(num_cpus=0.5).remote(21), timeout=60)
        held = cluster.resources()
        where = "started here" if cluster.local else f"joined {cluster.address}"
    if answer != 42:
        raise Unavailable(f"a task returned {answer} instead of 42")
    return f"{where} in {started:.1f} s, a task ran; {held}"


def _double(value: int) -> int:
    return 2 * value

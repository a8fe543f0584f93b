"""The connection to MLflow, local or a server, and runs that are created once whatever replies get lost.

`import mlflow` takes more than a second, so nothing here imports it before it is needed.
"""

from __future__ import annotations

import fcntl
import getpass
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from orchestrator.errors import BadInput, Unavailable
from orchestrator.mlflow_calls import NO_ACCESS, Patient, brief, error_code, given

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
KEY_TAG = "orchestrator.key"  # the name of a run of ours: searched before creating it
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
LOCKED_S = 10.0  # to wait for a local database that another process has locked
_connecting = threading.RLock()
_creating = threading.RLock()  # search-then-create is one act in this process
_known: dict[tuple[str, str], str] = {}  # experiment, key -> the run that this process writes to


def local_root(storage: str) -> Path | None:
    """The directory of a local storage URL, None for a remote one."""
    scheme, separator, rest = storage.partition("://")
    if not separator:
        return Path(storage).expanduser().absolute()
    if scheme in ("file", "local"):
        return Path(rest).expanduser().absolute()
    return None


def tracking_uri(storage: str, given: str | None = None) -> str:
    """Where runs are tracked: what the spec gives, else the database in the local storage.

    Raises BadInput for a remote storage without `tracking`, and for a URI that MLflow cannot track to.
    """
    if given:
        if not given.startswith(("http://", "https://", "sqlite:///", "postgresql", "mysql", "mssql")):
            raise BadInput(
                f"`tracking` must be an http(s) or database URI, not {redact(given)!r}",
                hint="for example http://127.0.0.1:5000",
            )
        return f"{SQLITE}{Path(given.removeprefix(SQLITE)).absolute()}" if given.startswith(SQLITE) else given
    root = local_root(storage)
    if root is None:
        raise BadInput(f"storage {storage} is remote, so `tracking` is needed", hint="add `tracking: http://…`")
    return f"{SQLITE}{root / 'mlflow.db'}"


def redact(uri: str) -> str:
    """A URI without its password and user name."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def plain_uri(uri: str) -> str:
    """An http URI without credentials, which move to the variables that MLflow reads; others as they are.

    So no message, log line or record of MLflow's can show them.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def quieten() -> None:
    """Import mlflow with our settings, where the user's environment has none of its own."""
    # A retry below us could create a run twice: the reply is lost, the run is not. We search, then try again.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  # sets up its logging

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it prints tables created and stack traces


def connect(uri: str) -> MlflowClient:
    """A client of `uri`, registry included. Creates a local database once, however many processes ask at a time.

    Raises OSError or what MLflow raises when a database cannot be opened; a server is not contacted yet.
    """
    with _connecting:
        quieten()
        uri = plain_uri(uri)
        from mlflow import MlflowClient

        if uri.startswith(SQLITE):
            _prepare_database(Path(uri.removeprefix(SQLITE)))
        client = MlflowClient(uri, registry_uri=uri)
        if uri.startswith(SQLITE):
            client.get_experiment_by_name("")  # opens the database
        return client


def _prepare_database(database: Path) -> None:
    """A database that is whole and can be read; MLflow would try for minutes to open one that cannot."""
    if not database.exists():
        with _alone_with(database):
            if not database.exists():
                _create_database(database)
    import sqlite3

    try:
        with closing(sqlite3.connect(database, timeout=LOCKED_S)) as opened:
            opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise OSError(f"the database {database}: {error}") from error


def _create_database(database: Path) -> None:
    """Make it elsewhere and move it there whole: MLflow cannot open one whose making was cut off by a kill."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix="mlflow-") as scratch:
        fresh = Path(scratch) / database.name
        MlflowClient(f"{SQLITE}{fresh}", registry_uri=f"{SQLITE}{fresh}").get_experiment_by_name("")
        temporary = database.with_name(f"{database.name}.new")
        with fresh.open("rb") as source, temporary.open("wb") as out:
            shutil.copyfileobj(source, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, database)


@contextmanager
def _alone_with(database: Path) -> Iterator[None]:
    """Holds a lock file beside a sqlite database, so that one process creates it. Raises OSError."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("ab") as file:
        deadline = time.monotonic() + 3 * LOCKED_S  # creating takes seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OSError(f"another process holds {file.name}") from None
                time.sleep(0.05)
        yield


def unavailable(uri: str, error: Exception) -> Unavailable:
    reason = f"MLflow at {redact(uri)} cannot be used: {brief(error)}"
    if error_code(error) in NO_ACCESS:
        return Unavailable(reason, hint="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or a token")
    return Unavailable(reason, hint="what was trained is kept: once MLflow is back, run again")


def experiment(client: Patient, name: str, artifacts: str | None) -> str:
    """The id of an experiment, created (with `artifacts` as its location) or restored when need be."""

    def find() -> str | None:
        found = client.get_experiment_by_name(name)
        if found is None:
            return None
        identity = given(found.experiment_id)
        if found.lifecycle_stage == "deleted":
            try:
                client.restore_experiment(identity)
            except Exception as error:
                if error_code(error) != "RESOURCE_DOES_NOT_EXIST":  # it is restored, and the reply was lost
                    raise
        return identity

    def create() -> str:
        try:
            return given(client.create_experiment(name, artifact_location=artifacts))
        except Exception as error:
            if error_code(error) == "RESOURCE_ALREADY_EXISTS" and (found := find()):
                return found  # another process created it first
            raise

    with _creating:
        return client.settled(find, create)


def artifact_location(storage: str, uri: str, pipeline: str) -> str | None:
    """Where the artifacts of a pipeline's runs go: into the storage, unless a server decides itself."""
    if uri.startswith(("http://", "https://")):
        return None
    root = local_root(storage)
    return f"{root or storage.rstrip('/')}/mlflow-artifacts/{pipeline}"


def find_run(client: Patient, experiment_id: str, key: str) -> str | None:
    """The id of the run with this key. A second one (a request that was done long after we gave it up) is removed."""
    return _single(client, experiment_id, key)[0]


def _single(client: Patient, experiment_id: str, key: str) -> tuple[str | None, int]:
    """The run with this key, and how many others were removed."""
    quoted = key.replace("'", "")
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    found = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{quoted}'", order_by=order)
    told = {given(run.info.run_id): _told(run) for run in found}
    if not told:
        return None, 0
    known = _known.get((experiment_id, key), "")
    ours = known if known in told else max(told, key=lambda run: told[run])
    # Where as much was said of another one, another process may have chosen that; later it shows.
    others = [run for run in told if run != ours and (ours == known or told[run] < told[ours])]
    for other in others:
        client.delete_run(other)
    return ours, len(others)


def _told(run: Any) -> int:
    """How much has been said of a run."""
    return len(run.data.params) + len(run.data.metrics) + len(run.data.tags)


def remove_late(client: Patient, experiment_id: str) -> int:
    """Remove the runs of requests that were done long after we gave them up: nobody ends them, and another has their key.

    Returns how many.
    """
    found = client.search_runs([experiment_id], "attributes.status = 'RUNNING'")
    keys = sorted({run.data.tags.get(KEY_TAG, "") for run in found} - {""})
    return sum(_single(client, experiment_id, key)[1] for key in keys)


def ensure_run(
    client: Patient,
    experiment_id: str,
    key: str,
    *,
    parent: str | None = None,
    started_ms: int | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """The id of the run with this key ("run", "run/stage", "run/stage/trial"), created when there is none.

    `parent` is the id of the run that it is nested in. A reply lost after the server committed is harmless: the next
    call finds the run by its key.
    """

    def create() -> str:
        name = key if parent is None else key.rpartition("/")[2]
        known = {KEY_TAG: key, "mlflow.source.name": "orchestrate", "mlflow.user": _user(), **(tags or {})}
        if parent is not None:
            known["mlflow.parentRunId"] = parent
        run = client.create_run(experiment_id, start_time=started_ms, tags=known, run_name=name)
        return given(run.info.run_id)

    with _creating:
        run = client.settled(lambda: find_run(client, experiment_id, key), create)
        _known[experiment_id, key] = run
        return run


def upload(client: Patient, run: str, file: Path, folder: str | None) -> None:
    """Store a file with a run, and see that it is there: a redirect or a proxy's page also answers 200.

    Raises MlflowException or OSError.
    """

    place = client.files_of(run)

    def stored(shift: Callable[[], None]) -> None:
        shift()
        client.again(place.log_artifact, str(file), folder)
        if not arrived() and not arrived():  # an empty answer may be nobody's
            raise ConnectionError(f"{file.name} did not arrive")

    def arrived() -> bool:
        there = {item.path: item.file_size for item in client.again(place.list_artifacts, folder)}
        size = there.get(f"{folder}/{file.name}" if folder else file.name, -1)
        return size is None or size == file.stat().st_size  # some stores tell no sizes

    client.together(stored)


def _user() -> str:
    with suppress(OSError, KeyError):  # a container's user id without a name
        return getpass.getuser()
    return "unknown"

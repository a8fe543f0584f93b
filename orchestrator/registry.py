"""The connection to MLflow, local or a server, and runs that are created once whatever replies get lost.

`import mlflow` takes more than a second, so nothing here imports it before it is needed.
"""

from __future__ import annotations

import fcntl
import functools
import getpass
import itertools
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from orchestrator.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
SQLITE = "sqlite:///"
KEY_TAG = "orchestrator.key"  # the name of a run of ours: searched before creating it
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
REFUSED = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS"})
NO_ACCESS = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})
FINAL = REFUSED | NO_ACCESS | {"RESOURCE_DOES_NOT_EXIST"}  # answers: asking again changes nothing
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


class Patient:
    """A client whose calls are made again while they fail, for `limit_s` each.

    Not so what creates something (`create_…`): its reply may be lost although it was done. That goes through `settled`,
    which looks first.
    """

    def __init__(self, client: Any, limit_s: float, say: Callable[[str], None] = lambda line: None) -> None:
        self._client, self._limit_s, self._say = client, limit_s, say
        self._places: dict[str, Any] = {}
        self.answered = time.monotonic()  # when a call last succeeded; at first, when this was made

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return method if name.startswith("create_") else functools.partial(self.again, method)

    def again(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Raises MlflowException or OSError: an answer that is final, or the failure that outlived our patience."""
        from mlflow.exceptions import MlflowException

        begin, wait_s = time.monotonic(), 0.1
        while True:
            try:
                answer = call(*args, **options)
                self.answered = time.monotonic()
                return answer
            except Exception as error:
                if error_code(error) in FINAL:
                    raise
                if time.monotonic() - begin + wait_s > self._limit_s:
                    if isinstance(error, MlflowException | OSError):
                        raise
                    raise ConnectionError(f"it gives no answer of MLflow's ({type(error).__name__})") from error
                self._say(brief(error))
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, 4.0)

    def files_of(self, run: str) -> Any:
        """Where a run's files are stored. MLflow's own calls look that up each time, which is one more to fail."""
        if run not in self._places:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            uri = self.again(self._client.get_run, run).info.artifact_uri
            self._places[run] = get_artifact_repository(uri, tracking_uri=self._client.tracking_uri)
        return self._places[run]

    def end_run(self, run: str, status: str, at_ms: int) -> None:
        """Close a run. The client's own `set_terminated` asks for the run first, and prints where to see it."""
        self.again(self._client._tracking_client.set_terminated, run, status, at_ms)

    def settled(self, find: Callable[[], T | None], create: Callable[[], T]) -> T:
        """What `find` finds, else what `create` makes: once, although a reply may be lost after the server did it."""
        attempts = itertools.count()

        def once() -> T:
            found = find()
            if found is not None:
                return found
            self.shift(next(attempts))
            return create()

        return self.again(once)

    def shift(self, attempt: int) -> None:
        """Some requests for nothing: where each second or third one fails, it would always be ours."""
        for _ in range(attempt % 3):
            with suppress(Exception):
                self._client.search_experiments(max_results=1)


def brief(error: BaseException) -> str:
    """The first line of a failure."""
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__


def error_code(error: BaseException) -> str:
    """The error code of MLflow's own answer; "" for anything else: no connection, a proxy's page, a broken database."""
    code = str(getattr(error, "error_code", ""))
    if str(error).startswith("API request to "):  # what MLflow's client makes of a reply that is not MLflow's
        return ""
    return "" if code == "BAD_REQUEST" and not hasattr(error, "json") else code  # any trouble of a local database


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
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return _given(found.experiment_id)

    def create() -> str:
        try:
            return _given(client.create_experiment(name, artifact_location=artifacts))
        except Exception as error:
            if error_code(error) == "RESOURCE_ALREADY_EXISTS" and (found := find()):
                return found  # another process created it first
            raise

    with _creating:
        return client.settled(find, create)


def _given(identity: Any) -> str:
    """What a server gave something as its id. Raises ConnectionError where it gave none: no MLflow answers there."""
    if not identity:
        raise ConnectionError("it gives no answer of MLflow's")
    return str(identity)


def artifact_location(storage: str, uri: str, pipeline: str) -> str | None:
    """Where the artifacts of a pipeline's runs go: into the storage, unless a server decides itself."""
    if uri.startswith(("http://", "https://")):
        return None
    root = local_root(storage)
    return f"{root or storage.rstrip('/')}/mlflow-artifacts/{pipeline}"


def find_run(client: Patient, experiment_id: str, key: str) -> str | None:
    """The id of the run with this key. A second one (a request that was done long after we gave it up) is removed."""
    quoted = key.replace("'", "")
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    found = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{quoted}'", order_by=order)
    told = {_given(run.info.run_id): _told(run) for run in found}
    if not told:
        return None
    known = _known.get((experiment_id, key), "")
    ours = known if known in told else max(told, key=lambda run: told[run])
    for other in told.keys() - {ours}:
        if ours == known or told[other] < told[ours]:  # else another process may have chosen that one; later it shows
            client.delete_run(other)
    return ours


def _told(run: Any) -> int:
    """How much has been said of a run."""
    return len(run.data.params) + len(run.data.metrics) + len(run.data.tags)


def remove_late(client: Patient, experiment_id: str) -> None:
    """Remove the runs of requests that were done long after we gave them up: nobody ends them, and another has their key."""
    found = client.search_runs([experiment_id], "attributes.status = 'RUNNING'")
    for key in sorted({run.data.tags.get(KEY_TAG, "") for run in found} - {""}):
        find_run(client, experiment_id, key)


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
        return _given(run.info.run_id)

    with _creating:
        run = client.settled(lambda: find_run(client, experiment_id, key), create)
        _known[experiment_id, key] = run
        return run


def upload(client: Patient, run: str, file: Path, folder: str | None) -> None:
    """Store a file with a run, and see that it is there: a redirect or a proxy's page also answers 200.

    Raises MlflowException or OSError.
    """

    place, attempts = client.files_of(run), itertools.count()

    def stored() -> None:
        client.shift(next(attempts))
        client.again(place.log_artifact, str(file), folder)
        there = {item.path: item.file_size for item in client.again(place.list_artifacts, folder)}
        size = there.get(f"{folder}/{file.name}" if folder else file.name, -1)
        if size is not None and size != file.stat().st_size:  # some stores tell no sizes
            raise ConnectionError(f"{file.name} did not arrive")

    client.again(stored)


def _user() -> str:
    with suppress(OSError, KeyError):  # a container's user id without a name
        return getpass.getuser()
    return "unknown"

"""The connection to MLflow, local or a server, and runs that are created once whatever replies get lost.

`import mlflow` takes more than a second, so nothing here imports it before it is needed.
"""

from __future__ import annotations

import fcntl
import getpass
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from orchestrator.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
KEY_TAG = "orchestrator.key"  # the name of a run of ours: searched before creating it
ENVIRONMENT = {
    # A retry below us could create a run twice: the reply is lost, the run is not. We search, then try again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
REFUSED = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS"})
_connecting = threading.RLock()
_creating = threading.RLock()  # search-then-create is one act in this process


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
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  # sets up its logging

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it prints tables created and stack traces


def connect(uri: str) -> MlflowClient:
    """A client of `uri`, registry included. Creates a local database once, however many processes ask at a time.

    Raises what MLflow raises when a database cannot be opened; a server is not contacted yet.
    """
    with _connecting:
        quieten()
        uri = plain_uri(uri)
        with _alone_with(uri):
            from mlflow import MlflowClient

            client = MlflowClient(uri, registry_uri=uri)
            if uri.startswith(SQLITE):
                client.get_experiment_by_name("")  # opens the database: creates its tables
        return client


@contextmanager
def _alone_with(uri: str) -> Iterator[None]:
    """Holds a lock file beside a sqlite database; processes that open a fresh one together race in its migrations."""
    if not uri.startswith(SQLITE):
        yield
        return
    database = Path(uri.removeprefix(SQLITE))
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def error_code(error: Exception) -> str:
    """MLflow's error code, "" for other exceptions (connection errors)."""
    return str(getattr(error, "error_code", ""))


def unavailable(uri: str, error: Exception) -> Unavailable:
    reason = str(error).strip().split("\n", 1)[0][:200]
    return Unavailable(f"MLflow at {redact(uri)} cannot be used: {reason}", hint="what was trained is kept: run again")


def experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of an experiment, created (with `artifacts` as its location) or restored when need be."""
    with _creating:
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=artifacts))
            except Exception as error:
                found = client.get_experiment_by_name(name)
                if error_code(error) != "RESOURCE_ALREADY_EXISTS" or found is None:
                    raise  # else another process created it first
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


def artifact_location(storage: str, uri: str, pipeline: str) -> str | None:
    """Where the artifacts of a pipeline's runs go: into the storage, unless a server decides itself."""
    if uri.startswith(("http://", "https://")):
        return None
    root = local_root(storage)
    return f"{root or storage.rstrip('/')}/mlflow-artifacts/{pipeline}"


def find_run(client: MlflowClient, experiment_id: str, key: str) -> str | None:
    """The id of the run with this key."""
    quoted = key.replace("'", "")
    found = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{quoted}'", max_results=1)
    return str(found[0].info.run_id) if found else None


def ensure_run(
    client: MlflowClient,
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
    with _creating:
        found = find_run(client, experiment_id, key)
        if found is not None:
            return found
        name = key if parent is None else key.rpartition("/")[2]
        known = {KEY_TAG: key, "mlflow.source.name": "orchestrate", "mlflow.user": _user(), **(tags or {})}
        if parent is not None:
            known["mlflow.parentRunId"] = parent
        run = client.create_run(experiment_id, start_time=started_ms, tags=known, run_name=name)
        return str(run.info.run_id)


def _user() -> str:
    with suppress(OSError, KeyError):  # a container's user id without a name
        return getpass.getuser()
    return "unknown"

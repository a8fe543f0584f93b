"""Calls to MLflow that survive what a network and what stands in it can do, one request at a time.

What is repeated is always a single request, and never several: where every second request fails, one of two in a row
always does, and a call that makes two would fail forever. (Some of `MlflowClient`'s do: they first ask for the run, or
whether a model is a prompt.) And an answer counts for what it says: a proxy may answer 200 to what MLflow never saw.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
REFUSED = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS"})
NO_ACCESS = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})
FINAL = REFUSED | NO_ACCESS | {"RESOURCE_DOES_NOT_EXIST"}  # answers: asking again changes nothing
# Of these MlflowClient makes two requests; the client of the registry that it holds makes one.
OF_THE_REGISTRY = frozenset(
    {
        "delete_model_version",
        "delete_registered_model",
        "delete_registered_model_alias",
        "set_model_version_tag",
        "set_registered_model_alias",
    }
)
DOUBTS = 3  # how often something is sent that MLflow took and does not show; some servers show things late
NONSENSE = "it gives no answer of MLflow's"


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
        def called(*args: Any, **options: Any) -> Any:
            client = self._client._get_registry_client() if name in OF_THE_REGISTRY else self._client
            method = getattr(client, name)
            return method(*args, **options) if name.startswith("create_") else self.again(method, *args, **options)

        if name.startswith("__"):
            raise AttributeError(name)
        return called

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
                    raise ConnectionError(f"{NONSENSE} ({type(error).__name__})") from error
                self._say(brief(error))
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, 4.0)

    def settled(self, find: Callable[[], T | None], create: Callable[[], T]) -> T:
        """What `find` finds, else what `create` makes: once, although a reply may be lost after the server did it.

        Nothing found is looked for twice: to a search, an empty answer that is not MLflow's looks like one.
        """

        def once(shift: Callable[[], None]) -> T:
            for _ in range(2):
                found = find()
                if found is not None:
                    return found
            shift()
            return create()

        return self.together(once)

    def together(self, calls: Callable[[Callable[[], None]], T]) -> T:
        """Several calls, made again while they fail or come to nothing.

        They are given a call for the place at which more or fewer requests help: it makes none, one, two … for nothing.
        Where each second or third request fails, it would else be the same one of them each time.
        """
        attempts = itertools.count()

        def once() -> T:
            attempt = next(attempts)
            return calls(lambda: self._shift(attempt % 3))

        return self.again(once)

    def _shift(self, requests: int) -> None:
        for _ in range(requests):
            with suppress(Exception):
                self._client.search_experiments(max_results=1)

    # --- runs ------------------------------------------------------------------------------------------------------

    def get_experiment_by_name(self, name: str) -> Any | None:
        def asked() -> Any | None:
            found = self._client.get_experiment_by_name(name)
            given(found is None or found.name == name)
            return found

        return self.again(asked)

    def get_run(self, run: str) -> Any:
        def asked() -> Any:
            found = self._client.get_run(run)
            given(found.info.run_id == run)
            return found

        return self.again(asked)

    def set_status(self, run: str, status: str, ended_ms: int | None = None) -> None:
        """Say that a run is running again, or over, and see that MLflow says so as well.

        MlflowClient's own calls ask for the run first, and print where to see it.
        """
        from mlflow.entities import RunStatus

        store, number = self._client._tracking_client.store, RunStatus.from_string(status)

        def told() -> None:
            given(store.update_run_info(run, number, ended_ms, None).status == status)

        self.again(told)

    def log(self, run: str, items: Mapping[str, list[Any]]) -> None:
        """Metrics, parameters and tags of a run, by these names, 1000 at most. What MLflow then does not show is sent again."""

        attempts = itertools.count(1)

        def logged(shift: Callable[[], None]) -> None:
            shift()
            self.again(self._client.log_batch, run, **items)
            given(self._shows(run, items) or next(attempts) >= DOUBTS)

        self.together(logged)

    def _shows(self, run: str, items: Mapping[str, list[Any]]) -> bool:
        """Whether a run has all of these names, and of metrics the last steps. A database confirms nothing falsely."""
        if not str(self._client.tracking_uri).startswith("http"):
            return True
        data = self.get_run(run).data
        steps = {metric.key: metric.step for metric in data._metric_objs}
        metrics = items.get("metrics", ())
        measured = all(value.key in steps and steps[value.key] >= value.step for value in metrics)
        said = (kind for kind in items if kind != "metrics")
        return measured and all({value.key for value in items[kind]} <= set(getattr(data, kind)) for kind in said)

    # --- files -----------------------------------------------------------------------------------------------------

    def files_of(self, run: str) -> Any:
        """Where a run's files are stored. MLflow's own calls look that up each time, which is one more to fail."""
        if run not in self._places:
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            uri = self.get_run(run).info.artifact_uri
            self._places[run] = get_artifact_repository(uri, tracking_uri=self._client.tracking_uri)
        return self._places[run]

    # --- the registry ----------------------------------------------------------------------------------------------

    def get_registered_model(self, name: str) -> Any:
        def asked() -> Any:
            found = self._client.get_registered_model(name)
            given(found.name == name)
            return found

        return self.again(asked)

    def get_model_version(self, name: str, version: str) -> Any:
        def asked() -> Any:
            found = self._client.get_model_version(name, version)
            given(found.name == name)
            return found

        return self.again(asked)

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        def asked() -> Any:
            found = self._client.get_model_version_by_alias(name, alias)
            given(found.name == name)
            return found

        return self.again(asked)


def given(answer: Any) -> str:
    """What MLflow must have said: the id of something, or that something is so. Raises ConnectionError where it did not."""
    if not answer:
        raise ConnectionError(NONSENSE)
    return str(answer)


def brief(error: BaseException) -> str:
    """The first line of a failure."""
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__


def error_code(error: BaseException) -> str:
    """The error code of MLflow's own answer; "" for anything else: no connection, a proxy's page, a broken database."""
    code = str(getattr(error, "error_code", ""))
    if str(error).startswith("API request to "):  # what MLflow's client makes of a reply that is not MLflow's
        return ""
    return "" if code == "BAD_REQUEST" and not hasattr(error, "json") else code  # any trouble of a local database


__all__ = ["FINAL", "NO_ACCESS", "REFUSED", "Patient", "brief", "error_code", "given"]

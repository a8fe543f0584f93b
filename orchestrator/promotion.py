"""Versions and aliases of a registered model, created once and moved by one at a time.

The registry has no transactions, but creating a registered model has one winner: `NAME.lock` is the lock of `NAME`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Unavailable
from orchestrator.gate import Holder
from orchestrator.registry import error_code

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST_TAG = "orchestrator.artifact"  # of the model artifact; searched before a version is created
SCORE_TAG = "orchestrator.score."
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
LOCK_WAIT_S = 120.0
LOCK_STALE_S = 60.0  # a lock that stays this long in the same hands was left by a dead process: its work takes seconds
LOCK_OLD_S = 600.0  # and one this old by its own clock need not be watched


class Versions:
    """The versions of one registered model."""

    def __init__(self, client: MlflowClient, model: str) -> None:
        self.client, self.model = client, model

    def find(self, digest: str) -> str | None:
        """The newest version made from this model artifact."""
        quoted = self.model.replace("'", "")
        found = self.client.search_model_versions(f"name = '{quoted}' and tags.`{DIGEST_TAG}` = '{digest}'")
        return max((str(version.version) for version in found), key=int, default=None)

    def create(self, digest: str, source: str, run: str, description: str) -> str:
        """The version of this artifact, created when there is none."""
        self._ensure_model()
        found = self.find(digest)
        if found is not None:
            return found
        tags = {DIGEST_TAG: digest}
        made = self.client.create_model_version(self.model, source, run, tags=tags, description=description)
        return str(made.version)

    def _ensure_model(self) -> None:
        try:
            self.client.create_registered_model(self.model)
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self.client.set_model_version_tag(self.model, version, name, value)

    def keep_scores(self, version: str, scores: Mapping[str, Mapping[str, Any]]) -> None:
        """Store scores with their protocol at the version, for later comparisons."""
        self.tag(version, {f"{SCORE_TAG}{metric}": _packed(result) for metric, result in scores.items()})

    def holder(self, alias: str) -> Holder | None:
        """The version that holds an alias, None when nobody does."""
        try:
            version = self.client.get_model_version_by_alias(self.model, alias)
        except Exception as error:
            if error_code(error) in ABSENT:
                return None
            raise
        scores = {
            name.removeprefix(SCORE_TAG): json.loads(value)
            for name, value in version.tags.items()
            if name.startswith(SCORE_TAG)
        }
        return Holder(str(version.version), scores)

    def promote(self, alias: str, version: str) -> None:
        self.client.set_registered_model_alias(self.model, alias, version)


def _packed(result: Mapping[str, Any]) -> str:
    """A metric's result without details, as JSON."""
    values = {name: value for name, value in result.get("values", {}).items() if "/" not in name}
    return json.dumps({**result, "values": values}, sort_keys=True)


@contextmanager
def locked(client: MlflowClient, model: str, *, wait_s: float = LOCK_WAIT_S) -> Iterator[Callable[[], bool]]:
    """Be the only one who moves aliases of `model`; yields a test whether that is still so, for just before a move.

    Raises Unavailable when another process holds the lock all the time.
    """
    lock = _Lock(client, model)
    lock.take(wait_s)
    try:
        yield lock.is_ours
    finally:
        if lock.is_ours():
            lock.remove()


class _Lock:
    """The registered model `NAME.lock`, whose tag says whose it is."""

    def __init__(self, client: MlflowClient, model: str, name: str | None = None) -> None:
        self.client, self.model = client, model
        self.name = name or f"{model}.lock"
        self.token = uuid.uuid4().hex

    def try_create(self) -> bool:
        """Whether the lock is ours now. A creation whose reply was lost is ours as well."""
        tags = {"owner": self.token, "since": str(time.time()), "orchestrator.lock": self.model}
        try:
            self.client.create_registered_model(self.name, tags=tags)
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise
            return self.is_ours()
        return True

    def owner(self) -> tuple[str, float] | None:
        """(owner, since) of the lock as it is, None when there is none."""
        try:
            tags = self.client.get_registered_model(self.name).tags
        except Exception as error:
            if error_code(error) in ABSENT:
                return None
            raise
        return str(tags.get("owner", "")), float(tags.get("since", 0))

    def is_ours(self) -> bool:
        found = self.owner()
        return found is not None and found[0] == self.token

    def remove(self) -> None:
        try:
            self.client.delete_registered_model(self.name)
        except Exception as error:
            if error_code(error) not in ABSENT:
                raise

    def take(self, wait_s: float) -> None:
        start = time.monotonic()
        seen, seen_since = "", start
        while not self.try_create():
            now, found = time.monotonic(), self.owner()
            if found is None:
                continue
            if found[0] != seen:
                seen, seen_since = found[0], now
            if now - seen_since > LOCK_STALE_S or time.time() - found[1] > LOCK_OLD_S:
                self._break(seen)
            elif now - start > wait_s:
                raise Unavailable(
                    f"another process is promoting {self.model}",
                    hint=f"try again; if none is, delete the registered model {self.name}",
                )
            time.sleep(0.25)

    def _break(self, owner: str) -> None:
        """Remove the lock of a dead owner. Of those who find it stale one does so: the one who creates its breaker."""
        breaker = _Lock(self.client, self.model, f"{self.name}.{owner[:12] or 'unknown'}")
        if not breaker.try_create():
            return
        try:
            found = self.owner()
            if found is not None and found[0] == owner:
                self.remove()
        finally:
            breaker.remove()

"""Versions and aliases of a registered model, created once and moved by one at a time.

The registry has no transactions, but creating a registered model has one winner: `NAME.lock` is the lock of `NAME`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from orchestrator.errors import Unavailable
from orchestrator.gate import Holder
from orchestrator.mlflow_calls import Patient, error_code, given
from orchestrator.owner import Owner

DIGEST_TAG = "orchestrator.artifact"  # of the model artifact; searched before a version is created
SCORE_TAG = "orchestrator.score."
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
LOCK_WAIT_S = 120.0
LOCK_STALE_S = 60.0  # a lock that stays this long in the same hands was left by a dead process: its work takes seconds
BREAKER_OLD_S = 86_400.0  # and what was made to break one, and is this old by its maker's clock


class Versions:
    """The versions of one registered model."""

    def __init__(self, client: Patient, model: str) -> None:
        self.client, self.model = client, model

    def find(self, digest: str) -> str | None:
        """The first version made from this model artifact."""
        found = self._search(f" and tags.`{DIGEST_TAG}` = '{digest}'")
        return str(found[0].version) if found else None

    def _search(self, also: str = "") -> list[Any]:
        """Versions of the model, oldest first."""
        quoted = self.model.replace("'", "")
        found = self.client.search_model_versions(f"name = '{quoted}'{also}")
        return sorted(found, key=lambda version: int(version.version))

    def create(
        self, digest: str, source: str, run: str, description: str, tags: Mapping[str, str] | None = None
    ) -> str:
        """The version of this artifact, created when there is none. By one at a time: see `locked`."""
        known = {**(tags or {}), DIGEST_TAG: digest}

        def create() -> str:
            texts = {"tags": known, "description": description}
            made = self.client.create_model_version(self.model, source, run, **texts, await_creation_for=0)
            return given(made.version)

        self.client.again(self._ensure_model)
        made = self.client.settled(lambda: self.find(digest), create)
        return self.find(digest) or made  # an earlier request of ours may have been done meanwhile

    def late(self) -> list[str]:
        """What requests made that were done long after we gave them up: a later version of the same artifact, to which
        nobody gave an alias."""
        seen, late = set[str](), []
        for version in self._search():
            digest = version.tags.get(DIGEST_TAG, "")
            late += [str(version.version)] if digest in seen else []
            seen |= {digest} if digest else set()
        named = set(map(str, self.client.get_registered_model(self.model).aliases.values())) if late else set()
        return [version for version in late if version not in named]

    def tidy(self) -> list[str]:
        """Remove what came late. By one at a time. Returns the versions removed."""
        removed = self.late()
        for version in removed:
            try:
                self.client.delete_model_version(self.model, version)
            except Exception as error:
                if error_code(error) not in ABSENT:  # done, and the reply was lost
                    raise
        return removed

    def _ensure_model(self) -> None:
        try:
            given(self.client.create_registered_model(self.model).name)
        except Exception as error:
            if error_code(error) != "RESOURCE_ALREADY_EXISTS":
                raise

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Set what is not set yet, and see that it is."""

        def lacking() -> dict[str, str]:
            there = self.client.get_model_version(self.model, version).tags
            return {name: str(value) for name, value in tags.items() if there.get(name) != str(value)}

        def tagged(shift: Callable[[], None]) -> None:
            wanted = lacking()
            shift()
            for name, value in wanted.items():
                self.client.set_model_version_tag(self.model, version, name, value)
            if left := lacking():
                raise ConnectionError(f"version {version} of {self.model} does not get its tag {min(left)}")

        self.client.together(tagged)

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
        def promoted(shift: Callable[[], None]) -> None:
            shift()
            self.client.set_registered_model_alias(self.model, alias, version)
            holder = self.holder(alias)
            if holder is None or holder.version != version:
                raise ConnectionError(f"version {version} of {self.model} does not get its alias")

        self.client.together(promoted)


def _packed(result: Mapping[str, Any]) -> str:
    """A metric's result without details, as JSON."""
    values = {name: value for name, value in result.get("values", {}).items() if "/" not in name}
    return json.dumps({**result, "values": values}, sort_keys=True)


@contextmanager
def locked(
    client: Patient, model: str, owner: str = "", *, wait_s: float | None = None
) -> Iterator[Callable[[], bool]]:
    """Be the only one who makes versions and moves aliases of `model`; yields a test whether that is still so, for just
    before a move.

    `owner` names who asks: whoever asks again under the same name has the lock it left. Raises Unavailable when another
    process holds the lock all the time.
    """
    lock = _Lock(client, model, owner or uuid.uuid4().hex)
    lock.take(LOCK_WAIT_S if wait_s is None else wait_s)
    try:
        yield lock.is_ours
    finally:
        lock.remove()


class _Lock:
    """The registered model `NAME.lock`, whose tags say whose it is."""

    def __init__(self, client: Patient, model: str, token: str, name: str | None = None) -> None:
        self.client, self.model, self.token = client, model, token
        self.name = name or f"{model}.lock"

    def try_create(self) -> bool:
        """Whether the lock is ours now. A creation whose reply was lost is ours as well."""

        def create() -> bool:
            process = json.dumps(asdict(Owner.here(self.token, 0)))
            tags = {"owner": self.token, "process": process, "since": str(time.time())}
            try:
                made = self.client.create_registered_model(self.name, tags={**tags, "orchestrator.lock": self.model})
                given(made.name)
            except Exception as error:
                if error_code(error) == "RESOURCE_ALREADY_EXISTS":
                    return False
                raise
            return True

        return self.client.settled(lambda: self.is_ours() or None, create)

    def tags(self) -> dict[str, str] | None:
        """The lock as it is, None when there is none."""
        try:
            return dict(self.client.get_registered_model(self.name).tags)
        except Exception as error:
            if error_code(error) in ABSENT:
                return None
            raise

    def is_ours(self) -> bool:
        found = self.tags()
        return found is not None and found.get("owner") == self.token

    def remove(self) -> None:
        """Let go of it, if it is ours still."""

        def delete(shift: Callable[[], None]) -> None:
            if self.is_ours():
                shift()
                self.delete()
                if self.is_ours():
                    raise ConnectionError(f"the lock of {self.model} does not go")

        self.client.together(delete)

    def delete(self) -> None:
        """Whoever's it is."""
        try:
            self.client.delete_registered_model(self.name)
        except Exception as error:
            if error_code(error) not in ABSENT:  # it is gone, and the reply was lost
                raise

    def take(self, wait_s: float) -> None:
        start = time.monotonic()
        seen, seen_since = "", start
        while not self.try_create():
            now, found = time.monotonic(), self.tags()
            if found is None:
                continue
            owner = found.get("owner", "")
            if owner != seen:
                seen, seen_since = owner, now
            if now - seen_since > LOCK_STALE_S or _fate(found) == "dead":
                self._break(owner)
            elif now - start > wait_s:
                raise Unavailable(
                    f"another process is registering {self.model}",
                    hint=f"try again; if none is, delete the registered model {self.name}",
                )
            time.sleep(0.25)

    def _break(self, owner: str) -> None:
        """Remove the lock of a dead owner. Of those who find it stale one does so: the one who creates its breaker."""
        breaker = _Lock(self.client, self.model, uuid.uuid4().hex, f"{self.name}.{owner[:12] or 'unknown'}")
        if not breaker.try_create():
            left = breaker.tags()  # a breaker may die as well
            if left is not None and _left_behind(left):
                breaker.delete()
            return
        try:
            found = self.tags()
            if found is not None and found.get("owner", "") == owner:
                self.delete()
        finally:
            breaker.remove()


def _fate(tags: Mapping[str, str]) -> str:
    """Of a lock's owner. Only a process of this machine is known to be dead; others are watched: clocks may differ."""
    with suppress(KeyError, TypeError, ValueError):
        return Owner.from_json(json.loads(tags["process"])).fate
    return "unknown"


def _left_behind(breaker: Mapping[str, str]) -> bool:
    """Whether a breaker's maker died: known here, by its age elsewhere. A clock that is wrong by a day does no harm: who
    breaks a lock looks once more whose it is."""
    if (fate := _fate(breaker)) != "unknown":
        return fate == "dead"
    with suppress(ValueError):
        return time.time() - float(breaker.get("since", 0)) > BREAKER_OLD_S
    return True

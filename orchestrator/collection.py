"""Removing what nothing needs any more (`orchestrate gc`): mark by `reach` and `garbage`, then sweep.

    collection/log/…   a log as a pipeline has: who sweeps. Runs begin only when nobody does, and sweeping only when nobody runs

Names go before what they name, so a sweep that is killed at any point leaves whole things, and orphans that a later one
removes: first records and pointers, then cache keys, then checkpoints (their manifests first), then artifacts' manifests,
blobs last.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.errors import Busy
from orchestrator.garbage import FOLDER, KINDS, Findings, Item, Survey, log_of
from orchestrator.log import Lease, Log
from orchestrator.reach import Wish, pipelines

if TYPE_CHECKING:
    from orchestrator.artifacts import ArtifactStore

WAIT_S = 30.0  # that a run waits for a sweep to end
WAIT_EVERY_S = 1.0
CHECK_EVERY_S = 1.0  # that we still are the one who sweeps


def survey(store: ArtifactStore, wish: Wish) -> Findings:
    """What a sweep would remove. Changes nothing, so ages go by this machine's clock. Raises BadInput, Unavailable."""
    return Survey(store, wish, time.time()).findings()


def collect(store: ArtifactStore, wish: Wish, *, wait_s: float = 0.0) -> Findings:
    """Remove what nothing needs; returns what went. Raises Busy where a run is at work in this storage, BadInput, Unavailable."""
    store.prepare()
    with _alone(store, wait_s) as lease:
        found = Survey(store, wish, _now(store)).findings()
        checked = 0.0
        for item in found.items:
            for path in item.paths:
                if time.monotonic() - checked > CHECK_EVERY_S:  # also after this process was suspended
                    _check(lease)
                    checked = time.monotonic()
                store.files.remove(path)
            if item.local is not None:
                item.local.unlink(missing_ok=True)
        return found


def stand_clear(store: ArtifactStore, run_id: str, *, wait_s: float = WAIT_S) -> None:
    """For a run that holds its pipeline and has not begun: wait until nobody sweeps. Raises Busy when that takes too long.

    A sweep whose process is gone is fenced off, so that it cannot go on when it comes back.
    """
    log = log_of(store)
    if log.state().lease is None:
        return
    try:
        log.acquire(run_id, wait_s=max(wait_s, WAIT_S)).release({"status": "passed"}, {})
    except Busy as error:
        raise Busy(
            f"storage {store.url} is being swept by `orchestrate gc`", hint="try again when it is done"
        ) from error


@contextmanager
def _alone(store: ArtifactStore, wait_s: float) -> Iterator[Lease]:
    """Nobody runs, and nobody begins to: first ours is written, then theirs are looked at, and they do it the other way."""
    end = time.monotonic() + wait_s
    while True:
        try:
            lease = log_of(store).acquire(f"gc-{secrets.token_hex(4)}", wait_s=wait_s)
        except Busy as error:
            raise Busy(f"another gc of {store.url} is at work", hint="wait for it to end") from error
        try:
            _fence(store)
            break
        except BaseException as error:  # while we wait for a run, those that wait for us must begin
            lease.release({"status": "given up"}, {})
            if not isinstance(error, Busy) or time.monotonic() > end:
                raise
        time.sleep(WAIT_EVERY_S)
    try:
        yield lease
    finally:
        lease.release({"status": "done"}, {})


def _fence(store: ArtifactStore) -> None:
    """End the lease of every dead run. Raises Busy for a living one."""
    for name in pipelines(store):
        log = Log(store.files, name)
        log.told = store.told
        if log.state().lease is not None:
            log.acquire(f"gc-{secrets.token_hex(4)}").release({"status": "done"}, {})


def _check(lease: Lease) -> None:
    if not lease.log.state().held(lease.owner.epoch):
        raise Busy("this gc was taken for dead and removes nothing more; what it removed was not needed")


def _now(store: ArtifactStore) -> float | None:
    """The time by the storage's own clock, None where it keeps no times."""
    path = f"{FOLDER}/clock"
    store.files.write(path, secrets.token_bytes(8))
    return store.files.written(path)


__all__ = ["KINDS", "Findings", "Item", "collect", "stand_clear", "survey"]

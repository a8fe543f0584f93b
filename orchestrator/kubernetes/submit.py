"""Submitting a pipeline, following it, and reading how it ended."""

from __future__ import annotations

import re
import secrets
import string
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator import verdicts
from orchestrator.errors import BadInput, Busy, OrchestratorError, Unavailable
from orchestrator.kubernetes import diagnosis, standing
from orchestrator.kubernetes.client import Forbidden, NotThere
from orchestrator.kubernetes.render import NAMESPACE, Rendered, Wish, render
from orchestrator.kubernetes.rules import MAX_NAME
from orchestrator.kubernetes.standing import Outcome, State
from orchestrator.verdicts import Verdict

if TYPE_CHECKING:
    from orchestrator.kubernetes.client import Api

POLL_S = 1.0
LOOK_S = 15.0  # between two looks at pods that do not start
DRAIN_S = 5.0  # for the last lines of a log
STORE_S = 10.0  # for a storage to give the verdict
_ALPHABET = string.ascii_lowercase + string.digits

Say = Callable[[str], None]


@dataclass(frozen=True)
class Followed:
    """A job as it was last seen. `state` is None for one that is deleted; `told` is the verdict that its log has."""

    state: State | None
    told: Verdict | None = None
    timed_out: bool = False


def prepared(wish: Wish) -> Rendered:
    """The documents of one submission: a name of its own unless one is asked for, and a verdict of its own in any case.

    Raises BadInput with everything that the API server, KubeRay or the namespace would refuse: nothing was sent then.
    """
    once = "".join(secrets.choice(_ALPHABET) for _ in range(6))
    if wish.name:
        return _checked(render(replace(wish, once=once)))
    name = render(wish).name[: MAX_NAME - 7].rstrip("-")
    return _checked(render(replace(wish, name=f"{name}-{once}", once=once)))


def _checked(rendered: Rendered) -> Rendered:
    from orchestrator.kubernetes import checking

    documents, faults = checking.read(rendered.text, "")
    found = [*faults, *checking.check(documents).findings]
    if found:
        raise BadInput("this would not run:\n" + "\n".join(f"  {replace(one, line=0)}" for one in found))
    return rendered


def submit(api: Api, rendered: Rendered, *, dry_run: bool = False) -> State:
    """Apply the pipeline's ConfigMap and its RayJob, which then owns it. `dry_run`: the server checks, and keeps nothing.

    Raises Busy where a job of this name is there, BadInput for what the server refuses, Unavailable.
    """
    there = api.find("RayJob", rendered.name)
    if there is not None:
        word = standing.read(there).word
        hint = f"follow it with `orchestrate k8s logs -f {rendered.name}`, or delete it, or take another --name"
        raise Busy(f"there is a RayJob {rendered.name} in {api.namespace} already: {word}", hint=hint)
    config = rendered.config
    api.apply(config, dry_run=dry_run)
    try:
        made = api.apply(rendered.main, dry_run=dry_run)
    except OrchestratorError:
        if not dry_run:
            _undo(api, config)
        raise
    if not dry_run:
        api.own("ConfigMap", config["metadata"]["name"], {**rendered.main, "metadata": made["metadata"]})
    return standing.read(made)


def _undo(api: Api, config: Mapping[str, Any]) -> None:
    """Without its job the ConfigMap is of no use; where it cannot be removed, the error to tell is the job's."""
    try:
        api.delete("ConfigMap", config["metadata"]["name"])
    except OrchestratorError:
        return


def follow(api: Api, name: str, *, say: Say, line: Say, timeout_s: float | None = None) -> Followed:
    """Wait for a job to end: `say` hears how it stands, `line` what it prints. Raises NotThere, Forbidden, Unavailable."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    state = standing.read(api.get("RayJob", name))
    log = _Log(api, name, state.job, line, say)
    log.start()
    shown, looked, why = "", time.monotonic() - LOOK_S / 2, ""
    try:
        while True:
            if (text := _told(state)) != shown:
                say(text)
                shown = text
            if state.ended:
                log.end()
                return Followed(state, log.told)
            if end is not None and time.monotonic() > end:
                return Followed(state, log.told, timed_out=True)
            if state.deployment in ("", "Initializing") and time.monotonic() - looked > LOOK_S:
                looked, before = time.monotonic(), why
                why = _waiting(api, name)
                if why and why != before:
                    say(why)
            time.sleep(POLL_S)
            try:
                state = standing.read(api.get("RayJob", name))
            except NotThere:
                log.end()
                return Followed(None, log.told)
    finally:
        log.stop()


def result(state: State | None, name: str, stored: Verdict | None, told: Verdict | None = None) -> Outcome:
    """How a job ended: by what stands in the storage; where that cannot be read, by what its log said."""
    verdict = stored or told
    return standing.deleted(verdict, name) if state is None else standing.outcome(state, verdict)


def stored_verdict(
    storage: str, job: str, *, options: Mapping[str, Any] | None = None, say: Say = lambda line: None
) -> Verdict | None:
    """The verdict in the storage; None, and told, where that cannot be read from here."""
    from orchestrator.artifacts import ArtifactStore

    if not job or not storage:
        return None
    try:
        store = ArtifactStore(storage, options)
        store.told = say
        store.files.told = lambda line: None
        with store.files.brief(STORE_S):
            return verdicts.read(store, job)
    except (OrchestratorError, OSError) as error:
        say(f"the verdict in {storage} cannot be read from here: {error}")
        return None


def _told(state: State) -> str:
    attempt = f", after {state.attempts} failed attempt{'s' * (state.attempts > 1)}" if state.attempts else ""
    word = {"new": "submitted", "queued": f"waits in the queue {state.queue}"}.get(state.word, state.word)
    return f"{state.name}: {word}{attempt}"


def _waiting(api: Api, name: str) -> str:
    """Why it has not started, "" where that is not known."""
    try:
        found = diagnosis.debug(api, name).findings
    except OrchestratorError:
        return ""  # it is only news; what matters is asked again a moment later
    return f"{name}: " + "; ".join(finding.what for finding in found[:2]) if found else ""


class _Log:
    """Prints what the submitter's pods print, in a thread: one pod after another, and again from where a connection broke."""

    def __init__(self, api: Api, name: str, job: str, line: Say, say: Say) -> None:
        self.api, self.name, self.job, self.line, self.say = api, name, job, line, say
        self.told: Verdict | None = None
        self._ending = threading.Event()  # the job has ended: read what there is
        self._stopped = threading.Event()
        self._seen: dict[str, str] = {}  # pod -> time of the last line
        self._read: set[str] = set()  # pods of which everything was read
        self._thread = threading.Thread(target=self._work, daemon=True, name="log")

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join(DRAIN_S)

    def stop(self) -> None:
        self._stopped.set()

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                more = self._pass()
            except Forbidden as error:
                self.say(f"its log cannot be read: {error}")
                return
            except OrchestratorError:  # the pod is gone, or the connection: looked for again
                more = True
            if self._ending.is_set() and not more:
                return
            self._stopped.wait(0.5)

    def _pass(self) -> bool:
        """Read one pod's log to its end; whether there may be more."""
        labels = {"app.kubernetes.io/instance": self.name, "app.kubernetes.io/component": "submitter"}
        pods = [pod for pod in self.api.all("Pod", labels=labels) if pod["metadata"]["name"] not in self._read]
        pods = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")]
        for pod in sorted(pods, key=lambda one: str(one["metadata"].get("creationTimestamp", ""))):
            name, over = pod["metadata"]["name"], pod["status"]["phase"] != "Running"
            known = self._seen.get(name, "")
            for raw in self.api.follow(name, container=_first(pod)):
                if self._stopped.is_set():
                    return False
                self._take(name, raw, known)
            if over:
                self._read.add(name)
        return any(pod["status"]["phase"] == "Running" for pod in pods)

    def _take(self, pod: str, raw: str, known: str) -> None:
        """One line after its time; those up to `known` were told before the connection broke."""
        stamp, _, text = raw.partition(" ")
        stamp = _comparable(stamp)
        if stamp <= known:
            return
        self._seen[pod] = stamp
        self.line(text)
        if found := verdicts.TOLD.search(text):
            verdict = verdict_told(found)
            if not self.job or verdict.job == self.job:
                self.told = verdict


def _comparable(stamp: str) -> str:
    """2026-11-22T08:00:00.5Z: fractions of any length compare as texts do."""
    second, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{second}.{fraction:0<9}"


def _first(pod: Mapping[str, Any]) -> str | None:
    containers = (pod.get("spec") or {}).get("containers") or [{}]
    name = containers[0].get("name")
    return str(name) if name else None


def verdict_told(found: re.Match[str]) -> Verdict:
    """The verdict in a line that a run printed."""
    return Verdict(found["job"], int(found["code"]), found["status"], found["final"] == "final", run=found["run"] or "")


__all__ = [
    "NAMESPACE",
    "Followed",
    "Unavailable",
    "follow",
    "prepared",
    "result",
    "stored_verdict",
    "submit",
]

"""The API server, as far as jobs need it, through lightkube (the extra `k8s`). Everything that goes wrong is an error of ours.

Documents go in and come out as plain mappings. What may pass (a dropped connection, an overloaded server) is tried again
for a while; what is refused is told with what to do: 400 and 422 are bad input (exit 2), 409 is somebody else's (6), and a
server that is not reached, or does not let us, is the environment (4).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from orchestrator.errors import BadInput, Busy, OrchestratorError, Unavailable

T = TypeVar("T")
Json = dict[str, Any]

MANAGER = "orchestrate"  # of fields, in server-side apply
TIMEOUT_S = 10.0  # for one answer
PATIENCE_S = 30.0  # for a server that does not answer, or is overloaded
KINDS = {  # group, version, plural
    "RayJob": ("ray.io", "v1", "rayjobs"),
    "RayCluster": ("ray.io", "v1", "rayclusters"),
    "ConfigMap": ("", "v1", "configmaps"),
    "Pod": ("", "v1", "pods"),
    "Event": ("", "v1", "events"),
}
PASSING = {408, 429, 500, 502, 503, 504}
UNKNOWN_FIELD = "field not declared in schema"  # how the server tells of one in an apply, with status 500


class NotThere(BadInput):
    """What was named does not exist."""


class Forbidden(Unavailable):
    """The server knows us, and does not let us."""


class Api:
    """One namespace of one cluster: that of KUBECONFIG, ~/.kube/config, or of the pod that this runs in."""

    def __init__(
        self,
        namespace: str,
        *,
        context: str | None = None,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.namespace = namespace
        self.patience_s = patience_s
        self._client, self._config = _connect(namespace, context, timeout_s)
        self._kinds: dict[str, Any] = {}

    @property
    def server(self) -> str:
        return str(self._config.cluster.server)

    def get(self, kind: str, name: str) -> Json:
        """Raises NotThere."""
        return self._call(f"read {kind} {name}", lambda: _plain(self._client.get(self._kind(kind), name)))

    def find(self, kind: str, name: str) -> Json | None:
        """None where it does not exist."""
        with suppress(NotThere):
            return self.get(kind, name)
        return None

    def all(self, kind: str, *, labels: Mapping[str, str] | None = None) -> list[Json]:
        def listed() -> list[Json]:
            return [_plain(one) for one in self._client.list(self._kind(kind), labels=dict(labels or {}) or None)]

        return self._call(f"list {KINDS[kind][2]}", listed)

    def apply(self, document: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Server-side apply; a field that the server does not know is an error. Raises Busy where somebody else owns one."""
        kind, name = str(document["kind"]), str(document["metadata"]["name"])

        def applied() -> Json:
            # lightkube's own `apply` has no word for strict validation, which is the point of it.
            request = self._client._client.request
            params = {"fieldManager": MANAGER, "fieldValidation": "Strict", "dryRun": "All" if dry_run else None}
            headers = {"Content-Type": "application/apply-patch+yaml"}
            one = self._kind(kind)
            return _plain(request("patch", res=one, name=name, obj=one(document), headers=headers, params=params))

        return self._call(f"apply {kind} {name}", applied)

    def own(self, kind: str, name: str, owner: Mapping[str, Any]) -> None:
        """Let it go with its owner."""
        from lightkube.types import PatchType

        meta = owner["metadata"]
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}
        patch = {"metadata": {"ownerReferences": [reference]}}
        self._call(
            f"change {kind} {name}",
            lambda: self._client.patch(
                self._kind(kind), name, patch, patch_type=PatchType.MERGE, field_manager=MANAGER
            ),
        )

    def delete(self, kind: str, name: str, *, dry_run: bool = False) -> None:
        """With all that it owns. Raises NotThere."""
        from lightkube.types import CascadeType

        self._call(
            f"delete {kind} {name}",
            lambda: self._client.delete(self._kind(kind), name, cascade=CascadeType.FOREGROUND, dry_run=dry_run),
        )

    def log(self, pod: str, *, container: str | None = None, tail: int | None = None) -> list[str]:
        """A container's last lines, as many as there are now."""
        lines = self._call(
            f"read the log of {pod}",
            lambda: list(self._client.log(pod, container=container, tail_lines=tail, newlines=False)),
        )
        return [str(line) for line in lines]

    def follow(self, pod: str, *, container: str | None = None) -> Iterator[str]:
        """A container's log as it grows, each line after its time: `2026-11-22T08:00:00.000000001Z text`.

        Ends with the container, or where the connection is lost: raises Unavailable then.
        """
        lines = self._call(
            f"follow the log of {pod}",
            lambda: self._client.log(pod, container=container, follow=True, timestamps=True, newlines=False),
        )
        while (line := self._call(f"follow the log of {pod}", lambda: next(lines, None), patience_s=0)) is not None:
            yield str(line)

    def _kind(self, kind: str) -> Any:
        if kind not in self._kinds:
            from lightkube import generic_resource

            # Not by its registry, in which another user of lightkube in this process may have Pod, say, already.
            info = generic_resource.create_api_info(*KINDS[kind][:2], kind, KINDS[kind][2])
            self._kinds[kind] = type(kind, (generic_resource.GenericNamespacedResource,), {"_api_info": info})
        return self._kinds[kind]

    def _call(self, what: str, call: Callable[[], T], *, patience_s: float | None = None) -> T:
        """The answer; errors in words. What may pass is asked again."""
        end, pause = time.monotonic() + (self.patience_s if patience_s is None else patience_s), 0.25
        while True:
            try:
                return call()
            except Exception as error:
                known, passing = self._explained(error, what)
                if known is None:
                    raise
                if not passing or time.monotonic() + pause > end:
                    raise known from error
                time.sleep(pause)
                pause = min(2 * pause, 5.0)

    def _explained(self, error: Exception, what: str) -> tuple[OrchestratorError | None, bool]:
        """An error of ours for one of the server's or of the way to it, and whether it may pass."""
        from lightkube.core.exceptions import ApiError, ConfigError
        from lightkube.core.generic_client import httpx

        if isinstance(error, ApiError):
            status = error.status
            return self._refusal(int(status.code or 0), str(status.message or ""), str(status.reason or ""), what)
        if isinstance(error, httpx.HTTPStatusError):
            return self._refusal(error.response.status_code, error.response.text[:200], "", what)
        if isinstance(error, ConfigError):
            return Unavailable(f"cannot {what}: {_line(error)}", hint="is the kubeconfig whole?"), False
        if isinstance(error, (httpx.HTTPError, OSError)):
            text = _line(error) or type(error).__name__
            hint = "is it the right cluster, and reachable from here? `kubectl cluster-info` asks it too"
            return Unavailable(f"cannot {what}: {self.server} does not answer: {text}", hint=hint), True
        no_type = isinstance(error, KeyError) and "content-type" in str(error).lower()
        if no_type or type(error).__module__.partition(".")[0] in ("msgspec", "json"):
            return Unavailable(f"cannot {what}: {self.server} answers with something else", hint="a proxy?"), True
        return None, False

    def _refusal(self, code: int, text: str, reason: str, what: str) -> tuple[OrchestratorError | None, bool]:
        text = " ".join(text.split())[:600]
        said = f"cannot {what}: {text or reason or f'status {code}'}"
        if code in (400, 422) or UNKNOWN_FIELD in text:
            hint = "`orchestrate k8s render` shows the documents; the cluster's KubeRay may be older than 1.7"
            return BadInput(said, hint=hint), False
        if code == 401:
            return Unavailable(said, hint="log in again: the credentials of the kubeconfig are not accepted"), False
        if code == 403:
            return Forbidden(said, hint=_forbidden(text, self.namespace)), False
        if code == 404 and "namespaces" in text:
            return Unavailable(said, hint=f"apply k8s/ first, which makes the namespace {self.namespace}"), False
        if code == 404 and ("page not found" in text or "could not find the requested resource" in text):
            return Unavailable(said, hint="KubeRay 1.7 is not installed in this cluster; see k8s/README.md"), False
        if code == 404:
            return NotThere(said, hint="`orchestrate k8s status` lists the jobs"), False
        if code == 409:
            return Busy(said, hint="somebody else changes it: try again, or take another --name"), False
        return Unavailable(said, hint="try again later; what was applied stands"), code in PASSING


def _forbidden(text: str, namespace: str) -> str:
    if "exceeded quota" in text:
        return f"the namespace has no room: `kubectl -n {namespace} describe quota`; delete a job, or ask for less"
    if "PodSecurity" in text:
        return "the namespace takes restricted pods only, and this one is not"
    return f"ask for the Role `submitter` in {namespace} (k8s/base); `kubectl auth can-i --list -n {namespace}`"


def _connect(namespace: str, context: str | None, timeout_s: float) -> tuple[Any, Any]:
    try:
        import lightkube
        from lightkube.core.exceptions import ConfigError
        from lightkube.core.generic_client import httpx
    except ImportError as error:
        hint = "pip install 'gan-orchestrator[k8s]'; `orchestrate k8s render` works without it"
        raise Unavailable("talking to a cluster needs lightkube, which is not installed", hint=hint) from error
    try:
        found = _config(lightkube.KubeConfig).get(context)
        if found.user is None:  # lightkube wants one, also where nobody is asked
            found = found._replace(user=_nobody())
        client = lightkube.Client(
            config=found, namespace=namespace, timeout=httpx.Timeout(timeout_s), field_manager=MANAGER
        )
    except (ConfigError, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
        hint = "point KUBECONFIG at your cluster's file, or work in a pod of it"
        raise Unavailable(f"no Kubernetes cluster is configured: {_line(error)}", hint=hint) from error
    return client, found


def _config(configs: Any) -> Any:
    """KUBECONFIG goes first, as with kubectl; of several files the first that exists."""
    for path in filter(None, os.environ.get("KUBECONFIG", "").split(os.pathsep)):
        if os.path.exists(os.path.expanduser(path)):
            return configs.from_file(path)
    if os.environ.get("KUBECONFIG"):
        raise FileNotFoundError(f"{os.environ['KUBECONFIG']} (KUBECONFIG) does not exist")
    return configs.from_env()


def _nobody() -> Any:
    from lightkube.config.models import User

    return User()


def _plain(value: Any) -> Json:
    """A generic resource as a plain mapping."""
    return dict(value.to_dict() if hasattr(value, "to_dict") else value)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


__all__ = ["Api", "Forbidden", "NotThere"]

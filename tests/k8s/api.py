"""A small API server on loopback: real HTTP, objects in memory, and answers that a test scripts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

DROP = "<the connection breaks here>"
KINDS = {"rayjobs": "RayJob", "rayclusters": "RayCluster", "configmaps": "ConfigMap", "pods": "Pod", "events": "Event"}


@dataclass
class FakeApi:
    """`statuses` are those of every RayJob, one for each time it is read, the last one for good; None deletes it.

    `refuse` maps "PATCH rayjobs" to a status code and a message (or a whole body); `times` limits how often. `logs` maps a
    pod to its lines, of which DROP breaks the connection; each time a log is read on, the next connection goes on to the
    next DROP.
    """

    statuses: list[dict[str, Any] | None] = field(default_factory=list)
    refuse: dict[str, tuple[int, Any]] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # "PATCH rayjobs/name ?dryRun=All"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    hang_s: float = 0.0
    url: str = ""
    _reads: int = 0
    _drops: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, plural: str, name: str, **document: Any) -> None:
        meta = {"name": name, "uid": f"uid-{name}", "creationTimestamp": "2026-11-22T08:00:00Z"}
        given = document.pop("metadata", {})
        whole = {"apiVersion": "v1", "kind": KINDS[plural], "metadata": {**meta, **given}, **document}
        self.objects[plural, name] = whole

    def made(self, plural: str) -> list[dict[str, Any]]:
        return [one for (kind, _), one in self.objects.items() if kind == plural]

    def count(self, start: str) -> int:
        return sum(line.startswith(start) for line in self.asked)

    def status_of(self, document: dict[str, Any]) -> dict[str, Any] | None:
        """The job as it stands at this reading; None once it is deleted."""
        if not self.statuses:
            return document
        with self.lock:
            status = self.statuses[min(self._reads, len(self.statuses) - 1)]
            self._reads += 1
        return None if status is None else {**document, "status": status}

    def lines(self, pod: str) -> Iterator[str]:
        """What this connection gets: everything from the start, up to the next break."""
        with self.lock:
            allowed = self._drops.get(pod, 0)
            self._drops[pod] = allowed + 1
        for line in self.logs[pod]:
            if line == DROP:
                if allowed == 0:
                    raise ConnectionAbortedError
                allowed -= 1
                continue
            yield line


@contextmanager
def serving(folder: Path, monkeypatch: Any) -> Iterator[FakeApi]:
    """The server, with a KUBECONFIG that leads to it."""
    api = FakeApi()

    class Handler(_Handler):
        fake = api

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": api.url}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
        "current-context": "fake",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        plural, name, rest = self._asked()
        if self._refused(plural):
            return
        if rest == "log":
            self._log(name)
        elif name:
            self._one(plural, name)
        else:
            wanted = dict(pair.split("=", 1) for pair in self._query("labelSelector").split(",") if pair)
            items = [
                one for one in self.fake.made(plural) if wanted.items() <= (one["metadata"].get("labels") or {}).items()
            ]
            self._answer(200, {"kind": f"{KINDS[plural]}List", "metadata": {"resourceVersion": "1"}, "items": items})

    def _one(self, plural: str, name: str) -> None:
        found = self.fake.objects.get((plural, name))
        if found is not None and plural == "rayjobs":
            found = self.fake.status_of(found)
        if found is None:
            self._status(404, f'{plural}.ray.io "{name}" not found')
        else:
            self._answer(200, found)

    def do_PATCH(self) -> None:
        plural, name, _ = self._asked()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.bodies.append(body)
        if self._refused(plural):
            return
        known = self.fake.objects.get((plural, name))
        if self.headers["Content-Type"] == "application/apply-patch+yaml":
            if self._query("fieldManager") != "orchestrate" or self._query("fieldValidation") != "Strict":
                self._status(400, "PATCH of apply needs a field manager, and this one strictness")
                return
            meta = {"uid": f"uid-{name}", "creationTimestamp": "2026-11-22T08:00:00Z", **body["metadata"]}
            merged = {**(known or {}), **body, "metadata": meta}
        elif known is None:
            self._status(404, f'{plural} "{name}" not found')
            return
        else:
            merged = {**known, "metadata": {**known["metadata"], **body["metadata"]}}
        if self._query("dryRun") != "All":
            self.fake.objects[plural, name] = merged
        self._answer(200 if known else 201, merged)

    def do_DELETE(self) -> None:
        plural, name, _ = self._asked()
        if self._refused(plural):
            return
        if (plural, name) not in self.fake.objects:
            self._status(404, f'{plural} "{name}" not found')
            return
        if self._query("dryRun") != "All":
            del self.fake.objects[plural, name]
        self._answer(200, {"kind": "Status", "status": "Success"})

    # --- parts ---------------------------------------------------------------------------------------------------

    def _asked(self) -> tuple[str, str, str]:
        time.sleep(self.fake.hang_s)
        parts = urlsplit(self.path).path.strip("/").split("/")
        below = parts[parts.index("namespaces") + 2 :]
        plural, name, rest = [*below, "", ""][:3]
        query = urlsplit(self.path).query
        self.fake.asked.append(f"{self.command} {'/'.join(below)}" + (f" ?{query}" if query else ""))
        return plural, name, rest

    def _query(self, key: str) -> str:
        return parse_qs(urlsplit(self.path).query).get(key, [""])[0]

    def _refused(self, plural: str) -> bool:
        key = f"{self.command} {plural}"
        if key not in self.fake.refuse or self.fake.times.get(key) == 0:
            return False
        if key in self.fake.times:
            self.fake.times[key] -= 1
        code, what = self.fake.refuse[key]
        if code == 0:
            self.close_connection = True
            self.connection.close()
        elif isinstance(what, bytes):
            self._send(code, what, "text/html")
        else:
            self._status(code, what)
        return True

    def _status(self, code: int, message: str) -> None:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
        self._answer(code, body)

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        self._send(code, json.dumps(body).encode(), "application/json")

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _log(self, pod: str) -> None:
        if pod not in self.fake.logs:
            self._status(400, f'container in pod "{pod}" is waiting to start: ContainerCreating')
            return
        stamped = self._query("timestamps").lower() == "true"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number, line in enumerate(self.fake.lines(pod)):
                text = (f"2026-11-22T08:00:{number:02d}.5Z {line}" if stamped else line) + "\n"
                self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionAbortedError:
            self.close_connection = True
            self.connection.close()

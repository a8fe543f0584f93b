"""A proxy before an MLflow server that fails in every way that a network and what stands in it can fail."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = b"<html><body>Please log in.</body></html>"
# What happens to a request: `done` says whether the server behind has executed it.
TROUBLES = ("black hole", "500", "503", "lost", "truncated", "cut", "redirect", "page", "nothing", "404")


class Faulty:
    """Relays to `target`. `trouble` names what happens to requests, "" nothing; `every` n-th one, 1: all.

    lost: executed, then the connection is cut; truncated: executed, half of the answer comes; cut: half of it comes as if
    it were all; redirect: to a page; page: 200 and HTML; nothing: 200 and `{}`; slow: `delay_s` before it is executed.
    """

    def __init__(self, target: str) -> None:
        self.trouble, self.every, self.delay_s = "", 1, 0.0
        self.count = 0
        self.seen: Callable[[int, str, str], None] = lambda n, moment, path: None  # moment: before | after
        self._gone = threading.Event()
        self._lock = threading.Lock()
        proxy = self

        class Relay(BaseHTTPRequestHandler):
            def relay(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                with contextlib.suppress(OSError):
                    proxy._answer(self, target, body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = relay

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
        self.server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _answer(self, request: BaseHTTPRequestHandler, target: str, body: bytes | None) -> None:
        if request.path == "/login":  # as if it were elsewhere: no request of MLflow's, and not counted
            return self._reply(request, 200, PAGE, "text/html")
        with self._lock:
            self.count += 1
            number = self.count
        struck = self.trouble if self.trouble and number % self.every == 0 else ""
        if struck == "black hole":
            self._gone.wait()
            return self._cut(request)
        if struck in ("500", "503", "404"):
            return self._reply(request, int(struck), PAGE, "text/html")
        if struck == "redirect":
            return self._reply(request, 302, b"", "text/html", {"Location": "/login"})
        if struck == "page":
            return self._reply(request, 200, PAGE, "text/html")
        if struck == "nothing":
            return self._reply(request, 200, b"{}", "application/json")
        time.sleep(self.delay_s)
        self.seen(number, "before", request.path)
        status, content, kind = _passed_on(request, target, body)
        self.seen(number, "after", request.path)
        if struck == "lost":
            return self._cut(request)
        if struck == "truncated":
            self._reply(request, status, content[: len(content) // 2], kind, {"Content-Length": str(len(content))})
            return self._cut(request)
        return self._reply(request, status, content[: len(content) // 2] if struck == "cut" else content, kind)

    def _reply(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        kind: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    def _cut(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        with contextlib.suppress(OSError):
            request.connection.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        self.trouble, self.every, self.delay_s = "", 1, 0.0
        self._gone.set()
        self._gone = threading.Event()

    def __enter__(self) -> Faulty:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self.server.shutdown()
        self.server.server_close()


def _passed_on(request: BaseHTTPRequestHandler, target: str, body: bytes | None) -> tuple[int, bytes, str]:
    headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection")}
    asked = urllib.request.Request(target + request.path, body, headers, method=request.command)
    try:
        with urllib.request.urlopen(asked, timeout=60) as reply:
            return reply.status, reply.read(), reply.headers.get("Content-Type") or "application/json"
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers.get("Content-Type") or "application/json"

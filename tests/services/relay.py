"""A proxy before an S3 server that cuts, refuses, delays and loses, by a plan for each request. Signatures stay valid."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
)
INTERNAL = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>Try again.</Message></Error>'
# What happens to a request. Before the server sees it: cut, 500, 503, hang. Afterwards: lost, 500 after, truncated, flip.
TROUBLES = ("cut", "500", "503", "lost", "500 after", "truncated", "flip")
Plan = Callable[[int, str, str], str]  # number (1-based), method, path


class Relay:
    """Relays to `host:port`; `plan` says what happens to each request, "" nothing."""

    def __init__(self, port: int) -> None:
        self.plan: Plan = lambda n, method, path: ""
        self.slow_s = 1.0
        self.count = 0
        self.seen: list[tuple[str, str, str]] = []
        self.release = threading.Event()
        self._lock = threading.Lock()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with contextlib.suppress(OSError):
                    relay._answer(self, port, body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _answer(self, request: BaseHTTPRequestHandler, port: int, body: bytes) -> None:
        with self._lock:
            self.count += 1
            trouble = self.plan(self.count, request.command, request.path)
            if trouble:
                self.seen.append((trouble, request.command, request.path))
        if trouble == "slow":
            time.sleep(self.slow_s)
        elif trouble == "hang":
            self.release.wait(60)
            return self._cut(request)
        elif trouble == "cut":
            return self._cut(request)
        elif trouble in ("500", "503"):
            return self._reply(request, int(trouble), SLOW_DOWN if trouble == "503" else INTERNAL, {})
        status, headers, content = self._passed_on(request, port, body)
        if trouble == "lost":
            return self._cut(request)
        if trouble == "500 after":
            return self._reply(request, 500, INTERNAL, {})
        if trouble == "flip" and content and request.command == "GET":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self._reply(request, status, content, headers, half=trouble == "truncated" and request.command == "GET")
        return None

    def _passed_on(self, request: BaseHTTPRequestHandler, port: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():  # with Host, which is signed
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            dropped = ("connection", "transfer-encoding", "date", "server")
            headers = {name: value for name, value in reply.getheaders() if name.lower() not in dropped}
            return reply.status, headers, reply.read()
        finally:
            connection.close()

    def _reply(
        self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str], half: bool = False
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or request.command == "HEAD":
                request.send_header(name, value)
        if request.command != "HEAD":
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self._cut(request)

    def _cut(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Relay:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

"""A Ray cluster of real nodes on this machine, each started by `ray start --block` at a loopback address of its own.

with Nodes(tmp_path) as nodes:
    head, other = nodes.start(), nodes.start()
    other.kill()  # as if its power were cut: every process of it at once
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.faults.command import ROOT

UP_WITHIN_S = 120.0
STORE = "--object-store-memory=100000000"


@dataclass
class Node:
    """One node: the process of `ray start`, and what it has started."""

    process: subprocess.Popen[bytes]
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def look(self) -> list[psutil.Process]:
        """Its living processes."""
        try:
            for one in psutil.Process(self.process.pid).children(recursive=True):
                self.seen.setdefault(one.pid, one)
        except psutil.NoSuchProcess:
            pass
        return [one for one in self.seen.values() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def runs(self, name: str) -> bool:
        """Whether one of its processes calls itself so."""
        for one in self.look():
            try:
                if any(name in part for part in one.cmdline()[:1]):
                    return True
            except psutil.Error:
                continue
        return False

    def kill(self) -> None:
        """SIGKILL to all of it; stopped first, so that none of it sees another die and says so."""
        whole = [psutil.Process(self.process.pid), *self.look()] if self.process.poll() is None else self.look()
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for one in whole:
                with contextlib.suppress(psutil.NoSuchProcess):
                    act(one)
        self.process.wait()


class Nodes:
    """A cluster; the first node that is started is its head."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.session = Path(
            tempfile.mkdtemp(prefix="nodes-")
        )  # not below the test's folder: paths of sockets are short
        self.port = _free_port()
        self.nodes: list[Node] = []

    @property
    def address(self) -> str:
        return f"127.0.0.2:{self.port}"  # 127.0.0.1 would be replaced by an address that others can reach

    def start(self, cpus: int = 1) -> Node:
        """Another node; waits until it has joined."""
        number = len(self.nodes) + 1
        where = f"127.0.0.{number + 1}"
        told = self.folder / f"node-{self.port}-{number}.txt"
        role = ["--head", f"--port={self.port}", "--include-dashboard=false"] if number == 1 else []
        options = [f"--node-ip-address={where}", f"--num-cpus={cpus}", "--block", "--disable-usage-stats", STORE]
        joined = [] if number == 1 else [f"--address={self.address}"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with told.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *role, *joined, *options],
                env={**environment, **self._settings},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        node = Node(process)
        self.nodes.append(node)
        deadline = time.monotonic() + UP_WITHIN_S
        while "--block" not in told.read_text(errors="replace"):  # it says so once it runs
            assert process.poll() is None, told.read_text(errors="replace")
            assert time.monotonic() < deadline, told.read_text(errors="replace")
            node.look()
            time.sleep(0.2)
        return node

    @property
    def _settings(self) -> dict[str, str]:
        return {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",  # the head asks for one by itself, and the others must show it
            "RAY_TMPDIR": str(self.session),
        }

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.session, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.2", 0))
        return int(one.getsockname()[1])

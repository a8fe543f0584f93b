"""A PostgreSQL of its own on loopback, for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, where PostgreSQL is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgresql(bin_: Path) -> Iterator[str]:
    """A fresh server, as its own user where we are root (PostgreSQL refuses root); gives the address of its database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(tempfile.mkdtemp(prefix="gan-postgresql-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(root, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data = root / "data"

    def call(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=120)

    call(str(bin_ / "initdb"), "-D", str(data), "-U", "mlflow", "-A", "trust", "--no-sync")
    options = f"-k {root} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        call(str(bin_ / "pg_ctl"), "-D", str(data), "-l", str(root / "log"), "-o", options, "-w", "start")
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run(
            [*as_user, str(bin_ / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"],
            check=False,
            cwd="/",
            capture_output=True,
            timeout=60,
        )
        shutil.rmtree(root, ignore_errors=True)

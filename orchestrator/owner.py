"""Who holds a pipeline: a process by name, and whether it still runs, as far as this machine can tell."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

Fate = Literal["alive", "stopped", "dead", "unknown"]


@dataclass(frozen=True)
class Owner:
    """A process: where it runs, and what tells it from a later process with the same id."""

    run: str
    epoch: int  # the number of its `acquire` entry: each lease has a higher one than those before it
    host: str
    boot: str  # boot id and namespaces: within one of them, a process id and start time name a process
    pid: int
    started: float  # clock ticks after the boot on Linux; 0: not known
    user: str
    since: float  # seconds since 1970 by its own clock: only shown, never compared

    @classmethod
    def here(cls, run: str, epoch: int) -> Owner:
        pid = os.getpid()
        return cls(run, epoch, os.uname().nodename, _boot(), pid, _start(pid)[0] or 0.0, _user(), time.time())

    @classmethod
    def unseen(cls, run: str, epoch: int) -> Owner:
        """A holder whose own entry cannot be read any more: a later entry tells that there is one."""
        return cls(run, epoch, "another host", "", 0, 0.0, "somebody", 0.0)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Owner:
        """Raises TypeError where a field is missing; those that a later version added are passed over."""
        return cls(**{f.name: value[f.name] for f in fields(cls) if f.name in value})

    @property
    def here_too(self) -> bool:
        """Whether this process can look the owner up: same boot, same process table, same host name."""
        return bool(self.boot) and self.boot == _boot() and self.host == os.uname().nodename

    @property
    def fate(self) -> Fate:
        """ "unknown" elsewhere, and where the process table is hidden from us: then only its counter can tell."""
        if not self.here_too or not self.started:
            return "unknown"
        started, state = _start(self.pid)
        if started is None:
            return "unknown" if _hidden(self.pid) else "dead"
        if started != self.started or state in "ZX":  # the id was given to another process, or nobody reaps it
            return "dead"
        return "stopped" if state in "Tt" else "alive"

    @property
    def alive(self) -> bool:
        """Whether it is certain to run on this machine."""
        return self.fate in ("alive", "stopped")

    def __str__(self) -> str:
        if not self.pid:
            return f"run {self.run}"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"run {self.run} (process {self.pid} of {self.user} on {self.host}, since {since})"


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())


@cache
def _boot() -> str:
    """What a process id and a start time are relative to: the boot, the process table, the time namespace."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        places = [os.readlink("/proc/self/ns/pid")]
        with suppress(FileNotFoundError):  # before Linux 5.6
            places.append(os.readlink("/proc/self/ns/time"))
        return "/".join([boot, *places])
    import psutil

    return str(int(psutil.boot_time()))


def _start(pid: int) -> tuple[float | None, str]:
    """When a process started (None when there is none to be seen) and its state's letter ("" where not known)."""
    if os.path.exists("/proc/self/stat"):
        try:
            found = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None, ""
        return float(found[19]), found[0]
    import psutil

    try:
        process = psutil.Process(pid)
        state = {"zombie": "Z", "dead": "X", "stopped": "T"}.get(process.status(), "")
        return float(process.create_time()), state
    except psutil.Error:
        return None, ""


def _hidden(pid: int) -> bool:
    """Whether a process that cannot be seen exists nevertheless: /proc may be mounted so that it hides other users'."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True  # it came to be just now, or its entry could not be read


__all__ = ["Fate", "Owner"]

"""Filesystems that lose, cut, flip, delay and deny, by a schedule: what a bad network, disk or server does to a storage.

`install()` registers them with fsspec: `faultylocal:///path`, `faultymemory://root`, and `faultywrapped:///path`, a
filesystem that only wraps another. `SCHEDULE` decides, for each operation by its number, what happens to it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

WRITES = ("pipe_file", "put_file")
READS = ("cat_file", "get_file")
CHANGES = ("mv", "rm", "rm_file", "link", "makedirs")
LOOKS = ("info", "ls")
# What may happen to an operation of each kind. All of it passes; a schedule that always says the same is an outage.
KINDS: dict[tuple[str, ...], tuple[str, ...]] = {
    WRITES: ("lost", "partial", "partial error", "flip", "reply lost", "error", "timeout", "weird", "slow"),
    READS: ("flip", "partial", "partial error", "error", "timeout", "weird", "slow"),
    CHANGES: ("reply lost", "error", "timeout", "weird", "slow"),
    LOOKS: ("error", "timeout", "weird", "slow"),
}
ERRORS: dict[str, Callable[[], Exception]] = {
    "error": lambda: ConnectionError("the line is dead"),
    "timeout": lambda: TimeoutError("no answer"),
    "weird": lambda: RuntimeError("something inside of a library"),
    "os": lambda: OSError(5, "Input/output error"),
    "denied": lambda: PermissionError(13, "Access Denied"),
    "full": lambda: OSError(28, "No space left on device"),
}
Plan = Callable[[int, str, str], str | None]


class Schedule:
    """What happens to the n-th operation (1-based). Thread-safe; `seen` is what happened."""

    def __init__(self) -> None:
        self.plan: Plan = lambda n, operation, path: None
        self.slow_s = 0.01
        self.release = threading.Event()  # ends every hang
        self.count = 0
        self.seen: list[tuple[int, str, str, str]] = []
        self._lock = threading.Lock()

    def reset(self) -> None:
        self.release.set()
        self.__init__()  # type: ignore[misc]

    def next(self, operation: str, path: str) -> str | None:
        with self._lock:
            self.count += 1
            fault = self.plan(self.count, operation, path)
            if fault:
                self.seen.append((self.count, operation, fault, path))
            return fault

    def random(self, seed: int, share: float) -> None:
        """Every `share` of all operations fails, each in a way of its kind."""
        source = random.Random(seed)

        def plan(n: int, operation: str, path: str) -> str | None:
            if source.random() >= share:
                return None
            return source.choice(next(kinds for names, kinds in KINDS.items() if operation in names))

        self.plan = plan

    @contextmanager
    def outage(self, fault: str = "error", operations: tuple[str, ...] = ()) -> Iterator[None]:
        """Inside of it every operation (or only these) fails in one way."""
        before = self.plan
        self.plan = lambda n, operation, path: fault if not operations or operation in operations else None
        try:
            yield
        finally:
            self.plan = before


SCHEDULE = Schedule()
_inside = threading.local()


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[len(changed) // 2] ^= 1
    return bytes(changed)


class Faults(AbstractFileSystem):
    """The operations of any filesystem, with the schedule's faults. Only calls from outside count."""

    def _do(self, name: str, path: str, *args: Any, **kwargs: Any) -> Any:
        method = getattr(super(), name)
        if getattr(_inside, "deep", False):
            return method(path, *args, **kwargs)
        fault = SCHEDULE.next(name, str(path))
        _inside.deep = True
        try:
            return self._faulty(fault, name, method, path, *args, **kwargs)
        finally:
            _inside.deep = False

    def _faulty(self, fault: str | None, name: str, method: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        if fault == "slow":
            time.sleep(SCHEDULE.slow_s)
        elif fault == "hang":
            SCHEDULE.release.wait(60)
            raise ConnectionError("hung up")
        elif fault in ERRORS:
            raise ERRORS[fault]()
        elif fault == "reply lost":
            method(path, *args, **kwargs)
            raise ConnectionError("the reply was lost")
        elif fault == "gone" and name in (*READS, *LOOKS):
            raise FileNotFoundError(path)
        elif fault == "lost":
            return None
        elif fault in ("partial", "partial error", "flip"):
            return self._damaged(fault, name, method, path, *args, **kwargs)
        return method(path, *args, **kwargs)

    def _damaged(self, fault: str, name: str, method: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        answer = None
        damage = _flipped if fault == "flip" else lambda data: data[: len(data) // 2]
        if name == "pipe_file":
            method(path, damage(args[0]), *args[1:], **kwargs)
        elif name == "put_file":
            with open(path, "rb") as file:  # here `path` is the local one
                super().pipe_file(args[0], damage(file.read()))
        elif name == "cat_file":
            answer = damage(method(path, *args, **kwargs))
        elif name == "get_file":
            method(path, *args, **kwargs)
            with open(args[0], "rb") as file:
                data = file.read()
            with open(args[0], "wb") as file:
                file.write(damage(data))
        if fault == "partial error":
            raise ConnectionError("cut off")
        return answer

    def pipe_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("pipe_file", path, *args, **kwargs)

    def put_file(self, lpath: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("put_file", lpath, *args, **kwargs)

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("cat_file", path, *args, **kwargs)

    def get_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("get_file", path, *args, **kwargs)

    def info(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("info", path, *args, **kwargs)

    def ls(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("ls", path, *args, **kwargs)

    def mv(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("mv", path, *args, **kwargs)

    def rm(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("rm", path, *args, **kwargs)

    def rm_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("rm_file", path, *args, **kwargs)

    def makedirs(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("makedirs", path, *args, **kwargs)


class FaultyLocal(Faults, LocalFileSystem):
    protocol = "faultylocal"

    def link(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self._do("link", path, *args, **kwargs)


class FaultyMemory(Faults, MemoryFileSystem):
    protocol = "faultymemory"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]


class Wrapped(AbstractFileSystem):
    """Passes everything on to a filesystem that it holds."""

    cachable = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = LocalFileSystem()

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        self.target.pipe_file(path, value)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        self.target.put_file(lpath, rpath)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        return bytes(self.target.cat_file(path, start=start, end=end))

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        self.target.get_file(rpath, lpath)

    def info(self, path: str, **kwargs: Any) -> Mapping[str, Any]:
        return dict(self.target.info(path))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        return self.target.ls(path, detail=detail)

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        self.target.mv(path1, path2)

    def rm(self, path: str, recursive: bool = False, **kwargs: Any) -> None:
        self.target.rm(path, recursive=recursive)

    def rm_file(self, path: str) -> None:
        self.target.rm_file(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        os.makedirs(path, exist_ok=exist_ok)


class FaultyWrapped(Faults, Wrapped):
    protocol = "faultywrapped"


def install() -> None:
    for one in (FaultyLocal, FaultyMemory, FaultyWrapped):
        fsspec.register_implementation(one.protocol, one, clobber=True)

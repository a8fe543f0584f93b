"""Files under one storage root: whole or absent, never half-written, and created exclusively where it matters.

A local root is handled here with plain `os` calls: temporary file in the same root, fsync, link or rename, fsync of the
directory. `remote.py` serves every other URL through fsspec.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.trouble import Refused, explained, say

CHUNK = 1 << 20
SWEEP_AFTER_S = 86_400.0  # no write takes a day

# Called around every operation that changes the store (each system call that leaves something behind has its own call):
# fault tests end the process here.
observe: Callable[[str, str], None] | None = None


def seen(operation: str, path: str) -> None:
    """Tell whoever observes that this is done next to this path. Everything that writes under a storage root calls it."""
    if observe is not None:
        observe(operation, path)


class Files(ABC):
    """A storage root. Paths are relative, with forward slashes; parents appear as needed."""

    url: str

    def __init__(self) -> None:
        self.told: Callable[[str], None] = say  # hears when the storage stops answering, and when it answers again
        self.stopping: Callable[[], bool] = lambda: False  # then nothing is waited for long

    @property
    def local(self) -> Path | None:
        """The root as a local directory, None when it is remote."""
        return None

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Whole content. Raises FileNotFoundError."""

    def brief(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Inside of it this thread waits for no outage longer than this."""
        return contextlib.nullcontext()

    @abstractmethod
    def write(self, path: str, data: bytes | Path) -> None:
        """Create or replace, atomically and durably; `data` is the content or a local file to copy."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Create exclusively: of many callers one gets True. Repeating a call with the same bytes is also True."""

    def add(self, path: str, data: bytes | Path) -> bool:
        """Create unless present, whole or not at all; False when it was there. For content that its path names."""
        if self.exists(path):
            return False
        self.write(path, data)
        return True

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes, None when absent."""

    def modified(self, path: str) -> int | None:
        """Modification time in ns where the backend keeps it for a file's whole life, else None."""
        return None

    def written(self, path: str) -> float | None:
        """When a file was written, in seconds by the storage's own clock; None when it is absent or that is not known."""
        found = self.modified(path)
        return None if found is None else found / 1e9

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names directly under a folder, sorted; empty when absent."""

    @abstractmethod
    def rename(self, source: str, target: str) -> None:
        """Move a file; replaces the target. Raises FileNotFoundError."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file or a folder with all it holds; absent is fine."""

    @abstractmethod
    def fetch(self, path: str, target: Path) -> None:
        """Copy to a local file. Raises FileNotFoundError."""

    def exists(self, path: str) -> bool:
        return self.size(path) is not None

    def sweep(self) -> None:
        """Remove temporary files that killed processes left long ago; a backend that puts whole objects has none."""
        return


class LocalFiles(Files):
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.url = str(root)
        self._made: set[str] = set()

    @property
    def local(self) -> Path | None:
        return self.root

    def path(self, path: str) -> Path:
        return self.root / path

    def read(self, path: str) -> bytes:
        with _told(self.url, "read"):
            return self.path(path).read_bytes()

    def write(self, path: str, data: bytes | Path) -> None:
        with _told(self.url, "write", data):
            seen("write", path)
            temporary = self._temporary(data)
            try:
                target = self._ready(path)
                seen("rename", path)
                os.replace(temporary, target)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            seen("sync", path)
            _sync(target.parent)
            seen("written", path)

    def create(self, path: str, data: bytes) -> bool:
        return self._link(path, data) or self.read(path) == data

    def add(self, path: str, data: bytes | Path) -> bool:
        return self._link(path, data)

    def _link(self, path: str, data: bytes | Path) -> bool:
        with _told(self.url, "write", data):
            seen("create", path)
            temporary = self._temporary(data)
            try:
                target = self._ready(path)
                seen("link", path)
                os.link(temporary, target)
            except FileExistsError:
                return False
            finally:
                seen("unlink", path)
                temporary.unlink(missing_ok=True)
            seen("sync", path)
            _sync(target.parent)
            seen("created", path)
            return True

    def size(self, path: str) -> int | None:
        with _told(self.url, "read"):
            try:
                return self.path(path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def modified(self, path: str) -> int | None:
        with _told(self.url, "read"):
            try:
                return self.path(path).stat().st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                return None

    def names(self, folder: str) -> list[str]:
        with _told(self.url, "list"):
            try:
                return sorted(os.listdir(self.path(folder)))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def rename(self, source: str, target: str) -> None:
        with _told(self.url, "rename"):
            seen("rename", source)
            os.replace(self.path(source), self._ready(target))
            seen("renamed", source)

    def remove(self, path: str) -> None:
        with _told(self.url, "remove"):
            target = self.path(path)
            if target.is_dir() and not target.is_symlink():
                for file in sorted(target.rglob("*")):
                    if file.is_symlink() or not file.is_dir():
                        seen("remove", str(file.relative_to(self.root)))
                        file.unlink(missing_ok=True)
                seen("remove", path)
                shutil.rmtree(target, ignore_errors=True)
            else:
                seen("remove", path)
                target.unlink(missing_ok=True)
            seen("removed", path)

    def fetch(self, path: str, target: Path) -> None:
        with _told(self.url, "read"):
            shutil.copyfile(self.path(path), target)

    def sweep(self) -> None:
        folder = self.path("tmp")
        now = 0.0
        for name in self.names("tmp"):
            with contextlib.suppress(OSError):  # another process sweeps too
                if not now:  # by the clock that stamped the files, which need not be this machine's
                    os.utime(folder)
                    now = folder.stat().st_mtime
                if now - (folder / name).stat().st_mtime > SWEEP_AFTER_S:
                    (folder / name).unlink()

    def _temporary(self, data: bytes | Path) -> Path:
        """The content in a synced file of its own, in the same root (so on the same filesystem)."""
        temporary = self._ready(f"tmp/{os.getpid()}-{secrets.token_hex(8)}")
        seen("open", "tmp")
        try:
            with open(temporary, "wb") as out:
                seen("fill", "tmp")
                if isinstance(data, Path):
                    with open(data, "rb") as source:
                        shutil.copyfileobj(source, out, CHUNK)
                else:
                    out.write(data)
                out.flush()
                seen("flush", "tmp")
                os.fsync(out.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _ready(self, path: str) -> Path:
        """The path, its folder made and durable."""
        target = self.path(path)
        folder = str(target.parent)
        if folder not in self._made or not target.parent.is_dir():
            missing = [p for p in (target.parent, *target.parent.parents) if not p.exists()]
            try:
                seen("mkdir", folder)
                target.parent.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise Refused(f"storage {self.url} is not a directory", hint="choose another storage") from None
            seen("sync", folder)
            for made in missing:
                _sync(made.parent)
            self._made.add(folder)
        return target


def open_files(url: str, options: Mapping[str, Any] | None = None) -> Files:
    """The root of a storage URL. Nothing is contacted yet; a local directory is not made before the first write."""
    if "://" not in url:
        return LocalFiles(Path(url).expanduser().absolute())
    if url.startswith(("file://", "local://")):
        return LocalFiles(Path(url.split("://", 1)[1]).expanduser().absolute())
    from orchestrator.remote import RemoteFiles

    return RemoteFiles(url, options or {})


def redact(text: str, secret_values: Iterable[str]) -> str:
    """The text without these values, and without passwords in URLs."""
    for value in secret_values:
        if len(value) >= 4:
            text = text.replace(value, "***")
    return re.sub(r"(\w+://[^/\s:@]*):[^/\s@]+@", r"\1:***@", text)


@contextlib.contextmanager
def _told(url: str, what: str, data: bytes | Path | None = None) -> Iterator[None]:
    """Environment trouble of a local root as Unavailable; what is absent or taken is no trouble."""
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        if data is None or (isinstance(data, Path) and not data.exists()):
            raise
        raise Refused(f"storage {url} was removed while it was written to", hint="run again") from error
    except OSError as error:
        raise explained(error, what, url, None if data is None else size_of(data)) from error


def size_of(data: bytes | Path) -> int:
    """Bytes."""
    return data.stat().st_size if isinstance(data, Path) else len(data)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def scratch_cache() -> Path:
    """Where files of a remote store are kept locally: $ORCHESTRATOR_CACHE, else the user's cache directory."""
    chosen = os.environ.get("ORCHESTRATOR_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator"
    folder(base)
    return base


def folder(path: Path) -> Path:
    """The directory, made where it is missing. Raises Unavailable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, "make a directory", str(path)) from error
    return path


__all__ = ["Files", "LocalFiles", "folder", "open_files", "redact", "scratch_cache", "seen", "size_of"]

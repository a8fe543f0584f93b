"""Files under one storage root: whole or absent, never half-written, and created exclusively where it matters.

A local root is handled with plain `os` calls: temporary file in the same root, fsync, link or rename, fsync of the
directory. fsspec serves every other URL: one put per object, and a conditional put for exclusive creation (fsspec's own
`mode="create"` is exists-then-write on most backends, so only backends known to be exclusive are accepted).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.errors import Unavailable

T = TypeVar("T")
CHUNK = 1 << 20
FIRST_CONTACT_S = 8.0
RETRY_WAITS_S = (0.2, 1.0)
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

    @property
    def local(self) -> Path | None:
        """The root as a local directory, None when it is remote."""
        return None

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Whole content. Raises FileNotFoundError."""

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
        with _told(self.url, "write"):
            seen("write", path)
            temporary = self._temporary(data)
            target = self._ready(path)
            seen("rename", path)
            os.replace(temporary, target)
            seen("sync", path)
            _sync(target.parent)
            seen("written", path)

    def create(self, path: str, data: bytes) -> bool:
        return self._link(path, data) or self.read(path) == data

    def add(self, path: str, data: bytes | Path) -> bool:
        return self._link(path, data)

    def _link(self, path: str, data: bytes | Path) -> bool:
        with _told(self.url, "write"):
            seen("create", path)
            temporary = self._temporary(data)
            target = self._ready(path)
            try:
                seen("link", path)
                os.link(temporary, target)
            except FileExistsError:
                return False
            finally:
                seen("unlink", path)
                temporary.unlink()
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
        for name in self.names("tmp"):
            left = self.path("tmp") / name
            with contextlib.suppress(OSError):  # another process sweeps too
                if time.time() - left.stat().st_mtime > SWEEP_AFTER_S:
                    left.unlink()

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
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full(self.root, data) from error
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
                raise Unavailable(f"storage {self.url} is not a directory") from None
            seen("sync", folder)
            for made in missing:
                _sync(made.parent)
            self._made.add(folder)
        return target


class RemoteFiles(Files):
    """Any other fsspec filesystem. An object appears whole, with one put."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url
        self._options = dict(options)
        self._secrets = tuple(_leaves(options))
        self._fs, self._root = self._connect()
        self._create = _exclusive(self._fs, url)
        self._reached = False

    def _connect(self) -> tuple[Any, str]:
        import fsspec

        scheme = self.url.split("://", 1)[0]
        options: dict[str, Any] = {**self._options, "skip_instance_cache": scheme != "memory"}
        if scheme in ("s3", "s3a"):
            config = {"connect_timeout": 3, "read_timeout": 30, "retries": {"max_attempts": 2}}
            options["config_kwargs"] = {**config, **options.get("config_kwargs", {})}
            options["use_listings_cache"] = False
        try:
            filesystem, root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise Unavailable(f"storage {self.url} needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise Unavailable(f"storage {self.url}: {self._clean(error)}") from error
        return filesystem, root.rstrip("/")

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def read(self, path: str) -> bytes:
        return bytes(self._call("read", lambda: self._fs.cat_file(self._path(path))))

    def write(self, path: str, data: bytes | Path) -> None:
        seen("write", path)
        try:
            self._call("write", lambda: self._put(self._path(path), data))
        except FileNotFoundError as error:  # no bucket
            raise self._unavailable("write", error) from None
        seen("written", path)

    def _put(self, path: str, data: bytes | Path) -> None:
        if not getattr(self._fs, "async_impl", False):
            self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if isinstance(data, Path):
            self._fs.put_file(str(data), path)
        else:
            self._fs.pipe_file(path, data)

    def create(self, path: str, data: bytes) -> bool:
        seen("create", path)
        try:
            done = self._call("write", lambda: self._create(self._path(path), data))
        except FileNotFoundError as error:
            raise self._unavailable("write", error) from None
        if not done:  # a reply may have been lost after our own put: then the bytes are ours
            done = self.read(path) == data
        seen("created", path)
        return done

    def size(self, path: str) -> int | None:
        try:
            return int(self._call("read", lambda: self._fs.info(self._path(path)))["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            found = self._call("list", lambda: self._fs.ls(self._path(folder), detail=False))
        except FileNotFoundError:
            return []
        return sorted(name for name in (str(p).rstrip("/").rsplit("/", 1)[-1] for p in found) if name)

    def rename(self, source: str, target: str) -> None:
        seen("rename", source)
        self._call("rename", lambda: self._fs.mv(self._path(source), self._path(target)))

    def remove(self, path: str) -> None:
        seen("remove", path)
        with contextlib.suppress(FileNotFoundError):
            self._call("remove", lambda: self._fs.rm(self._path(path), recursive=True))

    def fetch(self, path: str, target: Path) -> None:
        self._call("read", lambda: self._fs.get_file(self._path(path), str(target)))

    def _call(self, what: str, operation: Callable[[], T]) -> T:
        """Do it, again after a short wait where that may help; every failure but absence becomes Unavailable."""
        if not self._reached:
            return self._first(what, operation)
        for wait in (*RETRY_WAITS_S, None):
            try:
                return operation()
            except (FileNotFoundError, Unavailable):
                raise
            except Exception as error:  # noqa: BLE001 - backends raise what they like
                if wait is None or isinstance(error, PermissionError):
                    raise self._unavailable(what, error) from None
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _first(self, what: str, operation: Callable[[], T]) -> T:
        """The first contact has a deadline: an unreachable storage is told within seconds."""
        answer: list[T] = []
        failure: list[Exception] = []

        def work() -> None:
            try:
                answer.append(operation())
            except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
                failure.append(error)

        thread = threading.Thread(target=work, daemon=True, name="storage-first-contact")
        thread.start()
        thread.join(FIRST_CONTACT_S)
        if thread.is_alive():
            raise Unavailable(f"storage {self.url} gave no answer within {FIRST_CONTACT_S:g} s")
        if failure:
            if isinstance(failure[0], FileNotFoundError):
                self._reached = True
                raise failure[0]
            raise self._unavailable(what, failure[0]) from None
        self._reached = True
        return answer[0]

    def _unavailable(self, what: str, error: Exception) -> Unavailable:
        return Unavailable(f"cannot {what} in storage {self.url}: {type(error).__name__}: {self._clean(error)}")

    def _clean(self, error: object) -> str:
        return redact(" ".join(str(error).split())[:300], self._secrets)


def open_files(url: str, options: Mapping[str, Any] | None = None) -> Files:
    """The root of a storage URL. Nothing is contacted yet; a local directory is not made before the first write."""
    if "://" not in url:
        return LocalFiles(Path(url).expanduser().absolute())
    if url.startswith(("file://", "local://")):
        return LocalFiles(Path(url.split("://", 1)[1]).expanduser().absolute())
    return RemoteFiles(url, options or {})


def redact(text: str, secret_values: Iterable[str]) -> str:
    """The text without these values, and without passwords in URLs."""
    for value in secret_values:
        if len(value) >= 4:
            text = text.replace(value, "***")
    return re.sub(r"(\w+://[^/\s:@]*):[^/\s@]+@", r"\1:***@", text)


def _exclusive(fs: Any, url: str) -> Callable[[str, bytes], bool]:
    """The backend's own way to create exclusively; False when the path is taken."""
    names = {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(fs).__mro__}
    if "fsspec.MemoryFileSystem" in names:
        return lambda path, data: _create_in_memory(fs, path, data)
    if "fsspec.SFTPFileSystem" in names:
        return lambda path, data: _create_by_sftp(fs, path, data)
    if "fsspec.LocalFileSystem" in names:
        return lambda path, data: _create_by_link(fs, path, data)
    if names & {"s3fs.S3FileSystem", "gcsfs.GCSFileSystem", "adlfs.AzureBlobFileSystem"}:
        return lambda path, data: _create_conditionally(fs, path, data)
    raise Unavailable(
        f"storage {url} cannot create a file exclusively, so two runs could not be kept apart",
        hint="use a local directory, s3://, gs://, az:// or sftp://",
    )


_memory = threading.Lock()


def _create_in_memory(fs: Any, path: str, data: bytes) -> bool:
    with _memory:
        if fs.exists(path):
            return False
        fs.pipe_file(path, data)
        return True


def _create_by_link(fs: Any, path: str, data: bytes) -> bool:
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    fs.makedirs(os.path.dirname(path), exist_ok=True)
    fs.pipe_file(temporary, data)
    try:
        os.link(fs._strip_protocol(temporary), fs._strip_protocol(path))
    except FileExistsError:
        return False
    finally:
        fs.rm_file(temporary)
    return True


def _create_by_sftp(fs: Any, path: str, data: bytes) -> bool:
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    fs.pipe_file(temporary, data)
    try:
        fs.ftp.rename(temporary, path)  # SFTP version 3 renames onto nothing only: refused when the target exists
    except OSError:
        fs.ftp.remove(temporary)
        if fs.exists(path):
            return False
        raise
    return True


def _create_conditionally(fs: Any, path: str, data: bytes) -> bool:
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError:  # a precondition failure is an OSError in some versions: what stands there now decides
        if fs.exists(path):
            return False
        raise
    return True


@contextlib.contextmanager
def _told(url: str, what: str) -> Any:
    """Environment trouble of a local root as Unavailable; absence stays FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise Unavailable(f"cannot {what} in storage {url}: {error.strerror or error}") from error


def _full(root: Path, data: bytes | Path) -> Unavailable:
    needed = data.stat().st_size if isinstance(data, Path) else len(data)
    free = shutil.disk_usage(root).free
    return Unavailable(f"disk full at {root}: {needed:,} bytes needed, {free:,} free")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leaves(value: Any) -> Iterable[str]:
    """Every string inside storage options: any of them may be a secret."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value


def scratch_cache() -> Path:
    """Where files of a remote store are kept locally: $ORCHESTRATOR_CACHE, else the user's cache directory."""
    chosen = os.environ.get("ORCHESTRATOR_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator"
    base.mkdir(parents=True, exist_ok=True)
    return base


__all__ = ["Files", "LocalFiles", "RemoteFiles", "open_files", "redact", "scratch_cache"]

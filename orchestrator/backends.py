"""How each kind of fsspec filesystem makes an object appear: whole, verified, and exclusively where it is asked for.

Object stores put whole objects, and create with a condition. Everywhere else the bytes go to a temporary name, are read
back there, and only then get their name: by a link that fails when the name is taken, or by a rename.

fsspec's own `mode="create"` is exists-then-write on most backends, so only those known to be exclusive are accepted. A
filesystem that wraps one of them (a directory of it, say) is accepted too: what it wraps makes the link.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import Unavailable
from orchestrator.files import size_of
from orchestrator.patience import Untrue, twice, wanted

CHUNK = 1 << 24  # bytes read back at once
READS = 3  # of bytes that seem wrong: the reading itself may have failed
OBJECT_STORES = {"s3fs.S3FileSystem", "gcsfs.GCSFileSystem", "adlfs.AzureBlobFileSystem"}
Data = bytes | Path


class Backend(ABC):
    """Writing to one filesystem. Each method may fail anywhere and be called again with the same arguments."""

    def __init__(self, fs: Any, root: str) -> None:
        self.fs = fs
        self.root = root

    @abstractmethod
    def write(self, path: str, data: Data) -> None:
        """Create or replace. Raises Untrue when something else stands there afterwards."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Create exclusively; whether these bytes now stand there. Raises Untrue when that cannot be told."""

    def move(self, source: str, target: str) -> None:
        """Rename, replacing the target. Raises FileNotFoundError."""
        self.fs.mv(source, target)

    def exists(self, path: str) -> bool:
        """Whether something stands there; fsspec's own `exists` takes every failure for a no."""
        self.fs.invalidate_cache(path)
        try:
            twice(lambda: self.fs.info(path))
        except FileNotFoundError:
            return False
        return True

    def holds(self, path: str, data: Data) -> bool:
        """Whether exactly these bytes stand at a path; doubtful ones are read again. Raises FileNotFoundError."""
        return any(self._same(path, data) for _ in range(READS))

    def _same(self, path: str, data: Data) -> bool:
        if size_of(data) <= CHUNK:
            wanted = data.read_bytes() if isinstance(data, Path) else data
            return bool(twice(lambda: self.fs.cat_file(path)) == wanted)
        return self._same_chunks(path, data)

    def _same_chunks(self, path: str, data: Data) -> bool:
        size = size_of(data)
        if int(twice(lambda: self.fs.info(path))["size"]) != size:
            return False
        return all(self._part(path, start, size) == _part(data, start) for start in range(0, size, CHUNK))

    def _part(self, path: str, start: int, size: int) -> bytes:
        return bytes(twice(lambda: self.fs.cat_file(path, start=start, end=min(start + CHUNK, size))))

    def _put(self, path: str, data: Data) -> None:
        if isinstance(data, Path):
            twice(lambda: self.fs.put_file(str(data), path))
        else:
            twice(lambda: self.fs.pipe_file(path, data))


class ObjectStore(Backend):
    """S3, Google, Azure: a put makes a whole object, and they check its sum on arrival."""

    def write(self, path: str, data: Data) -> None:
        try:
            self._put(path, data)
            if not self.holds(path, data):
                raise Untrue("what was written came back altered")
        except FileNotFoundError as error:
            self._missing(error)

    def create(self, path: str, data: bytes) -> bool:
        try:
            twice(lambda: self.fs.pipe_file(path, data, mode="create"))
        except FileNotFoundError as error:
            self._missing(error)
        except OSError:  # taken; or the answer to our own put was lost, here or within a library that tries again
            if not self.exists(path):
                raise
        try:
            return self.holds(path, data)
        except FileNotFoundError as error:
            raise Untrue("what was created does not stand there") from error

    def move(self, source: str, target: str) -> None:
        twice(lambda: self.fs.cp_file(source, target))
        twice(lambda: self.fs.rm_file(source))

    def _same_chunks(self, path: str, data: Data) -> bool:
        return bool(int(twice(lambda: self.fs.info(path))["size"]) == size_of(data))

    def _missing(self, error: FileNotFoundError) -> None:
        bucket = self.root.split("/", 1)[0]
        with contextlib.suppress(FileNotFoundError):
            self.fs.ls(bucket)
            raise Untrue("what was written does not stand there") from error
        raise Unavailable(f"there is no bucket {bucket!r}", hint="make it, or choose another storage") from error


class Renaming(Backend):
    """A filesystem with names that can be given later."""

    def __init__(self, fs: Any, root: str, link: Callable[[str, str], None]) -> None:
        super().__init__(fs, root)
        self._link = link
        self._folders = "fsspec.MemoryFileSystem" not in _names(fs)  # there they are only names
        self._made: set[str] = set()

    def write(self, path: str, data: Data) -> None:
        with self._placed(path, data) as temporary, _vanishing():
            with contextlib.suppress(FileNotFoundError):  # the first of two tries may have done it
                twice(lambda: self.fs.mv(temporary, path))
            if not self._there(path, data):
                raise Untrue("what was written does not stand there")

    def create(self, path: str, data: bytes) -> bool:
        if self.exists(path):  # a name that is taken costs no write
            with _vanishing():
                return self.holds(path, data)
        with self._placed(path, data) as temporary, _vanishing():
            with contextlib.suppress(FileExistsError):
                twice(lambda: self._link(temporary, path))
            return self.holds(path, data)

    def move(self, source: str, target: str) -> None:
        self._folder(target)
        super().move(source, target)

    def _there(self, path: str, data: Data) -> bool:
        """After a rename of verified bytes: much data is not read a second time."""
        if size_of(data) <= CHUNK:
            return self.holds(path, data)
        self.fs.invalidate_cache(path)
        return bool(int(twice(lambda: self.fs.info(path))["size"]) == size_of(data))

    @contextlib.contextmanager
    def _placed(self, path: str, data: Data) -> Iterator[str]:
        """The bytes under a temporary name, verified; whatever happens the name is given up afterwards."""
        temporary = "/".join((self.root, "tmp", f"{int(time.time()):x}-{secrets.token_hex(8)}"))
        try:
            with _vanishing():
                self._folder(temporary)
                self._folder(path)
                self._put(temporary, data)
                if not self.holds(temporary, data):
                    raise Untrue("what was written came back altered")
            wanted()
            yield temporary
        except Untrue:
            self._made.clear()
            raise
        finally:
            with contextlib.suppress(Exception):  # what is left is swept a day later
                if self.exists(temporary):
                    self.fs.rm_file(temporary)

    def _folder(self, path: str) -> None:
        folder = path.rsplit("/", 1)[0]
        if self._folders and folder not in self._made:
            twice(lambda: self.fs.makedirs(folder, exist_ok=True))
            self._made.add(folder)


@contextlib.contextmanager
def _vanishing() -> Iterator[None]:
    """What was just written and is not found was lost."""
    try:
        yield
    except FileNotFoundError as error:
        raise Untrue("what was written does not stand there") from error


def backend(fs: Any, root: str, url: str) -> Backend:
    """The way to write to a filesystem. Raises Unavailable for one that cannot create exclusively."""
    if _names(fs) & OBJECT_STORES:
        return ObjectStore(fs, root)
    link = _linker(fs)
    if link is None:
        raise Unavailable(
            f"storage {url} cannot create a file exclusively, so two runs could not be kept apart",
            hint="use a local directory, s3://, gs://, az:// or sftp://",
        )
    return Renaming(fs, root, link)


def _names(fs: Any) -> set[str]:
    return {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(fs).__mro__}


def _linker(fs: Any) -> Callable[[str, str], None] | None:
    """Gives a file a second name; FileExistsError when that is taken, whoever else asks at the same moment."""
    names = _names(fs)
    if "fsspec.MemoryFileSystem" in names:
        return lambda temporary, path: _link_in_memory(fs, temporary, path)
    if "fsspec.SFTPFileSystem" in names:
        return lambda temporary, path: _link_by_sftp(fs, temporary, path)
    if "fsspec.LocalFileSystem" in names:
        return fs.link  # type: ignore[no-any-return]
    return _wrapped_linker(fs)


def _link_in_memory(fs: Any, temporary: str, path: str) -> None:
    from fsspec.implementations.memory import MemoryFile

    temporary, path = fs._strip_protocol(temporary), fs._strip_protocol(path)
    try:
        own = MemoryFile(fs, path, fs.store[temporary].getvalue())
    except KeyError:
        raise FileNotFoundError(temporary) from None
    if fs.store.setdefault(path, own) is not own:
        raise FileExistsError(path)


def _link_by_sftp(fs: Any, temporary: str, path: str) -> None:
    try:
        fs.ftp.rename(temporary, path)  # SFTP version 3 renames onto nothing only: refused when the target exists
    except OSError:
        if fs.exists(path):
            raise FileExistsError(path) from None
        raise


def _wrapped_linker(fs: Any) -> Callable[[str, str], None] | None:
    """The linker of the one filesystem that another wraps, under the name that it gives to the same file."""
    from fsspec import AbstractFileSystem

    inner = [value for value in vars(fs).values() if isinstance(value, AbstractFileSystem)]
    if len(inner) != 1 or (link := _linker(inner[0])) is None:
        return None

    def wrapped(temporary: str, path: str) -> None:
        for rename in (getattr(fs, "_join", None), getattr(fs, "_strip_protocol", None), lambda name: name):
            if rename is not None and inner[0].exists(rename(temporary)):
                link(rename(temporary), rename(path))
                return
        raise FileNotFoundError(temporary)

    return wrapped


def _part(data: Data, start: int) -> bytes:
    if isinstance(data, bytes):
        return data[start : start + CHUNK]
    with open(data, "rb") as file:
        file.seek(start)
        return file.read(CHUNK)


__all__ = ["Backend", "backend"]

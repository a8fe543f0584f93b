"""Image files in a directory or an archive, wherever fsspec reaches. Archives are read in place and never unpacked."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from trainers.dataset import CorruptError, DataError, UnreachableError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_FILE_BYTES = 256 << 20  # of one image file
MAX_RATIO = 200  # of unpacked to packed bytes: photographs hardly shrink, bombs do nothing else
FREE_BYTES = 16 << 20  # what an archive may hold whatever the ratio
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_UNPACK: dict[bytes, Callable[[Any], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    b"BZ": lambda file: cast(IO[bytes], bz2.BZ2File(file)),
    b"\xfd7": lambda file: cast(IO[bytes], lzma.LZMAFile(file)),  # noqa: SIM115 - it closes with its folder
}


@dataclass(frozen=True, eq=False)
class Folder:
    """Image files: `names` sorted, with forward slashes; `read` gives the bytes of one, or raises CorruptError."""

    names: tuple[str, ...]
    read: Callable[[str], bytes]


def open_folder(url: str) -> Folder:
    """The images at a path or fsspec URL of a directory, zip or tar. Raises DataError, UnreachableError."""
    with _explained(url):
        fs, path = _connect(url)
        if path.lower().endswith(".zip"):
            return _zip(url, fs.open(path, "rb"), fs.size(path))
        if path.lower().endswith(_TARS):
            return _tar(url, fs.open(path, "rb"), fs.size(path))
        if not fs.isdir(path):
            raise DataError(*_absent(url, fs, path))
        found = {name: full for name, full, _ in _walk(fs, path) if _is_image(name)}
        return Folder(tuple(sorted(found)), lambda name: _read(fs, found[name], name))


def listing(url: str) -> list[str]:
    """One line for each file (or the archive) with its size and what the storage knows of its version; reads no content."""
    with _explained(url):
        fs, path = _connect(url)
        if fs.isdir(path):
            lines = [f"{name}\t{version}" for name, _, version in _walk(fs, path)]
        elif fs.exists(path):
            lines = [_version(fs.info(path))]
        else:
            raise DataError(*_absent(url, fs, path))
        return sorted(lines)


def classes(names: Sequence[str]) -> tuple[tuple[int, ...] | None, tuple[str, ...] | None]:
    """Labels and class names: the sub-directories of the deepest directory that holds every file; None without any.

    Raises DataError where some files lie in sub-directories and others beside them.
    """
    parents = [PurePosixPath(name).parent for name in names]
    common = PurePosixPath(os.path.commonpath(parents))
    first = [parent.relative_to(common).parts[:1] for parent in parents]
    if not any(first):
        return None, None
    if not all(first):
        stray = names[first.index(())]
        raise DataError(
            f"some images lie in class directories and others beside them ({stray})",
            "move them, or set `labels: false`",
        )
    known = sorted({parts[0] for parts in first})
    number = {name: i for i, name in enumerate(known)}
    return tuple(number[parts[0]] for parts in first), tuple(known)


# --- places -----------------------------------------------------------------------------------------------------------


def _connect(url: str) -> tuple[Any, str]:
    import fsspec

    if re.search(r"://[^/@]*:[^/@]*@", url):
        raise DataError(
            "the URL of an image_folder carries a password", "leave it to the environment or fsspec's config"
        )
    fs, path = fsspec.core.url_to_fs(url)
    return fs, str(path)


def _absent(url: str, fs: Any, path: str) -> tuple[str, str]:
    if fs.exists(path):
        return f"{url} is neither a directory nor a zip or tar", f"archives end in .zip, {', '.join(_TARS)}"
    return f"{url} does not exist", "a relative path starts where `orchestrate` was called"


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Errors of storages and archives in our words."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{url} does not exist") from error
    except ImportError as error:
        raise DataError(
            f"{url} needs the package {error.name or error}", "install the extra of that storage"
        ) from error
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{url} is damaged ({error})") from error
    except PermissionError as error:
        raise DataError(f"{url} may not be read ({error})") from error
    except ValueError as error:
        raise DataError(f"{url} cannot be opened ({error})") from error
    except Exception as error:
        raise UnreachableError(f"{url} cannot be reached ({type(error).__name__}: {error})") from error


def _walk(fs: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """(relative name, full path, version) of every file under a directory."""
    if "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
        yield from _walk_local(Path(path))
        return
    prefix = path.rstrip("/") + "/"
    for full, info in fs.find(path, detail=True).items():
        yield str(full).removeprefix(prefix).lstrip("/"), str(full), _version(info)


def _walk_local(root: Path) -> Iterator[tuple[str, str, str]]:
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        subfolders[:] = [name for name in subfolders if os.path.realpath(os.path.join(folder, name)) not in seen]
        for file in files:
            full = os.path.join(folder, file)
            with contextlib.suppress(FileNotFoundError):  # a dangling link
                stat = os.stat(full)
                # The time of the last change to the inode, too: a tool that puts the time of modification back cannot set it.
                version = f"{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}"
                yield Path(os.path.relpath(full, root)).as_posix(), full, version


def _version(info: dict[str, Any]) -> str:
    known = ("size", "ETag", "etag", "md5Hash", "checksum", "LastModified", "mtime", "created", "last_modified")
    return "\t".join(f"{key}={info[key]}" for key in known if info.get(key) is not None)


def _is_image(name: str) -> bool:
    parts = name.split("/")
    return name.lower().endswith(SUFFIXES) and not any(part.startswith((".", "__MACOSX")) for part in parts)


def _read(fs: Any, path: str, name: str) -> bytes:
    try:
        with fs.open(path, "rb") as file:
            return _bounded(file, name)
    except (FileNotFoundError, PermissionError) as error:
        raise CorruptError(f"{name}: missing or not readable") from error


def _bounded(file: Any, name: str) -> bytes:
    data: bytes = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise CorruptError(f"{name}: larger than {MAX_FILE_BYTES} bytes")
    return data


# --- archives ---------------------------------------------------------------------------------------------------------


def _member(url: str, name: str) -> str:
    """A member's plain name. Raises DataError for one that would leave the folder it is unpacked to."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        raise DataError(f"{url} holds {name!r}, which points outside of it", "such an archive is not to be trusted")
    return PurePosixPath(name).as_posix()


def _refuse_bomb(url: str, unpacked: int, packed: int) -> None:
    if unpacked > max(FREE_BYTES, MAX_RATIO * packed):
        raise DataError(
            f"{url} unpacks to more than {MAX_RATIO} times its size ({packed} bytes)",
            "unpack it and name the directory",
        )


def _zip(url: str, file: Any, packed: int) -> Folder:
    archive = zipfile.ZipFile(file)
    members = {_member(url, info.filename): info for info in archive.infolist() if not info.is_dir()}
    _refuse_bomb(url, sum(info.file_size for info in members.values()), packed)

    def read(name: str) -> bytes:
        try:
            with archive.open(members[name]) as member:
                return _bounded(member, name)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError) as error:
            raise CorruptError(f"{name}: {error}") from error  # RuntimeError: encrypted, or packed in an unknown way

    return Folder(tuple(sorted(name for name in members if _is_image(name))), read)


def _tar(url: str, file: Any, packed: int) -> Folder:
    """A compressed tar is unpacked once, as a whole and under a limit, into an unnamed temporary file: members then are
    places in it."""
    magic = file.read(2)
    file.seek(0)
    plain = _inflated(url, _UNPACK[magic](file), packed) if magic in _UNPACK else file
    archive = tarfile.open(fileobj=plain, mode="r:")  # noqa: SIM115 - it stays open as long as its folder is in use
    members = {_member(url, info.name): info for info in archive if not info.isdir()}

    def read(name: str) -> bytes:
        info = members[name]
        member = archive.extractfile(info) if info.isreg() else None
        if member is None:
            raise CorruptError(f"{name}: a link or a device, not a file")
        data = _bounded(member, name)
        if len(data) != info.size:
            raise CorruptError(f"{name}: {len(data)} of {info.size} bytes")
        return data

    return Folder(tuple(sorted(name for name in members if _is_image(name))), read)


def _inflated(url: str, packed_file: IO[bytes], packed: int) -> IO[bytes]:
    plain = tempfile.TemporaryFile()  # noqa: SIM115 - closed, and gone, with the folder
    unpacked = 0
    while chunk := packed_file.read(1 << 20):
        unpacked += len(chunk)
        _refuse_bomb(url, unpacked, packed)
        plain.write(chunk)
    plain.seek(0)
    return plain

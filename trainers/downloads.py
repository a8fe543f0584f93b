"""Data sets that torchvision downloads: where they lie, fetching them once, and errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from trainers.dataset import DataError, UnreachableError

T = TypeVar("T")
ROOT_VARIABLE = "GAN_ORCHESTRATOR_DATA"
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
TIMEOUT_S = 8.0  # for a host to answer; MNIST has two mirrors


def folder(root: str | None) -> Path:
    """The absolute path of `root`; without one $GAN_ORCHESTRATOR_DATA, else a folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = root or os.environ.get(ROOT_VARIABLE) or f"{cache}/gan-orchestrator/data"
    return Path(chosen).expanduser().absolute()


def obtain(load: Callable[..., T], root: Path, name: str, files: str) -> T:
    """`load(download=False)` where the files are there, else `load(download=True)`: by one process at a time.

    `load` is a torchvision class that lacks only `download`; it raises RuntimeError where its files are missing, and checks the
    MD5 of what it downloads. `files` is the folder under `root` that it makes. Raises UnreachableError without network,
    DataError where the files are damaged or the folder cannot be written.
    """
    hint = (
        f"fetch it once where there is a network (torchvision's class for {name}, download=True), put that folder at "
        f"{root}, or name another place with `root` or ${ROOT_VARIABLE}"
    )
    try:
        return load(download=False)
    except RuntimeError:
        pass  # torchvision's answer to missing files
    except ValueError as error:
        raise DataError(f"the files of {name} at {root} are damaged ({_line(error)})", hint) from error
    try:
        with _locked(root, name), _patience(), contextlib.redirect_stdout(io.StringIO()):  # its progress is not ours
            value = load(download=True)
            _marker(root, name).write_text(listing(root / files))
            return value
    except Exception as error:  # urllib's, requests' and gdown's errors have no common base
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise DataError(f"{name} is not at {root}, where nothing can be written ({_line(error)})", hint) from error
        raise UnreachableError(f"{name} is not at {root} and cannot be downloaded ({_line(error)})", hint) from error


def fingerprint(root: Path, name: str, files: str) -> dict[str, Any]:
    """Names, sizes and times of the files under `root/files`; {} for our own verified download, and before there is any.

    So the run that downloads and the next one have the same key, while a folder that was changed has another.
    """
    found = listing(root / files)
    marker = _marker(root, name)
    if not found or (marker.is_file() and marker.read_text() == found):
        return {}
    return {"root": str(root), "files": found}


def listing(directory: Path) -> str:
    """Digest of the names, sizes and modification times of a directory's entries, "" when there are none."""
    if not directory.is_dir():
        return ""
    with os.scandir(directory) as entries:
        lines = sorted(f"{e.name}\t{e.stat().st_size}\t{e.stat().st_mtime_ns}" for e in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def _marker(root: Path, name: str) -> Path:
    return root / f".{name}-downloaded"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """urllib waits for ever by default."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    with open(root / f".{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

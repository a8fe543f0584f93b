"""Trouble with disks and storages, in words: what is full, read-only or not permitted, and what to do about it."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import Unavailable

FULL = (errno.ENOSPC, errno.EDQUOT)
# What libraries that hide the number say: the system's texts, SQLite, safetensors (Rust), torch.save's zip writer, numpy.
FULL_TEXT = re.compile(
    r"no space left on device|disk quota exceeded|database or disk is full|os error 28|unexpected pos \d"
    r"|\d+ requested and \d+ written",
    re.IGNORECASE,
)
FEW = 16  # inodes; a file needs one, and so does its folder
GO_ON = "the same command goes on"


class Outage(Unavailable):
    """A storage that does not answer now, and may later."""


class DiskFull(Unavailable):
    """No room for what has to be written; waiting does not help."""


class Refused(Unavailable):
    """No permission, a read-only disk, a file in place of a directory; waiting does not help."""


def say(line: str) -> None:
    """Where trouble is told when nobody else listens."""
    print(line, file=sys.stderr)


def disk_full(place: Path | str, needed: int | None = None) -> DiskFull:
    """`place` is a local path, or a storage's URL. `needed` is in bytes."""
    free, files = _room(place)
    parts = [f"{needed:,} bytes needed"] if needed is not None else []
    parts += [f"{free:,} free"] if free is not None else []
    parts += [f"{files} more files fit (inodes)"] if files is not None and files < FEW else []
    counted = ": " + ", ".join(parts) if parts else ""
    return DiskFull(f"disk full at {place}{counted}", hint=f"free some or choose another storage; {GO_ON}")


def is_full(error: BaseException) -> bool:
    """Whether an exception, or one that it came from, says that a disk is full."""
    return any(
        (isinstance(one, OSError) and one.errno in FULL)
        or (not isinstance(one, Unavailable) and FULL_TEXT.search(str(one)) is not None)
        for one in _chain(error)
    )


def explained(error: OSError, what: str, place: str, needed: int | None = None) -> Unavailable:
    """A failed operation on a local directory: `what` is "write", `place` names the storage."""
    if error.errno in FULL:
        return disk_full(place, needed)
    where = f" ({error.filename})" if isinstance(error.filename, str) else ""
    if error.errno == errno.EROFS:
        return Refused(f"cannot {what} in {place}: the disk is read-only{where}", hint="choose another storage")
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = f"let user {os.geteuid()} write there, or choose another storage; {GO_ON}"
        return Refused(f"cannot {what} in {place}: permission denied{where}", hint=hint)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return Refused(f"cannot {what} in {place}: it is not a directory{where}", hint="choose another storage")
    return Unavailable(f"cannot {what} in {place}: {error.strerror or error}{where}")


def recognised(error: BaseException, place: Path | str) -> Unavailable | None:
    """An exception from anywhere as the disk trouble that it is, None when it is something else."""
    if isinstance(error, Unavailable):
        return error
    if is_full(error):
        named = next((one.filename for one in _chain(error) if isinstance(one, OSError) and one.filename), None)
        return disk_full(os.path.dirname(named) if isinstance(named, str) else place)
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return explained(error, "write", str(place))
    return None


class Troubles:
    """What goes wrong with disks and storages while other things still have to be done; `first` is told in the end."""

    def __init__(self, place: Path | str) -> None:
        self.place = place
        self.first: Unavailable | None = None

    @contextmanager
    def met(self) -> Iterator[None]:
        """Inside of it such trouble is noted; what comes after it goes on. Anything else is raised."""
        try:
            yield
        except Exception as error:
            known = recognised(error, self.place)
            if known is None:
                raise
            self.first = self.first or known


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _room(place: Path | str) -> tuple[int | None, int | None]:
    """Free bytes and free files at a path; None for a URL, and where the system does not say."""
    if "://" in str(place):
        return None, None
    path = Path(place)
    for folder in (path, *path.parents):
        try:
            stat = os.statvfs(folder)
        except OSError:  # not made yet, or gone
            continue
        return stat.f_bavail * stat.f_frsize, stat.f_favail if stat.f_files else None
    return None, None


__all__ = [
    "GO_ON",
    "DiskFull",
    "Outage",
    "Refused",
    "Troubles",
    "disk_full",
    "explained",
    "is_full",
    "recognised",
    "say",
]

"""An append-only local file of things to be told to a server, and how far they have been told.

`NAME.jsonl` holds one JSON object a line, `NAME.sent` the position up to which a server has confirmed them, `NAME.files/`
the files that entries name. Appending takes microseconds and needs no server, so an outage costs nothing but a delay.
A line is whole or ignored: a process killed while writing leaves half a line, which the next append closes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

Entry = dict[str, Any]


class Spool:
    """One file of entries. Appending is thread-safe; only the holder of `acquire` may read on and confirm."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.path = directory / f"{name}.jsonl"
        self._sent = directory / f"{name}.sent"
        self._files = directory / f"{name}.files"
        self._lock_path = directory / f"{name}.lock"
        self._aside = directory / f"{name}.unsendable"
        self._mutex = threading.Lock()
        self._out: IO[bytes] | None = None
        self._torn = False  # the file ends in half a line
        self._held: IO[bytes] | None = None

    def append(self, entry: Entry) -> None:
        """Add an entry; on return it survives the death of this process (not of the machine).

        Raises OSError; the entry is then not in it.
        """
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._mutex:
            if self._out is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._out = self.path.open("ab", buffering=0)
                self._torn = self._ends_torn()
            if self._torn:
                line = b"\n" + line
            written = self._out.write(line)
            self._torn = (self._torn and not written) or 0 < written < len(line)
            if written < len(line):  # what a nearly full disk does before it tells
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _ends_torn(self) -> bool:
        if self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def keep(self, name: str, content: bytes) -> str:
        """Store a file that an entry will name; returns its path relative to the spool. `name` is its last part."""
        folder = self._files / uuid.uuid4().hex
        folder.mkdir(parents=True)
        try:
            (folder / name).write_bytes(content)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return f"{folder.name}/{name}"

    def file(self, relative: str) -> Path:
        return self._files / relative

    def kept(self) -> list[str]:
        """The files that wait, as `keep` named them, sorted."""
        return sorted(str(path.relative_to(self._files)) for path in self._files.glob("*/*"))

    def forget(self, relative: str) -> None:
        """Remove a kept file that has been delivered."""
        shutil.rmtree(self.file(relative).parent, ignore_errors=True)

    # --- reading on ------------------------------------------------------------------------------------------------

    def acquire(self) -> bool:
        """Become the one who writes or sends this spool; False when another process (or thread) is. Ends with `release`.

        Raises OSError where no lock file can be made.
        """
        if self._held is not None:
            return True
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            held = self._lock_path.open("ab")
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.close()
                return False
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(held.fileno()), self._lock_path.stat()):
                    self._held = held
                    return True
            held.close()  # it was removed by who held it before us

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    @property
    def position(self) -> int:
        """Bytes of the file that have been confirmed."""
        try:
            return int(self._sent.read_text())
        except (FileNotFoundError, ValueError):  # none yet, or torn by a crash: entries may be sent twice, never lost
            return 0

    def read(self, start: int, limit: int = 5000) -> tuple[list[Entry], int]:
        """Up to `limit` entries from byte `start`, and where the next ones begin. Unreadable lines are passed over."""
        entries: list[Entry] = []
        if not self.path.exists():
            return entries, start
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n") or len(entries) == limit:
                    break
                start += len(line)
                entry = _parsed(line)
                if entry is not None:
                    entries.append(entry)
        return entries, start

    def confirm(self, position: int) -> None:
        """Everything before `position` has arrived."""
        temporary = self._sent.with_suffix(".sent.tmp")
        temporary.write_text(str(position))
        os.replace(temporary, self._sent)

    def pending(self) -> int:
        """Entries that no server has confirmed."""
        entries, _ = self.read(self.position, limit=10**9)
        return len(entries)

    def remove(self) -> None:
        """Delete the spool, everything in it having arrived. The caller holds it."""
        self.close()
        shutil.rmtree(self._files, ignore_errors=True)
        for path in (self.path, self._sent, self._lock_path):
            path.unlink(missing_ok=True)
        self.release()

    def set_aside(self) -> None:
        """Keep what can be sent nowhere, for a human, under a name that `spools` passes over. The caller holds it."""
        self.close()
        if self.path.exists():
            os.replace(self.path, self._aside)

    @property
    def unsendable(self) -> bool:
        """Whether it was set aside."""
        return self._aside.exists()

    def close(self) -> None:
        with self._mutex:
            if self._out is not None:
                self._out.close()
                self._out = None


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def spools(directory: Path) -> Iterator[Spool]:
    """Every spool in a directory, oldest name first."""
    for path in sorted(directory.glob("*.jsonl")):
        yield Spool(directory, path.stem)

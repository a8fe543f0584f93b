"""What MLflow was not told before a run's machine went away: its spool, in the remote storage.

    spool/<run>.files/…    the files that its entries name
    spool/<run>.sent       up to where it has arrived
    spool/<run>.jsonl      what the run had to tell; written last, removed first

It is what a local storage has anyway (`tracking.spool_directory`). A pod ends with its run, and what lies in its HOME
with it; so a run that could not tell everything leaves it here, and `orchestrate sync` or the next run sends it from
wherever that is. Two that do so at once tell it twice, which changes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.files import Files
from orchestrator.spool import Spool

FOLDER = "spool"


def leave(files: Files, spool: Spool) -> None:
    """Move a spool to the storage, once nobody writes to it any more. Raises Unavailable; it then stays here, too."""
    for relative in spool.kept():
        files.write(f"{FOLDER}/{spool.name}.files/{relative}", spool.file(relative))
    files.write(f"{FOLDER}/{spool.name}.sent", str(spool.position).encode())
    files.write(f"{FOLDER}/{spool.name}.jsonl", spool.path)
    if spool.acquire():  # else its sender still waits for an answer: told twice, or lost with the machine
        spool.remove()


def names(files: Files) -> list[str]:
    """The runs that left something, oldest first. A local storage *is* the place of its spools, and has none of these."""
    if files.local is not None:
        return []
    return [name.removesuffix(".jsonl") for name in files.names(FOLDER) if name.endswith(".jsonl")]


@contextmanager
def borrowed(files: Files, name: str) -> Iterator[Spool]:
    """A copy of what a run left; afterwards the storage knows how much of it was sent, and forgets what is empty.

    Raises Unavailable, FileNotFoundError where another one has just sent it.
    """
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), name)
        files.fetch(f"{FOLDER}/{name}.jsonl", spool.path)
        if (sent := f"{FOLDER}/{name}.sent") and files.exists(sent):
            spool.confirm(int(files.read(sent)))
        for one in files.names(f"{FOLDER}/{name}.files"):
            for last in files.names(f"{FOLDER}/{name}.files/{one}"):
                target = spool.file(f"{one}/{last}")
                target.parent.mkdir(parents=True, exist_ok=True)
                files.fetch(f"{FOLDER}/{name}.files/{one}/{last}", target)
        before = spool.position
        try:
            yield spool
        finally:
            spool.close()
            if spool.path.exists():
                if spool.position > before:
                    files.write(sent, str(spool.position).encode())
            elif not spool.unsendable:
                for last in ("jsonl", "sent", "files"):
                    files.remove(f"{FOLDER}/{name}.{last}")
            spool.release()


__all__ = ["borrowed", "leave", "names"]

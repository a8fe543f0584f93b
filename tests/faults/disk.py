"""`disk://`: a directory behind fsspec, so that the way of remote storages can be killed and looked at afterwards.

A put appears whole, as in an object store; every change is observed like those of a local storage.
"""

from __future__ import annotations

import os
import secrets
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from orchestrator.files import seen


class Disk(LocalFileSystem):  # type: ignore[misc]
    """Local files, each put at once."""

    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix("disk://")))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        target = self._strip_protocol(path)
        seen("pipe", target)
        partial = f"{target}.{secrets.token_hex(4)}.put"
        with open(partial, "wb") as out:
            out.write(value)
        os.replace(partial, target)
        seen("piped", target)

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        seen("move", path1)
        os.replace(self._strip_protocol(path1), self._strip_protocol(path2))
        seen("moved", path1)

    def link(self, src: str, dst: str, **kwargs: Any) -> None:
        seen("link", dst)
        super().link(src, dst, **kwargs)
        seen("linked", dst)

    def rm_file(self, path: str) -> None:
        seen("remove", path)
        super().rm_file(path)
        seen("removed", path)


def register() -> None:
    fsspec.register_implementation("disk", Disk, clobber=True)

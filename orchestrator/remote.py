"""A storage root on any fsspec filesystem: calls that fail or hang are repeated, and what was written is read back."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.backends import Backend, backend
from orchestrator.errors import Unavailable
from orchestrator.files import SWEEP_AFTER_S, Files, redact, seen, size_of
from orchestrator.patience import Patience, Untrue, cancellable, wanted
from orchestrator.trouble import disk_full, is_full

T = TypeVar("T")


class RemoteFiles(Files):
    """An object appears whole, or not at all."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.url = url
        self._options = dict(options)
        self._secrets = tuple(_leaves(options))
        self._fs, self._root = self._connect()
        self._backend: Backend = backend(self._fs, self._root, url)
        self._patience = Patience(url, self._clean, self._tell, self._stops, self._knock)

    def _connect(self) -> tuple[Any, str]:
        import fsspec

        scheme = self.url.split("://", 1)[0]
        options: dict[str, Any] = {**self._options, "skip_instance_cache": scheme != "memory"}
        if scheme in ("s3", "s3a"):
            # Two tries of a request end before our own deadline, and with the call. We repeat the rest.
            config = {"connect_timeout": 3, "read_timeout": 7, "retries": {"total_max_attempts": 2}}
            options["config_kwargs"] = {**config, **options.get("config_kwargs", {})}
            options["use_listings_cache"] = False
        try:
            filesystem, root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise Unavailable(f"storage {self.url} needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise Unavailable(f"storage {self.url}: {self._clean(error)}") from error
        except OSError as error:  # some connect at once
            raise Unavailable(f"storage {self.url}: {type(error).__name__}: {self._clean(error)}") from error
        if scheme in ("s3", "s3a"):
            filesystem.retries = 1
        if filesystem.async_impl and filesystem.loop is not None:
            cancellable(filesystem.loop)
        return filesystem, root.rstrip("/")

    def _tell(self, line: str) -> None:
        self.told(line)

    def _stops(self) -> bool:
        return self.stopping()

    def _knock(self) -> object:
        return self._fs.info(self._root)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _call(self, what: str, operation: Callable[[], T], **more: Any) -> T:
        return self._patience.call(what, operation, **more)

    def brief(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        return self._patience.at_most(seconds)

    def read(self, path: str) -> bytes:
        return bytes(self._call("read", lambda: self._fs.cat_file(self._path(path))))

    def write(self, path: str, data: bytes | Path) -> None:
        seen("write", path)
        self._call("write", lambda: self._backend.write(self._path(path), data), size=2 * size_of(data))
        seen("written", path)

    def create(self, path: str, data: bytes) -> bool:
        seen("create", path)
        done = self._call("write", lambda: self._backend.create(self._path(path), data), size=2 * len(data))
        seen("created", path)
        return done

    def size(self, path: str) -> int | None:
        try:
            return int(self._call("read", lambda: self._info(path))["size"])
        except FileNotFoundError:
            return None

    def written(self, path: str) -> float | None:
        try:
            found = self._call("read", lambda: self._info(path))
        except FileNotFoundError:
            return None
        for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
            when = found.get(name)
            if isinstance(when, (int, float)):
                return float(when)
            if isinstance(when, datetime):
                return when.timestamp()
            if isinstance(when, str):
                return datetime.fromisoformat(when).timestamp()
        return None

    def _info(self, path: str) -> Mapping[str, Any]:
        """fsspec may answer from a listing that is old: what it says is gone is looked for itself."""
        self._fs.invalidate_cache(self._path(path))
        found: Mapping[str, Any] = self._fs.info(self._path(path))
        return found

    def names(self, folder: str) -> list[str]:
        def listed() -> list[str]:
            self._fs.invalidate_cache(self._path(folder))
            return [str(name) for name in self._fs.ls(self._path(folder), detail=False)]

        try:
            found = self._call("list", listed)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in (p.rstrip("/").rsplit("/", 1)[-1] for p in found) if name)

    def rename(self, source: str, target: str) -> None:
        seen("rename", source)
        tried: list[bool] = []

        def move() -> None:
            before = bool(tried)
            tried.append(True)
            try:
                self._backend.move(self._path(source), self._path(target))
            except FileNotFoundError:
                if not (before and self._backend.exists(self._path(target))):  # else an earlier attempt did it
                    raise

        self._call("rename", move)

    def remove(self, path: str) -> None:
        seen("remove", path)
        with contextlib.suppress(FileNotFoundError):
            self._call("remove", lambda: self._fs.rm(self._path(path), recursive=True))

    def fetch(self, path: str, target: Path) -> None:
        part = [target]  # of the latest attempt: one that was left behind writes to a file of its own

        def moved() -> int:
            try:
                return part[0].stat().st_size
            except FileNotFoundError:
                return 0

        def get() -> Path:
            part[0] = mine = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
            try:
                self._fs.get_file(self._path(path), str(mine))
                wanted()
                if not mine.exists():
                    raise Untrue("what was to be read did not come")
            except Exception as error:
                mine.unlink(missing_ok=True)
                if is_full(error):  # here, not there
                    raise disk_full(target.parent) from error
                raise
            return mine

        self._call("read", get, moved=moved).replace(target)

    def sweep(self) -> None:
        found = self.names("tmp")
        if not found:
            return
        clock = f"tmp/clock-{secrets.token_hex(8)}"  # what the storage's own clock says now: ours may differ
        try:
            self.write(clock, b"now")
            now = self.written(clock)
        finally:
            self.remove(clock)
        for name in found:
            written = self.written(f"tmp/{name}")
            if now is not None and written is not None and now - written > SWEEP_AFTER_S:
                self.remove(f"tmp/{name}")

    def _clean(self, error: object) -> str:
        return redact(" ".join(str(error).split())[:300], self._secrets)


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


__all__ = ["RemoteFiles"]

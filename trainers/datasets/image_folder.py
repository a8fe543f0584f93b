"""Images of your own: a directory, a zip or a tar, here or in any storage that fsspec reaches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from trainers.dataset import DataError, Dataset, Example, Opened


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """Your own images: a directory, zip or tar (gz, bz2, xz too) at any fsspec URL; sub-directories are classes.

    Classes are the sub-directories of the deepest directory that holds every image, in alphabetical order; images that
    lie side by side have no labels. Hidden files and other suffixes are passed over. Archives are read, never unpacked.
    """

    kind: ClassVar[Literal["image", "points"]] = "image"
    channels: ClassVar[int] = 3
    num_classes: ClassVar[int | None] = -1
    image_size: ClassVar[int] = 64
    packages: ClassVar[tuple[str, ...]] = ("pillow",)
    external: ClassVar[bool] = True

    url: str
    """Path or fsspec URL of a directory or an archive; credentials come from the environment, never from the URL."""
    labels: bool = True
    """Whether sub-directories are classes."""

    def open(self, seed: int) -> Opened:
        from trainers import folders

        files = folders.open_folder(self.url)
        if not files.names:
            raise DataError(f"{self.url} holds no images", f"looked for {', '.join(folders.SUFFIXES)}")
        labels, classes = folders.classes(files.names) if self.labels else (None, None)
        return Opened({"all": Images(files.names, files.read, labels)}, classes=classes)

    def resolve(self) -> ImageFolder:
        if "://" in self.url or "::" in self.url:
            return self
        return replace(self, url=os.path.abspath(os.path.expanduser(self.url)))

    def fingerprint(self) -> dict[str, Any]:
        from trainers import folders

        lines = folders.listing(self.resolve().url)
        return {"files": len(lines), "listing": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


@dataclass(frozen=True, eq=False)
class Images:
    """A source: image files by name, read when asked for, in colour."""

    names: tuple[str, ...]
    read: Callable[[str], bytes]
    labels: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> Example:
        from trainers import pixels

        image = pixels.decode(self.read(self.names[index]), self.names[index])
        return Example(image, None if self.labels is None else self.labels[index])

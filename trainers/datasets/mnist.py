"""Handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from trainers import downloads
from trainers.dataset import Arrays, Dataset, Opened

FILES = "MNIST/raw"


@dataclass(frozen=True)
class MNIST(Dataset):
    """MNIST: 70,000 handwritten digits, 28x28 grey (http://yann.lecun.com/exdb/mnist/).

    Read and downloaded by torchvision; the data set's own train and test splits.
    """

    kind: ClassVar[Literal["image", "points"]] = "image"
    channels: ClassVar[int] = 1
    num_classes: ClassVar[int | None] = 10
    packages: ClassVar[tuple[str, ...]] = ("torchvision",)
    external: ClassVar[bool] = True

    root: str | None = None
    """Folder that holds `MNIST/raw`; $GAN_ORCHESTRATOR_DATA or the user's cache unless given."""

    def open(self, seed: int) -> Opened:
        import numpy as np
        from torchvision import datasets

        root = downloads.folder(self.root)
        splits, classes = {}, None
        for name in ("train", "test"):
            load = partial(datasets.MNIST, root, train=name == "train")
            data = downloads.obtain(load, root, "mnist", FILES)
            splits[name] = Arrays(np.asarray(data.data)[..., None], np.asarray(data.targets, dtype=np.int64))
            classes = tuple(data.classes)
        return Opened(splits, classes=classes)

    def resolve(self) -> MNIST:
        return MNIST(str(downloads.folder(self.root)))

    def fingerprint(self) -> dict[str, object]:
        return downloads.fingerprint(downloads.folder(self.root), "mnist", FILES)

"""Small colour photographs of ten kinds of things."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from trainers import downloads
from trainers.dataset import Arrays, Dataset, Opened

FILES = "cifar-10-batches-py"


@dataclass(frozen=True)
class CIFAR10(Dataset):
    """CIFAR-10: 60,000 photographs, 32x32 colour (https://www.cs.toronto.edu/~kriz/cifar.html).

    Read and downloaded by torchvision; the data set's own train and test splits. The files are pickles: torchvision
    opens them only after their MD5 is that of the published ones.
    """

    kind: ClassVar[Literal["image", "points"]] = "image"
    channels: ClassVar[int] = 3
    num_classes: ClassVar[int | None] = 10
    packages: ClassVar[tuple[str, ...]] = ("torchvision",)
    external: ClassVar[bool] = True

    root: str | None = None
    """Folder that holds `cifar-10-batches-py`; $GAN_ORCHESTRATOR_DATA or the user's cache unless given."""

    def open(self, seed: int) -> Opened:
        import numpy as np
        from torchvision import datasets

        root = downloads.folder(self.root)
        splits, classes = {}, None
        for name in ("train", "test"):
            load = partial(datasets.CIFAR10, root, train=name == "train")
            data = downloads.obtain(load, root, "cifar10", FILES)
            splits[name] = Arrays(np.asarray(data.data), np.asarray(data.targets, dtype=np.int64))
            classes = tuple(data.classes)
        return Opened(splits, classes=classes)

    def resolve(self) -> CIFAR10:
        return CIFAR10(str(downloads.folder(self.root)))

    def fingerprint(self) -> dict[str, object]:
        return downloads.fingerprint(downloads.folder(self.root), "cifar10", FILES)

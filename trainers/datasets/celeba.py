"""Faces of celebrities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from trainers import downloads
from trainers.dataset import CorruptError, DataError, Dataset, Example, Opened

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ALIGNED = "celeba/img_align_celeba"


@dataclass(frozen=True)
class CelebA(Dataset):
    """CelebA, aligned and cropped: 202,599 faces, 178x218 colour (https://arxiv.org/abs/1411.7766).

    Read and downloaded by torchvision (downloading needs the package gdown); the data set's own splits train, valid and
    test. Labels are one of its 40 attributes, 0 or 1.
    """

    kind: ClassVar[Literal["image", "points"]] = "image"
    channels: ClassVar[int] = 3
    num_classes: ClassVar[int | None] = 2
    image_size: ClassVar[int] = 64
    packages: ClassVar[tuple[str, ...]] = ("torchvision", "pillow")
    external: ClassVar[bool] = True

    root: str | None = None
    """Folder that holds `celeba`; $GAN_ORCHESTRATOR_DATA or the user's cache unless given."""
    center_crop: Annotated[int, Interval(ge=32, le=178)] = 148
    """Side of the centred square, in pixels of the original, that is resized (148 is customary; 178: the whole width)."""
    attribute: str = "Smiling"
    """The attribute that becomes the label, as `list_attr_celeba.txt` spells it."""

    def open(self, seed: int) -> Opened:
        import numpy as np
        from torchvision import datasets

        root = downloads.folder(self.root)
        load = partial(datasets.CelebA, root, split="all", target_type="attr")
        data = downloads.obtain(load, root, "celeba", "celeba")
        if self.attribute not in data.attr_names:
            known = ", ".join(name for name in data.attr_names if name)
            raise DataError(f"celeba has no attribute {self.attribute!r}", f"known: {known}")
        labels = data.attr[:, data.attr_names.index(self.attribute)].numpy().astype(np.int64)
        names = np.array(data.filename)
        part = np.loadtxt(root / "celeba" / "list_eval_partition.txt", usecols=1, dtype=np.int64)
        splits = {
            split: Faces(root / ALIGNED, names[part == i], labels[part == i], self.center_crop)
            for i, split in enumerate(("train", "valid", "test"))
        }
        return Opened(splits, classes=(f"not_{self.attribute}", self.attribute))

    def resolve(self) -> CelebA:
        return CelebA(str(downloads.folder(self.root)), self.center_crop, self.attribute)

    def fingerprint(self) -> dict[str, Any]:
        return downloads.fingerprint(downloads.folder(self.root), "celeba", "celeba")


@dataclass(frozen=True, eq=False)
class Faces:
    """A source: aligned faces by file name, read when asked for."""

    folder: Path
    names: npt.NDArray[np.str_]
    labels: npt.NDArray[np.int64]
    side: int

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> Example:
        from trainers import pixels

        name = str(self.names[index])
        try:
            image = pixels.decode((self.folder / name).read_bytes(), name)
        except FileNotFoundError as error:
            raise CorruptError(f"{name}: missing") from error
        top, left = (image.shape[0] - self.side) // 2, (image.shape[1] - self.side) // 2
        return Example(image[top : top + self.side, left : left + self.side], int(self.labels[index]))

"""Images as arrays: decoding without surprises, and one way of resizing."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from trainers.dataset import CorruptError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 64 << 20  # of one image: a small file can announce more than the memory holds


def decode(data: bytes, name: str, channels: int = 3) -> Pixels:
    """An image file as uint8 (H, W, channels), upright; channels 1 (grey) or 3. Transparency is put on white.

    Raises CorruptError with the file's name.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and large images; the limit below is ours
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise CorruptError(f"{name}: {image.width}x{image.height} is more than {MAX_PIXELS} pixels")
                return _convert(ImageOps.exif_transpose(image), channels)
    except CorruptError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged bytes; each is named, none is lost
        said = re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(error))  # an address would differ from worker to worker
        raise CorruptError(f"{name}: {said.splitlines()[0] if said else type(error).__name__}") from error


def _convert(image: Image.Image, channels: int) -> Pixels:
    if image.mode.startswith(("I", "F")):  # 16 and 32 bits: PIL's own conversion would clip at 255
        wide = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(float(wide.max()), 1.0)
        image = Image.fromarray((wide * (255.0 / top)).clip(0, 255).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels: Pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    return pixels[..., None] if channels == 1 else pixels


def recolour(pixels: Pixels, channels: int) -> Pixels:
    """(…, C) -> (…, channels) for C and channels in {1, 3}: luma of ITU-R 601, or the grey three times."""
    have = pixels.shape[-1]
    if have == channels:
        return pixels
    if channels == 3 and have == 1:
        return np.repeat(pixels, 3, axis=-1)
    if channels == 1 and have == 3:
        red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
        luma: Pixels = ((299 * red + 587 * green + 114 * blue + 500) // 1000).astype(np.uint8)
        return luma[..., None]
    raise ValueError(f"{have} channels cannot become {channels}")


def fit(pixels: Pixels, size: int) -> Pixels:
    """(H, W, C) -> (size, size, C): the largest centred square, resized bicubically with antialiasing (Pillow's filter).

    An image that has the size already comes back unchanged, bit for bit.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    if pixels.shape[-1] == 3:
        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box))
    planes: list[Any] = [
        Image.fromarray(np.ascontiguousarray(pixels[..., c])).resize((size, size), Image.Resampling.BICUBIC, box)
        for c in range(pixels.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)

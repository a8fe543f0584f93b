"""PNG pictures of samples, the same bytes for the same samples."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

INK, PAPER, REAL = (31, 84, 164), (255, 255, 255), (214, 214, 214)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG of one picture: uint8 (H, W), (H, W, 1) or (H, W, 3)."""
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def grid(images: NDArray[np.uint8], columns: int | None = None, gap: int = 2) -> NDArray[np.uint8]:
    """Images (n, H, W, C) side by side, row by row, as one (H', W', 3) picture. One or two channels are shown in grey."""
    images = np.repeat(images[..., :1], 3, axis=-1) if images.shape[-1] < 3 else images[..., :3]
    n, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def enlarge(picture: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Each pixel as a square of `factor` pixels."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def scatter(points: NDArray[np.float32], real: NDArray[np.float32], side: int = 360) -> NDArray[np.uint8]:
    """Points (n, D) over real ones, their first two dimensions, on the frame of the real ones, as (side, side, 3).

    One-dimensional points are shown as two histograms.
    """
    if points.shape[1] == 1:
        return _histograms(points[:, 0], real[:, 0], side)
    low, high = real[:, :2].min(0), real[:, :2].max(0)
    middle, reach = (low + high) / 2, float((high - low).max()) * 0.62 + 1e-6
    sheet = np.full((side, side, 3), PAPER, dtype=np.uint8)
    for cloud, colour, radius in ((real, REAL, 2), (points, INK, 1)):
        place = ((cloud[:, :2] - middle) / reach * 0.5 + 0.5) * (side - 1)
        place = place[np.isfinite(place).all(1)].clip(0, side - 1).astype(np.int64)
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                x, y = (place[:, 0] + dx).clip(0, side - 1), (place[:, 1] + dy).clip(0, side - 1)
                sheet[side - 1 - y, x] = colour
    return sheet


def _histograms(points: NDArray[np.float32], real: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    low, high = float(real.min()), float(real.max())
    reach = (high - low) * 0.12 + 1e-6
    edges = np.linspace(low - reach, high + reach, 61)
    sheet = np.full((side, side, 3), PAPER, dtype=np.uint8)
    counts = [np.histogram(values, edges)[0] / len(values) for values in (real, points)]
    top = max(float(c.max()) for c in counts) * 1.05
    for count, colour, inset in zip(counts, (REAL, INK), (0.0, 0.3), strict=True):
        for i, share in enumerate(count):
            left, right = int((i + inset) * side / 60), int((i + 1 - inset) * side / 60)
            sheet[side - int(share / top * side) :, left : max(right, left + 1)] = colour
    return sheet


def to_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """NCHW in [-1, 1] -> uint8 NHWC, clamped and rounded."""
    scaled = np.rint((np.clip(images, -1, 1) + 1) * 127.5)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(0, 2, 3, 1))

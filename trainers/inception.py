"""Inception-v3 in the protocol of the FID literature: torch-fidelity's extractor, its resize, its TensorFlow weights.

torch-fidelity is an optional dependency (extra `fid`). The weights are found in this order: a path that was given, torch's
hub cache, a download (checked against the published digest).
"""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from trainers.metric import Array, Space, file_digest

NAME = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAME}"
DIGEST = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
CHUNK = 50  # images in one forward pass: bounds memory, at 299 x 299
TIMEOUT_S = 15.0


class UnavailableError(OSError):
    """Something that scoring needs is not on this machine and could not be fetched. `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)  # both are positional, so that it survives the way back from a worker
        self.hint = hint

    def __str__(self) -> str:
        return "; ".join(str(part) for part in self.args if part)


def weights_file(path: str | None = None) -> Path:
    """A local file with Inception's weights. Raises UnavailableError, or ValueError for a damaged download."""
    if path is not None:
        given = Path(path).expanduser()
        if not given.is_file():
            raise UnavailableError(
                f"there is no file of Inception weights at {path}", "correct `weights` of metric fid"
            )
        return given
    target = _cache_folder() / NAME
    if not target.is_file():
        _download(target)
    return _checked(target, target.stat().st_mtime_ns)


def _cache_folder() -> Path:
    """torch's hub cache, where torch-fidelity keeps them too."""
    base = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(base).expanduser() / "hub" / "checkpoints"


def _download(target: Path) -> None:
    """Fetch the published weights; they appear under their name only when whole and right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".inception-")
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(URL, timeout=TIMEOUT_S) as answer:
            while chunk := answer.read(1 << 20):
                out.write(chunk)
        if (found := file_digest(Path(partial))) != DIGEST:
            raise ValueError(f"the downloaded Inception weights are damaged: SHA-256 {found}, not {DIGEST}")
        os.replace(partial, target)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise UnavailableError(
            f"the Inception weights that fid needs cannot be downloaded ({reason})",
            f"put {NAME} into {target.parent}, or name a file: {{fid: {{weights: PATH}}}}",
        ) from error
    finally:
        Path(partial).unlink(missing_ok=True)


@cache
def _checked(path: Path, _mtime_ns: int) -> Path:
    if (found := file_digest(path)) != DIGEST:
        raise ValueError(f"{path.name} in the cache is damaged: SHA-256 {found}, not {DIGEST}; delete it")
    return path


class Inception(Space):
    """The 2048 features of Inception-v3 before its classifier, float32. `digest` is that of the weights' file."""

    name = "inception"

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        self.digest = file_digest(weights)
        self.device = device
        self._weights = weights
        self._network: Any = None

    @staticmethod
    def of(weights: Path, device: str = "cpu") -> Inception:
        """The extractor of a file, loaded once a process."""
        return _extractor(weights, weights.stat().st_mtime_ns, device)

    def embed(self, samples: Array) -> Array:
        """Features float32 (n, 2048) of uint8 images (n, H, W, 1 or 3)."""
        import torch

        if self._network is None:
            self._network = _network(self._weights).to(self.device, memory_format=torch.channels_last)
        images = torch.from_numpy(np.ascontiguousarray(_three_channels(samples))).permute(0, 3, 1, 2)
        with torch.inference_mode(), _full_precision():
            made = [self._network(chunk.to(self.device))[0].cpu().numpy() for chunk in images.split(CHUNK)]
        return np.concatenate(made)

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "resize": "299x299, bilinear as in TensorFlow 1", "layer": "2048"}


@cache
def _extractor(weights: Path, _mtime_ns: int, device: str) -> Inception:
    return Inception(weights, device)


def _network(weights: Path) -> Any:
    """torch-fidelity's extractor. Weights are read without pickle's powers and handed on as a file of our own."""
    import torch

    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise UnavailableError("fid needs the package torch-fidelity", "install this package's extra `fid`") from error
    if weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(weights)
    else:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "weights.pth"
        torch.save(dict(state), own)
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(own))


def _full_precision() -> Any:
    """No reduced-precision convolutions: bfloat16 and TF32 bias the score."""
    from torch.backends import cudnn

    return cudnn.flags(enabled=True, allow_tf32=False)


def _three_channels(images: Array) -> Array:
    channels = images.shape[-1]
    if channels == 1:
        return np.repeat(images, 3, axis=-1)
    if channels != 3:
        raise ValueError(f"fid is defined for images of 1 or 3 channels, not {channels}")
    return images

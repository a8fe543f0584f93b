"""FID in the reference protocol: parity with torch-fidelity itself, and what happens offline. Weights are random ones."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tests.real import patterns
from trainers import inception, plugins
from trainers.data import Prepared
from trainers.inception import Inception, UnavailableError, weights_file
from trainers.metric import Reference, file_digest

torch_fidelity = pytest.importorskip("torch_fidelity")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, made by torch-fidelity's own extractor."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Fresh(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keep the random initialisation."""

    path: Path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save({}, path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Fresh("random", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(network.state_dict(), path)
    return path


class Pictures(Dataset[torch.Tensor]):
    """uint8 (3, H, W), as torch-fidelity reads them."""

    def __init__(self, images: np.ndarray[Any, Any]) -> None:
        self.images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def fid(real: Prepared, fake: np.ndarray[Any, Any], weights: Path) -> float:
    metric = plugins.build("metrics", "fid", {"weights": str(weights)})
    state = metric.update(metric.start(Reference(real)), fake, 0)
    return float(metric.compute(state)["fid"])


@pytest.mark.slow
def test_it_is_what_torch_fidelity_says(weights: Path) -> None:
    real, fake = patterns(24, 0, 16, 3), patterns(20, 1, 16, 3)
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(fake.x),
        input2=Pictures(real.x),
        cuda=False,
        fid=True,
        verbose=False,
        cache=False,
        batch_size=10,
        feature_extractor_weights_path=str(weights),
    )["frechet_inception_distance"]
    assert fid(Prepared.of({"train": real}), fake.x, weights) == pytest.approx(theirs, rel=1e-4)


def test_grey_images_are_three_equal_channels(weights: Path) -> None:
    grey, space = patterns(4, 0).x, Inception.of(weights)
    np.testing.assert_array_equal(space.embed(grey), space.embed(np.repeat(grey, 3, axis=-1)))
    with pytest.raises(ValueError, match="1 or 3 channels"):
        space.embed(patterns(4, 0, 16, 2).x)


def test_the_protocol_names_the_weights(weights: Path) -> None:
    protocol = Inception.of(weights).protocol()
    assert protocol["weights"] == file_digest(weights)
    assert "TensorFlow" in protocol["resize"]


def test_weights_may_be_safetensors(weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = torch.load(weights, weights_only=True)
    save_file(state, tmp_path / "w.safetensors")
    images = patterns(2, 0).x
    np.testing.assert_array_equal(
        Inception.of(tmp_path / "w.safetensors").embed(images), Inception.of(weights).embed(images)
    )


def test_a_missing_file_of_weights_is_named() -> None:
    with pytest.raises(UnavailableError, match="at /nowhere"):
        weights_file("/nowhere.pth")


def test_offline_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UnavailableError, match="no route to host") as caught:
        weights_file()
    assert str(tmp_path) in caught.value.hint
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []


def test_a_damaged_download_or_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"not the weights"))
    with pytest.raises(ValueError, match="damaged"):
        weights_file()
    folder = tmp_path / "hub" / "checkpoints"
    assert list(folder.iterdir()) == []
    (folder / inception.NAME).write_bytes(b"nor these")
    with pytest.raises(ValueError, match="delete it"):
        weights_file()

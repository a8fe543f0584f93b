"""A small classifier of the real data, whose features and confidence judge generated samples.

Images of any channel count and of sizes 8 to 256: a convolutional network whose feature layer follows a global average.
Points: a multilayer perceptron. It trains on one core in seconds and the same seed gives the same weights.
Features are divided by one number, so that over the training data a feature's variance is 1 on average: Frechet distances
of different classifiers then have one scale, on which `dim` is the total variance of the real data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.core import DataShape
from trainers.draws import Draws, derive, own_generator
from trainers.metric import Array, Data, Space, blocks, file_digest

FILE = "classifier.safetensors"


@dataclass(frozen=True)
class Architecture:
    """What is needed to build the network again. `dim`: features; `width`: channels of the first stage."""

    kind: str
    size: tuple[int, ...]
    num_classes: int
    dim: int = 64
    width: int = 16

    def network(self) -> nn.Sequential:
        """(B, *size) -> (B, dim), float; features before scaling, >= 0."""
        return _convolutional(self) if self.kind == "image" else _perceptron(self)


def _convolutional(of: Architecture) -> nn.Sequential:
    channels, resolution = of.size[0], min(of.size[1:])
    layers: list[nn.Module] = []
    width, wide = channels, of.width
    while resolution > 16:  # halved at once: at full size every layer is dear
        layers += _block(width, wide, stride=2)
        width, resolution = wide, (resolution + 1) // 2
    layers += _block(width, wide, stride=1)
    width = wide
    while resolution > 4:
        wide = min(2 * width, 4 * of.width)
        layers += _block(width, wide, stride=2)
        width, resolution = wide, (resolution + 1) // 2
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, of.dim), nn.ReLU()]
    return nn.Sequential(*layers)


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def _perceptron(of: Architecture) -> nn.Sequential:
    wide = 4 * of.width
    return nn.Sequential(
        nn.Linear(math.prod(of.size), wide),
        nn.ReLU(),
        nn.Linear(wide, wide),
        nn.ReLU(),
        nn.Linear(wide, of.dim),
        nn.ReLU(),
    )


class Classifier(Space):
    """A trained classifier: a feature space with class probabilities. `digest` is that of its file."""

    name = "classifier"

    def __init__(self, architecture: Architecture, digest: str = "") -> None:
        self.architecture = architecture
        self.digest = digest
        self.network = architecture.network().eval()
        self.head = nn.Linear(architecture.dim, architecture.num_classes)
        self.scale = torch.ones(())  # features are divided by it
        self.shift = torch.zeros(architecture.size if architecture.kind == "points" else ())
        self.spread = torch.ones(architecture.size if architecture.kind == "points" else ())

    def to(self, device: str | torch.device) -> Classifier:
        self.network.to(device)
        self.head.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def inputs(self, samples: Array) -> Tensor:
        """Samples (n, H, W, C) uint8 or (n, D) float32 as the network takes them: images in [-1, 1], points standardised."""
        flat = np.ascontiguousarray(samples).reshape(
            -1
        )  # strides of axes of length 1 may be odd, and choose other kernels
        x = torch.from_numpy(flat).reshape(samples.shape).to(self.device)
        if self.architecture.kind == "image":
            x = x.permute(0, 3, 1, 2)  # of NHWC memory: channels last, for free
            return x.float().div(127.5).sub(1)
        return (x.float() - self.shift.to(x.device)) / self.spread.to(x.device)

    def embed(self, samples: Array) -> Array:
        """Features float32 (n, dim)."""
        with torch.inference_mode():
            features: Array = (self.network(self.inputs(samples)) / self.scale.to(self.device)).cpu().numpy()
        return features

    def probabilities(self, features: Array) -> Array:
        """Class probabilities float32 (n, num_classes) of features as `embed` gives them."""
        with torch.inference_mode():
            unscaled = torch.from_numpy(features).to(self.device) * self.scale.to(self.device)
            probabilities: Array = self.head(unscaled).softmax(-1).cpu().numpy()
        return probabilities

    def save(self, path: Path) -> None:
        """Write weights and architecture as safetensors."""
        from safetensors.torch import save_file

        save_file(self._tensors(), path, metadata={"architecture": json.dumps(asdict(self.architecture))})
        self.digest = file_digest(path)

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Read what `save` wrote. Raises ValueError for another file."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as stored:
            described = (stored.metadata() or {}).get("architecture")
            if described is None:
                raise ValueError(f"{path.name} is no classifier: it does not say its architecture")
            values = json.loads(described)
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
        classifier = cls(Architecture(**{**values, "size": tuple(values["size"])}), digest=file_digest(path))
        classifier.scale, classifier.shift, classifier.spread = (tensors.pop(n) for n in ("scale", "shift", "spread"))
        classifier.network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network.")})
        classifier.head.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("head.")})
        return classifier

    def _tensors(self) -> dict[str, Tensor]:
        named = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        named |= {f"head.{key}": value for key, value in self.head.state_dict().items()}
        named |= {"scale": self.scale, "shift": self.shift, "spread": self.spread}
        return {key: value.detach().cpu().contiguous() for key, value in named.items()}


@dataclass(frozen=True)
class Training:
    """How the classifier is trained: `epochs` passes over the split, but at least 200 and at most `max_steps` steps in all."""

    epochs: int = 10
    max_steps: int = 3000
    batch_size: int = 64
    lr: float = 3e-3
    shift: int = 2  # pixels an image is moved by, at most (and at most a sixteenth of it)
    label_smoothing: float = 0.0

    def steps(self, n: int) -> int:
        return min(self.max_steps, max(200, self.epochs * math.ceil(n / self.batch_size)))


def train(
    data: Data,
    architecture: Architecture,
    training: Training,
    *,
    seed: int,
    device: str = "cpu",
    report: Callable[[int, int, dict[str, float]], None] = lambda step, total, metrics: None,
) -> Classifier:
    """Train on the split "train". `report(step, total_steps, {"loss": …})` is called about every hundredth of the way.

    Raises ValueError where the split has no labels.
    """
    split = data.split("train")
    if split.labels is None:
        raise ValueError("a classifier needs labels, and this data set has none")
    labels = torch.as_tensor(np.array(split.labels), dtype=torch.int64)
    with own_generator():
        torch.manual_seed(derive(seed, "classifier"))
        classifier = Classifier(architecture).to(device)
    if architecture.kind == "points":
        _standardise(classifier, split, len(labels))
    parameters = [*classifier.network.parameters(), *classifier.head.parameters()]
    total = training.steps(len(labels))
    optimizer = torch.optim.AdamW(parameters, lr=training.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.lr, total_steps=total)
    classifier.network.train()
    draws = Draws(seed)
    for step, indices in enumerate(_batches(len(labels), training.batch_size, total, draws), start=1):
        x = classifier.inputs(split.raw(indices))
        if most := min(training.shift, min(architecture.size[1:], default=0) // 16):
            x = _shift(x, draws.integers(("shift", step), range(len(x)), 2 * most + 1, (2,)), most)
        logits = classifier.head(classifier.network(x))
        loss = F.cross_entropy(logits, labels[indices].to(device), label_smoothing=training.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, total // 100) == 0 or step == total:
            report(step, total, {"loss": loss.item()})
    _settle(classifier, split, len(labels))
    return classifier


def accuracy(classifier: Classifier, data: Data, split: str = "test") -> float:
    """Share of a split's samples whose likeliest class is their label."""
    part = data.split(split)
    labels = np.asarray(part.labels)
    right = 0
    for rows in _chunks(len(labels)):
        probabilities = classifier.probabilities(classifier.embed(part.raw(rows)))
        right += int((probabilities.argmax(-1) == labels[rows.numpy()]).sum())
    return right / max(len(labels), 1)


def of(data_shape: DataShape, *, dim: int, width: int) -> Architecture:
    """The architecture for a data set. Raises ValueError where it has no classes."""
    if data_shape.num_classes is None:
        raise ValueError("a classifier needs labels, and this data set has none")
    return Architecture(data_shape.kind, data_shape.size, data_shape.num_classes, dim, width)


def _batches(n: int, batch_size: int, total: int, draws: Draws) -> Iterator[Tensor]:
    """`total` batches of positions, epoch after epoch, each a new permutation; batch norm never sees a single sample."""
    step = 0
    for epoch in range(total):
        for indices in draws.permutation(("epoch", epoch), n).split(batch_size):
            if len(indices) < 2 <= n:
                continue
            step += 1
            yield indices
            if step == total:
                return


def _shift(x: Tensor, offsets: Tensor, most: int) -> Tensor:
    """Images (B, C, H, W) moved by offsets (B, 2) in 0..2 most, the border repeated."""
    batch, _, height, width = x.shape
    padded = F.pad(x, (most, most, most, most), mode="replicate")
    rows = offsets[:, :1].to(x.device) + torch.arange(height, device=x.device)
    columns = offsets[:, 1:].to(x.device) + torch.arange(width, device=x.device)
    each = torch.arange(batch, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _standardise(classifier: Classifier, split: Any, n: int) -> None:
    points = split.raw(torch.arange(n)).astype(np.float64)
    classifier.shift = torch.from_numpy(points.mean(0)).float()
    classifier.spread = torch.from_numpy(points.std(0)).float().clamp_min(1e-6)


def _settle(classifier: Classifier, split: Any, n: int) -> None:
    """Measure what evaluation divides by, over at most 10,000 samples of the training split.

    Batch norm's statistics are those of the final weights instead of a running average over the training; features are
    divided by the root of their mean variance.
    """
    positions = torch.arange(min(n, 10_000)) * n // min(n, 10_000)
    chunks = [split.raw(positions[chunk]) for chunk in _chunks(len(positions))]
    for module in classifier.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain average over the batches to come
    with torch.no_grad():
        for chunk in chunks:
            if len(chunk) > 1:
                classifier.network(classifier.inputs(chunk))
    classifier.network.eval()
    features = np.concatenate([classifier.embed(chunk) for chunk in chunks])
    variance = features.astype(np.float64).var(axis=0).mean()
    classifier.scale = torch.tensor(math.sqrt(max(variance, 1e-12)), dtype=torch.float32)


def _chunks(n: int) -> tuple[Tensor, ...]:
    return tuple(torch.arange(rows.start, rows.stop) for rows in blocks(n))

"""The registered model: it draws latents, runs the exported program and gives images.

This file travels with every registered version and must import nothing but torch, numpy and mlflow.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import mlflow.pytorch
import numpy as np
import torch

BLOCK = 32  # rows that share one random generator
CHUNK = 256  # rows made at once; a multiple of BLOCK


class GeneratorModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Samples as a function of (seed, row): the same seed gives the same bytes."""

    def load_context(self, context: Any) -> None:
        program = Path(context.artifacts["program"])
        self.facts = json.loads(Path(context.artifacts["facts"]).read_text())
        self.program = mlflow.pytorch.load_model(str(program.parent.parent))

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Any:
        """`model_input`: int64 (n,), of which a conditional model reads the classes and any other only the count; or the
        uint8 (n, H, W, C) images that a translator translates. `params`: `seed` (int) and `truncation` in (0, 1], which
        scales normal latents. Returns uint8 (n, H, W, C), or float32 (n, D) for points.
        """
        params = params or {}
        seed, truncation = int(params.get("seed", 0)), float(params.get("truncation", 1.0))
        if not 0 < truncation <= 1:
            raise ValueError(f"truncation must be above 0 and at most 1, not {truncation}")
        given = self._given(np.asarray(model_input))
        if len(given) == 0:
            return self._pixels(torch.empty(0, *self.facts["size"]))
        with torch.no_grad():
            starts = range(0, len(given), CHUNK)
            made = [self._rows(given[start : start + CHUNK], start, seed, truncation) for start in starts]
        return np.concatenate(made)

    def _given(self, told: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.facts["inputs"] == "classes":
            classes = self.facts["num_classes"]
            if len(told) and not 0 <= told.min() <= told.max() < classes:
                raise ValueError(f"classes must be from 0 to {classes - 1}")
        return told

    def _rows(self, given: np.ndarray[Any, Any], first: int, seed: int, truncation: float) -> np.ndarray[Any, Any]:
        args = [self._draw(draw, first, len(given), seed, truncation) for draw in self.facts["draws"]]
        if self.facts["inputs"] == "classes":
            args.append(torch.from_numpy(given.astype(np.int64)))
        elif self.facts["inputs"] == "images":
            pixels = torch.from_numpy(np.ascontiguousarray(given)).permute(0, 3, 1, 2)
            args.append((pixels.float() / 127.5 - 1).to(getattr(torch, self.facts["dtype"])))
        return self._pixels(self.program(*args).float())

    def _draw(self, draw: dict[str, Any], first: int, rows: int, seed: int, truncation: float) -> torch.Tensor:
        """A named draw of `rows` rows from row `first`, as in training: blocks of rows, each with its own generator."""
        dtype = getattr(torch, self.facts["dtype"])
        blocks = []
        for block in range(first // BLOCK, (first + rows - 1) // BLOCK + 1):
            key = repr((seed, 0, "", 0, draw["name"], block)).encode()
            bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
            generator = torch.Generator().manual_seed(bits)
            shape = (BLOCK, *draw["shape"])
            if draw["kind"] == "normal":
                blocks.append(torch.randn(shape, generator=generator, dtype=dtype) * truncation)
            elif draw["kind"] == "uniform":
                blocks.append(torch.rand(shape, generator=generator, dtype=dtype))
            else:
                blocks.append(torch.randint(draw["high"], shape, generator=generator))
        return torch.cat(blocks)[:rows]

    def _pixels(self, samples: torch.Tensor) -> np.ndarray[Any, Any]:
        if self.facts["kind"] != "image":
            return samples.numpy()
        scaled = ((samples.clamp(-1, 1) + 1) * 127.5).round()
        return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


mlflow.models.set_model(GeneratorModel())

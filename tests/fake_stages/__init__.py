"""Stages that do next to nothing: what the engine's tests run. `install` puts them in the place of the real ones."""

from __future__ import annotations

import pytest

from orchestrator import source
from trainers import plugins

CHAIN = """
version: 1
name: chain
stages:
  data: {uses: make, with: {text: abcd}}
  train: {uses: grow, inputs: {dataset: data}, with: {total_steps: 3}}
  score: {uses: judge, inputs: {models: train}}
"""
SEARCHED = """
version: 1
name: chain
stages:
  data: {uses: make}
  search: {uses: pick, inputs: {dataset: data}}
  train: {uses: grow, inputs: {dataset: data, config: search}}
  score: {uses: judge, inputs: {models: train}}
"""
MATRIX = """
version: 1
name: chain
stages:
  data: {uses: make}
  train: {uses: grow, inputs: {dataset: data}, matrix: {seed: [0, 1], total_steps: [2, 3]}}
  each: {uses: judge, inputs: {models: train}, matrix: {seed: [0, 1]}}
  all: {uses: judge, inputs: {models: train}}
"""


def install(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(plugins.KINDS, "stages", "tests.fake_stages")
    patch.setattr(source, "PACKAGES", (*source.PACKAGES, "tests"))

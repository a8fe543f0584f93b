"""Does a fully cached run of 100 stages stay cheap? Whole processes, measured by their resource usage."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cached

PROMISED_S = 0.8  # of CPU, on a machine where an empty process takes EMPTY_S
EMPTY_S = 0.06


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(cached.PIPELINES))
def test_a_cached_run_of_a_hundred_stages_keeps_its_promise(name: str, tmp_path: Path) -> None:
    found = cached.measure(cached.prepare(name, tmp_path), 3)
    slower = max(found["empty_s"] / EMPTY_S, 1.0)  # this machine, now
    assert found["cached_s"] <= PROMISED_S * slower, found

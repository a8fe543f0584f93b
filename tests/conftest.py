"""What all tests share: one Ray instance, and a home of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported anywhere: the same arithmetic on every machine, and two cores are shared with Ray's workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches and tokens of the tests stay out of the user's."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: os.environ.get(name) for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME")}
    os.environ.update({"XDG_CACHE_HOME": str(home / "cache"), "XDG_STATE_HOME": str(home / "state")})
    yield home
    for name, value in kept.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The real MNIST in torchvision's layout, beside the checkout or where MNIST_ROOT says; else the test is skipped."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"
    root = Path(os.environ.get("MNIST_ROOT", beside))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"needs MNIST in torchvision's layout at {root}; set MNIST_ROOT")
    return root


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray instance for all tests that need one."""
    import logging

    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
    )
    yield
    ray.shutdown()

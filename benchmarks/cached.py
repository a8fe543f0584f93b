"""What a fully cached run costs: CPU seconds (user and system) of the whole process, for pipelines of 100 stages.

    python benchmarks/cached.py [--repeats 5] [--keep FOLDER]

Each pipeline runs once without Ray; then `orchestrate run` is measured, in turns with a Python process that only imports
click: the ratio holds on a busy machine, too. The promise is 0.8 s of CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SEEDS = "[" + ", ".join(str(seed) for seed in range(33)) + "]"
PIPELINES = {
    "prepare": """
version: 1
name: prepare
stages:
  data:
    uses: prepare
    with: {dataset: {ring8: {num_points: 64}}, split: {train: 0.75, test: 0.25}}
    matrix: {seed: [SEEDS]}
""".replace("[SEEDS]", "[" + ", ".join(str(seed) for seed in range(100)) + "]"),
    "train": f"""
version: 1
name: train
stages:
  data: {{uses: prepare, with: {{dataset: {{ring8: {{num_points: 256}}}}, split: {{train: 0.8, test: 0.2}}}}}}
  train:
    uses: train
    inputs: {{dataset: data}}
    matrix: {{seed: {SEEDS}}}
    with: {{total_steps: 2, batch_size: 8, variant: wgan_gp, hacks: [ema], backbone: {{mlp: {{width: 8}}}}}}
  evaluate:
    uses: evaluate
    inputs: {{dataset: data, model: train}}
    matrix: {{seed: {SEEDS}}}
    with: {{metrics: [mode_coverage], num_samples: 500}}
  further:
    uses: train
    inputs: {{dataset: data, model: train}}
    matrix: {{seed: {SEEDS}}}
    with: {{total_steps: 3, batch_size: 8}}
""",
}
RUN = """
import sys, orchestrator
from orchestrator.execute import Options, execute
run = execute(orchestrator.plan(sys.argv[1]), options=Options(ray=False, tracking=False))
assert run.status == "succeeded", run.record.error
"""
CACHED = "import sys; from orchestrator.cli import main; main(['run', sys.argv[1], '--json', '--quiet'])"
EMPTY = "import click"


def prepare(name: str, folder: Path) -> Path:
    """The pipeline's file, after a run that made everything."""
    path = folder / f"{name}.yaml"
    path.write_text(PIPELINES[name])
    subprocess.run([sys.executable, "-c", RUN, path.name], cwd=folder, env=_environment(folder), check=True)
    return path


def cost(code: str, path: Path) -> float:
    """CPU seconds of one process, start and end included."""
    command = [sys.executable, "-c", code, path.name]
    with open(path.with_suffix(".out"), "wb") as out:
        process = subprocess.Popen(command, cwd=path.parent, env=_environment(path.parent), stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"exit {process.returncode}"
    return usage.ru_utime + usage.ru_stime


def measure(path: Path, repeats: int) -> dict[str, float]:
    """The least of some repeats, in turns: of a cached run, of an empty process, and their ratio."""
    cost(CACHED, path)  # the first reads every source file anew
    assert json.loads(path.with_suffix(".out").read_bytes())["cached"] is True
    found = [(cost(EMPTY, path), cost(CACHED, path)) for _ in range(repeats)]
    empty, cached = min(a for a, _ in found), min(b for _, b in found)
    return {"cached_s": round(cached, 3), "empty_s": round(empty, 3), "ratio": round(cached / empty, 1)}


def _environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join(part for part in (os.environ.get("BENCHMARK_SOURCE", str(ROOT)),) if part)
    return {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="work here, and leave it")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in PIPELINES:
            print(f"{name:<8} {json.dumps(measure(prepare(name, folder), chosen.repeats))}", flush=True)


if __name__ == "__main__":
    main()

"""Is a result served again only while everything that it came from is what it was? Real stages, real files, no Ray.

The project's source is copied, so that tests can edit it; what is planned from the copy runs in processes of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = """
version: 1
name: small
storage: runs
stages:
  data: {uses: prepare, with: {dataset: {ring8: {num_points: 400}}, split: {train: 0.8, test: 0.2}}}
  train:
    uses: train
    inputs: {dataset: data}
    with: {total_steps: 2, batch_size: 8, variant: gan, hacks: [ema], backbone: {mlp: {width: 8}}}
  evaluate:
    uses: evaluate
    inputs: {dataset: data, model: train}
    with: {metrics: [mode_coverage], num_samples: 200}
"""
RUN = """
import sys, orchestrator
from orchestrator.execute import Options, execute
asked = dict(zip((word.strip("-") for word in sys.argv[1::2]), sys.argv[2::2]))
if "force" in asked:
    asked["force"] = [asked["force"]]
run = execute(orchestrator.plan("small.yaml", **asked), options=Options(ray=False, tracking=False))
print(run.record.error, file=sys.stderr)
sys.exit(run.exit_code)
"""


MAIN = "from orchestrator.cli import main; main()"


class Tree:
    """A copy of the source with a pipeline that has run once from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "runs"

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache")}
        command = [sys.executable, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=environment, check=False)

    def orchestrate(self, *words: str, code: int = 0) -> str:
        done = self.call("-c", MAIN, *words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def run(self, *asked: str) -> None:
        done = self.call("-c", RUN, *asked)
        assert done.returncode == 0, done.stderr

    def plan(self, *words: str) -> dict[str, tuple[str, str]]:
        found = json.loads(self.orchestrate("plan", "small.yaml", "--json", *words))
        return {step["stage"]: (step["state"], step["reason"]) for step in found["steps"]}

    def keys(self) -> dict[str, str]:
        found = json.loads(self.orchestrate("plan", "small.yaml", "--json"))
        return {step["stage"]: step["key"] for step in found["steps"]}

    def states(self, *words: str) -> list[str]:
        return [state for state, _ in self.plan(*words).values()]

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new, 1))

    def blob(self, stage: str, name: str) -> Path:
        """Where a file of a stage's artifact lies."""
        found = json.loads(self.orchestrate("plan", "small.yaml", "--json"))
        (digest,) = next(step["outputs"].values() for step in found["steps"] if step["stage"] == stage)
        manifest = json.loads((self.storage / "artifacts" / digest[:2] / f"{digest}.json").read_text())
        blob, _ = manifest["artifact"]["files"][name]
        return self.storage / "sha256" / blob[:2] / str(blob)


def copied(folder: Path) -> Tree:
    tree = Tree(folder)
    for package in ("orchestrator", "trainers"):
        shutil.copytree(ROOT / package, tree.folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tree.folder / "small.yaml").write_text(textwrap.dedent(SPEC))
    return tree


def again(tree: Tree, folder: Path) -> Tree:
    """A copy of its own, with every time kept: what was stored is not touched by being copied."""
    for item in tree.folder.iterdir():
        copy = shutil.copytree if item.is_dir() else shutil.copy2
        copy(item, folder / item.name)
    return Tree(folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    tree = copied(tmp_path_factory.mktemp("tree"))
    tree.run("--until", "data")
    return tree


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    tree = copied(tmp_path_factory.mktemp("whole"))
    tree.run()
    return tree


@pytest.fixture
def ready(prepared: Tree, tmp_path: Path) -> Tree:
    """Its data are prepared, so that the key of its training is known."""
    return again(prepared, tmp_path)


@pytest.fixture
def tree(ran: Tree, tmp_path: Path) -> Tree:
    return again(ran, tmp_path)


CACHED = ["cached"] * 3


def test_edits_that_cannot_change_a_result_hit(ready: Tree) -> None:
    before = ready.keys()
    assert before["train"]
    for name, old, new in (
        ("trainers/losses.py", '"""', '"""Other words. '),
        ("trainers/loop.py", "from __future__", "# a comment\n\n\nfrom __future__"),
        ("trainers/variants/gan.py", "@dataclass(frozen=True)", "@dataclass(\n    frozen=True\n)"),
        ("trainers/compatibility.py", "import annotations", "import annotations\nimport os"),  # only judges
        ("orchestrator/display.py", "import sys", "import sys\nimport os"),
        ("trainers/variants/dcgan.py", "import annotations", "import annotations\nimport os"),  # not chosen here
    ):
        ready.edit(name, old, new)
    assert ready.keys() == before


@pytest.mark.parametrize(
    ("name", "old", "new", "missed"),
    [
        ("trainers/variants/gan.py", "return", "_ = 1\n        return", ["train"]),
        ("trainers/variants/gan.py", "@dataclass(frozen=True)", "@dataclass(frozen=True, eq=True)", ["train"]),
        ("trainers/losses.py", "return", "_ = 1\n    return", ["train"]),  # through the variant
        ("trainers/draws.py", "return", "_ = 1\n    return", ["train"]),  # through the loop, imported inside a function
        ("trainers/hacks/ema.py", "return", "_ = 1\n        return", ["train"]),
        ("trainers/datasets/ring8.py", "= 1.0", "= 2.0", ["data"]),  # a default
        ("trainers/__init__.py", "", "import os\n", ["data"]),  # then the rest waits for it
    ],
)
def test_edits_of_reached_source_miss_and_are_named(
    ready: Tree, name: str, old: str, new: str, missed: list[str]
) -> None:
    before = ready.keys()
    ready.edit(name, old, new)
    after = ready.keys()
    changed = [stage for stage in before if before[stage] != after[stage]]
    assert changed[: len(missed)] == missed
    if missed == ["data"]:
        reason = ready.plan()["data"][1]
        assert f"source of {name}" in reason or "radius" in reason


def test_two_spellings_of_the_same_parameters_are_one_key(ready: Tree) -> None:
    before = ready.keys()
    ready.edit("small.yaml", "variant: gan, hacks: [ema]", "variant: {gan: {}}, hacks: {ema: {}}")
    both = "{critic: {mlp: {width: 8}}, generator: {mlp: {width: 8}}}"
    ready.edit("small.yaml", "backbone: {mlp: {width: 8}}", f"backbone: {both}")
    ready.edit("small.yaml", "batch_size: 8,", "batch_size: 8, precision: float32, log_every: 50, optimizers: {},")
    ready.edit("small.yaml", "{ring8: {num_points: 400}}", "{ring8: {num_points: 400, radius: 1}}")
    ready.edit("small.yaml", "test: 0.2}}", "test: 0.2}, num_shards: 3}")
    assert ready.keys() == before
    ready.edit("small.yaml", "radius: 1", "radius: 2")
    assert ready.plan()["data"] == ("run", "dataset.ring8.radius 1.0 -> 2.0")


def test_a_data_file_beside_a_plugin_counts(ready: Tree) -> None:
    ready.edit("trainers/variants/gan.py", "return", 'TABLE = "table.json"\n        return')
    before = ready.keys()
    table = ready.folder / "trainers" / "variants" / "table.json"
    table.write_text("[1]")
    with_table = ready.keys()
    table.write_text("[2]")
    assert len({keys["train"] for keys in (before, with_table, ready.keys())}) == 3


def test_changed_content_at_the_same_path_misses(ready: Tree) -> None:
    from PIL import Image

    pictures = ready.folder / "pictures"
    pictures.mkdir()
    for n in range(8):
        Image.new("L", (16, 16), n * 20).save(pictures / f"{n}.bmp")
    (ready.folder / "small.yaml").write_text(
        "version: 1\nname: small\nstages:\n"
        "  data: {uses: prepare, with: {dataset: {image_folder: {url: pictures}}, image_size: 16, channels: 1}}\n"
    )
    before = ready.keys()["data"]
    stat = (pictures / "3.bmp").stat()
    Image.new("L", (16, 16), 255).save(pictures / "3.bmp")
    assert (pictures / "3.bmp").stat().st_size == stat.st_size
    os.utime(pictures / "3.bmp", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time
    assert ready.keys()["data"] != before


def test_unknown_stages_are_told_with_a_near_name(ready: Tree) -> None:
    for option in ("--force", "--from", "--until"):
        done = ready.call("-c", MAIN, "plan", "small.yaml", option, "trian")
        assert done.returncode == 2
        assert "did you mean 'train'?" in done.stderr


# --- with a whole run ------------------------------------------------------------------------------------------------


def damage(blob: Path, how: str) -> None:
    stat, data = blob.stat(), blob.read_bytes()
    if how == "deleted":
        blob.unlink()
    elif how == "truncated":
        blob.write_bytes(data[:-1])
        os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif how == "touched":
        os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    else:
        blob.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("deleted", "artifact model lacks model.safetensors"),
        ("truncated", "artifact model was altered (model.safetensors has"),
        ("touched", "artifact model was touched (model.safetensors)"),
    ],
)
def test_a_damaged_artifact_misses_and_why_names_it(tree: Tree, how: str, told: str) -> None:
    damage(tree.blob("train", "model.safetensors"), how)
    assert tree.plan()["train"][0] == "run"
    assert told in tree.orchestrate("why", "small.yaml", "train")
    tree.run()
    assert tree.states() == CACHED
    again = tree.orchestrate("why", "small.yaml", "train")
    assert "made by run" in again
    assert told in again  # also when it is cached again


@pytest.mark.long
def test_bytes_altered_with_their_time_kept_are_found_by_verify(tree: Tree) -> None:
    blob = tree.blob("train", "model.safetensors")
    damage(blob, "altered")
    assert tree.states() == CACHED  # sizes and times tell nothing
    assert "model.safetensors" in tree.plan("--verify")["train"][1]
    assert not blob.exists()  # quarantined
    assert list((tree.storage / "quarantine").iterdir())
    assert tree.states() == ["cached", "run", "run"]
    tree.run()
    assert tree.states("--verify") == CACHED


@pytest.mark.long
def test_bytes_altered_with_their_time_kept_are_found_when_read(tree: Tree) -> None:
    blob = tree.blob("train", "model.safetensors")
    good = blob.read_bytes()
    damage(blob, "altered")
    tree.run("--force", "evaluate")  # reads the model, finds it damaged, has it made again and goes on
    assert tree.blob("train", "model.safetensors").read_bytes() == good
    assert tree.states("--verify") == CACHED


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "forced"),
    [
        (["--force", "train"], ["cached", "run", "run"]),
        (["--from", "train"], ["cached", "run", "run"]),
        (["--from", "evaluate"], ["cached", "cached", "run"]),
        (["--until", "train"], ["cached", "cached"]),
        (["--force", "train", "--until", "train"], ["cached", "run"]),
        (["--force", "evaluate", "--until", "train"], ["cached", "cached"]),
        (["--no-cache"], ["run", "run", "run"]),
        (["--no-cache", "--until", "data"], ["run"]),
    ],
)
def test_what_is_forced_or_left_out(tree: Tree, words: list[str], forced: list[str]) -> None:
    assert tree.states(*words) == forced

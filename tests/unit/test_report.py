"""The report: charts say what the numbers say, pages load nothing, texts are escaped, damage is told."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator import report, runs, units
from orchestrator.artifacts import ArtifactStore
from orchestrator.errors import BadInput
from orchestrator.report import charts
from orchestrator.report.charts import Axis, Bar, Series

EVIL = "<script>alert('x')</script>"


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def fabricate(store: ArtifactStore, *, status: str = "succeeded") -> str:
    """A run with one artifact of each kind and hostile texts; returns its id."""
    points = [("dcgan", 1e-4, 9.0), ("wgan_gp", 1e-3, 4.0), (EVIL, 3e-4, None)]
    trials = [
        {
            "trial": i,
            "point": {"variant": variant, "optimizers.generator.lr": lr},
            "config": {},
            "score": score,
            "scores": {"5": score + 1, "10": score} if score else {},
            "steps": 10,
            "status": "finished" if score else "diverged",
            "error": None if score else f"NotFinite {EVIL}",
        }
        for i, (variant, lr, score) in enumerate(points)
    ]
    history = "\n".join(json.dumps({"step": s, "critic/real": 1 / s, "generator/fake": float(s)}) for s in range(1, 50))
    samples = {f"samples/step_{step:08d}.png": png(step) for step in range(0, 200, 10)}
    made = [
        ("data", "prepare", store.put("dataset", {"index.json": b"{}"}, {"dataset": "digits", "splits": {"train": 5}})),
        ("features", "features", store.put("features", {"c.safetensors": b"c"}, {"space": "classifier", "dim": 64})),
        (
            "search",
            "tune",
            store.put(
                "search",
                {"trials.json": json.dumps({"trials": trials, "winner": 1}).encode()},
                {"metric": "frechet_distance", "direction": "minimize", "winner": {"variant": "wgan_gp"}, "failed": 1},
            ),
        ),
        (
            "train",
            "train",
            store.put(
                "model",
                {"model.safetensors": b"m", "history.jsonl": history.encode(), **samples},
                {"step": 49, "seed": 3},
            ),
        ),
        (
            "evaluate",
            "evaluate",
            store.put(
                "scores",
                {"scores.json": b"{}", "grid.png": png(1)},
                {
                    "scores": {
                        "frechet_distance": {
                            "values": {"frechet_distance": 12.5},
                            "primary": "frechet_distance",
                            "protocol": {"space": EVIL, "generated": 2000},
                        }
                    },
                    "values": {"frechet_distance": 12.5},
                },
            ),
        ),
        (
            "register",
            "register",
            store.put("registration", {"r.json": b"{}"}, {"model": "m", "version": "2", "promoted": False}),
        ),
    ]
    run_id = "digits-20261122-010203-abcd"
    record = runs.RunRecord(
        run_id, "digits", status, 0, started=1000.0, ended=1090.0, spec={"name": "digits", "note": EVIL}
    )
    for place, (stage, uses, artifact) in enumerate(made):
        outputs = {artifact.kind: artifact.digest}
        record.stages.append(
            runs.StageRecord(
                stage, stage, uses, "succeeded", "first run", "k", outputs, {}, run_id, 1000.0 + place * 10, 9.0, 1
            )
        )
    runs.Diary(store, record).close()
    return run_id


class Loads(HTMLParser):
    """Collects what a browser would fetch, and checks that tags are balanced."""

    VOID = frozenset({"meta", "img", "input", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data") or (name == "href" and not str(value).startswith("#")):
                self.fetched.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "runs"))


def test_page_loads_nothing_and_escapes(store: ArtifactStore) -> None:
    path = report.build(store, fabricate(store))
    text = Path(path).read_text("utf-8")
    page = Loads()
    page.feed(text)
    assert not page.open
    assert page.scripts == 1  # ours: none of the hostile texts became a tag
    assert page.fetched
    assert all(value.startswith("data:image/png;base64,") for value in page.fetched)
    assert EVIL not in text
    assert "@import" not in text
    assert not re.search(r"url\(", text)


def test_page_shows_every_kind(store: ArtifactStore) -> None:
    text = Path(report.build(store, fabricate(store))).read_text("utf-8")
    for anchor in (
        "data-dataset",
        "features-features",
        "search-search",
        "train-model",
        "evaluate-scores",
        "register-registration",
    ):
        assert f'id="{anchor}"' in text
    assert text.count("step 190") >= 1  # the last grid is always there
    assert text.count('loading="lazy"') == 14
    assert "12.5" in text
    assert "generated 2000" in text
    best = text[text.index('<tr class="best">') :]  # of the trials, which come first
    assert best.index("wgan_gp") < best.index("</tr>")


def test_storage_may_be_a_url_and_the_record_finds_the_report(store: ArtifactStore) -> None:
    run_id = fabricate(store)
    assert runs.read(store, run_id).report is None
    path = report.build(store.url, run_id)
    assert runs.read(store, run_id).report == path


def test_a_lost_artifact_is_told_and_the_rest_shown(store: ArtifactStore) -> None:
    run_id = fabricate(store)
    model = runs.read(store, run_id).artifact("train")
    store.files.remove(f"artifacts/{model.digest[:2]}/{model.digest}.json")
    text = Path(report.build(store, run_id)).read_text("utf-8")
    assert "gone" in text
    assert 'id="train-model"' not in text
    assert 'id="evaluate-scores"' in text


def test_damaged_bytes_are_told(store: ArtifactStore) -> None:
    run_id = fabricate(store)
    search = runs.read(store, run_id).artifact("search")
    blob = Path(store.url) / "sha256" / search.files["trials.json"].digest[:2] / search.files["trials.json"].digest
    stamp = blob.stat()
    blob.write_bytes(b"x" * stamp.st_size)
    import os

    os.utime(blob, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    told: list[str] = []
    fresh = ArtifactStore(store.url)
    fresh.told = told.append
    text = Path(report.build(fresh, run_id)).read_text("utf-8")
    assert "damaged" in text
    assert told


@pytest.mark.parametrize("odd", [None, 3, "text", ["a list"], {"a": "table"}])
def test_artifacts_that_tell_something_else_are_shown_as_far_as_possible(store: ArtifactStore, odd: object) -> None:
    """Those of somebody else's stages, say: no fact that a section shows need be there, or be of the kind it expects."""
    record = runs.read(store, fabricate(store)).record
    for stage in record.stages:
        for name, digest in stage.outputs.items():
            found = store.get(digest)
            facts = {} if odd is None else dict.fromkeys((*found.metadata, "values"), odd)
            stage.outputs[name] = store.put(found.kind, {"a": b"a"}, facts).digest
    runs.Diary(store, record).save()
    text = Path(report.build(store, record.run_id)).read_text("utf-8")
    assert 'id="search-search"' in text
    assert "does not tell what this report shows" in text


def test_unknown_run(store: ArtifactStore) -> None:
    with pytest.raises(BadInput, match="no run"):
        report.build(store, "digits-20261122-010203-0000")


def test_axis_maps_ends_and_middle() -> None:
    axis = Axis(0, 10, 100, 200)
    assert [axis(value) for value in (0, 5, 10)] == [100, 150, 200]
    log = Axis(1, 100, 0, 2, log=True)
    assert log(10) == pytest.approx(1)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (0.001, 0.0013), (5, 5), (0, 1e6), (1e-9, 2e-9)])
def test_ticks_are_inside_and_few(low: float, high: float) -> None:
    ticks = Axis(low, high, 0, 1).ticks()
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-9 * abs(low) <= tick <= high + (high - low) * 1e-6 + 1e-12 for tick in ticks)


def test_line_ends_where_the_data_ends() -> None:
    svg = charts.lines([Series("a", [0, 1, 2], [0, 1, 2])])
    points = re.findall(r'points="([^"]+)"', svg)[0].split()
    first, last = (tuple(map(float, point.split(","))) for point in (points[0], points[-1]))
    assert first[0] == charts.LEFT
    assert last[0] == charts.WIDTH - charts.RIGHT
    assert first[1] > last[1]  # up is smaller in SVG


def test_long_series_are_thinned_and_gaps_left_out() -> None:
    svg = charts.lines([Series("a", range(10_000), [float("nan") if i % 7 == 0 else 1.0 for i in range(10_000)])])
    assert len(re.findall(r'points="([^"]+)"', svg)[0].split()) <= charts.MAX_POINTS
    assert charts.lines([Series("none", [0, 1], [float("nan")] * 2)]) == ""


def test_gantt_bar_lengths_are_proportional() -> None:
    svg = charts.gantt([Bar("a", 0, 10, "succeeded"), Bar("b", 10, 40, "failed")])
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.31, "0.3 s"), (42, "42 s"), (59.9, "1 min"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (2e-4, "0.0002"),
        (2e-5, "2e-05"),
        (12345.0, "12.35k"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert units.number(value) == text

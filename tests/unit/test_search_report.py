"""The report of a search: says how trials fared, stays small however many there were, and shows each trial in every chart."""

from __future__ import annotations

import json
import re
import time
from html import unescape

import pytest

from orchestrator import outcomes, report
from orchestrator.report import search as section
from orchestrator.report import search_charts as charts
from tests import searches
from tests.unit.test_report import Loads


def page(search: outcomes.SearchResults) -> str:
    return report.render(report.Page("ring", "ring-1", "succeeded", "", sections=[section.of(search)]))


def drawn(text: str) -> set[str]:
    return set(re.findall(r'data-t="(\d+)"', text))


@pytest.mark.parametrize(("count", "metrics", "seeds"), [(1, 1, 1), (2, 2, 1), (8, 1, 3), (60, 2, 1)])
def test_every_scored_trial_is_in_the_charts(count: int, metrics: int, seeds: int) -> None:
    search = searches.search(count, metrics=metrics, seeds=seeds)
    text = page(search)
    parsed = Loads()
    parsed.feed(text)
    assert not parsed.open
    assert parsed.scripts == 1
    assert not parsed.fetched
    assert "<script>alert" not in text
    scored = {str(trial.index) for trial in search.trials if trial.score is not None}
    assert scored <= drawn(text)
    tips = json.loads(unescape(re.findall(r'data-trials="([^"]*)"', text)[0]))
    assert drawn(text) <= set(tips)
    assert text.count("the Pareto front") == (metrics == 2 and count > 1)


def test_a_thousand_trials_stay_fast_and_small() -> None:
    search = searches.search(1000, metrics=2)
    begun = time.process_time()
    text = page(search)
    assert time.process_time() - begun < 20
    assert len(text) < 600_000
    assert section.DRAWN <= len(drawn(text)) <= section.DRAWN + len(search.front)
    assert f"draw {len(drawn(text))} of 1,000 trials" in text
    assert f"The best {section.LISTED} of 1,000 trials" in text
    assert text.count("<tr") < section.LISTED + 50
    best = {str(trial.index) for trial in search.ranked()[: section.BEST_DRAWN]} | {str(i) for i in search.front}
    assert best <= drawn(text)
    for line in re.findall(r'<polyline points="([^"]+)" class="line q', text):
        assert len(line.split()) == 7  # six values and the score


def test_ends_are_told_apart() -> None:
    search = searches.search(60)
    svg = charts.curves(search.trials, search.rungs, search.goal, search.winner)
    stopped = [trial for trial in search.trials if trial.status == "stopped"]
    failed = [trial for trial in search.trials if trial.status == "diverged" and trial.scores]
    assert svg.count("end-mark stopped") == len(stopped)
    assert svg.count("end-mark failed") == len(failed)
    assert svg.count('class="line best"') == 1
    assert charts.curves(search.trials[:0], (), search.goal, None) == ""


def test_the_winner_s_line_goes_through_its_values() -> None:
    search = searches.search(60)
    names = [searches.LR, "variant"]
    svg = charts.parallel(search.trials, names, search.goal, search.winner)
    best = search.trial(search.winner or 0)
    lines = dict(re.findall(r'<polyline points="([^"]+)" class="line \w+" data-t="(\d+)"', svg))
    heights = {int(t): [float(point.split(",")[1]) for point in points.split()] for points, t in lines.items()}
    assert heights[best.index][2] == min(one[2] for one in heights.values())  # the best score is at the top
    rates = {trial.index: trial.point[searches.LR] for trial in search.trials if trial.index in heights}
    by_rate = [heights[i][0] for i in sorted(rates, key=lambda i: rates[i])]
    assert by_rate == sorted(by_rate, reverse=True)  # up is smaller in SVG
    by_variant = {trial.point["variant"]: heights[trial.index][1] for trial in search.trials if trial.index in heights}
    assert len(set(by_variant.values())) == 3


def test_what_a_trial_does_not_have_is_a_notch_below() -> None:
    search = searches.search(60)
    svg = charts.parallel(search.trials, [searches.N_CRITIC], search.goal, search.winner)
    lines = re.findall(r'<polyline points="[\d.]+,([\d.]+) [^"]*" class="line \w+" data-t="(\d+)"', svg)
    low = {int(t) for y, t in lines if float(y) > 262}
    assert low == {t.index for t in search.trials if t.score is not None and searches.N_CRITIC not in t.point}
    assert "not there" in svg


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1, 2, 3], ["1", "2", "3"]),
        ([1e-5, 1e-4, 1e-3, 3e-3, 5e-4, 2e-3, 7e-4], ["1e-05", "3e-05", "0.0001", "0.0003", "0.001", "0.003"]),
        (["b", "a", "b"], ["a", "b"]),
        ([["ema"], [], [{"r1": {"gamma": 1}}, "ema"]], ["ema", "none", "r1 gamma 1 + ema"]),
        ([5, 5], ["5"]),
        ([True, False], ["no", "yes"]),
    ],
)
def test_axes(values: list[object], ticks: list[str]) -> None:
    found = charts.scale(values, 100, 0)
    assert [text for text, _ in found.ticks] == ticks
    assert all(-1e-6 <= found(value) <= 100 + 1e-6 for value in values)


def test_reasons_are_counted_together() -> None:
    search = searches.search(400)
    made = section._reasons(search)
    assert made is not None
    assert len(made["rows"]) == 1  # they differ by the step only
    assert made["rows"][0]["cells"][0].text == str(len(search.failed))
    assert section._reasons(searches.search(2)) is None


def test_a_search_without_any_score_has_a_page() -> None:
    table = searches.stored(3)
    for row in table["trials"]:
        row |= {
            "status": "failed",
            "score": None,
            "scores": {},
            "values": {},
            "interval": None,
            "steps": 0,
            "error": "x",
        }
    table["winner"] = None
    text = page(outcomes.parse(table, "search"))
    assert "3 trials, 3 failed" in text

"""How much each searched value mattered: functional ANOVA of a random forest over the trials of a search.

Hutter, Hoos, Leyton-Brown 2014 ("An efficient approach for assessing hyperparameter importance"): a forest learns the score
from the searched values; the variance of its prediction over the whole space is shared out to what each value does by
itself, the others averaged over. What is left belongs to values acting together.

Scores are compared at one step, the first at which every trial was scored (later ones saw only the trials that went on),
and by rank: one bad trial has a score without bounds, and would be all the variance there is. Numbers are weighed as they
were tried (a searcher that learns tries the good ones more often). A set of hacks counts as one value for each hack. Where a
conditional value is not there it counts as its median, so only what it changes where it is there is counted as its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.space import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.outcomes import SearchResults

    Boxes = tuple[
        NDArray[Any], NDArray[Any], NDArray[Any]
    ]  # lows (L, D), highs (L, D), predictions (L,) of a tree's leaves

LEAST = 12  # trials
LEAST_EACH = 3  # trials for each searched value
TREES = 64
DRAWS = 4096  # of the whole space, for the variance of the prediction
CLEAR = 0.1  # R² from which the forest is said to have learned something


@dataclass(frozen=True)
class Importances:
    """`shares` of the variance in [0, 1], largest first, none where there are too few trials; `note` says what they are."""

    shares: tuple[tuple[str, float], ...]
    note: str
    step: int = 0
    num_trials: int = 0
    r2: float | None = None  # of trials that the forest had not seen

    def to_json(self) -> dict[str, Any]:
        return {
            "method": "fANOVA",
            "shares": dict(self.shares),
            "step": self.step,
            "num_trials": self.num_trials,
            "r2": self.r2,
            "note": self.note,
        }


@dataclass(frozen=True)
class Column:
    """One searched value of every trial as numbers in [low, high]."""

    name: str
    values: Sequence[float]
    low: float
    high: float


def weigh(search: SearchResults, *, seed: int = 0) -> Importances:
    """The importances of a search's values for its first metric; the same search gives the same ones."""
    step, scored = comparable(search)
    columns = [
        one for one in columns_of([trial.point for trial, _ in scored], search.varied()) if len(set(one.values)) > 1
    ]
    wanted = max(LEAST, LEAST_EACH * len(columns))
    if len(scored) < wanted or not columns:
        what = f"{len(scored)} trials were scored at step {step}, and {wanted} are needed for {len(columns)} searched values"
        what = what if columns else "nothing that was searched differs between the trials that were scored"
        return Importances((), f"Importances are not told: {what}.", step, len(scored))
    shares, r2 = _fanova(columns, [score for _, score in scored], seed)
    named = sorted(zip((one.name for one in columns), shares, strict=True), key=lambda one: (-one[1], one[0]))
    note = f"fANOVA of a forest over {len(scored)} trials at step {step}, scores by rank."
    left = max(0.0, 1.0 - sum(shares))
    note += f" {left:.0%} belongs to values acting together." if left >= 0.01 else ""
    if r2 < CLEAR:
        note += f" The searched values explain next to nothing of the score (R² {r2:.2f} of trials not seen): do not rely on it."
    else:
        note += f" The forest explains {r2:.0%} of the variance of trials that it had not seen."
    return Importances(tuple(named), note, step, len(scored), r2)


def comparable(search: SearchResults) -> tuple[int, list[tuple[Any, float]]]:
    """The first step at which trials were scored, and the trials with a finite score there."""
    steps = [step for trial in search.trials for step in trial.scores]
    step = min(search.rungs or steps, default=0)
    found = [(trial, trial.scores[step]) for trial in search.trials if math.isfinite(trial.scores.get(step, math.nan))]
    return step, found


def load() -> None:
    """Import what weighing needs, which takes over a second."""
    import scipy.stats  # noqa: F401
    import sklearn.ensemble  # noqa: F401 - and all that it needs


def columns_of(points: Sequence[Any], names: Sequence[str]) -> list[Column]:
    """Searched values as numbers: a set of hacks becomes one column a hack, texts their number in order of appearance."""
    found: list[Column] = []
    for name in names:
        values = [point.get(name) for point in points]
        present = [value for value in values if value is not None]
        if not present:
            continue
        if all(isinstance(value, list) for value in present):
            items = sorted({canonical(item) for value in present for item in value})
            for item in items:
                inside = [float(item in map(canonical, value or [])) for value in values]
                found.append(Column(f"{name}: {item.strip(chr(34))}", inside, -0.5, 1.5))
        elif all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present):
            found.append(_numbers(name, values))
        else:
            found.append(_categories(name, values))
    return found


def _numbers(name: str, values: Sequence[Any]) -> Column:
    """Numbers by rank in [0, 1]: the space is weighed as it was tried, be it drawn evenly or by logarithm."""
    from scipy.stats import rankdata

    present = [float(value) for value in values if value is not None]
    ranks = dict(zip(present, ((rankdata(present) - 0.5) / len(present)).tolist(), strict=True))
    return Column(name, [0.5 if value is None else ranks[float(value)] for value in values], 0.0, 1.0)


def _categories(name: str, values: Sequence[Any]) -> Column:
    texts = ["" if value is None else canonical(value) for value in values]
    present = [text for text, value in zip(texts, values, strict=True) if value is not None]
    known = sorted(
        set(present), key=lambda text: (-present.count(text), text)
    )  # the most frequent one stands for absent
    places = {text: float(i) for i, text in enumerate(known)}
    return Column(name, [places.get(text, 0.0) for text in texts], -0.5, len(known) - 0.5)


def _fanova(columns: Sequence[Column], scores: Sequence[float], seed: int) -> tuple[list[float], float]:
    """Each column's share of the variance of the forest's prediction, and the forest's R² out of bag."""
    import numpy as np
    from scipy.stats import rankdata
    from sklearn.ensemble import RandomForestRegressor

    x = np.array([one.values for one in columns]).T
    y = rankdata(scores) / len(scores)
    least = max(2, len(scores) // 100)
    forest = RandomForestRegressor(TREES, min_samples_leaf=least, max_features=0.7, oob_score=True, random_state=seed)
    forest.fit(x, y)
    low, high = (np.array([getattr(one, end) for one in columns]) for end in ("low", "high"))
    drawn = np.random.default_rng(seed).uniform(low, high, (DRAWS, len(columns)))
    whole = float(np.var(forest.predict(drawn)))
    if whole < 1e-12:
        return [0.0] * len(columns), float(forest.oob_score_)
    boxes = [_leaves(tree.tree_, low, high) for tree in forest.estimators_]
    effects = [_effect(boxes, d, low, high) for d in range(len(columns))]
    return [min(1.0, effect / whole) for effect in effects], float(forest.oob_score_)


def _effect(boxes: Sequence[Boxes], d: int, low: NDArray[Any], high: NDArray[Any]) -> float:
    """The variance of the forest's prediction along side `d`, the other sides averaged over."""
    import numpy as np

    cuts = np.unique(np.concatenate([ends[:, d] for lows, highs, _ in boxes for ends in (lows, highs)]))
    changes = np.zeros(len(cuts))
    for lows, highs, values in boxes:
        sizes = (highs - lows) / (high - low)  # (L, D) shares of each side
        weighed = np.delete(sizes, d, axis=1).prod(axis=1) * values
        np.add.at(changes, np.searchsorted(cuts, lows[:, d]), weighed)
        np.add.at(changes, np.searchsorted(cuts, highs[:, d]), -weighed)
    marginal = np.cumsum(changes)[:-1] / len(boxes)
    widths = np.diff(cuts) / (cuts[-1] - cuts[0])
    return max(0.0, float(widths @ marginal**2) - float(widths @ marginal) ** 2)


def _leaves(tree: Any, low: NDArray[Any], high: NDArray[Any]) -> Boxes:
    """The boxes of a tree's leaves, (L, D) each, and what they predict, (L,)."""
    import numpy as np

    lows, highs, values = [], [], []
    waiting = [(0, low, high)]
    while waiting:
        node, a, b = waiting.pop()
        d, cut = int(tree.feature[node]), float(tree.threshold[node])
        if d < 0:
            lows.append(a)
            highs.append(b)
            values.append(float(tree.value[node].ravel()[0]))
            continue
        left, right = b.copy(), a.copy()
        left[d], right[d] = cut, cut
        waiting += [(int(tree.children_left[node]), a, left), (int(tree.children_right[node]), right, b)]
    return np.array(lows), np.array(highs), np.array(values)


__all__ = ["Importances", "columns_of", "comparable", "weigh"]

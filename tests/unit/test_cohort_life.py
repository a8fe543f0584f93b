"""What may happen to the members of a cohort in one life, for every variant that can be trained as a population.

One diverges, one is dropped and goes on alone, and then with others; one is copied with other numbers; all come to what
they would have come to alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_loop import Folder
from tests.unit.test_origin import expected, state
from tests.unit.test_population import alone, check_equal, resolved, suited, takes, vectorizing
from trainers import config, grouping, loop
from trainers.cohort import Cohort

DROPPED, RUNG, TOTAL = 8, 12, 20


@pytest.mark.parametrize("variant", vectorizing("variants"))
def test_a_life_among_others_ends_where_a_life_alone_ends(variant: str, tmp_path: Path) -> None:
    data = suited(variant)
    hacks = [hack for hack in ("ema", "instance_noise") if takes(hack, variant, data)]
    times: dict[str, Any] = {"total_steps": TOTAL, "log_every": 4, "checkpoint_every": 4, "sample_every": TOTAL}
    configs = [resolved(variant, i, data.shape, hacks, **times) for i in range(3)]
    rates = {role: {"lr": 1e300} for role in configs[0].optimizers}
    configs.append(resolved(variant, 0, data.shape, hacks, **times, optimizers=rates))
    assert grouping.groups(configs).together == ((0, 1, 2, 3),)

    def opened(i: int, cfg: config.TrainConfig, seed: int, **more: Any) -> loop.Training:
        (tmp_path / str(i)).mkdir(exist_ok=True)
        return loop.open_training(cfg, data, seed=seed, checkpoints=Folder(tmp_path / str(i)), **more)

    seeds = [3, 7, 7, 11]
    members = [opened(i, cfg, seed) for i, (cfg, seed) in enumerate(zip(configs, seeds, strict=True))]
    cohort, gone = Cohort(members), []
    cohort.run(until=DROPPED, left=lambda training, error: gone.append((training, type(error))))
    assert gone == [(members[3], loop.NotFinite)]
    cohort.drop([members[1]])
    cohort.run(until=RUNG)

    single = opened(1, configs[1], 7)
    assert single.step == DROPPED
    single.stop = lambda: single.step == RUNG
    with pytest.raises(loop.Stopped):
        single.run()

    files = state(tmp_path / "2", RUNG)
    others = [opened(0, configs[0], 3), opened(1, configs[1], 7), opened(4, configs[0], 5, origin=files)]
    assert [training.step for training in others] == [RUNG] * 3
    Cohort(others).run()
    last = opened(2, configs[2], 7)
    last.run()

    for training, seed in zip((*others[:2], last), seeds[:3], strict=True):
        check_equal(training.game, alone(training.game.config, data, seed, TOTAL)[0])
    check_equal(others[2].game, expected(configs[0], 5, data, files))

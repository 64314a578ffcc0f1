"""The gate that a precision has to pass: ranks, maps, AUROC."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from adfast.precision import MAX_MAP_ERROR, Trial
from adfast.progress import silent

FRAMES = [np.full((4, 4), value, np.uint8) for value in range(10, 90, 10)]


class Engine:
    """Scores a frame by its brightness; one pixel of the map is off by a share of the largest."""

    def __init__(self, error: float = 0.0):
        self.error = error

    def predict(self, frame, *, pixel_format=""):
        score_map = frame.astype(np.float32)
        score_map[0, 0] *= 1 - self.error
        return SimpleNamespace(score=float(frame.max()), network_map=score_map)


def judged(error: float, name: str) -> bool:
    exact = Engine()
    expected = [(r.score, r.network_map) for r in map(exact.predict, FRAMES)]
    trial = Trial(None, None, exact, FRAMES, expected, FRAMES, [], [], silent)
    passed, found = trial.judge(Engine(error), name)
    assert found["score_spearman"] == 1 and found["map_max_rel"] == pytest.approx(error)
    return bool(passed)


@pytest.mark.parametrize("name", ["bf16", "int8"])
def test_a_map_of_something_else_is_refused_though_the_ranks_agree(name):
    limit = MAX_MAP_ERROR[name]
    assert judged(0.9 * limit, name) and not judged(1.1 * limit, name)

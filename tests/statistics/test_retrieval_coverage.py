"""Intervals of retrieval hold what they say; see docs/statistics.md."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.statistics.retrieval import simulate


@pytest.mark.slow
@pytest.mark.parametrize("captions", [1, 3])
def test_intervals_of_retrieval_hold_the_truth(captions: int) -> None:
    """Of 40 experiments an interval of 95 % misses more than six once in a hundred times."""
    rows = simulate(150, captions, 40)
    assert len(rows) == 29
    assert min(coverage for _, coverage, _ in rows.values()) >= 34 / 40, rows
    assert np.mean([coverage for _, coverage, _ in rows.values()]) >= 0.95
    nulls = [rejected for _, _, rejected in rows.values() if not math.isnan(rejected)]
    assert max(nulls) <= 6 / 40
    assert np.mean(nulls) <= 0.05

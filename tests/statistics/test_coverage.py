"""Intervals hold the truth, and true nulls are rejected rarely, for every metric that has an interval."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from tests.statistics.coverage import simulate
from tests.statistics.worlds import WORLDS

EXPERIMENTS = 150
CHANCE = 1e-4
"""Of failing although coverage is 93 %, or a null is rejected 6.5 % of the time; there are some 150 metrics."""


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_coverage_and_null_rejection(name: str) -> None:
    """300 images; of corrupted ones 48, each with 15 variants."""
    found = simulate(name, 48 if name == "corruption" else 300, range(EXPERIMENTS))
    judged = {key: seen for key, seen in found.items() if seen.held}
    assert judged
    for key, seen in judged.items():
        held, rejected = sum(seen.held), sum(seen.rejected)
        assert binom.cdf(held, len(seen.held), 0.93) > CHANCE, (key, seen.coverage)
        assert binom.sf(rejected - 1, len(seen.rejected), 0.065) > CHANCE, (key, seen.null_rate)


@pytest.mark.slow
def test_one_image_a_class_and_one_scene_on_both_sides() -> None:
    """Recall over as many classes as images, and common and counter backgrounds that show the same scenes."""
    for name in ("one_a_class", "shared_scenes"):
        for key, seen in simulate(name, 100 if name == "one_a_class" else 300, range(200)).items():
            if seen.held and not key.endswith("top5"):
                assert binom.cdf(sum(seen.held), len(seen.held), 0.93) > CHANCE, (name, key, seen.coverage)

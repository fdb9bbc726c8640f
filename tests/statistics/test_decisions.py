"""The rule's error rates, simulated. `python -m tests.statistics.decisions` prints the table of docs/gate.md."""

from __future__ import annotations

import pytest

from benchmark.plugins import MARGIN
from tests.statistics.decisions import false_recommendations, power

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("images", "others"), [(300, -MARGIN), (2400, -MARGIN), (2400, 0.0)])
def test_of_twenty_just_inferior_candidates_hardly_any_is_recommended(images: int, others: float) -> None:
    """At most 5 % of sweeps; without the procedure it would be several times as many at 2,400 images."""
    wrong, alone = false_recommendations(250, images, others)
    assert wrong <= 0.05
    if images == 2400:
        assert alone > 0.15


@pytest.mark.parametrize("images", [100, 300])
def test_the_number_of_images_that_is_asked_for_is_enough(images: int) -> None:
    share, asked = power(400, images)
    assert share >= 0.75
    assert images < asked < 40 * images

"""Resampling of many statistics at once, against the functions that take one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark.metrics.bootstrap import Comparison, bootstrap
from benchmark.metrics.detection_draws import MEASURES, WeightedScores, detection_differences
from benchmark.metrics.resample import difference, draws_for, group_draws, mean_difference, normal_difference, sum_draws
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import InputError, NonFiniteError, UndefinedMetric
from benchmark.metrics import detection
from benchmark.metrics.arrays import Floats
from benchmark.metrics.calibration import ece
from benchmark.metrics.fpr95 import fpr95_difference_interval
from benchmark.metrics.selective import accuracy_at_coverage, aurc, excess_aurc, selective_draws

scores = st.lists(st.integers(0, 6), min_size=2, max_size=12).map(lambda values: np.array(values, dtype=np.float64))


@settings(max_examples=150, deadline=None)
@given(inside=scores, outside=scores, seed=st.integers(0, 1000))
def test_weighted_measures_equal_those_of_repeated_samples(inside: Floats, outside: Floats, seed: int) -> None:
    """Also with ties, and with samples that a resample lacks."""
    rng = np.random.default_rng(seed)
    id_weights, ood_weights = rng.integers(0, 3, (2, len(inside))), rng.integers(0, 3, (2, len(outside)))
    id_weights[:, 0] += 1
    ood_weights[:, -1] += 1
    found = WeightedScores(inside, outside).measures(id_weights.astype(float), ood_weights.astype(float))
    for row in (0, 1):
        first, second = np.repeat(inside, id_weights[row]), np.repeat(outside, ood_weights[row])
        for name in MEASURES:
            assert found[name][row] == pytest.approx(getattr(detection, name)(first, second), abs=1e-12), name


def test_detection_differences_agree_with_the_single_ones() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 400), rng.normal(0, 1, 300)
    inside_b, outside_b = inside + rng.normal(0, 0.6, 400), outside + rng.normal(0, 0.6, 300)
    means, (found,) = detection_differences(inside, [outside], inside_b, [outside_b], draws=500)
    assert means == found
    single = {name: value for name, value in found.items() if isinstance(value, Comparison)}
    for name in (*MEASURES, "fpr95_ood_positive", "fpr95_id_positive"):
        function = getattr(detection, name)
        assert single[name].delta == pytest.approx(function(inside_b, outside_b) - function(inside, outside))
        assert single[name].low < single[name].delta < single[name].high
        assert (single[name].p < 0.05) == (not single[name].low <= 0 <= single[name].high)
    one = fpr95_difference_interval((inside, outside), (inside_b, outside_b), "id_positive")
    assert single["fpr95_id_positive"] == one

    def aupr(i_a: Floats, i_b: Floats, o_a: Floats, o_b: Floats) -> float:
        return detection.aupr_in(i_b, o_b) - detection.aupr_in(i_a, o_a)

    loop = bootstrap(aupr, [[inside, inside_b], [outside, outside_b]], draws=500)
    assert (single["aupr_in"].low, single["aupr_in"].high) == pytest.approx((loop.low, loop.high), abs=0.01)
    assert single["aupr_in"].draws == 500


def test_identical_models_do_not_differ() -> None:
    rng = np.random.default_rng(1)
    inside, outsides = rng.normal(1, 1, 50), [rng.normal(0, 1, 40), rng.normal(0, 1, 30)]
    means, singles = detection_differences(inside, outsides, inside, outsides)
    for comparison in (*means.values(), *(c for single in singles for c in single.values())):
        assert comparison == Comparison(0.0, 0.0, 0.0, 1.0)


def test_sums_share_their_resamples() -> None:
    """ECE from resampled sums is the ECE of the resample."""
    rng = np.random.default_rng(2)
    confidence, correct = rng.random(60), rng.random(60) < 0.5
    table = np.zeros((60, 15))
    table[np.arange(60), np.minimum((confidence * 15).astype(int), 14)] = confidence - correct
    ones, sums = sum_draws(np.eye(60), table, draws=20)
    for weights, row in zip(ones.astype(int), sums, strict=True):
        expected = ece(np.repeat(confidence, weights), np.repeat(correct, weights))
        assert np.abs(row).sum() / 60 == pytest.approx(expected)
    assert (ones.sum(axis=1) == 60).all()


def test_group_draws_start_with_what_was_observed_and_keep_the_sizes() -> None:
    a, b = np.array([1, 1, 0, 1, 0], dtype=bool), np.array([1, 0, 0, 0, 1], dtype=bool)
    first, second = group_draws(a, b, np.array([7, 7, 7, 9, 9]), draws=300)
    assert first[0].tolist() == pytest.approx([2 / 3, 1 / 2])
    assert second[0].tolist() == pytest.approx([1 / 3, 1 / 2])
    assert set(np.round(first[1:, 1] * 2).tolist()) == {0.0, 1.0, 2.0}
    assert first[1:, 0].mean() == pytest.approx(2 / 3, abs=0.06)


def test_mean_difference_matches_theory() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=500)
    b = a + rng.normal(0.05, 0.5, 500)
    found = mean_difference(a, b)
    error = (b - a).std() / np.sqrt(500)
    assert found.delta == pytest.approx((b - a).mean())
    assert (found.high - found.low) == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert mean_difference(a, a) == mean_difference(b, b)


@pytest.mark.parametrize("levels", [3, 10**9], ids=["ties", "no ties"])
def test_selective_draws_equal_the_metrics_of_the_resample(levels: int) -> None:
    rng = np.random.default_rng(4)
    confidence, correct = rng.integers(0, levels, 40) / levels, rng.random(40) < 0.7
    found = selective_draws(confidence, correct, draws=30, seed=5)
    again = np.random.default_rng(5)
    for row in range(31):
        index = again.integers(40, size=40) if row else np.arange(40)
        conf, hit = confidence[index], correct[index]
        assert found["aurc"][row] == pytest.approx(aurc(conf, hit))
        assert found["excess_aurc"][row] == pytest.approx(excess_aurc(conf, hit), abs=1e-12)
        assert found["accuracy_at_coverage"][row] == pytest.approx(accuracy_at_coverage(conf, hit))


@pytest.mark.parametrize(("right", "excess"), [(True, 0.0), (False, 0.0)])
def test_selective_draws_when_all_is_right_or_wrong(right: bool, excess: float) -> None:
    found = selective_draws(np.linspace(0, 1, 10), np.full(10, right), draws=3)
    assert found["excess_aurc"].tolist() == pytest.approx([excess] * 4)
    assert found["aurc"].tolist() == pytest.approx([0.0 if right else 1.0] * 4)


def test_bad_input() -> None:
    with pytest.raises(UndefinedMetric, match="no samples"):
        mean_difference([], [])
    with pytest.raises(NonFiniteError, match="index 0"):
        mean_difference([np.nan, 1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="shapes"):
        sum_draws(np.zeros(3), draws=5)
    with pytest.raises(InputError, match="paired"):
        detection_differences([1.0, 2.0], [[1.0]], [1.0, 2.0], [])
    with pytest.raises(UndefinedMetric, match="zero denominator"):
        difference(np.array([np.nan, 1.0]), np.array([1.0, 1.0]))
    with pytest.raises(UndefinedMetric, match="no standard error"):
        normal_difference(np.zeros(4), np.ones(4))
    assert draws_for(10) == 1_000
    assert draws_for(10**9) == 200

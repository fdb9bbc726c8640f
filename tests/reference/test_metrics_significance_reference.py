"""q values against statsmodels and SciPy; replicates against plain deletion, Student's t of SciPy and scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm, t
from sklearn.metrics import average_precision_score, roc_auc_score
from statsmodels.stats.multitest import multipletests

from benchmark.metrics import selective
from benchmark.metrics import significance as sig
from benchmark.metrics.calibration import debiased_ece, ece
from benchmark.metrics.detection import fpr95_id_positive, fpr95_ood_positive
from benchmark.metrics.detection_replicates import detection_replicates
from benchmark.metrics.uncertainty import GROUPS, Measured, estimate, from_replicates, groups_of, paired_proportions


@pytest.mark.parametrize("seed", range(4))
def test_benjamini_hochberg_equals_statsmodels_and_scipy(seed: int) -> None:
    p = np.random.default_rng(seed).random(37) ** 3
    p[5] = p[9]
    np.testing.assert_allclose(sig.benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1], atol=1e-15)
    np.testing.assert_allclose(sig.benjamini_hochberg(p), false_discovery_control(p), atol=1e-15)


def test_the_error_of_a_mean_is_the_textbooks() -> None:
    """Leave-one-group-out of a mean of many: the standard error of the mean, and nearly the normal interval."""
    rng = np.random.default_rng(1)
    ids, values = np.array([f"p{i}" for i in range(6400)]), rng.standard_normal(6400)
    groups = groups_of(ids)
    left = np.array([values[groups != g].mean() for g in range(GROUPS)])
    found = from_replicates(float(values.mean()), left, GROUPS)
    assert found is not None
    assert found.error == pytest.approx(values.std() / 80, rel=0.2)
    assert 14 < found.df < 34  # of normal replicates about a third of the groups: their fourth moment is 3
    low, high = found.interval()
    half = t.ppf(0.975, found.df) * found.error
    assert (low, high) == (pytest.approx(values.mean() - half), pytest.approx(values.mean() + half))
    assert found.p == pytest.approx(2 * t.sf(abs(values.mean()) / found.error, found.df))


def test_interval_and_p_are_one_statistic() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        replicates = rng.standard_normal(GROUPS) * 0.01
        found = from_replicates(rng.normal() * 0.1, replicates, 64)
        assert found is not None
        for level in (0.5, 0.9, 0.95, 0.99):
            low, high = found.interval(level)
            assert (low <= 0 <= high) == (found.p >= 1 - level)
        low, high = found.interval()
        assert found.p_above(low) == pytest.approx(0.025)
        assert found.p_below(high) == pytest.approx(0.025)
        assert found.p_above(0.0) + found.p_below(0.0) == pytest.approx(1.0)


def test_degrees_of_freedom_by_hand() -> None:
    """Two groups that move: df 1 at first, as many as groups where all move alike, never more than occupied - 1."""
    alone = np.zeros(GROUPS)
    alone[3] = 1.0
    one, all_alike = from_replicates(0.0, alone, 64), from_replicates(0.0, np.tile([1.0, -1.0], 32), 64)
    assert one is not None
    assert all_alike is not None
    assert one.df == pytest.approx(1.0, abs=0.07)
    assert all_alike.df == 63
    few = from_replicates(0.0, np.tile([1.0, -1.0], 32), 10)
    assert few is not None
    assert few.df == 9


def test_without_any_variation_there_is_no_interval() -> None:
    assert from_replicates(0.5, np.full(GROUPS, 0.5), 64) is None
    assert from_replicates(0.5, np.full(GROUPS, np.nan), 64) is None
    assert from_replicates(0.5, np.linspace(0, 1, GROUPS), 1) is None


@pytest.mark.parametrize(("n", "points"), [(40, 6.6), (300, 0.92), (2400, 0.12)])
def test_no_flips_still_have_an_interval(n: int, points: float) -> None:
    low, high = paired_proportions([True] * n, [True] * n).interval()
    assert high * 100 == pytest.approx(points, abs=0.05 if n == 40 else 0.006)
    assert low == -high


def test_paired_proportions_by_hand() -> None:
    """20 gained, 5 lost of 300: (21 - 6) / 302 with the variance of the adjusted shares."""
    before = np.r_[np.zeros(20), np.ones(5), np.ones(275)].astype(bool)
    now = np.r_[np.ones(20), np.zeros(5), np.ones(275)].astype(bool)
    found = paired_proportions(before, now)
    center, error = 15 / 302, math.sqrt((27 / 302 - (15 / 302) ** 2) / 302)
    assert found.value == pytest.approx(0.05)
    assert found.interval() == pytest.approx((center - 1.959964 * error, center + 1.959964 * error))
    assert found.p == pytest.approx(2 * norm.sf(center / error))


def test_any_function_of_metrics() -> None:
    """A ratio of means: the linearised variance; the slack enters by the delta method."""
    rng = np.random.default_rng(3)
    ids, a, b = groups_of(np.arange(6000).astype(str)), rng.normal(2, 1, 6000), rng.normal(1, 1, 6000)
    x, y = (Measured(float(v.mean()), np.array([v[ids != g].mean() for g in range(GROUPS)])) for v in (a, b))
    found = estimate(lambda u, v: v / u, x, y, occupied=64)
    assert found is not None
    linear = (b - b.mean() / a.mean() * a).std() / a.mean() / math.sqrt(6000)
    assert found.error == pytest.approx(linear, rel=0.2)
    slacked = estimate(lambda u, v: v / u, Measured(x.value, x.replicates, 1e-4), y, occupied=64)
    assert slacked is not None
    assert slacked.error**2 - found.error**2 == pytest.approx(1e-4 * (y.value / x.value**2) ** 2, rel=1e-3)


@pytest.mark.parametrize("ties", [False, True])
def test_detection_without_each_group_equals_plain_deletion(ties: bool) -> None:
    rng = np.random.default_rng(4)
    inside, outside = rng.normal(1, 1, 150), rng.normal(0, 1, 90)
    if ties:
        inside, outside = inside.round(1), outside.round(1)
    own, other = groups_of(np.arange(150).astype(str)), groups_of(np.arange(500, 590).astype(str))
    found = detection_replicates(inside, own, outside, other)
    for group in range(GROUPS):
        x, y = inside[own != group], outside[other != group]
        truth, scores = np.r_[np.ones(len(x)), np.zeros(len(y))], np.r_[x, y]
        assert found["auroc"][group] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        assert found["aupr_in"][group] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
        assert found["aupr_out"][group] == pytest.approx(average_precision_score(1 - truth, -scores), abs=1e-12)


def test_fpr95_errors_are_the_spread_of_repeated_experiments() -> None:
    rng = np.random.default_rng(5)
    for name, measure in (("fpr95_ood_positive", fpr95_ood_positive), ("fpr95_id_positive", fpr95_id_positive)):
        values, errors = [], []
        for _ in range(150):
            inside, outside = rng.normal(2, 1, 1000), rng.normal(0, 1, 800)
            values.append(measure(inside, outside))
            groups = groups_of(np.arange(1000).astype(str)), groups_of(np.arange(2000, 2800).astype(str))
            left = detection_replicates(inside, groups[0], outside, groups[1])[name]
            found = from_replicates(values[-1], left, GROUPS)
            assert found is not None
            errors.append(found.error)
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_the_debiased_ece_equals_gaussian_draws() -> None:
    """Kumar et al. (2019): |d + noise| - |d| averaged over draws, instead of our closed form."""
    rng = np.random.default_rng(6)
    confidence = rng.uniform(0.2, 1.0, 500)
    correct = rng.random(500) < confidence
    index = np.minimum((confidence * 15).astype(int), 14)
    total = 0.0
    for k in np.unique(index):
        inside = index == k
        gap, accuracy, n = confidence[inside].mean() - correct[inside].mean(), correct[inside].mean(), inside.sum()
        drawn = np.abs(gap + math.sqrt(accuracy * (1 - accuracy) / n) * rng.standard_normal(400_000))
        total += n / 500 * (2 * abs(gap) - drawn.mean())
    assert debiased_ece(confidence, correct) == pytest.approx(total, abs=2e-4)
    assert debiased_ece(confidence, correct) < ece(confidence, correct)


def test_debiasing_takes_a_third_off_the_ece_of_a_calibrated_model() -> None:
    rng = np.random.default_rng(7)
    plug_in, debiased = [], []
    for _ in range(200):
        confidence = rng.beta(4, 1, 300)
        correct = rng.random(300) < confidence
        plug_in.append(ece(confidence, correct))
        debiased.append(debiased_ece(confidence, correct))
    assert abs(np.mean(debiased)) < 0.7 * np.mean(plug_in)


@pytest.mark.parametrize("seed", range(4))
def test_selective_prediction_equals_its_definition(seed: int) -> None:
    """Geifman's AURC without ties; with ties the mean over all orders of the tied samples, enumerated."""
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(50), rng.random(50) < 0.7
    errors = ~correct[np.argsort(-confidence)]
    risks = [errors[: k + 1].mean() for k in range(50)]
    assert selective.aurc(confidence, correct) == pytest.approx(np.mean(risks), abs=1e-14)
    np.testing.assert_allclose(selective.risk_coverage(confidence, correct).risk, risks, atol=1e-14)
    assert selective.accuracy_at_coverage(confidence, correct, 0.9) == pytest.approx(1 - risks[44], abs=1e-14)

    tied = np.array([0.9, 0.5, 0.5, 0.5, 0.2])
    hits = rng.random(5) < 0.5
    orders = [[0, *middle, 4] for middle in itertools.permutations([1, 2, 3])]
    areas = [np.mean([(~hits[order][: k + 1]).mean() for k in range(5)]) for order in orders]
    assert selective.aurc(tied, hits) == pytest.approx(np.mean(areas), abs=1e-14)

"""Properties that hold for any data: order does not matter, bounds, perfect and worst classifiers, identical models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.metrics import calibration, classification, detection, ood, robustness, scores, selective
from benchmark.metrics import significance as sig
from benchmark.metrics.uncertainty import GROUPS, groups_of, paired_proportions

# A coarse grid makes ties common.
LEVELS = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.6, 2 / 3, 0.9, 0.999, 1.0]) | st.floats(0.0, 1.0)
ANSWERS = st.lists(st.tuples(LEVELS, st.booleans()), min_size=1, max_size=60)
GROUP = st.lists(st.integers(-4, 4).map(float) | st.floats(-4, 4), min_size=1, max_size=50)
relaxed = settings(deadline=None)  # the machine that runs them may be busy


def split(answers: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([c for c, _ in answers]), np.array([h for _, h in answers])


@relaxed
@given(ANSWERS, st.integers(1, 30), st.randoms(use_true_random=False))
def test_calibration_does_not_depend_on_order_and_is_bounded(answers, bins, random) -> None:
    conf, hit = split(answers)
    order = np.array(random.sample(range(len(conf)), len(conf)))
    for metric in (calibration.ece, calibration.max_calibration_error, calibration.adaptive_ece):
        value = metric(conf, hit, bins)
        assert 0.0 <= value <= 1.0
        assert metric(conf[order], hit[order], bins) == pytest.approx(value, abs=1e-12)
    ece = calibration.ece(conf, hit, bins)
    signed = calibration.signed_calibration_error(conf, hit)
    over, under = calibration.overconfidence(conf, hit, bins), calibration.underconfidence(conf, hit, bins)
    assert over + under == pytest.approx(ece, abs=1e-12)
    assert over - under == pytest.approx(signed, abs=1e-12)
    assert abs(signed) <= ece + 1e-12 <= calibration.max_calibration_error(conf, hit, bins) + 2e-12
    bin_table = calibration.reliability_bins(conf, hit, bins)
    assert bin_table.count.sum() == len(conf)
    inside = bin_table.confidence[bin_table.occupied]
    assert (inside >= bin_table.edges[:-1][bin_table.occupied] - 1e-12).all()
    assert (inside <= bin_table.edges[1:][bin_table.occupied] + 1e-12).all()


@relaxed
@given(ANSWERS, st.floats(0.01, 1.0), st.randoms(use_true_random=False))
def test_selective_prediction_does_not_depend_on_order_and_is_bounded(answers, coverage, random) -> None:
    conf, hit = split(answers)
    order = np.array(random.sample(range(len(conf)), len(conf)))
    area, kept = selective.aurc(conf, hit), selective.accuracy_at_coverage(conf, hit, coverage)
    assert 0.0 <= area <= 1.0
    assert -1e-12 <= kept <= 1.0
    assert selective.aurc(conf[order], hit[order]) == pytest.approx(area, abs=1e-12)
    assert selective.accuracy_at_coverage(conf[order], hit[order], coverage) == pytest.approx(kept, abs=1e-12)
    assert selective.accuracy_at_coverage(conf, hit, 1.0) == pytest.approx(hit.mean())
    constant = selective.risk_coverage(np.full(len(hit), 0.3), hit).risk
    np.testing.assert_allclose(constant, 1 - hit.mean(), atol=1e-12)


@relaxed
@given(GROUP, GROUP, st.randoms(use_true_random=False))
def test_detection_bounds_order_and_symmetry(inside, outside, random) -> None:
    metrics = (
        detection.auroc,
        detection.aupr_in,
        detection.aupr_out,
        detection.aupr_in_trapezoid,
        detection.aupr_out_trapezoid,
        detection.fpr95_id_positive,
        detection.fpr95_ood_positive,
    )
    mixed = random.sample(inside, len(inside)), random.sample(outside, len(outside))
    for metric in metrics:
        value = metric(inside, outside)
        assert 0.0 <= value <= 1.0 + 1e-12
        assert metric(*mixed) == pytest.approx(value, abs=1e-12)
        monotone = [2.0 * np.array(x) + 1.0 for x in (inside, outside)]
        if len(set(monotone[0]) | set(monotone[1])) == len(set(inside) | set(outside)):
            assert metric(*monotone) == pytest.approx(value, abs=1e-12)
    assert detection.auroc(outside, inside) == pytest.approx(1 - detection.auroc(inside, outside), abs=1e-12)


@relaxed
@given(st.integers(1, 60), st.integers(1, 60))
def test_perfect_worst_and_constant_detectors(m: int, n: int) -> None:
    high, low, same = np.linspace(2, 3, m), np.linspace(0, 1, n), np.zeros
    assert detection.auroc(high, low) == 1.0
    assert detection.fpr95_id_positive(high, low) == detection.fpr95_ood_positive(high, low) == 0.0
    for perfect in (detection.aupr_in, detection.aupr_out, detection.aupr_in_trapezoid, detection.aupr_out_trapezoid):
        assert perfect(high, low) == pytest.approx(1.0)
    assert detection.auroc(low, high) == 0.0
    assert detection.fpr95_id_positive(low, high) == detection.fpr95_ood_positive(low, high) == 1.0
    assert detection.auroc(same(m), same(n)) == 0.5
    assert detection.fpr95_id_positive(same(m), same(n)) == detection.fpr95_ood_positive(same(m), same(n)) == 1.0
    assert detection.aupr_in(same(m), same(n)) == pytest.approx(m / (m + n))


@relaxed
@given(st.integers(1, 30), st.integers(2, 8), st.integers(0, 9999))
def test_perfect_and_worst_classifiers(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    perfect = np.eye(classes)[labels]
    assert classification.accuracy(perfect, labels) == classification.mean_per_class_recall(perfect, labels) == 1.0
    assert classification.accuracy(-perfect, labels) == 0.0
    assert calibration.brier(perfect, labels) == 0.0
    assert calibration.brier(np.eye(classes)[(labels + 1) % classes], labels) == 2.0
    assert calibration.ece(np.ones(n), np.ones(n, bool)) == calibration.adaptive_ece(np.ones(n), np.ones(n, bool)) == 0
    assert (
        calibration.ece(np.ones(n), np.zeros(n, bool))
        == calibration.max_calibration_error(np.ones(n), np.zeros(n, bool))
        == 1.0
    )
    scale = rng.uniform(1, 100)
    values = rng.normal(size=(n, classes))
    previous = 0.0
    for k in range(1, classes):
        value = classification.topk_correct(values, labels, k).mean()
        assert value >= previous
        assert classification.topk_correct(scores.logits(values, scale, -7.0), labels, k).mean() == value
        previous = value


@relaxed
@given(st.integers(1, 20), st.integers(2, 6), st.integers(0, 9999))
def test_ood_scores_are_in_their_ranges_whatever_the_bias(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cos = rng.uniform(-1, 1, size=(n, classes))
    for name in ("msp", "mcm"):
        value = ood.SCORES[name](cos, 30.0, 0.0)
        assert (value >= 1 / classes - 1e-12).all()
        assert (value <= 1.0).all()
    negative_entropy = ood.negative_entropy(cos, 30.0)
    assert (negative_entropy >= -np.log(classes) - 1e-12).all()
    assert (negative_entropy <= 0.0).all()
    for name in ("msp", "mcm", "max_logit", "negative_entropy"):
        np.testing.assert_allclose(ood.SCORES[name](cos, 30.0, -16.0), ood.SCORES[name](cos, 30.0, 0.0), atol=1e-10)
    np.testing.assert_allclose(ood.energy(cos, 30.0, -16.0), ood.energy(cos, 30.0) - 16.0, atol=1e-10)


@relaxed
@given(*[st.floats(0.01, 1.0)] * 4)
def test_identity_of_delta_rsg_and_vuln_add(f_common, f_counter, q_common, q_counter) -> None:
    """dRSG = (1 - RSG_f) * Vuln_add / (1 - delta_common)."""
    values = f_common, f_counter, q_common, q_counter
    kept = 1 - robustness.relative_change(f_common, q_common)
    expected = (1 - robustness.rsg(f_common, f_counter)) * robustness.vuln_add(*values) / kept
    assert robustness.delta_rsg(*values) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert robustness.delta_rsg(f_common, f_counter, f_common, f_counter) == 0.0
    assert robustness.vuln_add(f_common, f_counter, f_common, f_counter) == 0.0


@relaxed
@given(st.integers(1, 80), st.integers(0, 9999))
def test_changes_of_proportions_mirror_and_always_have_width(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) < 0.7, rng.random(n) < 0.5
    forth, back = paired_proportions(a, b), paired_proportions(b, a)
    assert forth.value == -back.value == pytest.approx(b.mean() - a.mean())
    assert forth.interval() == pytest.approx(tuple(-end for end in reversed(back.interval())))
    assert forth.p == pytest.approx(back.p)
    low, high = forth.interval()
    assert low < high


@relaxed
@given(st.lists(st.text(max_size=8), max_size=50))
def test_groups_follow_the_name_alone(names: list[str]) -> None:
    groups = groups_of(np.array(names, dtype=object))
    assert ((groups >= 0) & (groups < GROUPS)).all()
    again = groups_of(np.array([*reversed(names)], dtype=object))
    assert again[::-1].tolist() == groups.tolist()


@relaxed
@given(st.lists(st.floats(0.0, 1.0), max_size=40))
def test_benjamini_hochberg_raises_p_and_keeps_the_order(p: list[float]) -> None:
    q = sig.benjamini_hochberg(p)
    assert (q >= np.array(p) - 1e-15).all()
    assert (q <= 1.0).all()
    assert (np.diff(q[np.argsort(p, kind="stable")]) >= 0).all()

"""Hand-computed small cases of every metric."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.data.corruption_names import COMMON
from benchmark.metrics import calibration, classification, detection, ood, robustness, scores, selective
from benchmark.metrics import significance as sig


def test_cosines_do_not_feel_the_rounding_or_the_length_of_features() -> None:
    image = np.array([[3.0, 4.0], [0.0, 2.0]])
    expected = [[0.6, 0.8], [0.0, 1.0]]
    np.testing.assert_allclose(scores.cosines(image, np.eye(2)), expected, atol=1e-15)
    half = (image * 0.1).astype(np.float16)
    assert scores.cosines(half, np.eye(2)).dtype == np.float64
    np.testing.assert_allclose(scores.cosines(half, np.eye(2)), expected, atol=1e-3)


def test_softmax_is_stable() -> None:
    np.testing.assert_allclose(scores.softmax([[1e4, 1e4 - np.log(3.0)]]), [[0.75, 0.25]], rtol=1e-10)
    np.testing.assert_allclose(scores.log_softmax([[0.0, -2000.0]]), [[0.0, -2000.0]])


def test_classification_by_hand() -> None:
    values = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2]])
    labels = np.array([0, 1, 0, 1])
    assert classification.correct(values, labels).tolist() == [True, False, True, False]
    assert classification.accuracy(values, labels) == 0.5
    assert classification.topk_correct(values, labels, 2).all()
    assert classification.topk_correct(values, [2, 0, 1, 2], 2).tolist() == [False, False, True, False]
    assert classification.per_class_recall(values, labels) == {0: 1.0, 1: 0.0}
    assert classification.mean_per_class_recall(values, labels) == 0.5


def test_ties_go_to_the_lower_class_in_top_1_and_top_k() -> None:
    constant = np.zeros((4, 4))
    labels = np.arange(4)
    for k in (1, 2, 3):
        assert classification.topk_correct(constant, labels, k).mean() == k / 4
    assert classification.accuracy(constant, labels) == 0.25


def test_calibration_by_hand() -> None:
    confidence, correct = [0.95, 0.95, 0.55, 0.55, 0.55], [True, True, True, False, False]
    low, high = 0.55 - 1 / 3, 1 - 0.95
    assert calibration.ece(confidence, correct) == pytest.approx(0.6 * low + 0.4 * high)
    assert calibration.max_calibration_error(confidence, correct) == pytest.approx(low)
    assert calibration.overconfidence(confidence, correct) == pytest.approx(0.6 * low)
    assert calibration.underconfidence(confidence, correct) == pytest.approx(0.4 * high)
    assert calibration.signed_calibration_error(confidence, correct) == pytest.approx(0.6 * low - 0.4 * high)
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    assert calibration.brier(probabilities, [0, 0]) == pytest.approx((0.09 + 0.04 + 0.01 + 0.81 + 0.01 + 0.64) / 2)
    assert calibration.nll(np.log(probabilities), [0, 0]) == pytest.approx(-(np.log(0.7) + np.log(0.1)) / 2)


def test_reliability_bins_keep_edges_counts_and_empty_bins() -> None:
    bins = calibration.reliability_bins([0.0, 0.2, 0.25, 1.0], [False, True, False, True], bins=5)
    assert bins.count.tolist() == [1, 2, 0, 0, 1]
    assert bins.edges.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert np.isnan(bins.accuracy[2])
    assert bins.accuracy[bins.occupied].tolist() == [0.0, 0.5, 1.0]
    rows = bins.rows()
    assert rows[2] == {"low": pytest.approx(0.4), "high": pytest.approx(0.6), "count": 0,
                       "confidence": None, "accuracy": None}  # fmt: skip
    assert rows[1]["confidence"] == pytest.approx(0.225)


def test_logit_scale_of_a_coin_is_found_and_bounds_are_reported() -> None:
    cos = np.tile([0.0, 1.0], (4, 1))
    tuned = calibration.tune_logit_scale(cos, [1, 1, 1, 0], initial=5.0)
    assert tuned.scale == pytest.approx(np.log(3.0), rel=1e-6)
    assert tuned.nll_after == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    assert not tuned.at_bound
    all_right = calibration.tune_logit_scale(cos, [1, 1, 1, 1], bounds=(0.1, 50.0))
    assert (all_right.scale, all_right.at_bound) == (50.0, True)
    all_wrong = calibration.tune_logit_scale(cos, [0, 0, 0, 0], bounds=(0.1, 50.0))
    assert (all_wrong.scale, all_wrong.at_bound) == (0.1, True)


def test_detection_by_hand() -> None:
    inside, outside = [4.0, 3.0, 1.0], [2.0, 1.0]
    assert detection.auroc(inside, outside) == pytest.approx((2 + 2 + 0.5) / 6)
    # Cut-offs 4, 3, 2, 1: precision 1, 1, 2/3, 3/5 at recall 1/3, 2/3, 2/3, 1.
    assert detection.aupr_in(inside, outside) == pytest.approx(1 / 3 + 1 / 3 + 0.6 / 3)
    trapezoid = 1 / 3 + 1 / 3 + (2 / 3 + 3 / 5) / 2 / 3
    assert detection.aupr_in_trapezoid(inside, outside) == pytest.approx(trapezoid)
    assert detection.fpr95_ood_positive(inside, outside) == pytest.approx(1 / 3)
    assert detection.fpr95_id_positive(inside, outside) == 1.0
    assert detection.tie_count([1.0, 1.0, 2.0, 3.0, 3.0, 3.0]) == 5


def test_fpr95_keeps_exactly_19_of_20() -> None:
    """0.95 * 20 is 19 in exact arithmetic: the 20th sample must not be needed."""
    inside = np.arange(20.0)
    assert detection.fpr95_id_positive(inside, [0.5]) == 1.0  # loosest cut-off that keeps 19 is 0.5 itself
    assert detection.fpr95_id_positive(inside, [0.0]) == 0.0
    assert detection.fpr95_ood_positive([18.5], inside) == 0.0
    assert detection.fpr95_ood_positive([18.0], inside) == 1.0


def test_ood_scores_by_hand() -> None:
    cos = np.array([[0.5, 0.5], [0.0, np.log(3.0) / 10]])
    np.testing.assert_allclose(ood.msp(cos, 10.0, -4.0), [0.5, 0.75])
    np.testing.assert_allclose(ood.mcm(cos, tau=0.1), [0.5, 0.75])
    np.testing.assert_allclose(ood.max_logit(cos), [0.5, np.log(3.0) / 10])
    np.testing.assert_allclose(ood.energy(cos, 10.0, -4.0), [1.0 + np.log(2.0), np.log(4.0) - 4.0])
    half = 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    np.testing.assert_allclose(ood.negative_entropy(cos, 10.0), [-np.log(2.0), half])
    image, text = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    negative = np.array([[1.0, 0.0], [1.0, 0.0]])
    e = np.exp(2.0)
    assert ood.neg_label(image, text, negative, 2.0, groups=2) == pytest.approx((e + 1) / (2 * e + 1))


def test_robustness_by_hand() -> None:
    assert robustness.relative_change(0.8, 0.6) == pytest.approx(0.25)
    assert robustness.signed_relative_change(0.8, 0.6, "higher") == pytest.approx(-0.25)
    assert robustness.signed_relative_change(0.8, 0.6, "lower") == pytest.approx(0.25)
    assert robustness.signed_relative_change(-2.0, -1.0, "higher") == pytest.approx(0.5)
    assert robustness.rsg(0.8, 0.6) == pytest.approx(0.25)
    assert robustness.delta_rsg(0.8, 0.6, 0.5, 0.25) == pytest.approx(0.5 - 0.25)
    assert robustness.vuln_add(0.8, 0.6, 0.6, 0.3) == pytest.approx(0.5 - 0.25)
    assert robustness.relative_robustness(0.3, 0.6) == 0.5
    errors, reference = {"fog": [0.2, 0.4], "snow": [0.3, 0.3]}, {"fog": [0.4, 0.8], "snow": [0.1, 0.2]}
    assert robustness.corruption_errors(errors, reference) == pytest.approx({"fog": 0.5, "snow": 2.0})
    assert robustness.mean_corruption_error(errors, reference) == pytest.approx(1.25)
    assert robustness.group_accuracies([1, 0, 1, 1], [7, 7, 3, 3]) == {3: 1.0, 7: 0.5}


def test_mce_of_alexnet_itself_is_one() -> None:
    own = {kind: [error - 0.02, error - 0.01, error, error + 0.01, error + 0.02]
           for kind, error in robustness.ALEXNET_ERROR.items()}  # fmt: skip
    assert robustness.mean_corruption_error_alexnet(own) == pytest.approx(1.0)
    assert tuple(robustness.ALEXNET_ERROR) == COMMON


def test_selective_by_hand() -> None:
    confidence, correct = [0.9, 0.8, 0.7, 0.6], [True, False, True, True]
    curve = selective.risk_coverage(confidence, correct)
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0.0, 0.5, 1 / 3, 0.25])
    assert selective.aurc(confidence, correct) == pytest.approx((0.5 + 1 / 3 + 0.25) / 4)
    assert selective.accuracy_at_coverage(confidence, correct, 0.7) == pytest.approx(2 / 3)
    assert selective.accuracy_at_coverage(confidence, correct, 1.0) == 0.75


def test_q_values_and_stars_by_hand() -> None:
    np.testing.assert_allclose(sig.benjamini_hochberg([0.01, 0.5, 0.02, 0.9]), [0.04, 2 / 3, 0.04, 0.9])
    assert [sig.stars(q) for q in (0.0, 0.0009, 0.001, 0.049, 0.05, 1.0)] == ["***", "***", "**", "*", "", ""]

# ruff: noqa: E501 (a table of cases reads best with one case a line)
"""Empty data, single classes, zero denominators, NaN and wrong shapes: a defined result or one clear line."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.errors import InputError, NonFiniteError, UndefinedMetric
from benchmark.metrics import (
    calibration,
    classification,
    detection,
    gain,
    ood,
    robustness,
    scores,
    selective,
    spectrum,
)
from benchmark.metrics import significance as sig
from benchmark.metrics.uncertainty import paired_proportions

NAN = float("nan")
GRID = np.array([[0.2, 0.8], [0.7, 0.3]])
ONES = np.ones((5, 2), bool)
BASIS = spectrum.EigenBasis(np.eye(3), np.ones(3), count=3)

CASES = {
    "cosines of different dimensions": (InputError, "3 dimensions", lambda: scores.cosines(np.eye(3), np.eye(2))),
    "a zero feature": (InputError, "row 1 is all zeros", lambda: scores.cosines([[1.0, 0], [0, 0]], np.eye(2))),
    "NaN in features": (NonFiniteError, r"image features: 1 of 4.*\(1, 0\)", lambda: scores.cosines([[1, 0], [NAN, 1]], np.eye(2))),
    "infinite text feature": (NonFiniteError, "text features", lambda: scores.cosines(np.eye(2), [[np.inf, 0], [0, 1]])),
    "negative scale": (InputError, "logit scale", lambda: scores.logits(GRID, -1.0)),
    "logarithm of infinity as scale": (InputError, "logit scale", lambda: scores.logits(GRID, float("inf"))),
    "NaN bias": (InputError, "logit bias", lambda: scores.logits(GRID, 1.0, NAN)),
    "logits as probabilities": (InputError, "softmax", lambda: scores.top_label(GRID * 9, [0, 1])),
    "no samples": (UndefinedMetric, "empty", lambda: classification.accuracy(np.zeros((0, 3)), np.zeros(0, int))),
    "label outside": (InputError, "2 at index 1 is outside the 2 classes", lambda: classification.accuracy(GRID, [0, 2])),
    "OOD label": (InputError, "-1 at index 0", lambda: classification.accuracy(GRID, [-1, 1])),
    "float labels": (InputError, "integers", lambda: classification.accuracy(GRID, [0.0, 1.0])),
    "labels of another length": (InputError, r"\(2,\)", lambda: classification.accuracy(GRID, [0])),
    "scores in one dimension": (InputError, "two dimensions", lambda: classification.accuracy([0.1, 0.2], [0, 1])),
    "top 5 of 2 classes": (UndefinedMetric, "top-5", lambda: classification.topk_correct(GRID, [0, 1])),
    "top 0": (InputError, "k:", lambda: classification.topk_correct(GRID, [0, 1], 0)),
    "NaN confidence": (NonFiniteError, "confidence", lambda: calibration.ece([NAN], [True])),
    "confidence above 1": (InputError, "probabilities, not logits", lambda: calibration.ece([1.5], [True])),
    "correct that is a class": (InputError, "true/false", lambda: calibration.ece([0.5, 0.5], [1, 2])),
    "correct with NaN": (InputError, "true/false", lambda: calibration.ece([0.5, 0.5], [1.0, NAN])),
    "unpaired": (InputError, "confidence 2, correct 1", lambda: calibration.ece([0.5, 0.5], [True])),
    "empty calibration": (UndefinedMetric, "empty", lambda: calibration.ece([], [])),
    "no bins": (InputError, "bins", lambda: calibration.ece([0.5], [True], 0)),
    "logits in brier": (InputError, "softmax", lambda: calibration.brier(GRID * 9, [0, 1])),
    "probabilities in nll": (InputError, "log-softmax", lambda: calibration.nll(GRID, [0, 1])),
    "minus infinity in nll": (NonFiniteError, "log prob", lambda: calibration.nll([[0.0, -np.inf]], [0])),
    "flat cosines": (UndefinedMetric, "same cosine", lambda: calibration.tune_logit_scale(np.ones((3, 2)), [0, 1, 0])),
    "bounds": (InputError, "0 < low < high", lambda: calibration.tune_logit_scale(GRID, [0, 1], bounds=(0.0, 1.0))),
    "initial scale": (InputError, "outside", lambda: calibration.tune_logit_scale(GRID, [0, 1], initial=1e6)),
    "no OOD samples": (UndefinedMetric, "OOD scores: empty", lambda: detection.auroc([1.0], [])),
    "no ID samples": (UndefinedMetric, "in-distribution scores: empty", lambda: detection.fpr95_id_positive([], [1.0])),
    "NaN scores": (NonFiniteError, "OOD scores", lambda: detection.aupr_in([1.0], [NAN])),
    "level": (InputError, "level", lambda: detection.fpr95_ood_positive([1.0], [1.0], level=95)),
    "tau": (InputError, "tau", lambda: ood.mcm(GRID, tau=0.0)),
    "local features of another size": (InputError, r"\(N, P, 2\)", lambda: ood.local_mcm(np.ones((2, 3, 4)), np.eye(2))),
    "no local features": (UndefinedMetric, "local", lambda: ood.local_mcm(np.ones((2, 0, 2)), np.eye(2))),
    "unpaired local features": (InputError, "2 pooled but 3", lambda: ood.gl_mcm(GRID, np.ones((3, 1, 2)), np.eye(2))),
    "few negatives": (InputError, "100 groups", lambda: ood.neg_label(GRID, GRID, GRID, 10.0)),
    "negative dimension": (InputError, "2, 2 and 3", lambda: ood.neg_label(GRID, GRID, np.eye(3), 10.0, groups=1)),
    "zero reference": (UndefinedMetric, "zero", lambda: robustness.relative_change(0.0, 0.5)),
    "zero reference, signed": (UndefinedMetric, "zero", lambda: robustness.signed_relative_change(0.0, 0.5, "higher")),
    "direction": (InputError, "better", lambda: robustness.signed_relative_change(1.0, 1.0, "up")),
    "NaN accuracy": (NonFiniteError, "relative change", lambda: robustness.relative_change(0.5, NAN)),
    "nothing right on common": (UndefinedMetric, "common", lambda: robustness.rsg(0.0, 0.0)),
    "zero clean accuracy": (UndefinedMetric, "clean", lambda: robustness.relative_robustness(0.0, 0.0)),
    "faultless reference": (UndefinedMetric, "fog", lambda: robustness.mean_corruption_error({"fog": [0.1]}, {"fog": [0.0]})),
    "no corruptions": (UndefinedMetric, "no corruption types", lambda: robustness.mean_corruption_error({}, {})),
    "other corruptions": (InputError, "fog, snow", lambda: robustness.mean_corruption_error({"fog": [0.1]}, {"snow": [0.1]})),
    "other severities": (InputError, "errors 1, reference 2", lambda: robustness.mean_corruption_error({"fog": [0.1]}, {"fog": [0.1, 0.2]})),
    "few types for AlexNet": (InputError, "15 ImageNet-C types", lambda: robustness.mean_corruption_error_alexnet({"fog": [0.1] * 5})),
    "float groups": (InputError, "group", lambda: robustness.group_accuracies([True], [0.5])),
    "empty groups": (UndefinedMetric, "empty", lambda: robustness.group_accuracies([], np.zeros(0, int))),
    "coverage": (InputError, "coverage", lambda: selective.accuracy_at_coverage([0.5], [True], 0.0)),
    "empty selection": (UndefinedMetric, "empty", lambda: selective.aurc([], [])),
    "unpaired models": (InputError, "before 2, now 1", lambda: paired_proportions([True, True], [True])),
    "level of an interval": (InputError, "level", lambda: paired_proportions([True], [True]).interval(1.0)),
    "p above 1": (InputError, "p values", lambda: sig.benjamini_hochberg([0.5, 1.5])),
    "NaN p": (NonFiniteError, "p values", lambda: sig.benjamini_hochberg([NAN])),
    "NaN q": (InputError, "q value", lambda: sig.stars(NAN)),
    "no features": (UndefinedMetric, "no features", lambda: spectrum.GramAccumulator(3).eigen()),
    "features of another size": (InputError, "3 dimensions, got 2", lambda: spectrum.GramAccumulator(3).update(GRID)),
    "NaN features": (NonFiniteError, "features", lambda: spectrum.GramAccumulator(2).update([[NAN, 1.0]])),
    "unpaired numbers": (InputError, "paired numbers: expected", lambda: gain.PairAccumulator(2).update(GRID, np.eye(3), [0])),
    "margin of one class": (InputError, "at least 2 classes", lambda: gain.margins([[0.5]], [0])),
    "zero spectrum": (UndefinedMetric, "zero", lambda: spectrum.effective_rank([0.0, 0.0])),
    "negative singular value": (InputError, "negative", lambda: spectrum.energy_spectrum([1.0, -1.0])),
    "empty band": (InputError, "rank band", lambda: BASIS.band(2, 2)),
    "band beyond": (InputError, "rank band", lambda: BASIS.band(0, 4)),
    "bases of other sizes": (InputError, "dimensions", lambda: spectrum.subspace_angles(np.eye(3), np.eye(2))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_named(name: str) -> None:
    error, message, call = CASES[name]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_fewer_samples_than_bins_is_defined() -> None:
    assert calibration.ece([0.7], [True], bins=15) == pytest.approx(0.3)
    assert calibration.adaptive_ece([0.7, 0.2], [True, False], bins=15) == pytest.approx(0.25)
    assert calibration.ece_floor([0.5], bins=15) == 0.5


def test_single_class_data_is_defined() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6]])
    assert classification.mean_per_class_recall(probabilities, [0, 0]) == 0.5
    confidence, correct, _ = scores.top_label(probabilities, [0, 0])
    assert calibration.ece(confidence, correct) == pytest.approx((0.1 + 0.6) / 2)
    assert calibration.nll(np.log(probabilities), [0, 0]) > 0


def test_all_right_and_all_wrong_are_defined() -> None:
    right, wrong = np.ones(30, bool), np.zeros(30, bool)
    assert selective.aurc(np.linspace(0, 1, 30), right) == 0.0
    assert selective.aurc(np.linspace(0, 1, 30), wrong) == 1.0

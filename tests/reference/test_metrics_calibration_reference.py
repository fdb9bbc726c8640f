"""Classification and calibration against netcal, scikit-learn, torchmetrics and pytorch-ood."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)

from benchmark.metrics import calibration, classification, scores


@pytest.fixture(scope="module")
def netcal() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in its docstrings, when Python first compiles it
        from netcal.metrics import ECE, MCE
        from netcal.scaling import TemperatureScaling
    return SimpleNamespace(ECE=ECE, MCE=MCE, TemperatureScaling=TemperatureScaling)


class Zoo:
    """Cosines with signal, as a CLIP-like model has them, and labels."""

    def __init__(self, seed: int, samples: int = 1500, classes: int = 9, dimension: int = 24) -> None:
        rng = np.random.default_rng(seed)
        text = rng.normal(size=(classes, dimension))
        self.labels = rng.integers(classes, size=samples)
        image = text[self.labels] + rng.normal(scale=2.2, size=(samples, dimension))
        self.image, self.text = image.astype(np.float32), text.astype(np.float32)
        self.cos = scores.cosines(self.image, self.text)
        self.probabilities = scores.softmax(scores.logits(self.cos, 14.0))
        self.confidence, self.correct, _ = scores.top_label(self.probabilities, self.labels)


@pytest.fixture(scope="module", params=range(4))
def zoo(request: pytest.FixtureRequest) -> Zoo:
    return Zoo(request.param)


def test_scores_equal_torch_in_float64(zoo: Zoo) -> None:
    image, text = (torch.nn.functional.normalize(torch.tensor(x).double(), dim=1) for x in (zoo.image, zoo.text))
    np.testing.assert_allclose(zoo.cos, (image @ text.T).numpy(), atol=1e-14)
    np.testing.assert_allclose(zoo.probabilities, (14.0 * image @ text.T).softmax(1).numpy(), atol=1e-14)
    expected = (14.0 * image @ text.T - 3.0).log_softmax(1).numpy()
    np.testing.assert_allclose(scores.log_softmax(scores.logits(zoo.cos, 14.0, -3.0)), expected, atol=1e-12)


def test_classification_equals_scikit_learn(zoo: Zoo) -> None:
    prediction = zoo.cos.argmax(axis=1)
    assert classification.accuracy(zoo.cos, zoo.labels) == accuracy_score(zoo.labels, prediction)
    assert 0.3 < classification.accuracy(zoo.cos, zoo.labels) < 0.95
    for k in (1, 2, 5, 8):
        expected = top_k_accuracy_score(zoo.labels, zoo.cos, k=k)
        assert classification.topk_correct(zoo.cos, zoo.labels, k).mean() == pytest.approx(expected, abs=1e-15)
    few = zoo.labels < 6
    assert classification.mean_per_class_recall(zoo.cos[few], zoo.labels[few]) == pytest.approx(
        np.mean(recall_score(zoo.labels[few], prediction[few], labels=range(6), average=None)), abs=1e-14
    )
    assert classification.mean_per_class_recall(zoo.cos, zoo.labels) == pytest.approx(
        balanced_accuracy_score(zoo.labels, prediction), abs=1e-14
    )


@pytest.mark.parametrize("bins", [1, 5, 10, 15, 40])
def test_ece_and_mce_equal_netcal(zoo: Zoo, bins: int, netcal: SimpleNamespace) -> None:
    assert calibration.ece(zoo.confidence, zoo.correct, bins) == pytest.approx(
        netcal.ECE(bins).measure(zoo.probabilities, zoo.labels), abs=1e-13
    )
    assert calibration.max_calibration_error(zoo.confidence, zoo.correct, bins) == pytest.approx(
        netcal.MCE(bins).measure(zoo.probabilities, zoo.labels), abs=1e-13
    )


def test_ece_equals_netcal_at_bin_edges_and_at_confidence_one(netcal: SimpleNamespace) -> None:
    top = np.array([1 / 3, 7 / 15, 8 / 15, 0.6, 0.8, 1.0, 1.0, np.nextafter(0.8, 0), 14 / 15])
    rest = (1 - top) / 2
    probabilities = np.stack([top, rest, 1 - top - rest], axis=1)
    labels = np.array([0, 1, 0, 2, 0, 0, 1, 1, 0])
    confidence, correct, _ = scores.top_label(probabilities, labels)
    expected = netcal.ECE(15).measure(probabilities, labels)
    assert calibration.ece(confidence, correct) == pytest.approx(expected, abs=1e-13)


@pytest.mark.slow  # importing torchmetrics takes longer than all the rest
def test_ece_equals_torchmetrics_away_from_one(zoo: Zoo) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    assert zoo.confidence.max() < 1.0  # torchmetrics puts 1.0 into a bin of its own
    p, y = torch.tensor(zoo.probabilities), torch.tensor(zoo.labels)
    for norm, ours in (("l1", calibration.ece), ("max", calibration.max_calibration_error)):
        theirs = multiclass_calibration_error(p, y, num_classes=p.shape[1], n_bins=15, norm=norm).item()
        assert ours(zoo.confidence, zoo.correct) == pytest.approx(theirs, abs=2e-7)


def test_adaptive_ece_equals_netcal_and_pytorch_ood(zoo: Zoo, netcal: SimpleNamespace) -> None:
    from pytorch_ood.metrics.functional import calibration_error

    ours = calibration.adaptive_ece(zoo.confidence, zoo.correct, 15)  # 1,500 samples: 100 a bin
    theirs = calibration_error(torch.tensor(zoo.confidence), torch.tensor(zoo.correct), p="1", beta=100)
    assert ours == pytest.approx(theirs, abs=1e-13)
    equal_mass = netcal.ECE(15, equal_intervals=False).measure(zoo.probabilities, zoo.labels)
    assert ours == pytest.approx(equal_mass, abs=5e-3)  # netcal's quantile edges move single samples


def test_adaptive_ece_equals_the_loop_over_sorted_groups() -> None:
    rng = np.random.default_rng(3)
    for n in (7, 15, 16, 29, 100, 1001):
        confidence, correct = rng.random(n), rng.random(n) < 0.5
        order = np.argsort(confidence)
        groups: dict[int, list[int]] = {}
        for rank, sample in enumerate(order):
            groups.setdefault(rank * 15 // n, []).append(int(sample))
        expected = sum(len(g) / n * abs(confidence[g].mean() - correct[g].mean()) for g in groups.values())
        assert calibration.adaptive_ece(confidence, correct) == pytest.approx(expected, abs=1e-14)
        assert max(map(len, groups.values())) - min(map(len, groups.values())) <= 1


def test_brier_and_nll_equal_scikit_learn(zoo: Zoo) -> None:
    classes = list(range(zoo.probabilities.shape[1]))
    expected = brier_score_loss(zoo.labels, zoo.probabilities, labels=classes, scale_by_half=False)
    assert calibration.brier(zoo.probabilities, zoo.labels) == pytest.approx(expected, abs=1e-13)
    log_p = scores.log_softmax(scores.logits(zoo.cos, 14.0))
    expected = log_loss(zoo.labels, zoo.probabilities, labels=classes)
    assert calibration.nll(log_p, zoo.labels) == pytest.approx(expected, abs=1e-12)


def test_logit_scale_equals_scikit_learns_temperature(zoo: Zoo) -> None:
    from sklearn.calibration import _TemperatureScaling

    tuned = calibration.tune_logit_scale(zoo.cos, zoo.labels, initial=14.0)
    reference = _TemperatureScaling().fit(zoo.cos * 14.0, zoo.labels)
    assert not tuned.at_bound
    assert tuned.scale == pytest.approx(14.0 * reference.beta_, rel=1e-5)
    assert tuned.nll_after <= tuned.nll_before


@pytest.mark.filterwarnings("ignore:independent is deprecated:DeprecationWarning")
def test_logit_scale_equals_netcals_temperature(zoo: Zoo, netcal: SimpleNamespace) -> None:
    tuned = calibration.tune_logit_scale(zoo.cos, zoo.labels, initial=14.0)
    scaling = netcal.TemperatureScaling()
    scaling.fit(zoo.probabilities, zoo.labels, random_state=0)  # float64: float32 would silently return 1.0
    assert tuned.scale == pytest.approx(14.0 * float(scaling.temperature[0]), rel=2e-3)


def test_logit_scale_equals_a_logistic_regression_of_two_classes() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(size=400)
    labels = (rng.random(400) < 1 / (1 + np.exp(-3 * margin))).astype(int)
    tuned = calibration.tune_logit_scale(np.stack([0 * margin, margin], axis=1), labels)
    fit = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10).fit(margin[:, None], labels)
    assert tuned.scale == pytest.approx(float(fit.coef_[0, 0]), rel=1e-5)


def test_nothing_near_the_tuned_scale_is_better(zoo: Zoo) -> None:
    tuned = calibration.tune_logit_scale(zoo.cos, zoo.labels, bias=-10.0, initial=50.0)
    for factor in (0.5, 0.99, 0.999, 1.001, 1.01, 2.0):
        log_p = scores.log_softmax(scores.logits(zoo.cos, tuned.scale * factor))
        assert calibration.nll(log_p, zoo.labels) > tuned.nll_after


def test_ece_floor_has_the_size_that_was_measured() -> None:
    """About 0.034 at N = 1,000 and 0.011 at 10,000 for confidences spread over [0, 1]; exact mean by enumeration."""
    spread = np.random.default_rng(1).random(1_000)
    assert calibration.ece_floor(spread, seed=0) == pytest.approx(0.034, abs=0.006)
    assert calibration.ece_floor(spread, n=10_000, seed=0) == pytest.approx(0.011, abs=0.002)
    # Two samples of confidence 0.75 in one bin: the gap is 0.75, 0.25, 0.25 with 0, 1, 2 right.
    expected = 0.0625 * 0.75 + 0.375 * 0.25 + 0.5625 * 0.25
    assert calibration.ece_floor([0.75, 0.75], draws=5_000, seed=2) == pytest.approx(expected, abs=8e-3)

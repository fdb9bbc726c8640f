"""Calibration of the predicted class: does a confidence of 0.8 mean that 80 % are right?

Confidence is the highest float64 softmax probability. Calibration errors are fractions in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import (
    Bools,
    Floats,
    Ints,
    as_bools,
    as_labels,
    as_matrix,
    as_vector,
    require_positive,
    require_same_length,
)
from benchmark.metrics.logit_scale import TunedScale, nll_derivatives, tune_logit_scale

__all__ = [
    "ReliabilityBins",
    "TunedScale",
    "adaptive_ece",
    "brier",
    "ece",
    "ece_floor",
    "max_calibration_error",
    "nll",
    "nll_derivatives",
    "overconfidence",
    "reliability_bins",
    "signed_calibration_error",
    "tune_logit_scale",
    "underconfidence",
]


@dataclass(frozen=True)
class ReliabilityBins:
    """What a reliability diagram draws; K bins.

    confidence (K,) and accuracy (K,): means within a bin, NaN where `count` is 0 (a mean of nothing);
    count (K,) int64; edges (K + 1,). `occupied` masks the bins that hold samples.
    """

    confidence: Floats
    accuracy: Floats
    count: Ints
    edges: Floats

    @property
    def occupied(self) -> Bools:
        """(K,) bool: bins with at least one sample."""
        return np.asarray(self.count > 0, dtype=np.bool_)

    @property
    def gap(self) -> Floats:
        """Confidence minus accuracy of the occupied bins; positive where the model is overconfident."""
        return np.asarray((self.confidence - self.accuracy)[self.occupied], dtype=np.float64)

    @property
    def weight(self) -> Floats:
        """Share of all samples in each occupied bin; sums to 1."""
        return np.asarray(self.count[self.occupied] / self.count.sum(), dtype=np.float64)

    def rows(self) -> list[dict[str, float | int | None]]:
        """One row a bin for tables and JSON: low, high, count, confidence, accuracy (None in an empty bin)."""
        return [
            {
                "low": float(self.edges[k]),
                "high": float(self.edges[k + 1]),
                "count": int(n),
                "confidence": float(self.confidence[k]) if n else None,
                "accuracy": float(self.accuracy[k]) if n else None,
            }
            for k, n in enumerate(self.count)
        ]


def _checked(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[Floats, Bools]:
    conf, hit = as_vector(confidence, "confidence"), as_bools(correct, "correct")
    require_same_length(confidence=conf, correct=hit)
    if conf.min() < 0.0 or conf.max() > 1.0:
        raise InputError("confidence: values outside [0, 1]; give probabilities, not logits.")
    return conf, hit


def bin_index(confidence: Floats, bins: int) -> Ints:
    """(N,) index of the equal-width bin of each confidence: [a, b), the last one closed, as numpy.histogram has it."""
    edges = np.linspace(0.0, 1.0, require_positive(bins, "bins") + 1)
    return np.asarray((np.searchsorted(edges, confidence, side="right") - 1).clip(max=bins - 1), dtype=np.int64)


def reliability_bins(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15) -> ReliabilityBins:
    """Samples by confidence in equal-width bins of [0, 1].

    Args: confidence (N,) in [0, 1]; correct (N,) bool. Bins are [a, b), the last one closed.
    """
    conf, hit = _checked(confidence, correct)
    index = bin_index(conf, bins)
    count = np.bincount(index, minlength=bins).astype(np.int64)
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin is the documented NaN
        mean_confidence = np.bincount(index, weights=conf, minlength=bins) / count
        mean_accuracy = np.bincount(index, weights=hit, minlength=bins) / count
    return ReliabilityBins(mean_confidence, mean_accuracy, count, np.linspace(0.0, 1.0, bins + 1))


def ece(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: `sum_k n_k / N * |conf_k - acc_k|` over equal-width bins, in [0, 1].

    Top-label, L1 (Naeini et al. 2015; Guo et al. 2017). Equals netcal's `ECE(bins)` on float64 probabilities.

    >>> round(ece([0.9, 0.9, 0.6, 0.6], [True, True, True, False]), 6)
    0.1
    """
    table = reliability_bins(confidence, correct, bins)
    return float(np.sum(table.weight * np.abs(table.gap)))


def debiased_ece(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15) -> float:
    r"""`ece` minus its bias: an estimate of the calibration error of the population, which may fall just below 0.

    The gap :math:`d` of a bin of n samples has about the error :math:`s = \sqrt{acc (1 - acc) / n}`, and the absolute
    value of a normal variable exceeds that of its mean by

    .. math:: \Delta = s \sqrt{2 / \pi} \, e^{-d^2 / 2 s^2} + |d| (1 - 2 \Phi(-|d| / s)) - |d|

    (folded normal), so the estimate is :math:`\sum_k n_k / N \, (|d_k| - \Delta_k)`. Source: Kumar, Liang & Ma (2019),
    Verified Uncertainty Calibration, NeurIPS, section 5, whose Gaussian draws this takes in closed form.

    >>> confidence, correct = [0.9] * 10, [True] * 9 + [False]
    >>> ece(confidence, correct) < 1e-12, round(debiased_ece(confidence, correct), 4)
    (True, -0.0757)
    """
    conf, hit = _checked(confidence, correct)
    return float(debiased_from_bins(*bin_sums(conf, hit, bins)))


def bin_sums(confidence: Floats, correct: Bools, bins: int) -> tuple[Floats, Floats, Floats]:
    """(bins,) samples, sum of confidences and sum of right answers in each equal-width bin."""
    index = bin_index(confidence, bins)

    def total(weights: Floats) -> Floats:
        return np.asarray(np.bincount(index, weights=weights, minlength=bins), dtype=np.float64)

    return total(np.ones(len(index))), total(confidence), total(correct.astype(np.float64))


def debiased_from_bins(count: Floats, confidence: Floats, right: Floats) -> Floats:
    """`debiased_ece` from (..., bins) sums of bins."""
    from scipy.special import ndtr  # late: most commands need none

    n = count.clip(min=1.0)
    gap, accuracy = np.abs(confidence - right) / n, right / n
    error = np.sqrt((accuracy * (1.0 - accuracy)).clip(min=0.0) / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, gap / error, np.inf)
    expected = error * np.sqrt(2.0 / np.pi) * np.exp(-0.5 * z * z) + gap * (1.0 - 2.0 * ndtr(-z))
    debiased = count * (2.0 * gap - expected)
    return np.asarray(debiased.sum(axis=-1) / count.sum(axis=-1), dtype=np.float64)


def max_calibration_error(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15) -> float:
    """Maximum calibration error: the largest `|conf_k - acc_k|` of an occupied equal-width bin, in [0, 1]."""
    return float(np.abs(reliability_bins(confidence, correct, bins).gap).max())


def adaptive_ece(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15) -> float:
    """ECE over bins of equal mass (Nguyen & O'Connor 2015; top-label), in [0, 1].

    The sample of rank r (from 0, by confidence) is in bin `floor(r * bins / N)`; equal confidences share the bin of
    the lowest rank among them, which makes the value independent of the order of the samples. With N < bins every
    distinct confidence has its own bin. netcal's "ACE" is another quantity.
    """
    conf, hit = _checked(confidence, correct)
    rank = np.searchsorted(np.sort(conf), conf, side="left")
    gap = np.bincount(rank * require_positive(bins, "bins") // len(conf), weights=conf - hit)
    return float(np.abs(gap).sum() / len(conf))


def signed_calibration_error(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Mean confidence minus accuracy, in [-1, 1]: positive is overconfident, negative underconfident.

    The weighted sum of signed bin gaps, which is the same for any binning; `overconfidence - underconfidence`.
    """
    conf, hit = _checked(confidence, correct)
    return float(conf.mean() - hit.mean())


def overconfidence(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15) -> float:
    """The part of `ece` from bins with confidence above accuracy; `ece = overconfidence + underconfidence`."""
    table = reliability_bins(confidence, correct, bins)
    return float(np.sum(table.weight * table.gap.clip(min=0.0)))


def underconfidence(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15) -> float:
    """The part of `ece` from bins with confidence below accuracy."""
    table = reliability_bins(confidence, correct, bins)
    return float(np.sum(table.weight * (-table.gap).clip(min=0.0)))


def brier(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Multi-class Brier score (Brier 1950): mean over samples of `sum_c (p_c - 1[c = label])^2`, in [0, 2].

    The sum runs over all classes; it is twice the binary score for two classes.
    Args: probabilities (N, C) in [0, 1]; labels (N,).
    """
    matrix = as_matrix(probabilities, "probabilities")
    if matrix.min() < 0.0 or matrix.max() > 1.0 + 1e-9:
        raise InputError("probabilities: values outside [0, 1]; give the softmax, not logits.")
    truth = as_labels(labels, *matrix.shape)
    own = matrix[np.arange(len(matrix)), truth]
    return float(np.mean(np.sum(matrix**2, axis=1) - 2.0 * own + 1.0))


def nll(log_probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Negative log-likelihood in nats: minus the mean log probability of the label, >= 0.

    Args: log_probabilities (N, C) from `scores.log_softmax` (logarithms of rounded probabilities may be -inf and are
    refused); labels (N,).
    """
    matrix = as_matrix(log_probabilities, "log probabilities")
    if matrix.max() > 1e-9:
        raise InputError("log probabilities: positive values; give the log-softmax, not logits or probabilities.")
    truth = as_labels(labels, *matrix.shape)
    return float(-matrix[np.arange(len(matrix)), truth].mean())


def ece_floor(
    confidence: npt.ArrayLike, n: int | None = None, bins: int = 15, seed: int = 0, draws: int = 200
) -> float:
    """Expected ECE of a perfectly calibrated model with these confidences at N samples: what chance alone gives.

    Monte Carlo: labels are drawn with `P(correct) = confidence` and `ece` is taken, `draws` times. With `n` other
    than the number of confidences, these are resampled with replacement. An ECE near this floor shows no
    miscalibration.
    """
    conf = np.sort(as_vector(confidence, "confidence"))  # so that the value does not depend on the samples' order
    _checked(conf, np.zeros(len(conf), dtype=np.bool_))
    samples = len(conf) if n is None else require_positive(n, "n")
    rng = np.random.default_rng(seed)
    total, index = 0.0, bin_index(conf, bins)
    for _ in range(require_positive(draws, "draws")):
        drawn = conf
        if samples != len(conf):
            drawn = rng.choice(conf, samples)
            index = bin_index(drawn, bins)
        gap = np.bincount(index, weights=drawn - (rng.random(samples) < drawn), minlength=bins)
        total += float(np.abs(gap).sum()) / samples
    return total / draws

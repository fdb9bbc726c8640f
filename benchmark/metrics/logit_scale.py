"""Logit scale tuning: refit the one scalar of a frozen CLIP-like model on calibration data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError, UndefinedMetric
from benchmark.metrics.arrays import Floats, Ints, as_labels, as_matrix
from benchmark.metrics.scores import log_softmax, logits, softmax

DEFAULT_BOUNDS = (1e-2, 1e4)
"""Range searched for the scale; CLIP's training keeps it within [1, 100], SigLIP's is about 117."""


@dataclass(frozen=True)
class TunedScale:
    """The scale with the lowest NLL, the NLL (nats) at the initial and at this scale, and whether it is a bound.

    `at_bound` is True when no optimum lies inside the bounds: on data that the model gets all right the likelihood
    grows with the scale for ever, and on data where it is worse than chance it falls.
    """

    scale: float
    nll_before: float
    nll_after: float
    at_bound: bool


def _mean_nll(cos: Floats, labels: Ints, scale: float, bias: float) -> float:
    log_p = log_softmax(logits(cos, scale, bias))
    return float(-log_p[np.arange(len(cos)), labels].mean())


def _slope(cos: Floats, labels: Ints, scale: float) -> float:
    """d NLL / d scale = mean(sum_c p_c cos_c - cos_label); it rises with the scale because the NLL is convex in it."""
    expected = (softmax(logits(cos, scale)) * cos).sum(axis=1)
    return float((expected - cos[np.arange(len(cos)), labels]).mean())


def nll_derivatives(cos: npt.ArrayLike, labels: npt.ArrayLike, scale: float) -> tuple[Floats, Floats]:
    """First and second derivative of each sample's NLL in the logarithm of the scale, (N,) each.

    `s (E - cos_label)` and that plus `s^2 Var`, E and Var the mean and variance of the cosines under the softmax. One
    Newton step with their sums over the samples that are left gives the tuned scale without the others.
    """
    matrix = as_matrix(cos, "cosines")
    truth = as_labels(labels, *matrix.shape)
    p = softmax(logits(matrix, scale))
    mean = (p * matrix).sum(axis=1)
    gradient = scale * (mean - matrix[np.arange(len(matrix)), truth])
    spread = (p * (matrix - mean[:, None]) ** 2).sum(axis=1)
    return np.asarray(gradient), np.asarray(gradient + scale**2 * spread)


def tune_logit_scale(
    cos: npt.ArrayLike,
    labels: npt.ArrayLike,
    bias: float = 0.0,
    initial: float = 1.0,
    bounds: tuple[float, float] = DEFAULT_BOUNDS,
) -> TunedScale:
    """The scale s > 0 that minimises the softmax NLL of `s * cos + bias`: temperature scaling, s = 1 / T (Guo 2017).

    One bounded search on log s in float64 (Brent). The NLL is convex in s, so its slopes at the two bounds tell
    exactly whether the optimum is inside. A bias shared by all classes does not move a softmax and so not the result.

    Args: cos (N, C); labels (N,) the class of each image, or its caption's index for image-caption pairs; initial,
    the model's own scale; bounds (low, high) of s.
    Raises UndefinedMetric when each image has the same cosine to all classes (any scale is as good).
    """
    from scipy.optimize import minimize_scalar  # late: the import takes most of a second, a finished sweep needs none

    matrix = as_matrix(cos, "cosines")
    truth = as_labels(labels, *matrix.shape)
    low, high = bounds
    if not 0.0 < low < high < math.inf:
        raise InputError(f"bounds of the logit scale: expected 0 < low < high, got {bounds}.")
    if not low <= initial <= high:
        raise InputError(f"initial logit scale {initial} lies outside the bounds {bounds}.")
    if np.ptp(matrix, axis=1).max() == 0.0:
        raise UndefinedMetric("logit scale tuning: each image has the same cosine to all classes.")
    before = _mean_nll(matrix, truth, initial, bias)
    at_bound = not (_slope(matrix, truth, low) < 0.0 < _slope(matrix, truth, high))
    if at_bound:
        scale = high if _slope(matrix, truth, high) <= 0.0 else low
    else:
        found = minimize_scalar(
            lambda log_s: _mean_nll(matrix, truth, math.exp(log_s), bias),
            bounds=(math.log(low), math.log(high)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        scale = math.exp(float(found.x))
    return TunedScale(scale, before, _mean_nll(matrix, truth, scale, bias), at_bound)

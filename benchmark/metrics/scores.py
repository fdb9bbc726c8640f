"""From features to class scores: cosines, logits and probabilities, always in float64.

fp16 or bf16 scoring leaves a few hundred distinct values in 10,000 and looks like an effect of quantization.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import Bools, Floats, Ints, as_labels, as_matrix, require_finite

__all__ = [
    "CLIP_BENCHMARK_SCALE",
    "cosines",
    "log_softmax",
    "logits",
    "logsumexp",
    "normalise",
    "require_finite",
    "softmax",
    "top_label",
]

CLIP_BENCHMARK_SCALE = 100.0
"""The fixed factor of CLIP_benchmark, for its parity mode only; a model's own logit scale is used everywhere else."""


def normalise(features: npt.ArrayLike, name: str = "features") -> Floats:
    """Rows of unit L2 norm.

    Args: features (..., D), any float type. Returns (..., D) float64.
    Raises NonFiniteError for NaN or infinity, InputError for a row of zeros (it has no direction).
    """
    array = require_finite(features, name)
    norms = np.linalg.norm(array, axis=-1, keepdims=True)
    if array.size and not (norms > 0).all():
        row = int(np.flatnonzero(norms.reshape(-1) == 0)[0])
        raise InputError(f"{name}: row {row} is all zeros and has no direction.")
    return np.asarray(array / norms, dtype=np.float64)


def cosines(image: npt.ArrayLike, text: npt.ArrayLike) -> Floats:
    """Cosine of every image with every class: `image @ text.T` of rows that are normalised again in float64.

    Args: image (N, D) and text (C, D), any float type; normalising here makes the fp32 rounding of stored unit
    vectors irrelevant. Returns (N, C) float64 in [-1, 1] up to rounding.
    """
    left, right = as_matrix(image, "image features"), as_matrix(text, "text features")
    if left.shape[1] != right.shape[1]:
        raise InputError(f"image features have {left.shape[1]} dimensions, text features {right.shape[1]}.")
    return np.asarray(normalise(left, "image features") @ normalise(right, "text features").T, dtype=np.float64)


def logits(cos: npt.ArrayLike, scale: float, bias: float = 0.0) -> Floats:
    """`scale * cos + bias` with the model's own scale `exp(logit_scale)` > 0 and bias (0 without one).

    Args: cos of any shape. Returns float64 of the same shape.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"logit scale: expected a positive number (exp of the stored logarithm), got {scale}.")
    if not math.isfinite(bias):
        raise InputError(f"logit bias: expected a number, got {bias}.")
    return np.asarray(scale * require_finite(cos, "cosines") + bias, dtype=np.float64)


def log_softmax(values: npt.ArrayLike) -> Floats:
    """`x - logsumexp(x)` over the last axis, float64, without overflow."""
    from scipy.special import log_softmax as log_softmax_of  # late: tasks are listed without scipy, half a second

    return np.asarray(log_softmax_of(require_finite(values, "logits"), axis=-1), dtype=np.float64)


def logsumexp(values: npt.ArrayLike, axis: int) -> Floats:
    """`log(sum(exp(x)))` over an axis, without overflow."""
    from scipy.special import logsumexp as logsumexp_of  # late, as above

    return np.asarray(logsumexp_of(values, axis=axis))


def softmax(values: npt.ArrayLike) -> Floats:
    """`exp(x) / sum exp(x)` over the last axis, float64, without overflow; rows sum to 1."""
    shifted = np.exp(log_softmax(values))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float64)


def top_label(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Bools, Ints]:
    """Confidence, correctness and prediction of each sample.

    Args: probabilities (N, C) in [0, 1]; labels (N,) in 0..C-1. The first of equal maxima is the prediction.
    Returns confidence (N,) float64, correct (N,) bool, prediction (N,) int64.
    """
    matrix = as_matrix(probabilities, "probabilities")
    if matrix.min() < 0.0 or matrix.max() > 1.0 + 1e-9:
        raise InputError("probabilities: values outside [0, 1]; give the softmax, not logits.")
    truth = as_labels(labels, *matrix.shape)
    prediction = matrix.argmax(axis=1)
    confidence = matrix[np.arange(len(matrix)), prediction].clip(max=1.0)
    return confidence, prediction == truth, prediction

"""Zero-shot classification: accuracy, top-k and recall per class.

Ties: the class with the lower index wins, in top-1 and top-k alike, so that a result does not depend on a sorting
routine. (N = samples, C = classes.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmark.errors import UndefinedMetric
from benchmark.metrics.arrays import (
    Bools,
    Floats,
    as_bools,
    as_labels,
    as_matrix,
    require_positive,
    require_same_length,
)


def correct(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Bools:
    """Whether the highest score is at the label.

    Args: scores (N, C), cosines or logits or probabilities; labels (N,) integers in 0..C-1. Returns (N,) bool.

    >>> correct([[0.1, 0.9], [0.5, 0.5]], [1, 1])
    array([ True, False])
    """
    matrix = as_matrix(scores, "scores")
    return np.asarray(matrix.argmax(axis=1) == as_labels(labels, *matrix.shape), dtype=np.bool_)


def accuracy(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Share of samples with the highest score at the label, in [0, 1]; see `correct`."""
    return float(correct(scores, labels).mean())


def topk_correct(scores: npt.ArrayLike, labels: npt.ArrayLike, k: int = 5) -> Bools:
    """Whether the label is among the k highest scores, (N,) bool.

    The rank of the label is the number of classes with a higher score plus those with the same score and a lower
    index. Raises UndefinedMetric when k >= C: the answer would be 1 for any model.
    """
    matrix = as_matrix(scores, "scores")
    truth = as_labels(labels, *matrix.shape)
    classes = matrix.shape[1]
    if require_positive(k, "k") >= classes:
        raise UndefinedMetric(f"top-{k} accuracy says nothing about {classes} classes.")
    own = matrix[np.arange(len(matrix)), truth][:, None]
    earlier_tie = (matrix == own) & (np.arange(classes)[None, :] < truth[:, None])
    rank = (matrix > own).sum(axis=1) + earlier_tie.sum(axis=1)
    return np.asarray(rank < k, dtype=np.bool_)


def per_class_recall(scores: npt.ArrayLike, labels: npt.ArrayLike) -> dict[int, float]:
    """Accuracy on the samples of each class that is present, by class index in ascending order."""
    matrix = as_matrix(scores, "scores")
    truth = as_labels(labels, *matrix.shape)
    return dict(zip(np.unique(truth).tolist(), class_recalls(correct(matrix, truth), truth).tolist(), strict=True))


def class_recalls(hits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Share of hits among the samples of each class that is present, (classes present,), by class index.

    Args: hits (N,) bool, from `correct`; labels (N,) integers >= 0.
    """
    hit, truth = as_bools(hits, "hits"), np.asarray(labels)
    require_same_length(hits=hit, labels=truth)
    counts = np.bincount(truth)
    return np.asarray((np.bincount(truth, weights=hit) / counts.clip(min=1))[counts > 0], dtype=np.float64)


def answer_weights(labels: npt.ArrayLike) -> Floats:
    """(N,) weight of each answer in the mean of recalls: `1 / (classes present * samples of its class)`; sums to 1."""
    _, own, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(counts) * counts[own]), dtype=np.float64)


def mean_per_class_recall(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Unweighted mean of `per_class_recall` over the classes present, in [0, 1] (scikit-learn: balanced accuracy)."""
    return float(np.mean(list(per_class_recall(scores, labels).values())))

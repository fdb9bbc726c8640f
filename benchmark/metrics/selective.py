"""Selective prediction: answer the most confident samples only, and see how the error falls.

Equal confidences are taken in a random order *on average*: the expected number of errors grows linearly through a
group of ties. So every value is independent of the order of the samples. Without ties it is the usual one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import Floats, as_bools, as_vector, require_same_length


@dataclass(frozen=True)
class RiskCoverage:
    """coverage (N,): k / N for k = 1..N; risk (N,): expected error rate among the k most confident samples."""

    coverage: Floats
    risk: Floats


def risk_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> RiskCoverage:
    """The risk-coverage curve (El-Yaniv & Wiener 2010).

    Args: confidence (N,), any score that is higher where the model is surer; correct (N,) bool.
    """
    conf, hit = as_vector(confidence, "confidence"), as_bools(correct, "correct")
    n = require_same_length(confidence=conf, correct=hit)
    _, group, sizes = np.unique(-conf, return_inverse=True, return_counts=True)
    errors = np.bincount(group, weights=~hit)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    taken = np.arange(1, n + 1)
    expected = np.interp(taken, ends, np.concatenate([[0.0], np.cumsum(errors)]))
    return RiskCoverage(taken / n, expected / taken)


def aurc(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Area under the risk-coverage curve: mean risk over all N coverages, in [0, 1], lower is better (Geifman 2019)."""
    return float(risk_coverage(confidence, correct).risk.mean())


def accuracy_at_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike, coverage: float = 0.9) -> float:
    """Accuracy among the most confident samples, as few as make up at least this share of all, in [0, 1].

    Args: coverage in (0, 1]; 1 gives the plain accuracy.
    """
    if not 0.0 < coverage <= 1.0:
        raise InputError(f"coverage: expected a share in (0, 1], got {coverage}.")
    curve = risk_coverage(confidence, correct)
    first = int(np.argmax(curve.coverage >= coverage))
    return float(1.0 - curve.risk[first])


def excess_aurc(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """`aurc` minus that of a perfect order of the same answers, in [0, 1]; 0 when every error comes last.

    What of the area is due to the order and not to the number of errors (Geifman et al. 2019).
    """
    hit = as_bools(correct, "correct")
    return aurc(confidence, hit) - aurc(hit.astype(np.float64), hit)

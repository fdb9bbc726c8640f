"""DeLong's test: the variance of an AUROC difference between two models on the same samples, in O(n log n).

DeLong et al. 1988; midranks as in Sun & Xu 2014. Scores are higher in distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from benchmark.errors import InputError, UndefinedMetric
from benchmark.metrics.arrays import Floats, as_vector, require_fraction, require_same_length
from benchmark.metrics.bootstrap import LEVEL, Comparison


@dataclass(frozen=True)
class _Components:
    """Structural components of one AUROC: for each ID sample the share of OOD samples below it, and the reverse."""

    per_id: Floats
    per_ood: Floats


def _components(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike) -> _Components:
    from scipy.stats import rankdata  # late: the import takes most of a second, a finished sweep needs none

    inside, outside = as_vector(id_scores, "in-distribution scores"), as_vector(ood_scores, "OOD scores")
    m, n = len(inside), len(outside)
    if min(m, n) < 2:
        raise UndefinedMetric(f"DeLong: needs at least two samples of each kind, got {m} ID and {n} OOD.")
    pooled = rankdata(np.concatenate([inside, outside]))
    per_id = (pooled[:m] - rankdata(inside)) / n
    per_ood = 1.0 - (pooled[m:] - rankdata(outside)) / m
    return _Components(np.asarray(per_id), np.asarray(per_ood))


def delong(
    id_a: npt.ArrayLike, ood_a: npt.ArrayLike, id_b: npt.ArrayLike, ood_b: npt.ArrayLike, level: float = LEVEL
) -> Comparison:
    """`auroc(b) - auroc(a)` with DeLong's interval and two-sided p value.

    Args: ID scores (M,) and OOD scores (N,) of models a and b, paired; M, N >= 2. The interval is cut to [-1, 1].
    Raises UndefinedMetric when the variance is zero though the AUROCs differ (as when a separates perfectly and b the
    other way round): use the bootstrap there.
    """
    return delong_mean(id_a, [ood_a], id_b, [ood_b], level)


def delong_mean(
    id_a: npt.ArrayLike,
    oods_a: Sequence[npt.ArrayLike],
    id_b: npt.ArrayLike,
    oods_b: Sequence[npt.ArrayLike],
    level: float = LEVEL,
) -> Comparison:
    """DeLong for the unweighted mean AUROC over several OOD data sets against the same ID samples (near or far).

    The ID samples are shared, so their components are averaged over the data sets before the variance is taken; the
    OOD data sets are independent of each other.
    """
    if len(oods_a) != len(oods_b) or not oods_a:
        raise InputError(f"OOD data sets: {len(oods_a)} of model a, {len(oods_b)} of model b; they must be paired.")
    sets = len(oods_a)
    differences = []
    for ood_a, ood_b in zip(oods_a, oods_b, strict=True):
        a, b = _components(id_a, ood_a), _components(id_b, ood_b)
        require_same_length(id_a=a.per_id, id_b=b.per_id)
        require_same_length(ood_a=a.per_ood, ood_b=b.per_ood)
        differences.append(_Components(b.per_id - a.per_id, b.per_ood - a.per_ood))
    per_id = np.mean([d.per_id for d in differences], axis=0)
    variance = per_id.var(ddof=1) / len(per_id)
    variance += sum(d.per_ood.var(ddof=1) / len(d.per_ood) for d in differences) / sets**2
    return _normal_comparison(float(per_id.mean()), float(variance), level)


def _normal_comparison(delta: float, variance: float, level: float) -> Comparison:
    tail = (1.0 - require_fraction(level, "level")) / 2.0
    error = float(np.sqrt(variance))
    if error <= 1e-12:  # rounding of shares in [0, 1]; a true standard error is at least 1 / (M N)
        if abs(delta) > 1e-12:
            raise UndefinedMetric(f"DeLong: AUROCs differ by {delta:.6g} with zero variance; use the bootstrap.")
        return Comparison(0.0, 0.0, 0.0, 1.0, "DeLong")
    half = float(ndtri(1.0 - tail)) * error
    p = min(1.0, 2.0 * float(ndtr(-abs(delta) / error)))
    return Comparison(delta, max(-1.0, delta - half), min(1.0, delta + half), p, "DeLong")

r"""Closed-form standard error of the difference of two paired FPR95.

FPR95 is the share of negatives beyond the cut-off t that 95 % of the positives pass. To first order a sample
moves it by its influence: a negative by whether it lies beyond t, a positive through t, by

.. math:: -s \, 1[x < t], \qquad s = f_{neg}(t) / f_{pos}(t),

the slope of the ROC curve there. Both models saw the same samples, so the influences of b minus those of a, sample by
sample, give the variance of the difference, `var(positives)/M + var(negatives)/N`, as DeLong's do for AUROC.
Bootstrap errors of a cut-off are too large (intervals cover 97 to 99 %); these cover 93 to 96 % in the simulations of
`tests/unit/metrics/test_metrics_coverage.py`. The densities are Gaussian kernel estimates after a transform of the
pooled ranks to normal scores, so nothing changes under a monotone transform of the scores.
Source: Hsieh & Turnbull (1996), Annals of Statistics 24, theorem 2.2, for the asymptotic law of an empirical ROC curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from benchmark.errors import InputError, UndefinedMetric
from benchmark.metrics.arrays import Floats, as_vector, require_fraction, require_same_length
from benchmark.metrics.bootstrap import LEVEL as CONFIDENCE
from benchmark.metrics.bootstrap import Comparison
from benchmark.metrics.detection import LEVEL, fpr95_id_positive, fpr95_ood_positive

Convention: TypeAlias = Literal["ood_positive", "id_positive"]
Model: TypeAlias = tuple[npt.ArrayLike, npt.ArrayLike]
METHOD = "normal, from the influence of each sample"
_BANDWIDTH = 0.5
"""Of the kernel, in units of `spread * n^(-1/5)`: less than Silverman's 0.9, whose bias at the 5 % quantile is felt."""


def fpr95_difference_interval(
    model_a: Model, model_b: Model, convention: Convention, *, level: float = CONFIDENCE
) -> Comparison:
    """`fpr95(b) - fpr95(a)` with a normal interval and two-sided p value.

    Args: model_a, model_b: (ID scores (M,), OOD scores (N,)), higher in distribution, the same samples in the same
    order; convention: which of the two FPR95 of `detection`.

    Raises:
        UndefinedMetric: all scores of a model are equal, so that there is no slope.
    """
    return fpr95_mean_difference_interval(
        (model_a[0], [model_a[1]]), (model_b[0], [model_b[1]]), convention, level=level
    )


def fpr95_mean_difference_interval(
    model_a: tuple[npt.ArrayLike, Sequence[npt.ArrayLike]],
    model_b: tuple[npt.ArrayLike, Sequence[npt.ArrayLike]],
    convention: Convention,
    *,
    level: float = CONFIDENCE,
) -> Comparison:
    """The same for the mean over K OOD data sets, which share the ID samples; models are (ID scores, [OOD scores])."""
    if convention not in ("ood_positive", "id_positive"):
        raise InputError(f"convention: expected 'ood_positive' or 'id_positive', got '{convention}'.")
    if len(model_a[1]) != len(model_b[1]) or not model_a[1]:
        raise InputError(f"OOD data sets: {len(model_a[1])} of model a, {len(model_b[1])} of model b; must be paired.")
    if _same(model_a, model_b):
        return _comparison(0.0, 0.0, level)
    pairs = [
        (_influence(model_a[0], a, convention), _influence(model_b[0], b, convention))
        for a, b in zip(model_a[1], model_b[1], strict=True)
    ]
    delta = float(np.mean([b.value - a.value for a, b in pairs]))
    for a, b in pairs:
        require_same_length(a=a.inside, b=b.inside)
        require_same_length(a=a.outside, b=b.outside)
    variance = _variance_of_mean(np.mean([b.inside - a.inside for a, b in pairs], axis=0))
    variance += sum(_variance_of_mean(b.outside - a.outside) for a, b in pairs) / len(pairs) ** 2
    return _comparison(delta, float(np.sqrt(variance)), level)


def _same(
    model_a: tuple[npt.ArrayLike, Sequence[npt.ArrayLike]], model_b: tuple[npt.ArrayLike, Sequence[npt.ArrayLike]]
) -> bool:
    """Whether all scores agree: then there is no difference, whatever the slope."""
    pairs = zip((model_a[0], *model_a[1]), (model_b[0], *model_b[1]), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


@dataclass(frozen=True)
class _Influence:
    """FPR95 of one model on one pair of groups, and what each ID (M,) and OOD (N,) sample adds to its error."""

    value: float
    inside: Floats
    outside: Floats


def _influence(id_scores: npt.ArrayLike, ood_scores: npt.ArrayLike, convention: Convention) -> _Influence:
    inside, outside = as_vector(id_scores, "in-distribution scores"), as_vector(ood_scores, "OOD scores")
    if convention == "id_positive":
        positive, negative = _influences(inside, outside)
        return _Influence(fpr95_id_positive(inside, outside), positive, negative)
    positive, negative = _influences(-outside, -inside)
    return _Influence(fpr95_ood_positive(inside, outside), negative, positive)


def _influences(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """What each positive (M,) and each negative (N,) adds to M or N times the error of the false positive rate."""
    from scipy.stats import rankdata  # late: the import takes most of a second, a finished sweep needs none

    cut = np.sort(positive)[int((1.0 - LEVEL) * len(positive))]
    pooled = np.concatenate([positive, negative])
    scores = ndtri((rankdata(pooled) - 0.5) / len(pooled))
    at = float(scores[np.argmin(np.abs(pooled - cut))])
    above, below = _density(scores[len(positive) :], at), _density(scores[: len(positive)], at)
    slope = above / below
    return slope * (positive < cut), (negative >= cut).astype(np.float64)


def _density(values: Floats, at: float) -> float:
    """Gaussian kernel estimate of a density at a point."""
    low, high = np.quantile(values, [0.25, 0.75])
    spreads = [s for s in (float(values.std()), float(high - low) / 1.349) if s > 0.0]
    if not spreads:
        raise UndefinedMetric("FPR95: all scores of a group are equal; its error has no estimate.")
    width = _BANDWIDTH * min(spreads) * len(values) ** -0.2
    return float(np.exp(-0.5 * np.square((values - at) / width)).mean() / (width * np.sqrt(2.0 * np.pi)))


def _variance_of_mean(values: Floats) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _comparison(delta: float, error: float, level: float) -> Comparison:
    if error == 0.0:
        if delta != 0.0:
            raise UndefinedMetric(f"FPR95: the difference {delta:.6g} has no standard error on so few samples.")
        return Comparison(0.0, 0.0, 0.0, 1.0, METHOD)
    half = float(ndtri((1.0 + require_fraction(level, "level")) / 2.0)) * error
    p = float(2.0 * ndtr(-abs(delta) / error))
    return Comparison(delta, max(-1.0, delta - half), min(1.0, delta + half), p, METHOD)

"""Bootstrap intervals of differences that need confidences or scores: ECE, FPR95, corruption accuracy.

a = reference (full precision), b = the other model, on the same samples in the same order.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import (
    Floats,
    Ints,
    as_bools,
    as_vector,
    require_fraction,
    require_positive,
    require_same_length,
)
from benchmark.metrics.bootstrap import (
    DRAWS,
    LEVEL,
    Comparison,
    clustered_bootstrap,
    resample_counts,
    summarise_draws,
)
from benchmark.metrics.calibration import bin_index
from benchmark.metrics.detection import fpr_at_least, fpr_nearest


def clustered_difference_interval(
    correct_a: npt.ArrayLike, correct_b: npt.ArrayLike, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Comparison:
    """Mean accuracy of b minus that of a over all variants; see `clustered_bootstrap`."""

    def difference(a: Floats, b: Floats) -> float:
        return float((b - a).mean())

    return clustered_bootstrap(difference, correct_a, correct_b, draws=draws, seed=seed, level=level)


def ece_difference_interval(
    confidence_a: npt.ArrayLike,
    correct_a: npt.ArrayLike,
    confidence_b: npt.ArrayLike,
    correct_b: npt.ArrayLike,
    *,
    bins: int = 15,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Comparison:
    """`ece(b) - ece(a)` (equal width, L1) by paired index bootstrap of the samples, all arrays (N,)."""
    gaps, indices = [], []
    for name, confidence, correct in (("a", confidence_a, correct_a), ("b", confidence_b, correct_b)):
        conf, hit = as_vector(confidence, f"confidence of model {name}"), as_bools(correct, f"correct of model {name}")
        gaps.append(conf - hit)
        indices.append(bin_index(conf, bins))
    n = require_same_length(confidence_a=gaps[0], confidence_b=gaps[1])
    tables = []
    for gap, index in zip(gaps, indices, strict=True):
        table = np.zeros((n, bins))
        table[np.arange(n), index] = gap
        tables.append(table)

    def difference(weights: Floats) -> Floats:
        a, b = (np.abs(weights @ table).sum(axis=1) / n for table in tables)
        return np.asarray(b - a, dtype=np.float64)

    blocks = resample_counts(np.random.default_rng(seed), n, require_positive(draws, "draws"))
    values = np.concatenate([difference(block) for block in blocks])
    return summarise_draws(float(difference(np.ones((1, n)))[0]), values, level)


class _WeightedCurve:
    """Counts at or above each cut-off when sample k occurs `weight[k]` times; sorted once, resampled often."""

    def __init__(self, positive: Floats, negative: Floats) -> None:
        cuts, index = np.unique(-np.concatenate([positive, negative]), return_inverse=True)
        self._length, self._true, self._false = len(cuts), index[: len(positive)], index[len(positive) :]

    def counts(self, positive_weight: Floats, negative_weight: Floats) -> tuple[Ints, Ints]:
        true = np.bincount(self._true, weights=positive_weight, minlength=self._length)
        false = np.bincount(self._false, weights=negative_weight, minlength=self._length)
        # Cut-offs at scores that the resample lacks repeat the counts of a stricter one, which changes no choice.
        return np.cumsum(true).astype(np.int64), np.cumsum(false).astype(np.int64)


def fpr95_difference_interval(
    model_a: tuple[npt.ArrayLike, npt.ArrayLike],
    model_b: tuple[npt.ArrayLike, npt.ArrayLike],
    convention: Literal["ood_positive", "id_positive"],
    *,
    draws: int = 1_000,
    seed: int = 0,
    level: float = LEVEL,
    share: float = 0.95,
) -> Comparison:
    """`fpr95(b) - fpr95(a)`, ID and OOD samples resampled separately, both models with the same resample.

    Args: model_a, model_b: (ID scores (M,), OOD scores (N,)), higher in distribution, the same samples in the same
    order; convention: which of the two FPR95 of `detection`; share: its 0.95.
    """
    if convention not in ("ood_positive", "id_positive"):
        raise InputError(f"convention: expected 'ood_positive' or 'id_positive', got '{convention}'.")
    require_fraction(share, "share")
    ids = [as_vector(model[0], "in-distribution scores") for model in (model_a, model_b)]
    oods = [as_vector(model[1], "OOD scores") for model in (model_a, model_b)]
    m, n = require_same_length(a=ids[0], b=ids[1]), require_same_length(a=oods[0], b=oods[1])
    ood_first = convention == "ood_positive"
    curves = [_WeightedCurve(-o, -i) if ood_first else _WeightedCurve(i, o) for i, o in zip(ids, oods, strict=True)]

    def difference(id_weight: Floats, ood_weight: Floats) -> float:
        rule = fpr_at_least if ood_first else fpr_nearest
        weights = (ood_weight, id_weight) if ood_first else (id_weight, ood_weight)
        a, b = (rule(*curve.counts(*weights), share) for curve in curves)
        return b - a

    rng = np.random.default_rng(seed)
    values = [
        difference(*(np.bincount(rng.integers(k, size=k), minlength=k).astype(np.float64) for k in (m, n)))
        for _ in range(require_positive(draws, "draws"))
    ]
    # Plain percentiles are too wide here (98 % instead of 95 %): the bootstrap overstates the spread of a cut-off.
    return summarise_draws(difference(np.ones(m), np.ones(n)), values, level, kind="bias_corrected")

"""Bootstrap intervals of differences that need confidences or scores: ECE, corruption accuracy.

a = reference (full precision), b = the other model, on the same samples in the same order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmark.metrics.arrays import (
    Floats,
    as_bools,
    as_vector,
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

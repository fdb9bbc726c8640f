"""Significance: everything a comparison with full precision needs, under one name.

Which method for which metric: accuracy, relative change, RSG and Vuln_add go through the four outcome cells
(`outcomes`) with McNemar's exact p value where there is one; ECE through a paired index bootstrap (`differences`);
corrupted data through a bootstrap over base images; AUROC through DeLong (`delong`), FPR95 through the influence of
each sample (`fpr95`). All p values that are shown together are then adjusted by `benjamini_hochberg`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import Floats, require_finite
from benchmark.metrics.bootstrap import (
    Comparison,
    Interval,
    bootstrap,
    bootstrap_p,
    clustered_bootstrap,
    paired_bootstrap,
    summarise_draws,
)
from benchmark.metrics.delong import delong, delong_mean
from benchmark.metrics.detection_draws import detection_differences
from benchmark.metrics.differences import (
    clustered_difference_interval,
    ece_difference_interval,
)
from benchmark.metrics.fpr95 import fpr95_difference_interval, fpr95_mean_difference_interval
from benchmark.metrics.outcomes import (
    PairedCells,
    accuracy_difference_interval,
    cell_bootstrap,
    mcnemar_exact,
    paired_cells,
    relative_change_interval,
    rsg_difference_interval,
    vuln_add_interval,
)
from benchmark.metrics.resample import attempt, difference, draws_for, group_draws, mean_difference, sum_draws

__all__ = [
    "Comparison",
    "Interval",
    "PairedCells",
    "accuracy_difference_interval",
    "attempt",
    "benjamini_hochberg",
    "bootstrap",
    "bootstrap_p",
    "cell_bootstrap",
    "clustered_bootstrap",
    "clustered_difference_interval",
    "delong",
    "delong_mean",
    "detection_differences",
    "difference",
    "draws_for",
    "ece_difference_interval",
    "fpr95_difference_interval",
    "fpr95_mean_difference_interval",
    "group_draws",
    "mcnemar_exact",
    "mean_difference",
    "paired_bootstrap",
    "paired_cells",
    "relative_change_interval",
    "rsg_difference_interval",
    "stars",
    "sum_draws",
    "summarise_draws",
    "vuln_add_interval",
]


def benjamini_hochberg(p: npt.ArrayLike) -> Floats:
    """q values that control the false discovery rate over all given tests (Benjamini & Hochberg 1995).

    `q_(i) = min_{j >= i} p_(j) K / j`, at most 1. Args: p (K,) in [0, 1], K >= 0. Returns (K,) in the order given.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    array([0.03, 0.04, 0.04])
    """
    values = require_finite(p, "p values")
    if values.ndim != 1:
        raise InputError(f"p values: expected one dimension, got shape {values.shape}.")
    if values.size and (values.min() < 0.0 or values.max() > 1.0):
        raise InputError("p values: outside [0, 1].")
    order = np.argsort(values, kind="stable")
    scaled = values[order] * len(values) / np.arange(1, len(values) + 1)
    q = np.empty_like(values)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1.0)
    return q


def stars(q: float) -> str:
    """Stars of an adjusted p value: '***' below 0.001, '**' below 0.01, '*' below 0.05, otherwise none."""
    if not 0.0 <= q <= 1.0:
        raise InputError(f"q value: expected a number in [0, 1], got {q}.")
    return "***" if q < 0.001 else "**" if q < 0.01 else "*" if q < 0.05 else ""

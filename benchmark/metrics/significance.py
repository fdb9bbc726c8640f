"""What many tests at once need: q values and their stars."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import Floats, require_finite


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

"""Resampling many statistics at once: the draws of sums, group accuracies and detection measures of two models.

a = reference (full precision), b = the other model, on the same samples in the same order. One set of draws serves all
metrics of an evaluation, so a comparison costs seconds where one bootstrap for each metric would cost minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError, UndefinedMetric
from benchmark.metrics.arrays import (
    Floats,
    as_bools,
    require_finite,
    require_fraction,
    require_positive,
    require_same_length,
)
from benchmark.metrics.bootstrap import LEVEL, Comparison, resample_counts, summarise_draws
from benchmark.metrics.outcomes import paired_cells

SEED = 0
"""Seed of every comparison, recorded with it: the same records give the same intervals."""

LEAST_DRAWS = 200
P = ParamSpec("P")
_NORMAL = "normal, bootstrap standard error"


def attempt(function: Callable[P, Comparison], *args: P.args, **kwargs: P.kwargs) -> Comparison | str:
    """A comparison, or the reason why it has no value on this data: what `@task.significance` returns for a metric.

    >>> attempt(mean_difference, [], [])
    'bootstrap: no samples to resample.'
    """
    try:
        return function(*args, **kwargs)
    except UndefinedMetric as reason:
        return str(reason)


def draws_for(samples: int, most: int = 1_000, budget: int = 100_000_000) -> int:
    """How often to resample: `most` times, fewer where `samples * draws` would pass `budget`, never below 200.

    >>> draws_for(2_400), draws_for(1_000_000)
    (1000, 200)
    """
    return max(LEAST_DRAWS, min(most, budget // max(samples, 1)))


def sum_draws(*columns: npt.ArrayLike, draws: int, seed: int = SEED) -> list[Floats]:
    """Sums of per-sample columns over resamples of the samples, the same resamples for all arguments.

    Args: columns: (N, K) each, K may differ; draws: B. Returns one (B, K) array for each.

    Every statistic that is a function of sums (ECE, Brier score, accuracy under corruptions) follows from them. Each
    array gets a product of its own: identical models then give identical sums to the last bit.
    """
    arrays = [require_finite(column, "resampled columns") for column in columns]
    if any(array.ndim != 2 for array in arrays):
        raise InputError(f"resampled columns: expected (N, K), got shapes {[array.shape for array in arrays]}.")
    samples = require_same_length(**{f"columns {i}": array for i, array in enumerate(arrays)})
    parts: list[list[Floats]] = [[] for _ in arrays]
    for block in resample_counts(np.random.default_rng(seed), samples, require_positive(draws, "draws")):
        for part, array in zip(parts, arrays, strict=True):
            part.append(block @ array)
    return [np.concatenate(part) for part in parts]


def mean_difference(a: npt.ArrayLike, b: npt.ArrayLike, *, draws: int | None = None, seed: int = SEED) -> Comparison:
    """`mean(b) - mean(a)` of two (N,) per-sample columns by the paired bootstrap.

    >>> mean_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).p
    1.0
    """
    first, second = require_finite(a, "column of model a"), require_finite(b, "column of model b")
    n = require_same_length(a=first, b=second)
    if n == 0:
        raise UndefinedMetric("bootstrap: no samples to resample.")
    (sums,) = sum_draws((second - first)[:, None], draws=draws or draws_for(n), seed=seed)
    return summarise_draws(float((second - first).mean()), sums[:, 0] / n)


def group_draws(
    correct_a: npt.ArrayLike, correct_b: npt.ArrayLike, group: npt.ArrayLike, *, draws: int, seed: int = SEED
) -> tuple[Floats, Floats]:
    """Accuracies of both models within each group that is present, resampled within the groups (sizes are kept).

    Args: correct (N,) bool; group (N,) integers. Returns (1 + draws, G) for a and for b, groups in ascending order;
    the first row is what was observed.
    """
    a, b = as_bools(correct_a, "correct of model a"), as_bools(correct_b, "correct of model b")
    names = np.asarray(group)
    require_same_length(a=a, b=b, group=names)
    rng = np.random.default_rng(seed)
    first, second = [], []
    for name in np.unique(names):
        cells = paired_cells(a[names == name], b[names == name])
        observed = np.array([[cells.both, cells.only_a, cells.only_b, cells.neither]], dtype=np.float64)
        counts = np.concatenate([observed, cells.draw(rng, require_positive(draws, "draws"))])
        first.append((counts[:, 0] + counts[:, 1]) / cells.total)
        second.append((counts[:, 0] + counts[:, 2]) / cells.total)
    return np.stack(first, axis=1), np.stack(second, axis=1)


def difference(a: Floats, b: Floats, *, p: float | None = None) -> Comparison:
    """A comparison from two series of draws; their first elements are what was observed.

    Args: a, b: (1 + B,) values of a statistic for both models, NaN or infinite where it is undefined.

    Raises:
        UndefinedMetric: undefined on the data itself, or on more than 1 % of the resamples.
    """
    with np.errstate(invalid="ignore"):
        values = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    observed, values = float(values[0]), values[1:]
    if not np.isfinite(observed):
        raise UndefinedMetric("the difference has a zero denominator.")
    return summarise_draws(observed, np.where(np.isfinite(values), values, np.nan), p=p)


def normal_difference(a: Floats, b: Floats, level: float = LEVEL) -> Comparison:
    """A comparison from few draws: observed difference, and Student's t interval and p with their standard error.

    For statistics whose bootstrap distribution is lumpy or biased (cut-offs such as FPR95), where percentiles cover too
    much and their p values disagree with corrected intervals. Args as for `difference`.
    """
    from scipy.stats import t as student  # late: the import takes most of a second, a finished sweep needs none

    values = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    observed, draws = float(values[0]), require_finite(values[1:], "bootstrap draws")
    error = float(draws.std(ddof=1))
    if error == 0.0:
        if observed != 0.0:
            raise UndefinedMetric(
                f"no resample differs from the difference {observed:.6g}; there is no standard error."
            )
        return Comparison(0.0, 0.0, 0.0, 1.0, _NORMAL, len(draws))
    freedom = len(draws) - 1
    half = float(student.ppf((1.0 + require_fraction(level, "level")) / 2.0, freedom)) * error
    p = min(1.0, 2.0 * float(student.sf(abs(observed) / error, freedom)))
    return Comparison(observed, max(-1.0, observed - half), min(1.0, observed + half), p, _NORMAL, len(draws))

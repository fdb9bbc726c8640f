"""Paired bootstrap: how far a difference between two models would move with another sample of images.

a = reference (full precision), b = the other model; both saw the same images in the same order. Intervals are
percentile intervals unless said otherwise, at `level` (0.95 by default); every function takes a `seed`. Identical
models give delta 0, the interval [0, 0] and p = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from benchmark.errors import InputError, UndefinedMetric
from benchmark.metrics.arrays import (
    Bools,
    Floats,
    as_vector,
    require_finite,
    require_fraction,
    require_positive,
    require_same_length,
    zero_one,
)

LEVEL = 0.95
DRAWS = 2_000
_WEIGHT_BLOCK = 1 << 21

Kind: TypeAlias = Literal["percentile", "bias_corrected"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval; low <= high."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A difference between two models, its confidence interval and its two-sided p value.

    `method` says in words where interval and p value come from; `draws` is the number of resamples behind them, None
    for a closed form.
    """

    delta: float
    low: float
    high: float
    p: float
    method: str = field(default="bootstrap", compare=False)
    draws: int | None = field(default=None, compare=False)

    @property
    def interval(self) -> Interval:
        """The confidence interval alone."""
        return Interval(self.low, self.high)


def bootstrap_p(draws: npt.ArrayLike, observed: float) -> float:
    """Two-sided Monte-Carlo p value `(1 + k) / (1 + B)`, never 0.

    k counts the B bootstrap draws that lie at least as far from the observed value as that lies from zero (the draws
    moved to the null hypothesis). An observed value of 0 gives 1.
    """
    values = as_vector(draws, "bootstrap draws")
    # Equal counts can differ in the last bit after a division; such draws are as extreme as the observed value.
    slack = 1e-9 * max(abs(observed), 1e-300)
    extreme = np.count_nonzero(np.abs(values - observed) >= abs(observed) - slack)
    return float((1 + extreme) / (1 + len(values)))


def summarise_draws(
    observed: float, draws: npt.ArrayLike, level: float = LEVEL, *, p: float | None = None, kind: Kind = "percentile"
) -> Comparison:
    """Interval and p value of bootstrap draws of a difference.

    Draws on which the statistic is undefined (NaN) are left out when they are fewer than 1 %, and otherwise raise
    UndefinedMetric. `p` replaces the bootstrap p value when an exact one is known. kind "bias_corrected" moves the
    percentiles by twice the normal deviate of the share of draws below the observed value (Efron 1981).
    """
    require_finite([observed], "observed difference")
    values = np.asarray(draws, dtype=np.float64)
    defined = values[~np.isnan(values)]
    if len(defined) < 0.99 * len(values):
        missing = len(values) - len(defined)
        raise UndefinedMetric(f"bootstrap: the statistic has no value on {missing} of {len(values)} resamples.")
    tail = (1.0 - require_fraction(level, "level")) / 2.0
    ends = np.array([tail, 1.0 - tail])
    if kind == "bias_corrected":
        below = (np.mean(defined < observed) + np.mean(defined <= observed)) / 2.0
        shift = ndtri(np.clip(below, 0.5 / len(defined), 1.0 - 0.5 / len(defined)))
        ends = ndtr(2.0 * shift + ndtri(ends))
    low, high = (float(q) for q in np.quantile(defined, ends))
    method = ("bootstrap" if kind == "percentile" else "bias-corrected bootstrap") + (", McNemar's p" if p else "")
    value = bootstrap_p(defined, observed) if p is None else p
    return Comparison(float(observed), low, high, value, method, len(values))


def resample_counts(rng: np.random.Generator, samples: int, draws: int) -> Iterator[Floats]:
    """Blocks (k, N) of how often each sample occurs in a resample of N with replacement; k sums to `draws`."""
    block = max(1, _WEIGHT_BLOCK // samples)
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        chosen = rng.integers(samples, size=(rows, samples)) + np.arange(rows)[:, None] * samples
        yield np.bincount(chosen.reshape(-1), minlength=rows * samples).reshape(rows, samples).astype(np.float64)


def bootstrap(
    statistic: Callable[..., float],
    groups: Sequence[Sequence[npt.ArrayLike]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Comparison:
    """Index bootstrap of any statistic, each group of arrays resampled on its own along the first axis.

    `statistic` gets all arrays of all groups in order. ID and OOD samples are two groups, models a and b of the same
    samples share one. A resample on which it raises UndefinedMetric counts as undefined.
    """
    rng = np.random.default_rng(seed)
    arrays = [[np.asarray(array) for array in group] for group in groups]
    lengths = [require_same_length(**{f"array {k}": a for k, a in enumerate(group)}) for group in arrays]
    if not lengths or min(lengths) == 0:
        raise UndefinedMetric("bootstrap: no samples to resample.")
    observed = float(statistic(*(array for group in arrays for array in group)))
    values = np.empty(require_positive(draws, "draws"))
    for k in range(draws):
        picks = [rng.integers(length, size=length) for length in lengths]
        try:
            values[k] = statistic(*(a[i] for group, i in zip(arrays, picks, strict=True) for a in group))
        except UndefinedMetric:
            values[k] = np.nan
    return summarise_draws(observed, values, level)


def paired_bootstrap(
    statistic: Callable[..., float],
    arrays: Sequence[npt.ArrayLike],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Comparison:
    """`bootstrap` of arrays that share one set of samples; the statistic is the difference itself."""
    return bootstrap(statistic, [arrays], draws=draws, seed=seed, level=level)


def clustered_bootstrap(
    statistic: Callable[[Floats, Floats], float],
    correct_a: npt.ArrayLike,
    correct_b: npt.ArrayLike,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Comparison:
    """Bootstrap over **base images**, each of which brings all its variants (corruption types x severities) along.

    Taking V variants as independent understates the error several times.
    Args: correct (I, V) bool, I base images by V variants, of both models; statistic maps the two (V,) accuracies to
    the difference.
    """
    a, b = _variants(correct_a, "correct of model a"), _variants(correct_b, "correct of model b")
    if a.shape != b.shape:
        raise InputError(f"correct: shapes {a.shape} and {b.shape} differ; both models must see the same variants.")
    images, hits_a, hits_b = len(a), a.astype(np.float64), b.astype(np.float64)

    def value(accuracy_a: Floats, accuracy_b: Floats) -> float:
        try:
            return float(statistic(accuracy_a, accuracy_b))
        except UndefinedMetric:
            return float("nan")

    observed = float(statistic(hits_a.sum(axis=0) / images, hits_b.sum(axis=0) / images))
    values: list[float] = []
    for block in resample_counts(np.random.default_rng(seed), images, require_positive(draws, "draws")):
        # Two products of one shape, not one of both: identical models then give identical sums to the last bit.
        values += map(value, block @ hits_a / images, block @ hits_b / images)
    return summarise_draws(observed, values, level)


def _variants(correct: npt.ArrayLike, name: str) -> Bools:
    array = np.asarray(correct)
    if array.ndim != 2:
        raise InputError(f"{name}: expected (images, variants), got shape {array.shape}.")
    if array.size == 0:
        raise UndefinedMetric(f"{name}: empty, there is nothing to compare.")
    return zero_one(array, name)

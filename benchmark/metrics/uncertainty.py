r"""One mechanism for uncertainty: leave-one-group-out replicates.

Samples fall into `GROUPS` groups by a hash of their picture (`base_id`) alone, never of a data set or a record. Each
metric of each record has its values without each group. Of **any** function h of metrics of any records, with
:math:`h_{(-g)}` its value without group g and :math:`d_g` its distance to their mean,

.. math:: SE^2 = \frac{G - 1}{G} \sum_g d_g^2, \qquad df = \frac{(\sum_g d_g^2)^2}{\sum_g d_g^4}

(at least 1, at most the occupied groups - 1), and :math:`(\hat h - h) / SE` is compared with Student's t. Interval and
p value are one statistic. The same group holds the same pictures everywhere, so the sum is right for data sets that
share pictures and for those that do not. Sources: Kott (2001), Journal of Official Statistics 17, for the
delete-a-group jackknife; Satterthwaite (1946), Biometrics Bulletin 2, for df.

Where few answers change, replicates alone are too sure. Differences of proportions therefore follow Bonett & Price
(`paired_proportions`), and smooth functions of right and wrong answers get the same pair of added flips by the delta
method: `slack`, the mean of squared weights of one picture's answer, enters the variance once for either model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from benchmark.errors import InputError
from benchmark.metrics.arrays import Floats, Ints, as_bools, require_fraction, require_same_length

GROUPS = 64
LEVEL = 0.95
REPLICATES = "replicates"
PROPORTIONS = "Bonett & Price"


def groups_of(base_id: NDArray[Any]) -> Ints:
    """(N,) group of each picture, in [0, GROUPS): SHA-256 of its id alone. Args: base_id (N,) texts."""
    names, inverse = np.unique(np.asarray(base_id).astype(str), return_inverse=True)
    groups = np.fromiter((_group(name) for name in names.tolist()), dtype=np.int64, count=len(names))
    return np.asarray(groups[inverse], dtype=np.int64)


@lru_cache(maxsize=1 << 18)
def _group(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") % GROUPS


@dataclass(frozen=True)
class Measured:
    """A metric with what is known about its error.

    Attributes:
        value: on all samples. replicates: (GROUPS,) without each group; a group without samples has `value`.
        slack: mean over pictures of the squared weight that one picture's right or wrong answer has in the metric; 0
            for metrics of continuous scores.
    """

    value: float
    replicates: Floats = field(repr=False)
    slack: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """A number with its error: `(center - truth) / error` follows Student's t with `df` degrees of freedom.

    Attributes:
        value: the number itself. center: middle of its interval; another number only for paired proportions.
        error: standard error, > 0. df: math.inf for the normal distribution.
    """

    value: float
    error: float
    df: float
    center: float
    method: str = REPLICATES

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Two-sided interval; each end is a one-sided bound at `(1 + level) / 2`."""
        half = _quantile((1.0 + require_fraction(level, "level")) / 2.0, self.df) * self.error
        return self.center - half, self.center + half

    @property
    def p(self) -> float:
        """Two-sided p value of a truth of 0; the 95 % interval holds 0 exactly if it is >= 0.05."""
        return 2.0 * _below(-abs(self.center) / self.error, self.df)

    def p_above(self, bound: float) -> float:
        """One-sided p value of a truth of at most `bound`: small where it is shown to be above."""
        return _below((bound - self.center) / self.error, self.df)

    def p_below(self, bound: float) -> float:
        """One-sided p value of a truth of at least `bound`: small where it is shown to be below."""
        return _below((self.center - bound) / self.error, self.df)


def estimate(function: Callable[..., Any], *metrics: Measured, occupied: int) -> Estimate | None:
    """Any function of metrics, of one record or of many.

    Args:
        function: of as many numbers, or (GROUPS,) arrays, as there are metrics; vectorised and smooth.
        occupied: number of groups that hold samples.

    Returns:
        None where it does not vary at all, or has no value without some group: there is no error to speak of.

    >>> a, b = (Measured(v, v + 0.01 * np.cos(np.arange(64.0) * k)) for v, k in ((0.5, 1), (0.6, 2)))
    >>> round(estimate(lambda x, y: y - x, a, b, occupied=64).value, 3)
    0.1
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(function(*(metric.value for metric in metrics)))
        replicates = np.broadcast_to(np.asarray(function(*(m.replicates for m in metrics)), np.float64), (GROUPS,))
        slack = sum(_slope(function, metrics, at) ** 2 * m.slack for at, m in enumerate(metrics) if m.slack)
    return from_replicates(value, replicates, occupied, float(slack))


def from_replicates(value: float, replicates: Floats, occupied: int, slack: float = 0.0) -> Estimate | None:
    """The estimate that replicates (GROUPS,) of a number give. Args: slack: further variance; see `estimate`."""
    if occupied < 2 or not (math.isfinite(value) and np.isfinite(replicates).all()):
        return None
    squares = (replicates - replicates.mean()) ** 2
    total, fourth = float(squares.sum()), float((squares**2).sum())
    variance = (GROUPS - 1) / GROUPS * total + slack
    if not variance > 1e-24 * max(1.0, value * value):  # of rounding only
        return None
    free = occupied - 1 if slack or not fourth else min(max(total**2 / fourth, 1.0), occupied - 1)
    return Estimate(value, math.sqrt(variance), float(max(free, 1)), value)


def intervals(values: Floats, replicates: Floats, occupied: int, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Ends of the intervals that `from_replicates` gives, of K numbers at once; NaN where it gives none.

    Args: values (K,). replicates (GROUPS, K). Returns: (K,) each.
    """
    from scipy.special import stdtrit  # late: most commands need none

    known = np.isfinite(values) & np.isfinite(replicates).all(axis=0) & (occupied > 1)
    middle, rest = np.where(known, values, 0.0), np.where(known, replicates, 0.0)
    squares = (rest - rest.mean(axis=0)) ** 2
    total, fourth = squares.sum(axis=0), (squares**2).sum(axis=0)
    variance = (GROUPS - 1) / GROUPS * total
    known &= (variance > 1e-24 * np.maximum(1.0, middle**2)) & (fourth > 0.0)
    most = max(occupied - 1, 1)
    df = np.divide(total**2, fourth, out=np.ones_like(total), where=known).clip(1.0, most)
    half = stdtrit(df, (1.0 + require_fraction(level, "level")) / 2.0) * np.sqrt(variance)
    return np.where(known, middle - half, np.nan), np.where(known, middle + half, np.nan)


def _slope(function: Callable[..., Any], metrics: Sequence[Measured], at: int) -> float:
    """Derivative of the function in one of its metrics, by a central difference."""
    values = [metric.value for metric in metrics]
    step = 1e-6 * max(1.0, abs(values[at]))
    ends = [float(function(*values[:at], values[at] + side * step, *values[at + 1 :])) for side in (-1.0, 1.0)]
    return (ends[1] - ends[0]) / (2.0 * step)


def paired_proportions(before: npt.ArrayLike, now: npt.ArrayLike) -> Estimate:
    r"""Difference of two paired proportions, `mean(now) - mean(before)`, with an error at every number of flips.

    With :math:`u = (flips_{+} + 1) / (n + 2)` and :math:`v = (flips_{-} + 1) / (n + 2)` the interval is
    :math:`u - v \pm z \sqrt{(u + v - (u - v)^2) / (n + 2)}`.
    Source: Bonett & Price (2012), Journal of Educational and Behavioral Statistics 37, adjusted Wald interval.

    Args: before, now (N,) bool, the same samples in the same order.

    >>> low, high = paired_proportions([True] * 300, [True] * 300).interval()
    >>> round(100 * high, 2)
    0.92
    """
    a, b = as_bools(before, "answers before"), as_bools(now, "answers now")
    n = require_same_length(before=a, now=b)
    gained, lost = (float(np.count_nonzero(flips)) for flips in (~a & b, a & ~b))
    up, down = (gained + 1.0) / (n + 2.0), (lost + 1.0) / (n + 2.0)
    error = math.sqrt((up + down - (up - down) ** 2) / (n + 2.0))
    return Estimate((gained - lost) / n, error, math.inf, up - down, PROPORTIONS)


def wilson(share: float, count: int, level: float = LEVEL) -> tuple[float, float]:
    r"""Score interval of a proportion of independent answers.

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Source: Wilson (1927), Journal of the American Statistical Association 22.

    Args: share: of right answers, 0 to 1. count: of all answers, at least 1.

    >>> low, high = wilson(0.5, 100)
    >>> round(low, 4), round(high, 4)
    (0.4038, 0.5962)
    """
    if not 0 <= share <= 1 or count < 1:
        raise InputError(f"share {share} of {count} answers: expected 0 to 1 of at least 1. Give both so.")
    z = _quantile((1 + level) / 2, math.inf)
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return max(0.0, center - half), min(1.0, center + half)


def occupied_in(*groups: Iterable[int]) -> int:
    """How many groups hold samples."""
    return len({int(group) for some in groups for group in some})


def _quantile(level: float, df: float) -> float:
    from scipy.special import ndtri, stdtrit  # late: most commands need none

    return float(ndtri(level)) if math.isinf(df) else float(stdtrit(df, level))


def _below(t: float, df: float) -> float:
    from scipy.special import ndtr, stdtr  # late: most commands need none

    if math.isnan(t):
        raise InputError("an estimate is not a number")
    return float(ndtr(t)) if math.isinf(df) else float(stdtr(df, t))

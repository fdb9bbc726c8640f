r"""Does a second model damp what the first one says, or drown it? Gain, energy ratio and systematic share, by group.

For paired numbers p of full precision and r = p + e of another model (features along a direction, margins of a class),
with sums over samples, and over the directions k of a band where there are several:

.. math::
    \text{gain} = \frac{\sum p r}{\sum p^2}, \quad
    \text{energy ratio} = \frac{\sum r^2}{\sum p^2}, \quad
    \text{systematic share} = \frac{\sum_k (\sum p_k e_k)^2 / \sum p_k^2}{\sum e^2}, \quad
    \text{SQNR} = 10 \log_{10} \frac{\sum p^2}{\sum e^2}

The gain is the slope of r on p through the origin. A gain below 1 damps; a gain of 1 with an energy ratio above 1 adds
noise. The systematic share, in [0, 1], is the part of the error's energy that the gains of single directions explain;
of errors independent of p it is about 1 / N. What the gain leaves over, relative to p, is `residual`.

Sums of p^2, p e and e^2 are kept for each group of pictures (`benchmark.metrics.uncertainty`), in float64. So every
ratio has its leave-one-group-out replicates, and memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import Floats, Ints, as_matrix
from benchmark.metrics.uncertainty import GROUPS, intervals

Ratio = Callable[[Floats, Floats, Floats], Floats]
"""Sums of p^2, p e and e^2, (..., K) each, over the last axis -> (...)."""


def gain(pp: Floats, pe: Floats, ee: Floats) -> Floats:
    """Slope of r on p through the origin; 1 where nothing changes, below 1 where it damps."""
    return np.asarray(1.0 + pe.sum(-1) / pp.sum(-1))


def energy_ratio(pp: Floats, pe: Floats, ee: Floats) -> Floats:
    """Energy of r over that of p, >= 0; 1 where nothing changes."""
    return np.asarray(1.0 + (2.0 * pe.sum(-1) + ee.sum(-1)) / pp.sum(-1))


def systematic_share(pp: Floats, pe: Floats, ee: Floats) -> Floats:
    """Share of the error's energy that the gain of each direction explains, in [0, 1]."""
    return np.asarray((pe**2 / pp).sum(-1) / ee.sum(-1))


def sqnr_db(pp: Floats, pe: Floats, ee: Floats) -> Floats:
    """Signal to noise in dB; the noise is the whole error."""
    return np.asarray(10.0 * np.log10(pp.sum(-1) / ee.sum(-1)))


def residual(pp: Floats, pe: Floats, ee: Floats) -> Floats:
    """Root mean square of what the gains leave of the error, relative to p's; 0 where a gain explains all."""
    left = (ee - pe**2 / pp).sum(-1)
    return np.asarray(np.sqrt(np.maximum(left, 0.0) / pp.sum(-1)))


RATIOS: Mapping[str, Ratio] = {
    "gain": gain,
    "energy_ratio": energy_ratio,
    "systematic_share": systematic_share,
    "sqnr_db": sqnr_db,
}
"""What is told of a direction or band, by name."""


def margins(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """(N,) score of the true class minus the largest of the others: above 0 where the answer is right.

    Args: scores (N, C), C >= 2, e.g. cosines. labels (N,).
    """
    values, own = np.array(as_matrix(scores, "scores")), np.asarray(labels, dtype=np.int64)
    if values.shape[1] < 2:
        raise InputError(f"margins: expected at least 2 classes, got {values.shape[1]}.")
    rows = np.arange(len(values))
    true = values[rows, own]
    values[rows, own] = -np.inf
    return np.asarray(true - values.max(axis=1), dtype=np.float64)


@dataclass(frozen=True)
class Told:
    """Numbers with their 95 % intervals, (K,) each; NaN where a number or its interval is undefined."""

    value: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class PairSums:
    """Sums over the samples of each group, (GROUPS, K) each, of K paired numbers.

    count: (GROUPS,) samples.
    """

    pp: Floats = field(repr=False)
    pe: Floats = field(repr=False)
    ee: Floats = field(repr=False)
    count: Ints = field(repr=False)

    @property
    def total(self) -> tuple[Floats, Floats, Floats]:
        """(K,) sums of p^2, p e and e^2 over all samples."""
        return self.pp.sum(0), self.pe.sum(0), self.ee.sum(0)

    def take(self, low: int, high: int) -> PairSums:
        """Those of the directions [low, high)."""
        return PairSums(self.pp[:, low:high], self.pe[:, low:high], self.ee[:, low:high], self.count)

    def each(self, ratio: Ratio) -> Told:
        """A ratio of each of the K numbers."""
        return self._told(lambda *sums: ratio(*(s[..., None] for s in sums)))

    def together(self, ratio: Ratio) -> Told:
        """A ratio of all K together, (1,) each."""
        return self._told(lambda *sums: ratio(*sums)[..., None])

    def _told(self, ratio: Ratio) -> Told:
        total = self.total
        without = tuple(s - part for s, part in zip(total, (self.pp, self.pe, self.ee), strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            value, replicates = ratio(*total), ratio(*without)
        low, high = intervals(value, replicates, int(np.count_nonzero(self.count)))
        return Told(np.where(np.isfinite(value), value, np.nan), low, high)


class PairAccumulator:
    """Streaming `PairSums` of K paired numbers; memory GROUPS x K."""

    def __init__(self, numbers: int) -> None:
        self._sums = [np.zeros((GROUPS, numbers)) for _ in range(3)]
        self._count = np.zeros(GROUPS, dtype=np.int64)

    def update(self, p: npt.ArrayLike, e: npt.ArrayLike, groups: npt.ArrayLike) -> None:
        """Add a batch: p (n, K) of full precision, e = r - p (n, K) of the same samples, and their groups (n,)."""
        first, second = as_matrix(p, "numbers of full precision"), as_matrix(e, "errors")
        at = np.asarray(groups, dtype=np.int64)
        expected = (len(at), self._sums[0].shape[1])
        if not first.shape == second.shape == expected:
            raise InputError(f"paired numbers: expected {expected}, got {first.shape} and {second.shape}.")
        member = np.zeros((GROUPS, len(at)))
        member[at, np.arange(len(at))] = 1.0
        products = first * first, first * second, second * second
        self._sums = [total + member @ product for total, product in zip(self._sums, products, strict=True)]
        self._count += np.bincount(at, minlength=GROUPS)

    @property
    def sums(self) -> PairSums:
        """What was added so far."""
        pp, pe, ee = self._sums
        return PairSums(pp, pe, ee, self._count)

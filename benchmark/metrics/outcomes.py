"""Differences between two models that depend only on which answers are right: exact bootstrap through four cells.

a = reference (full precision), b = the other model, on the same samples in the same order. Resampling 0/1 outcomes is
a multinomial draw of four counts, so 10,000 resamples of 50,000 images cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.errors import UndefinedMetric
from benchmark.metrics.arrays import Floats, as_bools, require_positive, require_same_length
from benchmark.metrics.bootstrap import LEVEL, Comparison, summarise_draws

CELL_DRAWS = 10_000


@dataclass(frozen=True)
class PairedCells:
    """How two models fare on the same samples: counts of right by both, by a only, by b only, by neither."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def total(self) -> int:
        """Number of samples."""
        return self.both + self.only_a + self.only_b + self.neither

    def draw(self, rng: np.random.Generator, draws: int) -> Floats:
        """(draws, 4) cell counts of resampled data: the paired bootstrap of 0/1 outcomes, exactly, as a multinomial."""
        counts = np.array([self.both, self.only_a, self.only_b, self.neither])
        return rng.multinomial(self.total, counts / self.total, size=draws).astype(np.float64)


def paired_cells(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> PairedCells:
    """The four outcome cells of two (N,) boolean arrays that are paired sample by sample."""
    a, b = as_bools(correct_a, "correct of model a"), as_bools(correct_b, "correct of model b")
    require_same_length(a=a, b=b)
    cells = [np.count_nonzero(cell) for cell in (a & b, a & ~b, ~a & b, ~a & ~b)]
    return PairedCells(*(int(count) for count in cells))


def _right(cells: Floats) -> tuple[Floats, Floats]:
    """Right answers of a and b from (..., 4) cell counts."""
    return cells[..., 0] + cells[..., 1], cells[..., 0] + cells[..., 2]


def cell_bootstrap(
    statistic: Callable[..., Floats],
    *cells: PairedCells,
    draws: int = CELL_DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    p: float | None = None,
) -> Comparison:
    """Bootstrap of a function of accuracies on independent data sets (the groups of a spurious-correlation set).

    `statistic` gets A_a, A_b of the first set, A_a, A_b of the second, ... as arrays of one shape, and returns an
    array of that shape; a zero denominator may give NaN or infinity.
    """
    rng = np.random.default_rng(seed)

    def value(counts: list[Floats]) -> Floats:
        accuracies = [right / c.total for c, n in zip(cells, counts, strict=True) for right in _right(n)]
        with np.errstate(divide="ignore", invalid="ignore"):
            result = np.asarray(statistic(*accuracies), dtype=np.float64)
        return np.where(np.isfinite(result), result, np.nan)

    counts = [np.array([[c.both, c.only_a, c.only_b, c.neither]], dtype=np.float64) for c in cells]
    observed = float(value(counts)[0])
    if np.isnan(observed):
        raise UndefinedMetric("the difference has a zero denominator: an accuracy of the reference is zero.")
    resampled = value([c.draw(rng, require_positive(draws, "draws")) for c in cells])
    return summarise_draws(observed, resampled, level, p=p)


def mcnemar_exact(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> float:
    """Two-sided p value of the exact McNemar test that two models are equally accurate, in (0, 1].

    Binomial test of the discordant samples against 1/2: `min(1, 2 P(X <= min(n_a, n_b)))`; 1 when none is discordant.
    """
    from scipy.stats import binom  # late: the import takes most of a second, a finished sweep needs none

    cells = paired_cells(correct_a, correct_b)
    discordant = cells.only_a + cells.only_b
    return min(1.0, 2.0 * float(binom.cdf(min(cells.only_a, cells.only_b), discordant, 0.5))) if discordant else 1.0


def accuracy_difference_interval(
    correct_a: npt.ArrayLike, correct_b: npt.ArrayLike, *, draws: int = CELL_DRAWS, seed: int = 0, level: float = LEVEL
) -> Comparison:
    """`A(b) - A(a)` with its bootstrap interval and the exact McNemar p value. Both arrays (N,) bool."""
    p = mcnemar_exact(correct_a, correct_b)
    cells = paired_cells(correct_a, correct_b)
    return cell_bootstrap(lambda a, b: b - a, cells, draws=draws, seed=seed, level=level, p=p)


def relative_change_interval(
    correct_a: npt.ArrayLike, correct_b: npt.ArrayLike, *, draws: int = CELL_DRAWS, seed: int = 0, level: float = LEVEL
) -> Comparison:
    """The study's `delta = (A(a) - A(b)) / A(a)`, positive for a loss, with interval and exact McNemar p value.

    Raises UndefinedMetric when the reference gets nothing right.
    """
    p = mcnemar_exact(correct_a, correct_b)
    cells = paired_cells(correct_a, correct_b)
    return cell_bootstrap(lambda a, b: (a - b) / a, cells, draws=draws, seed=seed, level=level, p=p)


def rsg_difference_interval(
    common: tuple[npt.ArrayLike, npt.ArrayLike],
    counter: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    draws: int = CELL_DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Comparison:
    """`dRSG = RSG(b) - RSG(a)` (see `robustness.delta_rsg`), common and counter images resampled independently.

    Args: common, counter: (correct of a, correct of b) on that background group. The p value is the bootstrap's.
    """

    def statistic(a_common: Floats, b_common: Floats, a_counter: Floats, b_counter: Floats) -> Floats:
        return (b_common - b_counter) / b_common - (a_common - a_counter) / a_common

    cells = paired_cells(*common), paired_cells(*counter)
    return cell_bootstrap(statistic, *cells, draws=draws, seed=seed, level=level)


def vuln_add_interval(
    common: tuple[npt.ArrayLike, npt.ArrayLike],
    counter: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    draws: int = CELL_DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Comparison:
    """`Vuln_add = delta(counter) - delta(common)`, as `robustness.vuln_add`; arguments of `rsg_difference_interval`."""

    def statistic(a_common: Floats, b_common: Floats, a_counter: Floats, b_counter: Floats) -> Floats:
        return (a_counter - b_counter) / a_counter - (a_common - b_common) / a_common

    cells = paired_cells(*common), paired_cells(*counter)
    return cell_bootstrap(statistic, *cells, draws=draws, seed=seed, level=level)

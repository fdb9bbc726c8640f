"""How much slower one computation is than another, from rounds in which both were timed side by side.

A machine's speed drifts and other work comes and goes, so times of one minute say nothing about those of the next.
Within a round both computations meet the same machine: only the ratio of a round is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError

LEVEL = 0.95
WITHIN = 0.10
"""Half width, as a share, at which a ratio is known well enough."""
LEAST_ROUNDS = 6
GROWTH = 1.5
"""A ratio is looked at after 6, 9, 13, 19, ... rounds: looking after each one would stop at a lucky moment."""


@dataclass(frozen=True)
class SpeedRatio:
    """Time of one computation as a share of another's: 2 is twice as slow. `low` and `high`: 95 % interval."""

    value: float
    low: float
    high: float
    rounds: int

    @property
    def half_width(self) -> float:
        """`sqrt(high / low) - 1`: the interval goes this share up from the value (and down from it, on a log scale)."""
        return math.sqrt(self.high / self.low) - 1.0

    @property
    def settled(self) -> bool:
        """Whether the ratio is known within 10 %. One that is not is noisy: nothing may be concluded from it."""
        return self.rounds >= LEAST_ROUNDS and self.half_width <= WITHIN


def speed_ratio(times: npt.ArrayLike, reference: npt.ArrayLike) -> SpeedRatio:
    """Geometric mean of the rounds' ratios with Student's t interval of their logarithms.

    `d_r = log(median_k times[r, k] / median_k reference[r, k])`; value `exp(mean d)`, interval
    `exp(mean d +- t(R - 1) * sd(d) / sqrt(R))`. Medians within a round forgive a pass that was interrupted.

    Args:
        times: (R, K) seconds of K passes in each of R >= 2 rounds. reference: (R, K') of the other, in the same rounds.

    Raises:
        InputError: other shapes, or times that are not positive and finite.

    >>> speed_ratio([[2.0], [4.0]], [[1.0], [2.0]]).value
    2.0
    """
    from scipy.special import stdtrit  # late: a finished sweep needs none

    first, second = (np.asarray(each, dtype=np.float64) for each in (times, reference))
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 2:
        raise InputError(
            f"speed ratio: expected two tables (R, K) of R >= 2 rounds, got {first.shape}, {second.shape}."
        )
    for each in (first, second):
        if not each.size or not (np.isfinite(each).all() and (each > 0).all()):
            raise InputError("speed ratio: every time must be positive and finite.")
    logs = np.log(np.median(first, axis=1) / np.median(second, axis=1))
    rounds = len(logs)
    half = float(stdtrit(rounds - 1, 0.5 + LEVEL / 2)) * float(logs.std(ddof=1)) / math.sqrt(rounds)
    middle = float(logs.mean())
    return SpeedRatio(math.exp(middle), math.exp(middle - half), math.exp(middle + half), rounds)


def another_round(times: npt.ArrayLike, reference: npt.ArrayLike, spent_s: float, budget_s: float) -> bool:
    """Whether to time one more round: until the ratio is settled at a look, or the budget is spent; at least 6.

    Args: times, reference: as for `speed_ratio`, of the rounds so far, perhaps none. spent_s: seconds so far.
    """
    rounds = len(np.asarray(times))
    if rounds < LEAST_ROUNDS:
        return True
    if spent_s >= budget_s:
        return False
    return not (_is_look(rounds) and speed_ratio(times, reference).settled)


def _is_look(rounds: int) -> bool:
    look = LEAST_ROUNDS
    while look < rounds:
        look = int(look * GROWTH)
    return look == rounds

"""Is a quantization non-inferior to full precision: may it be worse by more than a margin in any headline metric?

The margin is `MARGIN` = 0.02: two points for a metric that is a fraction (accuracy, AUROC, ECE, RSG), 2 % of the value
in full precision for one in another unit. A metric is judged on the worse end of the 95 % interval of its change; where
it has none, on the observed change. All headline metrics have to pass. That asks each one-sided test to pass at 2.5 %
(intersection-union), so the number of metrics needs no adjustment; the choice among several quantizations has none
either. The margin is a convention: what loss is harmless is for the user to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.plugins import tasks
from benchmark.results.compare import Change
from benchmark.results.rows import Row

MARGIN = 0.02


@dataclass(frozen=True)
class Judged:
    """A headline metric against its margin; losses are positive, gains negative, in the metric's unit.

    Attributes:
        observed: the loss in the sample. worst, best: what the ends of the interval allow; `observed` where there is
            no interval.
    """

    change: Change
    margin: float
    observed: float
    worst: float
    best: float

    @property
    def passes(self) -> bool:
        """Not worse by more than the margin, as far as the interval can tell."""
        return self.worst <= self.margin

    @property
    def shown_worse(self) -> bool:
        """Worse by more than the margin even at the better end of the interval."""
        return self.best > self.margin


def judge(change: Change) -> Judged:
    """A change of a metric that has a better direction against its margin."""
    in_fractions = tasks.get(change.key.split("/", 1)[0]).metric(change.key).unit == "fraction"
    margin = MARGIN if in_fractions or change.reference == 0 else MARGIN * abs(change.reference)
    sign = -1.0 if change.better == "higher" else 1.0
    ends = [sign * end for end in (change.low, change.high) if end is not None] or [sign * change.change]
    return Judged(change, margin, sign * change.change, max(ends), min(ends))


def judged(row: Row) -> list[Judged]:
    """The row's headline metrics that have a better direction."""
    return [judge(change) for change in row.headline.values() if change.better != "neither"]


def noninferior(row: Row) -> bool:
    """Whether all of them pass."""
    return all(each.passes for each in judged(row))


def beyond(row: Row) -> list[Judged]:
    """Those that do not pass, the farthest from their margin first."""
    return sorted((each for each in judged(row) if not each.passes), key=lambda each: -each.worst / each.margin)

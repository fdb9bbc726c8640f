"""Is a quantization non-inferior to full precision: may it be worse by more than a margin in any headline metric?

The margin of a metric is what its task declares, `MARGIN` = 0.02 (two points) for most fractions and 0.01 for
calibration errors, unless the suite says otherwise; 2 % of the value in full precision for one in another unit without
a margin. A metric is judged on the worse end of the 95 % interval of its change; where it has none, on the observed
change. All headline metrics have to pass. That asks each one-sided test to pass at 2.5 % (intersection-union), so the
number of metrics needs no adjustment; the choice among several quantizations has none either. A margin is a convention:
what loss is harmless is for the user to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from benchmark.plugins import MARGIN, tasks
from benchmark.results.compare import Change
from benchmark.results.rows import Row


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


def margin_of(key: str, margins: Mapping[str, float]) -> float | None:
    """What counts as equal in a metric: the suite's margin for its key, or of the first pattern of keys that fits, else
    what its task declares; None for a metric in a unit of its own whose task declares none.
    """
    if key in margins:
        return margins[key]
    fitting = (margin for pattern, margin in margins.items() if fnmatchcase(key, pattern))
    return next(fitting, tasks.get(key.split("/", 1)[0]).metric(key).margin)


def judge(change: Change, margins: Mapping[str, float]) -> Judged:
    """A change of a metric that has a better direction against its margin. Args: margins: the suite's."""
    declared = margin_of(change.key, margins)
    margin = declared if declared is not None else MARGIN * abs(change.reference) or MARGIN
    sign = -1.0 if change.better == "higher" else 1.0
    ends = [sign * end for end in (change.low, change.high) if end is not None] or [sign * change.change]
    return Judged(change, margin, sign * change.change, max(ends), min(ends))


def judged(row: Row) -> list[Judged]:
    """The row's headline metrics that have a better direction."""
    return [judge(change, row.margins) for change in row.headline.values() if change.better != "neither"]


def noninferior(row: Row) -> bool:
    """Whether all of them pass."""
    return all(each.passes for each in judged(row))


def beyond(row: Row) -> list[Judged]:
    """Those that do not pass, the farthest from their margin first."""
    return sorted((each for each in judged(row) if not each.passes), key=lambda each: -each.worst / each.margin)

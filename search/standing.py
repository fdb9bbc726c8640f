"""Where a configuration stands against full precision, or against another one, on the images of one split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.ledger.records import Record
from benchmark.results.compare import Comparer
from benchmark.results.decide import Decision, Judged, decide
from benchmark.results.reliability import Reliability, reliability, with_error

UNDECIDED = Decision(())
UNKNOWN = Reliability(None, reason="it was not compared with full precision")
MISSING = 1.0
"""Violation of a metric that has no value to compare: as if it lost two margins."""


@dataclass(frozen=True)
class Standing:
    """What the images say about one configuration.

    Attributes:
        decision: each headline metric against its margin. reliability: the mean change in points, with its error.
    """

    decision: Decision = UNDECIDED
    reliability: Reliability = UNKNOWN


def stand(
    records: Iterable[Record],
    bases: Mapping[str, Record],
    comparer: Comparer,
    headline: Sequence[str],
    margins: Mapping[str, float],
) -> Standing:
    """Compare finished records of one configuration with full precision.

    Args:
        bases: evaluation (`task/dataset`) -> record of full precision on the same images.
        margins: metric key or pattern -> margin, in place of what the tasks declare.
    """
    pairs = [(record, bases[record.name]) for record in records if record.name in bases]
    changes = {change.key: change for pair in pairs for change in comparer.changes(*pair)}
    judged = [key for key in headline if key in changes]
    return Standing(
        decide(judged, changes, margins),
        difference([record for record, _ in pairs], [base for _, base in pairs], comparer, headline),
    )


def difference(
    now: Sequence[Record], before: Sequence[Record], comparer: Comparer, headline: Sequence[str]
) -> Reliability:
    """How much more reliable, in points, one configuration is than another on the same images, with its error."""
    values, reference = ({k: v for record in side for k, v in record.metrics.items()} for side in (now, before))
    found = reliability(values, reference, headline)
    needed = {"/".join(key.split("/")[:2]) for key in found.weights}
    own, other = (
        {record.name: comparer.evidence(record.key) for record in side if record.name in needed}
        for side in (now, before)
    )
    return with_error(found, own, other)


def shortfall(judged: Judged, probability: float) -> float:
    r"""By how many margins a loss may lie beyond its margin; zero or less where the margin probably holds.

    With the loss L (negative for a gain), its error and the margin m,

    .. math:: v = \frac{\hat L + t_P\, SE}{m} - 1

    so that v <= 0 where the loss stays within the margin with probability P (a confidence, to be precise).

    Args: probability: P, in [0.5, 1).
    """
    if judged.loss is None or judged.margin is None:
        return MISSING
    if judged.reason or judged.change is None or judged.change.estimate is None or probability == 0.5:
        return judged.loss / judged.margin - 1.0
    low, high = judged.change.estimate.interval(2.0 * probability - 1.0)
    return (-low if judged.change.better == "higher" else high) / judged.margin - 1.0

"""What is known about the errors of a record's metrics, and changes of metrics between records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmark.errors import DataError
from benchmark.ledger.records import Ledger, Record
from benchmark.metrics.arrays import Bools
from benchmark.metrics.uncertainty import Estimate, Measured, estimate, paired_proportions


@dataclass(frozen=True)
class Evidence:
    """The errors of one record's metrics, from its columns alone; small, and kept beside them.

    Attributes:
        measured: metric key (relative to the record's) -> value and replicates; also of metrics that only a comparison
            with full precision gives.
        answers: metrics that are the share of right answers -> (N,) bool, in the order of the sample ids.
        occupied: (GROUPS,) which groups hold samples. images: pictures behind the samples, each counted once.
        samples: digest of all sample ids: records can be paired where it is equal.
        reasons: metric -> why it has no interval.
    """

    measured: Mapping[str, Measured]
    answers: Mapping[str, Bools]
    occupied: Bools
    images: int
    samples: str
    reasons: Mapping[str, str] = field(default_factory=dict)


def change(now: Evidence, before: Evidence, key: str) -> Estimate | str:
    """How one metric differs between two records of the same samples, or why that has no error.

    Raises:
        DataError: the two were not evaluated on the same samples.
    """
    if now.samples != before.samples:
        raise DataError(
            f"the two were not evaluated on the same samples ({now.images} and {before.images} images); evaluate both "
            "on the same data (the same --limit and --skip-broken)"
        )
    for each in (now, before):
        if key in each.reasons:
            return each.reasons[key]
    if key in now.answers and key in before.answers:
        return paired_proportions(before.answers[key], now.answers[key])
    occupied = int(now.occupied.sum())
    if key in now.measured and key in before.measured:
        found = estimate(lambda a, b: b - a, before.measured[key], now.measured[key], occupied=occupied)
    elif key in now.measured:
        found = estimate(lambda a: a, now.measured[key], occupied=occupied)
    else:
        return "the task gives no interval for this metric"
    return found if found is not None else f"it does not vary over the {occupied} groups of {now.images} images"


def evidence_of(ledger: Ledger, record: Record) -> Evidence:
    """The stored evidence of a finished record."""
    raise NotImplementedError  # PLACEHOLDER until evidence is stored

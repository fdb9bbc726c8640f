"""Each metric of each quantization against full precision of the same model: change, interval, p, q and stars.

Intervals and p values are one statistic, of the records' replicates (`benchmark.results.evidence`); no task says
anything about them. Values of q control the false discovery rate over all comparisons that are shown together
(Benjamini and Hochberg), so they depend on what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from benchmark.errors import DamagedSamplesError, ReliquantError, StorageError
from benchmark.ledger.records import Ledger, Record
from benchmark.metrics.significance import benjamini_hochberg, stars
from benchmark.metrics.uncertainty import Estimate
from benchmark.plugins import Better, NoOptions, Outcome, Task, tasks
from benchmark.results.evidence import Evidence, evidence_of, gather, require_paired, with_comparison
from benchmark.results.evidence import change as change_of
from benchmark.results.notation import Direction, direction
from benchmark.utils.progress import Progress, shown

KEPT = 1024
"""Records whose evidence a comparison keeps in memory, some 30 kB each."""


@dataclass(frozen=True)
class Change:
    """One metric of one quantization against full precision of the same model.

    Attributes:
        key: full metric key. value, reference: under the quantization and in full precision; for a metric that only
            a comparison has, the reference is its neutral value. change: value - reference.
        estimate: the change with its error; None where there is none, and `reason` then says why.
        images: pictures behind it, of the largest data set.
        q: p adjusted over the comparisons shown together; None until `adjust`.
    """

    model: str
    quantization: str
    configuration: str
    key: str
    better: Better
    value: float
    reference: float
    change: float
    estimate: Estimate | None = None
    reason: str = ""
    images: int = 0
    q: float | None = None

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval of the change."""
        return self.estimate.interval()[0] if self.estimate else None

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval of the change."""
        return self.estimate.interval()[1] if self.estimate else None

    @property
    def p(self) -> float | None:
        """Two-sided and unadjusted; the same statistic as the interval."""
        return self.estimate.p if self.estimate else None

    @property
    def method(self) -> str:
        """Where interval and p value come from; "" where there are none."""
        return self.estimate.method if self.estimate else ""

    @property
    def stars(self) -> str:
        """Stars of q: * below 0.05, ** below 0.01, *** below 0.001."""
        return "" if self.q is None else stars(self.q)

    @property
    def relative(self) -> float | None:
        """Change over the absolute value in full precision; None where that is zero."""
        return self.change / abs(self.reference) if self.reference else None

    @property
    def direction(self) -> Direction:
        """What the change means by the metric's direction; `changed` for a metric without one."""
        return direction(self.change, self.better)


def adjust(changes: Iterable[Change]) -> list[Change]:
    """The changes with q over all of them that have a p value."""
    rows = list(changes)
    tested = [row.p for row in rows if row.p is not None]
    q = iter(benjamini_hochberg(tested).tolist())
    return [row if row.p is None else replace(row, q=next(q)) for row in rows]


def compare(task: Task, quantized: Outcome, reference: Outcome, options: Any = None) -> dict[str, Estimate | str]:
    """The change of each metric with its error, or the reason why it has none; for users of Python.

    Args:
        quantized, reference: outcomes of one evaluation (`Task.run`). options: those of the evaluation.

    Raises:
        DataError: the two were not evaluated on the same samples.
        PluginError: what the task says of its errors is not what its contract asks for.
    """
    given = options if options is not None else task.options() if task.options is not NoOptions else NoOptions()
    compared = task.run_comparison(quantized.columns, reference.columns, given)
    now, before = (gather(task, outcome, given) for outcome in (quantized, reference))
    now = with_comparison(now, task, (quantized.columns, reference.columns), compared, given)
    keys = [key for key in quantized.metrics if key in reference.metrics] + list(compared.metrics)
    return {key: change_of(now, before, key) for key in keys}


class Comparer:
    """Changes between the records of a ledger; `failures` says why one could not be compared, by evaluation."""

    def __init__(self, ledger: Ledger) -> None:
        self.failures: dict[str, str] = {}
        self.evidence = lru_cache(KEPT)(lambda key: evidence_of(ledger, ledger.records[key]))

    def changes(self, record: Record, base: Record) -> list[Change]:
        """All metrics of a record that full precision has too, or that only a comparison has. q is not set yet.

        Args:
            record, base: finished records of one evaluation, quantized and in full precision.
        """
        task, prefix = tasks.get(record.task), f"{record.task}/{record.dataset}/"
        pair = self._pair(record, base)
        rows = []
        for key, value in record.metrics.items():
            inner = key.removeprefix(prefix)
            metric = task.metric(inner)
            reference = base.metrics.get(key, metric.neutral)
            if reference is None:
                continue
            found = pair if isinstance(pair, str) else change_of(*pair, inner)
            names = record.model, record.quantization, record.configuration
            rows.append(
                Change(
                    *names,
                    key,
                    metric.better,
                    value,
                    reference,
                    value - reference,
                    None if isinstance(found, str) else found,
                    found if isinstance(found, str) else "",
                    0 if isinstance(pair, str) else pair[0].images,
                )
            )
        return rows

    def _pair(self, record: Record, base: Record) -> tuple[Evidence, Evidence] | str:
        """The evidence of both, or why there is none; a failure is kept in `failures`."""
        try:
            pair = self.evidence(record.key), self.evidence(base.key)
            require_paired(*pair)
        except ReliquantError as error:
            if isinstance(error, StorageError) and not isinstance(error, DamagedSamplesError):
                raise  # a disk that cannot be read
            self.failures[f"{record.model}, {record.quantization}: {record.name}"] = str(error)
            return str(error)
        return pair


UNPAIRED = "the ledger has no full-precision evaluation on the same data; run the suite again with its --limit"


def base_of(records: Sequence[Record]) -> Callable[[Record], Record | None]:
    """Which full-precision record a record can be compared with, if there is one."""
    full = [record for record in records if record.quantization == "fp32"]
    bases = {(r.model, r.name, r.comparison_key): r for r in full}
    origins = {
        (r.name, r.comparison_key): r for r in full if r.comparison_key
    }  # of exported models, which have another name
    return lambda r: bases.get((r.model, r.name, r.comparison_key)) or origins.get((r.name, r.comparison_key))


def find_changes(
    chosen: Sequence[Record],
    records: Sequence[Record],
    comparer: Comparer,
    progress: Progress | None = None,
) -> list[Change]:
    """All changes of the chosen records against the full-precision records that they can be compared with."""
    find_base = base_of(records)
    changes: list[Change] = []
    with (progress or shown()).phase("compare", len(chosen)) as advance:
        for record in chosen:
            base = find_base(record)
            if base is None:
                comparer.failures[f"{record.model}, {record.quantization}: {record.name}"] = UNPAIRED
            else:
                changes += comparer.changes(record, base)
            advance(1)
    return changes

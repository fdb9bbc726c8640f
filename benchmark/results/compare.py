"""Each metric of each quantization against full precision of the same model: change, interval, p, q and stars.

Which statistic belongs to which metric is the task's to say (`@task.significance`). Values of q control the false
discovery rate over all comparisons that are shown together (Benjamini and Hochberg), so they depend on what is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import PluginError, ReliquantError, StorageError, UndefinedMetric
from benchmark.ledger.records import Ledger, Record
from benchmark.ledger.store import Store
from benchmark.metrics.bootstrap import LEVEL, Comparison
from benchmark.metrics.outcomes import accuracy_difference_interval
from benchmark.metrics.resample import SEED, mean_difference
from benchmark.metrics.significance import benjamini_hochberg, stars
from benchmark.plugins import Better, Metric, Outcome, Task, paired, tasks
from benchmark.results.notation import Direction, direction
from benchmark.spec import digest
from benchmark.utils.guard import described, within
from benchmark.utils.progress import Progress, shown

VERSION = 2
"""Raise it when an interval or p value can change for the same outcomes."""

Load: TypeAlias = Callable[[Record], Outcome]
NO_INTERVAL = "the task gives no interval for this metric"


@dataclass(frozen=True)
class Change:
    """One metric of one quantization against full precision of the same model.

    Attributes:
        key: full metric key. value, reference: under the quantization and in full precision; for a metric that only
            a comparison has, the reference is its neutral value. change: value - reference.
        low, high: ends of the 95 % interval of the change; p: two-sided, unadjusted. None where there is none;
            `reason` then says why. method: where interval and p value come from.
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
    low: float | None = None
    high: float | None = None
    p: float | None = None
    method: str = ""
    draws: int | None = None
    reason: str = ""
    q: float | None = None

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


def plain_significance(quantized: Outcome, reference: Outcome) -> dict[str, Comparison | str]:
    """For a task that declares none: metrics that are the mean of a per-sample column of their name.

    `accuracy` is also looked for in the column `correct`. Boolean columns get the exact cells and McNemar's p,
    others the paired bootstrap. A column whose mean is not the metric is not used.
    """
    found: dict[str, Comparison | str] = {}
    for key, value in quantized.metrics.items():
        for name in (key, "correct") if key == "accuracy" else (key,):
            a, b = (_column(outcome, name) for outcome in (reference, quantized))
            if a is None or b is None or a.ndim != 1 or a.dtype.kind not in "biuf" or key not in reference.metrics:
                continue
            if np.isclose(b.mean(), value) and np.isclose(a.mean(), reference.metrics[key]):
                binary = {a.dtype.kind, b.dtype.kind} == {"b"}
                found[key] = accuracy_difference_interval(a, b) if binary else mean_difference(a, b)
                break
    return found


def _column(outcome: Outcome, name: str) -> NDArray[Any] | None:
    """The column of that name, of the first group that has one."""
    return next((group[name] for group in outcome.columns.groups.values() if name in group), None)


def compare(
    task: Task, quantized: Outcome, reference: Outcome, seconds: float | None = None
) -> dict[str, Comparison | str]:
    """Interval and p value of each metric of an evaluation, or the reason why there is none.

    Args:
        quantized, reference: outcomes of one evaluation, metrics of `Task.run_comparison` included; rows are paired by
            sample id.
        seconds: after which the task's significance is given up.

    Raises:
        DataError: the two were not evaluated on the same samples.
        PluginError: the task's significance is not what its contract asks for, or raised an unexpected exception.
    """
    inference = task.inference or plain_significance
    try:
        q, f = paired(quantized.columns, reference.columns)
        pair = (replace(quantized, columns=q), replace(reference, columns=f))
        found = within(seconds, f"task '{task.name}': significance", lambda: dict(inference(*pair)))
    except ReliquantError:
        raise
    except Exception as error:  # a stranger's task may raise anything
        raise PluginError(f"task '{task.name}': significance raised {described(error)}") from error
    for key, comparison in found.items():
        task.metric(key)
        if not isinstance(comparison, Comparison | str):
            raise PluginError(f"task '{task.name}': significance of '{key}' is a {type(comparison).__name__}")
        change = _change(task.metric(key), key, quantized, reference)
        if isinstance(comparison, Comparison) and change is not None and not _close(comparison.delta, change):
            raise PluginError(
                f"task '{task.name}': the interval of '{key}' belongs to a change of {comparison.delta:.6g}, but the "
                f"metric changed by {change:.6g}"
            )
    return found


def _change(metric: Metric, key: str, quantized: Outcome, reference: Outcome) -> float | None:
    base = reference.metrics.get(key, metric.neutral)
    return None if base is None or key not in quantized.metrics else quantized.metrics[key] - base


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)


class Comparer:
    """Comparisons of the records of a ledger, each done once and kept in `<home>/comparisons`.

    A comparison that fails is not kept; `failures` says why, by evaluation.
    """

    def __init__(self, home: Path, seconds: float | None = None) -> None:
        """Args: seconds: after which a task's significance is given up."""
        self.store, self.seconds = Store(home / "comparisons"), seconds
        self.failures: dict[str, str] = {}

    def changes(self, task: Task, record: Record, base: Record, load: Load) -> list[Change]:
        """All metrics of a record that full precision has too, or that only a comparison has. q is not set yet.

        Args:
            record, base: finished records of one evaluation, quantized and in full precision.
            load: reads the outcome of a record; called only when the comparison is not stored.
        """
        stored = self._comparisons(task, record, base, load)
        prefix = f"{record.task}/{record.dataset}/"
        rows = []
        for key, value in record.metrics.items():
            inner = key.removeprefix(prefix)
            metric = task.metric(inner)
            reference = base.metrics.get(key, metric.neutral)
            if reference is None:
                continue
            found = stored.get(inner, NO_INTERVAL)
            about = {"reason": found} if isinstance(found, str) else _fields(found)
            rows.append(
                Change(
                    record.model,
                    record.quantization,
                    record.configuration,
                    key,
                    metric.better,
                    value,
                    reference,
                    value - reference,
                    **about,
                )
            )
        return rows

    def _comparisons(self, task: Task, record: Record, base: Record, load: Load) -> Mapping[str, Comparison | str]:
        key = digest([VERSION, SEED, LEVEL, record.key, base.key])
        stored = self.store.get(key)
        if stored is not None:
            rows = stored.info["comparisons"].items()
            return {name: row if isinstance(row, str) else Comparison(**row) for name, row in rows}
        try:
            found = compare(task, load(record), load(base), self.seconds)
        except UndefinedMetric as reason:
            found = dict.fromkeys(task_keys(record), str(reason))
        except StorageError:
            raise
        except ReliquantError as error:
            name = f"{record.model}, {record.quantization}: {record.task}/{record.dataset}"
            self.failures[name] = str(error)
            return dict.fromkeys(task_keys(record), str(error))
        rows = {name: row if isinstance(row, str) else asdict(row) for name, row in found.items()}
        about = {"evaluation": record.name, "quantized": record.key, "reference": base.key}
        self.store.put(key, {}, {"version": VERSION, "seed": SEED, "level": LEVEL, **about, "comparisons": rows})
        return found


def task_keys(record: Record) -> list[str]:
    """Metric keys of a record, relative to it."""
    prefix = f"{record.task}/{record.dataset}/"
    return [key.removeprefix(prefix) for key in record.metrics]


def _fields(found: Comparison) -> dict[str, Any]:
    return {key: value for key, value in asdict(found).items() if key != "delta"}


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
    ledger: Ledger,
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
                changes += comparer.changes(tasks.get(record.task), record, base, ledger.outcome)
            advance(1)
    return changes

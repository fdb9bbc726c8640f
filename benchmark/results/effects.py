"""Metrics of runs beside those of full precision, with their replicates: what means over groups are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmark.errors import DamagedSamplesError, ReliquantError, StorageError
from benchmark.ledger.records import Record
from benchmark.metrics.arrays import Bools
from benchmark.metrics.uncertainty import GROUPS, Estimate, Measured, estimate
from benchmark.plugins import Task, tasks
from benchmark.results.compare import UNPAIRED, base_of
from benchmark.results.evidence import NO_INTERVAL, Evidence, change, require_paired
from benchmark.utils.progress import Progress, shown

UNDEFINED = Measured(math.nan, np.full(GROUPS, math.nan))


@dataclass(frozen=True)
class Effect:
    """One metric of one model under one quantization, beside full precision's on the same samples.

    Attributes:
        key: of the metric, or what a study calls it. data: name of the evaluation's data.
        now, before: under the quantization and in full precision. full: key of the full-precision record; runs that
            name the same share its error. alone: the change with its error by itself, None where it has none.
        occupied: (GROUPS,) which groups hold samples. images: pictures behind it.
        reason: why it has no interval; its replicates are then NaN. Its value is NaN too where it is undefined.
    """

    model: str
    quantization: str
    key: str
    data: str
    now: Measured
    before: Measured
    full: str
    alone: Estimate | None
    occupied: Bools = field(repr=False)
    images: int
    reason: str = ""


@dataclass(frozen=True)
class Asked:
    """A metric that is wanted of a record: its key below `<task>/<data>/`, and full precision's that it is put beside.

    `name` becomes the effect's key.
    """

    name: str
    now: str
    before: str


def judged(task: Task, key: str) -> str:
    """The metric key whose change decides in place of this one's (`ece_15`: its debiased companion)."""
    companion = task.metric(key).judged_by
    return key.rpartition("/")[0] + "/" * ("/" in key) + companion if companion else key


def companion(key: str) -> str:
    """The same for a full metric key."""
    task, data, rest = key.split("/", 2)
    return f"{task}/{data}/{judged(tasks.get(task), rest)}"


def asked_of(record: Record, keys: Sequence[str]) -> Iterable[Asked]:
    """Those of some full metric keys that are of this record; the companion in place of a metric that has one here."""
    prefix = f"{record.task}/{record.dataset}/"
    own = (key for key in keys if key.startswith(prefix))
    found = dict.fromkeys(other if (other := companion(key)) in record.metrics else key for key in own)
    return [Asked(key, inner, inner) for key in found for inner in [key.removeprefix(prefix)]]


def without_exported(chosen: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """The records but those of exported models: such a model is its origin over again, and would count as another."""
    find_base = base_of(records)
    return [record for record in chosen if (base := find_base(record)) is None or base.model == record.model]


def collect(
    chosen: Sequence[Record],
    records: Sequence[Record],
    load: Callable[[Record], Evidence],
    asked: Callable[[Record], Iterable[Asked]],
    progress: Progress | None = None,
) -> tuple[list[Effect], dict[str, str]]:
    """The effects of the chosen records, and which of those could not be compared, with the reason.

    Args:
        records: those among which full precision is looked for. load: reads the evidence of a record; full precision's
            is kept, so each is read once.
    """
    find_base = base_of(records)
    bases: dict[str, Evidence] = {}
    effects: list[Effect] = []
    failures: dict[str, str] = {}
    with (progress or shown()).phase("compare", len(chosen)) as advance:
        for record in chosen:
            wanted, base = list(asked(record)), find_base(record)
            try:
                if wanted and base is None:
                    failures[_named(record)] = UNPAIRED
                elif wanted and base is not None:
                    if base.key not in bases:
                        bases[base.key] = load(base)
                    effects += effects_of(record, base, load(record), bases[base.key], wanted)
            except ReliquantError as error:
                if isinstance(error, StorageError) and not isinstance(error, DamagedSamplesError):
                    raise  # a disk that cannot be read
                failures[_named(record)] = str(error)
            advance(1)
    return effects, failures


def _named(record: Record) -> str:
    return f"{record.model}, {record.quantization}: {record.name}"


def effects_of(record: Record, base: Record, now: Evidence, before: Evidence, asked: Iterable[Asked]) -> list[Effect]:
    """The effects of one record; undefined metrics give NaN with the reason.

    Raises:
        DataError: the two were not evaluated on the same samples.
    """
    task, prefix = tasks.get(record.task), f"{record.task}/{record.dataset}/"
    found = []
    for each in asked:
        value = record.metrics.get(prefix + each.now)
        metric = task.metric(each.now)
        reference = base.metrics.get(prefix + each.before, metric.neutral)
        reason = now.reasons.get(each.now) or before.reasons.get(each.before) or NO_INTERVAL
        measured = UNDEFINED, UNDEFINED
        if value is None or reference is None:
            reason = record.notes.get(prefix + each.now) or base.notes.get(prefix + each.before) or "undefined"
        else:
            fixed = Measured(reference, np.full(GROUPS, reference))
            full = _measured(before, each.before, reference, None) if metric.neutral is None else fixed
            measured = _measured(now, each.now, value, metric.neutral), full
        alone = _alone(now, before, each)
        missing = not all(np.isfinite(side.replicates).all() for side in measured)
        found.append(
            Effect(
                record.model,
                record.quantization,
                each.name,
                record.dataset,
                *measured,
                base.key,
                None if isinstance(alone, str) else alone,
                now.occupied,
                now.images,
                reason if missing else "",
            )
        )
    return found


def _measured(evidence: Evidence, key: str, value: float, neutral: float | None) -> Measured:
    """A metric with its replicates, NaN where there are none.

    Args: neutral: of a metric that only a comparison gives: full precision has it without an error.
    """
    if neutral is not None and key in evidence.compared:
        moved = evidence.compared[key]
        return Measured(value, neutral + moved.replicates, moved.slack)
    return evidence.measured.get(key, Measured(value, np.full(GROUPS, math.nan)))


def _alone(now: Evidence, before: Evidence, asked: Asked) -> Estimate | str | None:
    if asked.now == asked.before:
        return change(now, before, asked.now)
    require_paired(now, before)
    if asked.now not in now.measured or asked.before not in before.measured:
        return None
    pair = before.measured[asked.before], now.measured[asked.now]
    return estimate(lambda a, b: b - a, *pair, occupied=int(now.occupied.sum()))

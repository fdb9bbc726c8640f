"""What is known about the errors of a record's metrics: replicates, made once from its columns, never by a model."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DamagedSamplesError, DataError, PluginError, ReliquantError
from benchmark.ledger.records import Ledger, Record
from benchmark.metrics.arrays import Bools, Floats
from benchmark.metrics.uncertainty import GROUPS, Estimate, Measured, estimate, groups_of, paired_proportions
from benchmark.plugins import Answers, Arrays, Columns, Errors, Outcome, Summary, Task, paired, tasks
from benchmark.spec import FP32
from benchmark.utils.guard import described

VERSION = 2
"""Raise it when an interval or p value can change for the same columns."""
NO_INTERVAL = "the task gives no interval for this metric"
UNDEFINED = "it has no value without some of the images"
COUNT = "a count"


@dataclass(frozen=True)
class Evidence:
    """The errors of one record's metrics; small, and kept beside its columns.

    Attributes:
        measured: metric key (relative to the record's) -> value and replicates.
        compared: metrics that only a comparison with full precision gives -> their distance from the neutral value.
        answers: metrics that are the share of right answers -> (N,) bool, in the order of the sample ids.
        occupied: (GROUPS,) which groups hold samples. images: pictures behind the samples of the largest data set.
        samples: digest of all sample ids: records can be paired where it is equal.
        reasons: metric -> why it has no interval.
    """

    measured: Mapping[str, Measured]
    answers: Mapping[str, Bools]
    occupied: Bools
    images: int
    samples: str
    reasons: Mapping[str, str] = field(default_factory=dict)
    compared: Mapping[str, Measured] = field(default_factory=dict)


def change(now: Evidence, before: Evidence, key: str) -> Estimate | str:
    """How one metric differs between two records of the same samples, or why that has no error.

    Raises:
        DataError: the two were not evaluated on the same samples.
    """
    require_paired(now, before)
    for each in (now, before):
        if key in each.reasons:
            return each.reasons[key]
    if key in now.answers and key in before.answers:
        return paired_proportions(before.answers[key], now.answers[key])
    occupied = int(now.occupied.sum())
    if key in now.measured and key in before.measured:
        found = estimate(lambda a, b: b - a, before.measured[key], now.measured[key], occupied=occupied)
    elif key in now.compared:
        found = estimate(lambda a: a, now.compared[key], occupied=occupied)
    else:
        return NO_INTERVAL
    return found if found is not None else f"it does not vary over the {now.images} images"


def require_paired(now: Evidence, before: Evidence) -> None:
    """Both rest on the same samples.

    Raises:
        DataError: they do not.
    """
    if now.samples != before.samples:
        raise DataError(
            f"full precision has {before.images} images, the quantized model {now.images}, and they are not the same; "
            "evaluate both on the same data (the same --limit and --skip-broken)"
        )


def gather(task: Task, outcome: Outcome, options: Any) -> Evidence:
    """The evidence of an evaluation, by leaving each group of pictures out of its columns.

    Metrics that only a comparison gives are left to `with_comparison`.

    Raises:
        PluginError: what the task says of its errors is not what its contract asks for.
    """
    columns = _sorted(outcome.columns)
    groups = {name: groups_of(group["base_id"]) for name, group in columns.groups.items()}
    metrics = {key: value for key, value in outcome.metrics.items() if task.metric(key).neutral is None}
    reasons = {key: reason for key in metrics if (reason := _without_interval(task, key))}
    wanted = [key for key in metrics if key not in reasons]
    known = _known(task, columns, options, groups)
    answers = {**_plain_answers(columns, metrics), **known.answers}
    given = {key: _share(answer, groups[answer.group]) for key, answer in answers.items()} | dict(known.replicates)
    open_keys = [key for key in wanted if key not in given]
    given |= _left_out(lambda c: task.run_summarise(c[0], options), (columns,), groups, open_keys, metrics)
    slack = {key: len(_counted(answer)) ** -2.0 for key, answer in answers.items()} | dict(known.slack)
    reasons |= {key: UNDEFINED for key in wanted if not np.isfinite(given[key]).all()}
    return Evidence(
        _measured(metrics, given, slack, reasons),
        {key: _counted(answer) for key, answer in answers.items() if key not in reasons},
        np.isin(np.arange(GROUPS), np.concatenate([np.unique(each) for each in groups.values()])),
        _images(task, columns),
        _digest(columns),
        reasons,
    )


def with_comparison(
    evidence: Evidence, task: Task, columns: tuple[Columns, Columns], compared: Summary, options: Any
) -> Evidence:
    """Also of the metrics that only a comparison gives. Args: columns: quantized and in full precision."""
    metrics = compared.metrics
    reasons = {key: reason for key in metrics if (reason := _without_interval(task, key))}
    wanted = [key for key in metrics if key not in reasons]
    if not metrics:
        return evidence
    both = paired(*columns)
    groups = {name: groups_of(group["base_id"]) for name, group in both[0].groups.items()}
    found = _left_out(lambda c: task.run_comparison(c[0], c[1], options), both, groups, wanted, metrics)
    slack = _known(task, both[0], options, groups).slack
    reasons |= {key: UNDEFINED for key in wanted if not np.isfinite(found[key]).all()}
    neutral = {key: task.metric(key).neutral or 0.0 for key in wanted}
    moved = {key: metrics[key] - neutral[key] for key in wanted}
    found = {key: each - neutral[key] for key, each in found.items()}
    return replace(evidence, compared=_measured(moved, found, slack, reasons), reasons={**evidence.reasons, **reasons})


def _measured(
    metrics: Mapping[str, float],
    replicates: Mapping[str, Floats],
    slack: Mapping[str, float],
    reasons: Mapping[str, str],
) -> dict[str, Measured]:
    """Metrics with replicates; those that have some without being judged by them keep them, for the search."""
    kept = [key for key in metrics if key in replicates and reasons.get(key) != UNDEFINED]
    return {key: Measured(metrics[key], np.asarray(replicates[key]), slack.get(key, 0.0)) for key in kept}


def _without_interval(task: Task, key: str) -> str:
    """Why a metric has no interval; "" for one that has."""
    metric = task.metric(key)
    return metric.no_interval or (COUNT if metric.unit == "count" else "")


def _sorted(columns: Columns) -> Columns:
    order = {name: np.argsort(group["sample_id"], kind="stable") for name, group in columns.groups.items()}
    return columns.take(order)


def _known(task: Task, columns: Columns, options: Any, groups: Arrays) -> Errors:
    """What the task's own `errors` says, checked.

    Raises:
        PluginError: it is not what the contract asks for, or raised an unexpected exception.
    """
    if task.known_errors is None:
        return Errors()
    try:
        known = task.known_errors(columns, options, groups)
    except ReliquantError:
        raise
    except Exception as error:  # a stranger's task may raise anything
        raise PluginError(f"task '{task.name}': errors raised {described(error)}") from error
    if not isinstance(known, Errors):
        raise PluginError(f"task '{task.name}': errors returned a {type(known).__name__}, expected Errors")
    for key, values in known.replicates.items():
        if np.shape(values) != (GROUPS,):
            raise PluginError(f"task '{task.name}': the replicates of '{key}' have shape {np.shape(values)}")
    for key, answer in known.answers.items():
        shape = (len(columns[answer.group]["sample_id"]),) if answer.group in columns else None
        if any(np.shape(each) != shape or each.dtype != np.bool_ for each in answer[1:] if each is not None):
            raise PluginError(
                f"task '{task.name}': the answers of '{key}' are not one bool for each row of '{answer.group}'"
            )
    for key, value in known.slack.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise PluginError(f"task '{task.name}': the slack of '{key}' is {value}, expected a number >= 0")
    return known


def _plain_answers(columns: Columns, metrics: Mapping[str, float]) -> dict[str, Answers]:
    """Metrics that are the mean of a boolean column of their name; `accuracy` is also looked for in `correct`."""
    found = {}
    for key, value in metrics.items():
        for column in (key, "correct") if key == "accuracy" else (key,):
            name = next((name for name, group in columns.groups.items() if column in group), None)
            if name is None:
                continue
            right = columns[name][column]
            if right.ndim == 1 and right.dtype == np.bool_ and len(right) and math.isclose(right.mean(), value):
                found[key] = Answers(name, right)
                break
    return found


def _counted(answer: Answers) -> Bools:
    """The answers that count."""
    return answer.right if answer.among is None else answer.right[answer.among]


def _share(answer: Answers, groups: NDArray[Any]) -> Floats:
    """(GROUPS,) share of right answers without each group; NaN where nothing is left."""
    right, groups = _counted(answer), groups if answer.among is None else groups[answer.among]
    count = np.bincount(groups, minlength=GROUPS)
    hits = np.bincount(groups, weights=right, minlength=GROUPS)
    with np.errstate(invalid="ignore"):
        return np.asarray((right.sum() - hits) / (len(right) - count), dtype=np.float64)


def _left_out(
    summarise: Callable[[tuple[Columns, ...]], Summary],
    columns: tuple[Columns, ...],
    groups: Arrays,
    keys: Iterable[str],
    metrics: Mapping[str, float],
) -> dict[str, Floats]:
    """Each metric without each group; NaN where it has no value then."""
    found = {key: np.full(GROUPS, metrics[key]) for key in keys}
    if not found:
        return found
    for group in sorted({int(each) for some in groups.values() for each in np.unique(some)}):
        rows = {name: some != group for name, some in groups.items()}
        values: Mapping[str, float]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a mean of nothing is NaN, which is what is wanted here
                values = summarise(tuple(each.take(rows) for each in columns)).metrics
        except Exception:  # of too few samples a task may raise anything: its metrics are noted as undefined there
            values = {}
        for key, replicates in found.items():
            replicates[group] = values.get(key, math.nan)
    return found


def _images(task: Task, columns: Columns) -> int:
    """Pictures of the largest group of samples that holds no optional role (images that something is fitted on)."""
    sizes = {name: len(np.unique(group["base_id"])) for name, group in columns.groups.items()}
    return max((size for name, size in sizes.items() if name not in task.optional), default=0)


def _digest(columns: Columns) -> str:
    seen = hashlib.sha256()
    for name, group in columns.groups.items():
        seen.update(f"\0{name}\0".encode())
        seen.update("\n".join(group["sample_id"].astype(str).tolist()).encode("utf-8", "surrogatepass"))
    return seen.hexdigest()


def pack(evidence: Evidence) -> dict[str, NDArray[Any]]:
    """As arrays, for a file: few, since each costs as much to open as a thousand numbers."""
    measured = {part: getattr(evidence, part) for part in ("measured", "compared")}
    about = {
        "version": VERSION,
        "images": evidence.images,
        "samples": evidence.samples,
        "reasons": dict(evidence.reasons),
        "occupied": np.flatnonzero(evidence.occupied).tolist(),
        "answers": {key: len(right) for key, right in evidence.answers.items()},
        **{part: {key: [m.value, m.slack] for key, m in each.items()} for part, each in measured.items()},
    }
    every = [m.replicates for each in measured.values() for m in each.values()]
    bits = [np.packbits(right) for right in evidence.answers.values()]
    return {
        "about": np.array(json.dumps(about)),
        "replicates": np.array(every, np.float64).reshape(-1, GROUPS),
        "answers": np.concatenate(bits) if bits else np.zeros(0, np.uint8),
    }


def unpack(arrays: Mapping[str, NDArray[Any]]) -> Evidence:
    """The evidence of `pack`.

    Raises:
        DataError: it is of another version.
    """
    about = json.loads(str(arrays["about"]))
    if about.pop("version") != VERSION:
        raise DataError("its replicates were made by another version")
    rows = iter(arrays["replicates"])
    measured, compared = (
        {key: Measured(value, next(rows), slack) for key, (value, slack) in about.pop(part).items()}
        for part in ("measured", "compared")
    )
    answers, start = {}, 0
    for key, count in about.pop("answers").items():
        stop = start + -(-count // 8)
        answers[key] = np.unpackbits(arrays["answers"][start:stop], count=count).astype(np.bool_)
        start = stop
    occupied = np.isin(np.arange(GROUPS), about.pop("occupied"))
    return Evidence(measured, answers, occupied, compared=compared, **about)


def evidence_of(ledger: Ledger, record: Record) -> Evidence:
    """The stored evidence of a finished record; made again from its columns, and put back, where the file is gone.

    Raises:
        DamagedSamplesError: neither can be read.
        UnknownNameError: the columns have to be summarised again, and the task is not installed.
    """
    stored = ledger.replicates(record)
    if stored is not None and json.loads(str(stored["about"]))["version"] == VERSION:
        return unpack(stored)
    outcome = ledger.outcome(record)
    if not outcome.columns.groups:
        raise DamagedSamplesError(f"{record.name} of {record.quantization} has neither replicates nor samples")
    task = tasks.get(record.task)
    options = task.parse_options(record.identity.get("options", {}), f"record {record.key[:12]}: options")
    evidence, base = gather(task, outcome, options), _base(ledger, record)
    compared = {key: value for key, value in outcome.metrics.items() if task.metric(key).neutral is not None}
    if base is not None and compared:
        columns = outcome.columns, ledger.outcome(base).columns
        evidence = with_comparison(evidence, task, columns, Summary(compared), options)
    if record.replicates is not None:
        ledger.mend_replicates(record, pack(evidence))
    return evidence


def _base(ledger: Ledger, record: Record) -> Record | None:
    """The full-precision record that a quantized one was compared with."""
    full = (each for each in ledger.records.values() if each.quantization == FP32.name and each.status == "done")
    pairs = [each for each in full if (each.name, each.comparison_key) == (record.name, record.comparison_key)]
    return next((each for each in pairs if each.model == record.model), pairs[0] if pairs else None)

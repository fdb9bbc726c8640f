"""What is known about the errors of a record's metrics, and changes of metrics between records."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import DataError
from benchmark.ledger.records import Ledger, Record
from benchmark.metrics.arrays import Bools
from benchmark.metrics.uncertainty import GROUPS, Estimate, Measured, estimate, groups_of, paired_proportions
from benchmark.plugins import tasks


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


# PLACEHOLDER from here on, until evidence is stored beside the columns: the merged file has these names.


def pack(evidence: Evidence) -> dict[str, NDArray[Any]]:
    """As arrays, for a file."""
    about = {"images": evidence.images, "samples": evidence.samples, "reasons": dict(evidence.reasons)}
    keys = list(evidence.measured)
    arrays = {
        "about": np.array(json.dumps(about, sort_keys=True)),
        "keys": np.array(keys, dtype=str),
        "values": np.array([evidence.measured[key].value for key in keys], dtype=np.float64),
        "slack": np.array([evidence.measured[key].slack for key in keys], dtype=np.float64),
        "replicates": np.array([evidence.measured[key].replicates for key in keys], np.float64).reshape(-1, GROUPS),
        "occupied": evidence.occupied,
    }
    return arrays | {f"answer {key}": right for key, right in evidence.answers.items()}


def unpack(arrays: Mapping[str, NDArray[Any]]) -> Evidence:
    """The evidence of `pack`."""
    rows = zip(arrays["keys"].tolist(), *(arrays[name] for name in ("values", "replicates", "slack")), strict=True)
    measured = {key: Measured(float(value), replicates, float(slack)) for key, value, replicates, slack in rows}
    answers = {name.removeprefix("answer "): right for name, right in arrays.items() if name.startswith("answer ")}
    return Evidence(measured, answers, arrays["occupied"], **json.loads(str(arrays["about"])))


@lru_cache(1024)
def _made(ledger: Ledger, key: str) -> Evidence:
    record = ledger.records[key]
    outcome, task = ledger.outcome(record), tasks.get(record.task)
    order = {n: np.argsort(group["sample_id"], kind="stable") for n, group in outcome.columns.groups.items()}
    columns = outcome.columns.take(order)
    options = task.parse_options(record.identity.get("options", {}), "options")
    groups = {name: groups_of(group["base_id"]) for name, group in columns.groups.items()}
    occupied = sorted({int(g) for some in groups.values() for g in np.unique(some)})
    found = {key: np.full(GROUPS, value) for key, value in outcome.metrics.items()}
    for g in occupied:
        values: Mapping[str, float] = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = {name: some != g for name, some in groups.items()}
                values = task.run_summarise(columns.take(rows), options).metrics
        except Exception:  # of too few samples a task may raise anything
            pass
        for name, replicates in found.items():
            replicates[g] = values.get(name, math.nan)
    answers, first = {}, next(iter(columns.groups.values()))
    right = first.get("correct")
    accuracy = outcome.metrics.get("accuracy", math.nan)
    if right is not None and right.ndim == 1 and right.dtype == bool and math.isclose(right.mean(), accuracy):
        answers["accuracy"] = right
    ids = "\n".join(i for group in columns.groups.values() for i in group["sample_id"].astype(str).tolist())
    return Evidence(
        {
            name: Measured(outcome.metrics[name], values, 1 / len(first["correct"]) ** 2 if name in answers else 0.0)
            for name, values in found.items()
            if np.isfinite(values).all()
        },
        answers,
        np.isin(np.arange(GROUPS), occupied),
        max((len(np.unique(group["base_id"])) for group in columns.groups.values()), default=0),
        hashlib.sha256(ids.encode()).hexdigest(),
    )


def evidence_of(ledger: Ledger, record: Record) -> Evidence:
    """The evidence of a finished record."""
    return _made(ledger, record.key)

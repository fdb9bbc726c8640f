"""Differences of reliability between records of the same images, over any number of records, with their interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.errors import QuantizationError
from benchmark.ledger.records import Record
from benchmark.metrics.uncertainty import Measured, estimate
from benchmark.results.evidence import Evidence
from benchmark.results.reliability import point_weights
from benchmark.sensitivity.model import OVERALL, Effect


@dataclass(frozen=True)
class Evaluated:
    """The records of one quantization: full metric key -> value, evaluation -> evidence."""

    metrics: Mapping[str, float]
    evidence: Mapping[str, Evidence]


def evaluated(records: Sequence[Record], evidence: Callable[[str], Evidence]) -> Evaluated:
    """Finished records of one quantization.

    Args: evidence: of a record's key.

    Raises:
        QuantizationError: one failed; gives the reason.
    """
    for record in records:
        if record.status == "failed":
            raise QuantizationError(f"{record.quantization}: {record.name}: {record.error}")
    metrics = {key: value for record in records for key, value in record.metrics.items()}
    return Evaluated(metrics, {record.name: evidence(record.key) for record in records})


def differences(terms: Sequence[tuple[float, Evaluated]], headline: Sequence[str]) -> dict[str, Effect]:
    r"""`reliability` and each task's part of it, of :math:`\sum_s c_s R(s)` over evaluations s.

    The weights of metrics are those of `benchmark.results.reliability.point_weights`; coefficients add up to 0.

    Args:
        terms: coefficient and evaluation.
    """
    tasks = dict.fromkeys(key.split("/", 1)[0] for key in headline)
    own = {task: [key for key in headline if key.startswith(f"{task}/")] for task in tasks}
    found = {OVERALL: _difference(terms, headline), **{task: _difference(terms, keys) for task, keys in own.items()}}
    return {name: effect for name, effect in found.items() if effect is not None}


def _difference(terms: Sequence[tuple[float, Evaluated]], headline: Sequence[str]) -> Effect | None:
    weights, _ = point_weights(headline)
    if not weights or any(key not in each.metrics for key in weights for _, each in terms):
        return None
    value = sum(c * weight * each.metrics[key] for c, each in terms for key, weight in weights.items())
    parts: list[Measured] = []
    factors: list[float] = []
    occupied = np.zeros(0, np.bool_)
    samples: dict[str, str] = {}
    for coefficient, each in terms:
        for key, weight in weights.items():
            name, inner = "/".join(key.split("/")[:2]), key.split("/", 2)[2]
            evidence = each.evidence[name]
            if inner not in evidence.measured or inner in evidence.reasons:
                return Effect(value, reason=f"{key} has no error: {evidence.reasons.get(inner, 'no replicates')}")
            if samples.setdefault(name, evidence.samples) != evidence.samples:
                return Effect(value, reason=f"{name} was evaluated on other samples")
            parts.append(evidence.measured[inner])
            factors.append(coefficient * weight)
            occupied = evidence.occupied if not len(occupied) else occupied | evidence.occupied
    known = estimate(
        lambda *values: sum(f * v for f, v in zip(factors, values, strict=True)), *parts, occupied=int(occupied.sum())
    )
    if known is None:
        return Effect(value, reason="it does not vary over the images")
    low, high = known.interval()
    return Effect(value, low, high)

"""One number for all tasks: how much more or less reliable a quantization is than full precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmark.errors import SpecError, UndefinedMetric
from benchmark.metrics.robustness import signed_relative_change
from benchmark.metrics.uncertainty import Estimate, estimate
from benchmark.plugins import Better
from benchmark.results.decide import Declared, judging, registered
from benchmark.results.evidence import Evidence

Metrics = Mapping[str, float]
Evidences = Mapping[str, Evidence]
"""Evaluation (`task/dataset`) -> evidence."""

NEAR_FLOOR = 1.5
"""Below it chance contributes about as much to a calibration error as miscalibration does: squares add up, roughly."""


@dataclass(frozen=True)
class Reliability:
    """How much more (positive) or less reliable than full precision, in points.

    Attributes:
        value: mean over the tasks; None where a headline metric is undefined, `reason` then says which: a mean over
            fewer tasks would not be comparable. tasks: task -> its part of that mean.
        estimate: the value with its error; None where it is not known, `reason` then says why.
        left_out: headline metric -> why it has no points.
        weights: key of the metric that counts -> what a change of 1 adds to `value`.
    """

    value: float | None
    tasks: Mapping[str, float] = field(default_factory=dict)
    estimate: Estimate | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None where there is none."""
        return None if self.estimate is None else self.estimate.interval()


NO_CHANGE = Reliability(0.0)
"""Of full precision."""


def point_weights(headline: Iterable[str], declared: Declared = registered) -> tuple[dict[str, float], dict[str, str]]:
    r"""What each headline metric counts in `reliability`.

    .. math:: w_k = \frac{\sigma_k}{T\, |K_t|\, \pi_k}

    over the T tasks, `K_t` the headline metrics of task t that have points, :math:`\pi` one point of the metric
    (`Metric.point`), :math:`\sigma = +1` where higher is better and -1 where lower is. A metric that is printed and
    judged by another one (`Metric.judged_by`) counts by that.

    Args:
        declared: metric key -> declaration.

    Returns:
        Metric key -> weight, and headline metric -> why it is left out.
    """
    points: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    for key in headline:
        by = judging(key, declared)
        metric = declared(by)
        if metric.better == "neither":
            left_out[key] = "neither direction is better"
        elif metric.point is None:
            left_out[key] = f"its unit is {metric.unit}, and its task does not declare what one point of it is"
        else:
            sign = 1.0 if metric.better == "higher" else -1.0
            points.setdefault(key.split("/", 1)[0], {})[by] = sign / metric.point
    weights = {key: each / (len(points) * len(own)) for own in points.values() for key, each in own.items()}
    return weights, left_out


def reliability(
    metrics: Metrics, reference: Metrics, headline: Iterable[str], declared: Declared = registered
) -> Reliability:
    r"""How much more or less reliable than full precision a quantized model is, over all tasks, in points.

    .. math:: R(q) = \sum_k w_k (q_k - f_k)

    with the weights of `point_weights`: the mean over the tasks of the signed change of their headline metric. 1 where
    every task gains a point (0.01 of an accuracy), 0 for full precision.

    Args:
        metrics, reference: full metric key -> value of the quantized model and in full precision.
        declared: metric key -> declaration.
    """
    weights, left_out = point_weights(headline, declared)
    missing = [key for key in weights if key not in metrics or key not in reference]
    if missing or not weights:
        reason = f"{missing[0]} is undefined" if missing else "there is no headline metric with points"
        return Reliability(None, left_out=left_out, reason=reason)
    count = len({key.split("/", 1)[0] for key in weights})
    parts: dict[str, float] = {}
    for key, weight in weights.items():
        task = key.split("/", 1)[0]
        parts[task] = parts.get(task, 0.0) + count * weight * (metrics[key] - reference[key])
    return Reliability(sum(parts.values()) / count, parts, left_out=left_out, weights=weights)


def with_error(found: Reliability, now: Evidences, before: Evidences) -> Reliability:
    """With its interval: the jackknife over the replicates of all its metrics of both records together.

    Args:
        now, before: evidence of the quantized model's evaluations and of full precision's. A metric that only the
            comparison gives is constant in full precision.
    """
    if found.value is None:
        return found
    parts, weights, occupied = [], [], np.zeros(0, dtype=np.bool_)
    for key, weight in found.weights.items():
        name, inner = "/".join(key.split("/")[:2]), key.split("/", 2)[2]
        if name not in now or name not in before:
            return replace(found, reason=f"{name} has no full precision to compare with")
        if inner not in now[name].measured or inner in now[name].reasons:
            return replace(found, reason=f"{key} has no error: {now[name].reasons.get(inner, 'no replicates')}")
        if now[name].samples != before[name].samples:
            return replace(found, reason=f"{name}: full precision was evaluated on other samples")
        parts.append(now[name].measured[inner])
        weights.append(weight)
        if inner in before[name].measured:
            parts.append(before[name].measured[inner])
            weights.append(-weight)
        occupied = now[name].occupied if not len(occupied) else occupied | now[name].occupied
    constant = found.value - sum(w * part.value for w, part in zip(weights, parts, strict=True))
    known = estimate(
        lambda *values: constant + sum(w * value for w, value in zip(weights, values, strict=True)),
        *parts,
        occupied=int(occupied.sum()),
    )
    return replace(found, estimate=known, reason="" if known else "it does not vary over the images")


def mean_relative_change(
    metrics: Metrics, reference: Metrics, better: Callable[[str], Better], keys: Mapping[str, Sequence[str]]
) -> float:
    r"""The number of the study: mean signed relative change over all tasks.

    .. math:: M(q) = \frac{1}{T} \sum_{t=1}^{T} \frac{1}{|K_t|} \sum_{k \in K_t} \sigma_k \frac{q_k - f_k}{|f_k|}

    over the T tasks of the suite; `K_t` are the headline metrics of task t (one in the demo), `q` the quantized and
    `f` the full-precision value, :math:`\sigma = +1` where higher is better and -1 where lower is. 0 for full
    precision, 0.01 where the tasks improve by 1 % on average. Unbounded below: an ECE that doubles counts -1, so a
    small error outweighs all else; `reliability` has no such weights.

    A headline metric that full precision does not have (UndefinedMetric) or whose full-precision value is zero has no
    relative change: it is left out for the whole study, which says so at its start (`relative_keys`).

    Args:
        keys: task -> headline metrics, from `relative_keys`.

    Raises:
        UndefinedMetric: a metric of `keys` is undefined under this quantization: a mean over fewer tasks would not be
            comparable.
    """
    means = []
    for task_keys in keys.values():
        changes = []
        for key in task_keys:
            direction = better(key)
            if direction == "neither":
                raise SpecError(f"headline metric {key} has no better direction")
            changes.append(signed_relative_change(reference[key], defined(metrics, key), direction))
        means.append(float(np.mean(changes)))
    return float(np.mean(means))


def relative_keys(
    reference: Metrics, headline: Iterable[str], better: Callable[[str], Better]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Task -> headline metrics with a relative change, and for the others the reason why they have none."""
    keys: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    for key in headline:
        if key not in reference:
            left_out[key] = "full precision does not have it"
        elif reference[key] == 0:
            left_out[key] = "it is zero in full precision, so there is no relative change"
        elif better(key) == "neither":
            left_out[key] = "neither direction is better"
        else:
            task = key.split("/")[0]
            keys[task] = (*keys.get(task, ()), key)
    return keys, left_out


def near_floor(reference: Metrics, keys: Iterable[str]) -> dict[str, float]:
    """Metric -> its floor, where full precision is less than `NEAR_FLOOR` times that: its changes are mostly chance.

    A metric has a floor where its task reports one under its name with `_floor` (`ece_15_floor`: the ECE that a
    perfectly calibrated model shows at this number of images).
    """
    floors = {key: reference[f"{key}_floor"] for key in keys if key in reference and f"{key}_floor" in reference}
    return {key: floor for key, floor in floors.items() if reference[key] < NEAR_FLOOR * floor}


def defined(metrics: Metrics, key: str) -> float:
    """The value of a metric.

    Raises:
        UndefinedMetric: it is not there.
    """
    if key not in metrics:
        raise UndefinedMetric(f"{key} is undefined under this quantization")
    return metrics[key]

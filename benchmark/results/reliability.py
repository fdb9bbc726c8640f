"""One number for all tasks: how much more or less reliable a quantization is than full precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from benchmark.errors import SpecError, UndefinedMetric
from benchmark.metrics.robustness import signed_relative_change
from benchmark.plugins import Better

Metrics = Mapping[str, float]

NEAR_FLOOR = 1.5
"""Below it chance contributes about as much to a calibration error as miscalibration does: squares add up, roughly."""


def reliability(
    metrics: Metrics, reference: Metrics, better: Callable[[str], Better], keys: Mapping[str, Sequence[str]]
) -> float:
    r"""How much more (positive) or less reliable than full precision a quantized model is, over all tasks.

    .. math:: R(q) = \frac{1}{T} \sum_{t=1}^{T} \frac{1}{|K_t|} \sum_{k \in K_t} \sigma_k \frac{q_k - f_k}{|f_k|}

    over the T tasks of the suite; `K_t` are the headline metrics of task t (one in the demo), `q` the quantized and
    `f` the full-precision value, :math:`\sigma = +1` where higher is better and -1 where lower is. 0 for full
    precision, 0.01 where the tasks improve by 1 % on average. Unbounded below: an ECE that doubles counts -1.

    A headline metric that full precision does not have (UndefinedMetric) or whose full-precision value is zero has no
    relative change: it is left out for the whole study, which says so at its start (`reliability_keys`).

    Args:
        keys: task -> headline metrics, from `reliability_keys`.

    Raises:
        UndefinedMetric: a metric of `keys` is undefined under this quantization: a mean over fewer tasks would not be
            comparable.
    """
    return float(np.mean(list(by_task(metrics, reference, better, keys).values())))


def by_task(
    metrics: Metrics, reference: Metrics, better: Callable[[str], Better], keys: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """What `reliability` is the mean of: task -> mean signed relative change of its headline metrics."""
    tasks = {}
    for task, task_keys in keys.items():
        changes = []
        for key in task_keys:
            direction = better(key)
            if direction == "neither":
                raise SpecError(f"headline metric {key} has no better direction")
            changes.append(signed_relative_change(reference[key], defined(metrics, key), direction))
        tasks[task] = float(np.mean(changes))
    return tasks


def reliability_keys(
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

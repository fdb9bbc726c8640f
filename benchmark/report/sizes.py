"""Sizes of quantized models from their QuantizationReports, comparable between scopes; and Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.spec import FP32

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Size:
    """How large a model is under one quantization.

    Attributes:
        bits: packed bits per weight, scales and zero points included, in the replaced layers alone; 32 where there
            are none.
        effective_bits: the same over the Linear and Conv2d weights of `towers`; what stays in float32 counts 32.
        megabytes: all parameters of `towers`, packed where quantized (10^6 bytes).
        towers: the towers that any report of the model tells of.
    """

    bits: float
    effective_bits: float
    megabytes: float
    towers: tuple[str, ...]


def sizes(reports: Mapping[str, Report]) -> dict[str, Size]:
    """Quantization -> size; all of one model, so that a tower that one of them leaves alone still counts.

    A quantization of one tower and one of both are comparable only where the reports tell of both towers. Controls
    replace no weight: they have no size of their own and are left out.
    """
    weights: dict[str, float] = {}
    float_bytes: dict[str, int] = {}
    for report in reports.values():
        for name, tower in report["towers"].items():
            if tower["weight_share"]:
                weights[name] = _weights(tower) / tower["weight_share"]
                float_bytes[name] = tower["float_bytes"]
    total = sum(weights.values())
    found = {}
    for quantization, report in reports.items():
        own = {name: tower for name, tower in report["towers"].items() if tower["weight_share"]}
        if not total or (not own and quantization != FP32.name):
            continue
        replaced = sum(_weights(tower) for tower in own.values())
        packed = sum(layer["packed_bits"] for tower in own.values() for layer in tower["layers"])
        size = sum(own[name]["packed_bytes"] if name in own else float_bytes[name] for name in weights)
        bits = packed / replaced if replaced else 32.0
        effective = (packed + 32 * (total - replaced)) / total
        found[quantization] = Size(bits, effective, size / 1e6, tuple(sorted(weights, reverse=True)))
    return found


def _weights(tower: Mapping[str, Any]) -> int:
    return sum(math.prod(layer["shape"]) for layer in tower["layers"])


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other point beats: lower cost is better, higher value is better.

    Ordered by cost. Of equal points all are kept.

    >>> front([(1.0, 0.5), (2.0, 0.4), (3.0, 0.9)])
    [0, 2]
    """
    kept = [
        i
        for i, (cost, value) in enumerate(points)
        if not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
    ]
    return sorted(kept, key=lambda i: points[i])

"""Size of a quantized model from its QuantizationReport: one definition for tables, MLflow, report, card and search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.errors import UndefinedMetric


@dataclass(frozen=True)
class Size:
    """How large a model is under one quantization, over all its towers: scopes are comparable.

    Attributes:
        effective_bits: packed bits per weight of the Linear and Conv2d layers, scales and zero points included
            (`effective_bits`).
        megabytes: all parameters, packed where quantized, float32 elsewhere (10^6 bytes).
        float_megabytes: the same before.
    """

    effective_bits: float
    megabytes: float
    float_megabytes: float


def effective_bits(packed_bits: int, replaced: int, total: int) -> float:
    r"""Measured bits per weight over both towers' Linear and Conv2d weights, scales and zero points included.

    .. math:: b = \frac{B + 32\,(W - W_q)}{W}

    `B` packed bits of the replaced layers, `W_q` weights replaced, `W` all weights: what a scope leaves out counts 32
    bits, so quantizations of one tower and of both are comparable. 32 for full precision.
    """
    if not 0 <= replaced <= total or total == 0:
        raise UndefinedMetric(f"effective_bits: {replaced} of {total} weights replaced")
    return (packed_bits + 32 * (total - replaced)) / total


def size(report: Mapping[str, Any]) -> Size | None:
    """Of a QuantizationReport as JSON; None for an artifact whose file does not tell its size.

    An artifact's bits per weight are the bits of its file per parameter of the tower.
    """
    weights, parameters, towers = report["weights"], report["parameters"], report["towers"]
    if any(tower["packed_bytes"] is None for tower in towers.values()):
        return None
    replaced = round(sum(weights[name] * tower["weight_share"] for name, tower in towers.items()))
    before = {name: 4 * count for name, count in parameters.items()}
    after = {name: towers[name]["packed_bytes"] if name in towers else count for name, count in before.items()}
    if report.get("kind") == "artifact":
        packed = round(sum(8 * t["packed_bytes"] * weights[name] / parameters[name] for name, t in towers.items()))
    else:
        packed = sum(layer["packed_bits"] for tower in towers.values() for layer in tower["layers"])
    bits = effective_bits(packed, replaced, sum(weights.values()))
    return Size(bits, sum(after.values()) / 1e6, sum(before.values()) / 1e6)

"""The report of an artifact: its files and sizes, and how far its features are from full precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.models.base import ClipModel
from benchmark.quantization.report import QuantizationReport, TowerReport, describe_device, tower_sizes
from benchmark.spec import QuantSpec, Tower

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Features (N, D) of full precision and of the artifact, L2-normalised; N may be 0."""


@dataclass(frozen=True)
class ArtifactFile:
    """The file of one tower: its name, the runtime that runs it, its bytes (None: they say nothing about a model)."""

    name: str
    runtime: str
    bytes: int | None


def artifact_report(
    model: ClipModel,
    quant: QuantSpec,
    files: Mapping[Tower, ArtifactFile],
    features: Mapping[Tower, Pair],
    notes: Sequence[str],
) -> QuantizationReport:
    """A report of kind "artifact": a tower replaced as a whole has no layers, and one engine, its runtime.

    Args:
        model: full precision. features: of the probe, by tower.
    """
    (cpu, device), (weights, parameters) = describe_device(model), tower_sizes(model)
    towers = {tower: _tower(file, parameters[tower], *features[tower]) for tower, file in files.items()}
    told = [f"{tower}: {file.name}, by {file.runtime}" for tower, file in files.items()]
    return QuantizationReport(
        quant.name,
        model.name,
        1,
        "real",
        towers,
        cpu=cpu,
        device=device,
        weights=weights,
        parameters=parameters,
        kept="whatever the file leaves in float",
        notes=tuple(notes),
        kind="artifact",
        title="; ".join(told),
    )


def _tower(
    file: ArtifactFile, parameters: int, reference: NDArray[np.float32], own: NDArray[np.float32]
) -> TowerReport:
    bits = None if file.bytes is None else 8 * file.bytes / parameters
    cosine, sqnr = _distance(reference, own)
    common: dict[str, Any] = dict.fromkeys(
        ("bits_per_weight", "bits_per_parameter", "bits_per_parameter_without_embedding"), bits
    )
    return TowerReport(
        layers=(),
        skipped={},
        weight_share=1.0,
        mac_share=1.0,
        **common,
        packed_bytes=file.bytes,
        float_bytes=4 * parameters,
        weight_relative_error=None,
        weight_sqnr_db=None,
        cosine=cosine,
        embedding_sqnr_db=sqnr,
        engines={file.runtime: 1},
    )


def _distance(reference: NDArray[np.float32], own: NDArray[np.float32]) -> tuple[float | None, float | None]:
    """Mean cosine, and 10 log10(||f||^2 / ||q - f||^2); None without features, the second also for equal ones."""
    if not len(own):
        return None, None
    before, after = reference.astype(np.float64), own.astype(np.float64)
    noise = float(np.square(after - before).sum())
    sqnr = float(10 * np.log10(float(np.square(before).sum()) / noise)) if noise else None
    return float((before * after).sum(1).mean()), sqnr

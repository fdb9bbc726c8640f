"""Figures of a spectral study (`spectrum.json` of `reliquant spectrum`): SQNR by rank, accuracy within rank bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from benchmark.report.looks import REFERENCE, look
from benchmark.report.overview import Figure
from benchmark.report.svg import Axis, Key, Plot, axis, legend, marker, path, series
from benchmark.spec import FP32
from benchmark.spectrum.model import CLEAN

STYLES = ("solid", "dashed", "dotted")
Entry = Mapping[str, Any]


def layer_of(study: Mapping[str, Any]) -> str:
    """The study's layer: `penultimate` where the model has one, else the joint space."""
    return "penultimate" if "penultimate" in study["layers"] else "image"


def clean_entries(study: Mapping[str, Any]) -> dict[str, Entry]:
    """Quantization -> the layer's numbers on clean images; full precision among them."""
    layer = layer_of(study)
    return {e["quantization"]: e["layers"][layer] for e in study["entries"] if e["images"] == CLEAN}


def draw(study: Mapping[str, Any], labels: Mapping[str, str]) -> list[Figure]:
    """SQNR over rank, and accuracy within rank bands where the layer is read out into the joint space.

    Args: labels: quantization -> text for the legend.
    """
    entries = clean_entries(study)
    quantized = [name for name in entries if name != FP32.name]
    keys = {name: _key(i, name, labels.get(name, name)) for i, name in enumerate(quantized)}
    figures = [Figure("sqnr", _sqnr(entries, keys), legend(list(keys.values())))]
    if entries[FP32.name]["accuracy_full_basis"]:
        keys = {FP32.name: Key(FP32.name, "full precision", "ref", REFERENCE), **keys}
        figures.append(Figure("bands", _bands(entries, keys), legend(list(keys.values()))))
    return figures


def _key(index: int, name: str, text: str) -> Key:
    css, shape = look(index)
    return Key(name, text, css, shape, STYLES[index % len(STYLES)])


def _sqnr(entries: Mapping[str, Entry], keys: Mapping[str, Key]) -> Markup:
    curves = {name: entries[name]["directions"]["sqnr_db"]["value"] for name in keys}
    length = max((len(curve) for curve in curves.values()), default=1)
    ticks = [(float(k), str(k)) for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if k <= length]
    x = Axis("rank of the direction (1: strongest), logarithmic", 1.0, float(max(length, 2)), ticks, log=True)
    values = [value for curve in curves.values() for value in curve if value is not None]
    plot = Plot(x, axis("SQNR, dB (↑ less noise)", values), 520, 310)
    marks = []
    for name, curve in curves.items():
        key = keys[name]
        points = [(float(k), math.nan if v is None else v) for k, v in enumerate(curve, 1)]
        pixels = [plot.at(p) if math.isfinite(p[1]) else (math.nan, math.nan) for p in points]
        dots = [
            marker(at, f"mark {key.css}", shape=key.shape or 0, size=3.6, tip=f"{name}: rank {k:.0f}, SQNR {v:.1f} dB")
            for at, (k, v) in zip(pixels, points, strict=True)
            if math.isfinite(v) and _shown(int(k))
        ]
        marks.append(series(name, path(pixels, f"line {key.line} {key.css}"), *dots))
    return plot.svg("Signal to quantization noise for each direction of full precision, by rank", *marks)


def _shown(rank: int) -> bool:
    """Points at round ranks only: enough to read values from."""
    return rank & (rank - 1) == 0


def _bands(entries: Mapping[str, Entry], keys: Mapping[str, Key]) -> Markup:
    bands = list(entries["fp32"]["accuracy_full_basis"])
    values = [value for name in keys for value in entries[name]["accuracy_full_basis"].values()]
    ticks = [(float(i), "all" if band == "all" else f"ranks {band}") for i, band in enumerate(bands)]
    x = Axis("directions that the features are projected on", -0.5, len(bands) - 0.5, ticks)
    plot = Plot(x, axis("zero-shot accuracy (↑ better)", values, zero=True), 520, 310)
    marks = []
    for i, (name, key) in enumerate(keys.items()):
        marks.append(series(name, *_band_marks(plot, key, _offset(i, len(keys)), bands, entries[name])))
    return plot.svg("Zero-shot accuracy within bands of ranks, for each quantization", *marks)


def _band_marks(plot: Plot, key: Key, offset: float, bands: Sequence[str], entry: Entry) -> list[Markup]:
    found = entry["accuracy_full_basis"]
    return [
        marker(
            plot.at((i + offset, found[band])),
            f"mark {key.css}",
            shape=key.shape or 0,
            tip=f"{key.series}: ranks {band}, accuracy {found[band]:.4f}",
        )
        for i, band in enumerate(bands)
        if band in found
    ]


def _offset(index: int, count: int) -> float:
    """Side by side within a band."""
    return 0.0 if count == 1 else 0.7 * (index / (count - 1) - 0.5)

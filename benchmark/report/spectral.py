"""Figures of a spectral study (`spectrum.json` of `reliquant spectrum`): SQNR by rank, accuracy within rank bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from benchmark.analysis.spectrum import CLEAN
from benchmark.report.overview import Figure
from benchmark.report.svg import COLOURS, Axis, Key, Plot, axis, legend, marker, path, series

STYLES = ("", "dashed", "dotted")
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
    styles = {
        name: f"c{i % COLOURS} {STYLES[i // COLOURS % len(STYLES)]}".strip()
        for i, name in enumerate(name for name in entries if name != "fp32")
    }
    keys = [Key(name, labels.get(name, name), css) for name, css in styles.items()]
    figures = [Figure("sqnr", _sqnr(entries, styles), legend(keys))]
    if entries["fp32"]["accuracy_by_band"]:
        reference = [Key("fp32", "full precision", "ref")]
        figures.append(Figure("bands", _bands(entries, {"fp32": "ref", **styles}), legend([*reference, *keys])))
    return figures


def _sqnr(entries: Mapping[str, Entry], styles: Mapping[str, str]) -> Markup:
    curves = {name: entries[name].get("sqnr_db", []) for name in styles}
    length = max((len(curve) for curve in curves.values()), default=1)
    ticks = [(float(k), str(k)) for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if k <= length]
    x = Axis("rank of the direction (1: strongest), logarithmic", 1.0, float(max(length, 2)), ticks, log=True)
    values = [value for curve in curves.values() for value in curve if value is not None]
    plot = Plot(x, axis("SQNR, dB (↑ less noise)", values), 520, 310)
    marks = []
    for name, curve in curves.items():
        points = [(float(k), math.nan if v is None else v) for k, v in enumerate(curve, 1)]
        pixels = [plot.at(p) if math.isfinite(p[1]) else (math.nan, math.nan) for p in points]
        dots = [
            marker(at, f"mark tiny {styles[name]}", size=2.2, tip=f"{name}: rank {k:.0f}, SQNR {v:.1f} dB")
            for at, (k, v) in zip(pixels, points, strict=True)
            if math.isfinite(v) and _shown(int(k))
        ]
        marks.append(series(name, path(pixels, f"line {styles[name]}"), *dots))
    return plot.svg("Signal to quantization noise for each direction of full precision, by rank", *marks)


def _shown(rank: int) -> bool:
    """Points at round ranks only: enough to read values from."""
    return rank & (rank - 1) == 0


def _bands(entries: Mapping[str, Entry], styles: Mapping[str, str]) -> Markup:
    bands = list(entries["fp32"]["accuracy_by_band"])
    values = [value for name in styles for value in entries[name]["accuracy_by_band"].values()]
    ticks = [(float(i), "all" if band == "all" else f"ranks {band}") for i, band in enumerate(bands)]
    x = Axis("directions that the features are projected on", -0.5, len(bands) - 0.5, ticks)
    plot = Plot(x, axis("zero-shot accuracy (↑ better)", values, zero=True), 520, 310)
    marks = []
    for i, (name, css) in enumerate(styles.items()):
        marks.append(series(name, *_band_marks(plot, name, css, _offset(i, len(styles)), bands, entries[name], i)))
    return plot.svg("Zero-shot accuracy within bands of ranks, for each quantization", *marks)


def _band_marks(
    plot: Plot, name: str, css: str, offset: float, bands: Sequence[str], entry: Entry, shape: int
) -> list[Markup]:
    found = entry["accuracy_by_band"]
    return [
        marker(
            plot.at((i + offset, found[band])),
            f"mark {css}",
            shape=shape,
            tip=f"{name}: ranks {band}, accuracy {found[band]:.4f}",
        )
        for i, band in enumerate(bands)
        if band in found
    ]


def _offset(index: int, count: int) -> float:
    """Side by side within a band."""
    return 0.0 if count == 1 else 0.7 * (index / (count - 1) - 0.5)

"""Figures of a spectral study: matplotlib figures by file name. Colours: `palette`; full precision is grey."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from benchmark.results.palette import LIGHT
from benchmark.spec import FP32
from benchmark.spectrum.model import CLEAN, Floats, LayerSpectrum, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#777777"
FULL_BASIS, OWN_BASIS = "full precision's directions", "each model's own directions"
COLUMNS = 24
"""Rank bins of the heat map at most."""


def draw(study: Study) -> dict[str, Figure]:
    """All figures of a study that was measured on at least one quantization."""
    figures = {
        "gain_by_rank": gain_by_rank(study),
        "sqnr_by_rank": sqnr_by_rank(study),
        "energy_spectra": energy_spectra(study),
        "block_sqnr": block_heat_map(study),
    }
    if any(layer.accuracy_full_basis for layer in study.find(FP32.name).values()):
        figures["band_accuracy_full_basis"] = band_accuracy(study, lambda layer: layer.accuracy_full_basis, FULL_BASIS)
        figures["band_accuracy_own_basis"] = band_accuracy(study, lambda layer: layer.accuracy_own_basis, OWN_BASIS)
    return figures


def _panels(study: Study, title: str, count: int, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * count, height), layout="tight")
    figure.suptitle(f"{title}: {study.model}, {study.data} ({study.count} images)", fontsize=10)
    axes = list(np.atleast_1d(figure.subplots(1, count)))
    for panel in axes:
        panel.grid(alpha=0.25)
    return figure, axes


def _colours(study: Study) -> dict[str, str]:
    return {name: LIGHT[i % len(LIGHT)] for i, name in enumerate(study.quantizations)}


def _corrupted(study: Study, layer: str) -> Iterator[tuple[str, str, LayerSpectrum]]:
    """(corruption, line style, full precision's spectrum there)."""
    styles = ("--", ":", "-.")
    for i, corruption in enumerate(study.corruptions):
        yield corruption, styles[i % len(styles)], study.find(FP32.name, corruption)[layer]


def gain_by_rank(study: Study) -> Figure:
    """Gain and energy ratio along each direction of full precision, with intervals: a row each, a column a layer."""
    from matplotlib.figure import Figure

    layers = study.final_layers
    figure = Figure(figsize=(5.2 * len(layers), 6.4), layout="tight")
    figure.suptitle(f"Gain and energy by direction: {study.model}, {study.data} ({study.count} images)", fontsize=10)
    rows = {"gain": "gain (1: unchanged)", "energy_ratio": "energy against full precision's"}
    grid = figure.subplots(2, len(layers), squeeze=False, sharex="col")
    for (ratio, label), panels in zip(rows.items(), grid, strict=True):
        for layer, axes in zip(layers, panels, strict=True):
            for name, colour in _colours(study).items():
                told = study.find(name)[layer].directions()[ratio]
                ranks = np.arange(len(told.value)) + 1
                axes.plot(ranks, told.value, color=colour, linewidth=1, label=name)
                axes.fill_between(ranks, told.low, told.high, color=colour, alpha=0.2, linewidth=0)
            axes.axhline(1.0, color=GREY, linewidth=0.8)
            axes.set(title=layer, ylabel=label, xscale="log", yscale="linear" if ratio == "gain" else "log")
            axes.grid(alpha=0.25)
    for axes in grid[-1]:
        axes.set_xlabel("rank of the direction (1: strongest)")
    grid[0][0].legend(fontsize=6)
    return figure


def sqnr_by_rank(study: Study) -> Figure:
    """SQNR along each direction of full precision; dashed and grey: the effect of corruptions, on the same axes."""
    layers = study.final_layers
    figure, panels = _panels(study, "SQNR by direction of full precision", len(layers))
    for layer, axes in zip(layers, panels, strict=True):
        for name, colour in _colours(study).items():
            _line(axes, study.find(name)[layer].sqnr_db, colour, "-", name)
        for corruption, style, spectrum in _corrupted(study, layer):
            _line(axes, spectrum.sqnr_db, GREY, style, f"{corruption} in full precision")
        axes.set(title=layer, xlabel="rank of the direction (1: strongest)", ylabel="SQNR (dB)", xscale="log")
        _legend(axes)
    return figure


def _line(axes: Axes, values: Floats | None, colour: str, style: str, label: str) -> None:
    if values is not None and np.isfinite(values).any():
        axes.plot(np.arange(len(values)) + 1, values, style, color=colour, linewidth=1, label=label)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=6)
    else:
        axes.text(0.5, 0.5, "no noise falls on this layer", ha="center", transform=axes.transAxes)


def energy_spectra(study: Study) -> Figure:
    """Share of the energy in each of a model's own directions, on clean and on corrupted images."""
    layers = study.final_layers
    figure, panels = _panels(study, "Energy spectra", len(layers))
    for layer, axes in zip(layers, panels, strict=True):
        full = study.find(FP32.name)[layer]
        stages = [("full precision", GREY, "-", full)]
        stages += [(name, colour, "-", study.find(name)[layer]) for name, colour in _colours(study).items()]
        stages += [(f"full precision, {c}", GREY, style, found) for c, style, found in _corrupted(study, layer)]
        for label, colour, style, found in stages:
            ranks = np.arange(full.rank) + 1
            text = f"{label} (effective rank {found.effective_rank:.1f})"
            axes.plot(ranks, found.energy[: full.rank], style, color=colour, linewidth=1, label=text)
        axes.set(title=layer, xlabel="rank", ylabel="share of the energy", xscale="log", yscale="log")
        axes.legend(fontsize=6)
    return figure


def band_accuracy(study: Study, accuracy: Callable[[LayerSpectrum], Mapping[str, float]], basis: str) -> Figure:
    """Zero-shot accuracy within the rank bands of a basis: a row a layer, clean and corrupted images."""
    from matplotlib.figure import Figure

    versions = [CLEAN, *study.corruptions]
    layers = [name for name, found in study.find(FP32.name).items() if accuracy(found)]
    figure = Figure(figsize=(4.6 * len(versions), 3.2 * len(layers) + 0.5), layout="tight")
    figure.suptitle(f"Zero-shot accuracy within rank bands of {basis}: {study.model}, {study.data}", fontsize=10)
    grid = figure.subplots(len(layers), len(versions), squeeze=False, sharey=True)
    names = {FP32.name: GREY, **_colours(study)}
    width = 0.8 / len(names)
    for row, layer in enumerate(layers):
        for axes, images in zip(grid[row], versions, strict=True):
            for i, (name, colour) in enumerate(names.items()):
                heights = accuracy(study.find(name, images)[layer])
                axes.bar(np.arange(len(heights)) + i * width, list(heights.values()), width, color=colour, label=name)
                axes.set_xticks(np.arange(len(heights)) + 0.4 - width / 2, list(heights))
            axes.set(title=f"{layer}, {images}", xlabel="ranks that are kept", ylim=(0, 1))
            axes.grid(alpha=0.25)
        grid[row][0].set_ylabel("accuracy")
    grid[0][0].legend(fontsize=6)
    return figure


def block_heat_map(study: Study) -> Figure:
    """SQNR of every block by rank (bins of equal ratio): one panel for each quantization, one for each corruption."""
    from matplotlib.figure import Figure

    found = {name: study.find(name) for name in study.quantizations}
    found |= {f"{corruption} in full precision": study.find(FP32.name, corruption) for corruption in study.corruptions}
    tables = {title: _table(layers) for title, layers in found.items()}
    finite = np.concatenate([table[np.isfinite(table)] for table in tables.values()])
    limits = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    figure = Figure(figsize=(4.4 * len(tables) + 1, 0.28 * len(study.layers) + 2), layout="constrained")
    figure.suptitle(f"SQNR (dB) by layer and rank: {study.model}, {study.data}", fontsize=10)
    panels = list(np.atleast_1d(figure.subplots(1, len(tables), sharey=True)))
    for (title, table), axes in zip(tables.items(), panels, strict=True):
        image = axes.imshow(table, aspect="auto", cmap="cividis", vmin=limits[0], vmax=limits[1])
        edges = _edges(max(layer.rank for layer in found[title].values()))
        ticks = range(0, len(edges) - 1, 4)
        axes.set_xticks(list(ticks), [str(edges[i] + 1) for i in ticks])
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("rank")
    panels[0].set_yticks(range(len(study.layers)), [name.removeprefix("block:") for name in study.layers], fontsize=6)
    figure.colorbar(image, ax=panels)
    return figure


def _edges(rank: int) -> list[int]:
    """Edges of rank bins of about equal ratio, each at least one direction wide."""
    edges = np.unique(np.round(np.geomspace(1, rank + 1, COLUMNS + 1)).astype(int)) - 1
    return [int(edge) for edge in edges]


def _table(layers: Mapping[str, LayerSpectrum]) -> Floats:
    """(layers, bins) SQNR of the energy in each bin; NaN where no noise falls or beyond a layer's rank."""
    edges = _edges(max(layer.rank for layer in layers.values()))
    table = np.full((len(layers), len(edges) - 1), np.nan)
    for row, layer in enumerate(layers.values()):
        if layer.signal is None or layer.noise is None:
            continue
        for column, (low, high) in enumerate(pairwise(edges)):
            signal, noise = (v[low : min(high, layer.rank)].sum() for v in (layer.signal, layer.noise))
            if signal > 0 and noise > 0:
                table[row, column] = 10 * np.log10(signal / noise)
    return table

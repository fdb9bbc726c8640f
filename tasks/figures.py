"""Kinds of figures for tasks to draw with: numbers in, a matplotlib figure out. They know no task.

A sweep draws thousands of them, so they are cheap: margins and the places of titles, labels and legends are given (a
layout engine draws everything once more to find margins, titles and labels measure all tick labels first), and what
belongs together is one artist (40 bars are 40 artists, 15 arrows with text boxes still slower).
Colours are Okabe and Ito's palette, which colour-blind readers can tell apart; full precision is always grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
OTHERS = (ORANGE, GREEN, GREY, "#CC79A7", "#F0E442")


LETTER = 0.075
"""Inches that a letter of a tick label takes."""


def _axes(
    title: str, x: str, y: str, size: tuple[float, float] = (5.0, 4.0), left: float = 0.65, right: float = 0.15
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; `left` and `right` are margins in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    _margins(figure, left, right)
    axes.set_title(title, fontsize=10, y=1.0)
    axes.grid(alpha=0.25)
    _labels(figure, axes, x, y)
    return figure, axes


def _labels(figure: Figure, axes: Axes, x: str, y: str) -> None:
    """Axis labels 0.08 inches from the figure's edge, in the middle of the axes."""
    from matplotlib.transforms import blended_transform_factory as blended

    width, height = figure.get_size_inches()
    axes.set_xlabel(x, verticalalignment="bottom")
    axes.set_ylabel(y, verticalalignment="top")
    axes.xaxis.set_label_coords(0.5, 0.08 / height, blended(axes.transAxes, figure.transFigure))
    axes.yaxis.set_label_coords(0.08 / width, 0.5, blended(figure.transFigure, axes.transAxes))


def _margins(figure: Figure, left: float, right: float, between: float = 0.0) -> None:
    width, height = figure.get_size_inches()
    bottom, top = 0.55 / height, 1 - 0.4 / height
    figure.subplots_adjust(left / width, bottom, 1 - right / width, top, wspace=between)


FULL, THIS = "full precision", "this"
"""Names of the two that a figure compares."""


def staged(summary: Summary, reference: Summary | None) -> dict[str, Summary]:
    """Full precision, where there is one, and what is compared with it, by name."""
    return {FULL: reference, THIS: summary} if reference is not None else {THIS: summary}


def _colour(label: str, index: int) -> str:
    """Full precision is always grey."""
    return GREY if label.startswith(FULL) else (ORANGE, BLUE, GREEN)[index % 3]


def _coloured(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Labels with their colours."""
    others = [label for label in labels if not label.startswith(FULL)]
    return [(label, _colour(label, others.index(label) if label in others else 0)) for label in labels]


def reliability(stages: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Trajectory reliability diagram: an arrow for each confidence bin's way from one stage to the next.

    Bins that are empty at one end have no arrow; the area of a point is the bin's share of the images.

    Args: stages: label -> (K, 3) mean confidence, accuracy and count of each bin.
    """
    figure, axes = _axes("Reliability", "mean confidence in the bin", "accuracy in the bin", (5, 5))
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="perfect")
    before: NDArray[np.float64] | None = None
    for label, colour in _coloured(list(stages)):
        now, count = stages[label][:, :2], stages[label][:, 2]
        kept = count > 0
        if before is not None and before.shape == now.shape:
            moved = np.isfinite(before).all(axis=1) & np.isfinite(now).all(axis=1)
            way: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.003}
            axes.quiver(*before[moved].T, *(now - before)[moved].T, color=colour, alpha=0.6, **way)
        before = now
        axes.plot(*now[kept].T, color=colour, linewidth=1)
        across, up = now[kept].T
        axes.scatter(across, up, s=10 + 150 * count[kept] / count.sum(), color=colour, alpha=0.8, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", fontsize=8)
    return figure


def histograms(
    panels: Mapping[str, Sequence[Mapping[str, NDArray[np.float64]]]], label: str, names: Mapping[str, str]
) -> Figure:
    """Histograms side by side: those of the first table filled, those of a second one (full precision) as lines.

    Args:
        panels: title -> one table or two, each with `low` and `high` (edges of the bins, (B,)) and densities (B,).
        label: of the x axis. names: of densities, for the legend.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import StepPatch

    figure = Figure(figsize=(3.6 * len(panels), 3.4))
    grid = np.atleast_1d(figure.subplots(1, len(panels)))
    _margins(figure, 0.15, 0.15, between=0.08)
    for (title, tables), axes in zip(panels.items(), grid, strict=True):
        axes.set_title(title, y=1.0)
        axes.set_yticks([])
        _labels(figure, axes, label, "")
        axes.locator_params(axis="x", nbins=4)
        for table, filled in zip(tables, (True, False), strict=False):
            edges = np.append(table["low"], table["high"][-1])
            for (name, density), colour in zip(_densities(table).items(), (BLUE, *OTHERS), strict=False):
                style = {"linewidth": 0, "alpha": 0.55, "label": names.get(name, name)} if filled else {"linewidth": 1}
                axes.add_artist(StepPatch(density, edges, baseline=0, fill=filled, color=colour, **style))
        _fit(axes, tables)
    grid[0].legend(fontsize=8)
    return figure


def _densities(table: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {name: values for name, values in table.items() if name not in ("low", "high")}


def _fit(axes: Axes, tables: Sequence[Mapping[str, NDArray[np.float64]]]) -> None:
    """Limits of a panel of histograms with matplotlib's margins of 5 %, which would follow each step to find them."""
    low = min((float(table["low"].min()) for table in tables), default=0.0)
    high = max((float(table["high"].max()) for table in tables), default=1.0)
    top = max((float(density.max()) for table in tables for density in _densities(table).values()), default=1.0)
    margin = 0.05 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(0, 1.05 * top)


def curves(
    lines: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    title: str,
    x: str,
    y: str,
    *,
    points: bool = False,
    limits: tuple[float, float] | None = None,
    heights: tuple[float, float] | None = None,
    line_at: float | None = None,
) -> Figure:
    """Lines by name; `points`: with a mark and a tick at each x; `line_at`: a dotted line up the figure."""
    figure, axes = _axes(title, x, y)
    for label, colour in _coloured(list(lines)):
        axes.plot(*lines[label], color=colour, label=label, marker="o" if points else None)
    if points:
        axes.set_xticks(np.unique(np.concatenate([across for across, _ in lines.values()])))
    if line_at is not None:
        axes.axvline(line_at, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlim(limits)
    axes.set_ylim(*(heights or (0, None)))
    axes.legend(loc="lower left" if points else "best", fontsize=8)
    return figure


def heat_map(
    values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], titles: tuple[str, str]
) -> Figure:
    """Shares in [0, 1] as colours and numbers. Args: values (R, C), NaN where there is none; title and x label."""
    left = 0.25 + LETTER * max(map(len, rows))
    width = max(5.0, left + 0.45 * len(columns) + 0.9)
    figure, axes = _axes(*titles, "", (width, 0.32 * len(rows) + 1.2), left, 0.05)
    axes.grid(visible=False)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        colour = "black" if value > 0.5 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image)
    return figure


def grouped_bars(groups: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Bars of accuracy: one cluster for each outer name, one bar for each inner name."""
    figure, axes = _axes(title, "", "accuracy", (max(4.0, 1.4 * len(groups) + 1), 4))
    inner = list(next(iter(groups.values())))
    width = 0.8 / len(inner)
    for i, name in enumerate(inner):
        heights = [group[name] for group in groups.values()]
        bars = axes.bar(np.arange(len(groups)) + i * width, heights, width, label=name, color=(BLUE, ORANGE, GREEN)[i])
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.set_xticks(np.arange(len(groups)) + 0.4 - width / 2, list(groups))
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=8)
    return figure


def dumbbells(pairs: Mapping[str, Mapping[str, float]], title: str, told: Mapping[str, str]) -> Figure:
    """A line for each name between two accuracies. Args: pairs: name -> side -> value; told: text beside each."""
    ends = list(next(iter(pairs.values())))
    values = np.array([[pair[end] for end in ends] for pair in pairs.values()])
    left = 0.25 + LETTER * max(map(len, pairs))
    right = 0.25 + LETTER * max(len(told[name]) for name in pairs)
    figure, axes = _axes(title, "accuracy", "", (left + right + 4.0, 0.26 * len(pairs) + 1.4), left, right)
    rows = np.arange(len(pairs))
    axes.hlines(rows, values.min(axis=1), values.max(axis=1), color=GREY, linewidth=1)
    for column, (end, colour, marker) in enumerate(zip(ends, (BLUE, ORANGE), "os", strict=True)):
        axes.scatter(values[:, column], rows, color=colour, marker=marker, label=end, zorder=3)
    for row, name in enumerate(pairs):
        axes.annotate(
            told[name], (1.0, row), (4, 0), ("axes fraction", "data"), "offset points", fontsize=8, va="center"
        )
    axes.set_yticks(rows, list(pairs))
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    return figure

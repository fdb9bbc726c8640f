"""The figure of a sensitivity study: a heat map of layers and tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.sensitivity.model import OVERALL, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERS = 60
"""Rows up to which cells show their numbers."""


def heat_map(study: Study) -> Figure:
    """Harm of each unit, in the order of the forward pass; a dot marks intervals that leave out zero."""
    from matplotlib.figure import Figure

    columns = [name for name in (OVERALL, *study.tasks) if any(name in row.harm for row in study.rows)]
    values = np.array([[_value(row.harm, name) for name in columns] for row in study.rows], dtype=np.float64)
    names = [row.unit.name for row in study.rows]
    height = min(0.24 * len(names), 60.0)
    figure = Figure(
        figsize=(3.0 + 0.075 * max(map(len, names)) + 1.0 * len(columns), 2.2 + height), layout="constrained"
    )
    axes = figure.subplots()
    widest = float(np.nanmax(np.abs(values), initial=1e-9))
    shown = axes.imshow(values, cmap="RdBu_r", vmin=-1.6 * widest, vmax=1.6 * widest, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value) and len(names) <= MOST_NUMBERS:
            effect = study.rows[row].harm[columns[column]]
            sure = effect.low is not None and effect.high is not None and (effect.low > 0 or effect.high < 0)
            axes.text(column, row, f"{value:+.2f}{' •' * sure}", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(columns)), [c.replace("_", " ") for c in columns], rotation=25, ha="right")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    bar = figure.colorbar(shown, ax=axes, shrink=0.6)
    bar.set_label("points that quantizing it costs (red: worse)")
    axes.set_title(
        f"{study.suite}, {study.model}: {study.base}, {study.images:,} images; •: 95 % interval without 0", fontsize=9
    )
    return figure


def _value(effects: object, name: str) -> float:
    found = effects.get(name) if isinstance(effects, dict) else None
    return float("nan") if found is None else found.value

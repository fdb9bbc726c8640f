"""All quantizations of one model together: the summary table, and two figures of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.results import csv_text
from benchmark.results.compare import Change, adjust
from benchmark.results.decide import by_configuration, declared_by
from benchmark.results.notation import STARS, WISHES
from benchmark.results.palette import LIGHT
from benchmark.results.tables import declared, headline_keys, report_figures, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmark.tracking import FinishedSweep

Table = list[dict[str, Any]]


def headline_changes(sweep: FinishedSweep) -> dict[tuple[str, str], Change]:
    """(quantization, headline metric) -> its change, with q over all of them."""
    keys = set(headline_keys(sweep, sweep.records))
    return {(c.quantization, c.key): c for c in adjust(change for change in sweep.changes if change.key in keys)}


def summary(sweep: FinishedSweep) -> Table:
    """One row for each quantization: `method`, `effective_bits`, `verdict`, by short name the headline metrics with
    `_change` and `_q`.

    None where there is no value. q is adjusted over the whole table.
    """
    keys = headline_keys(sweep, sweep.records)
    names, changes = short_names(keys), headline_changes(sweep)
    values = {(r.quantization, key): value for r in sweep.records for key, value in r.metrics.items()}
    decisions = by_configuration(keys, sweep.changes, sweep.suite.margins, declared_by(sweep))
    rows: Table = []
    for configuration in sweep.configurations:
        name, report = configuration.quant.name, sweep.reports.get(configuration.key)
        row: dict[str, Any] = {"quantization": name, "method": configuration.quant.method}
        row["effective_bits"] = report_figures(report).get("effective_bits") if report else None
        decision = decisions.get(configuration.key)
        row["verdict"] = decision.verdict if decision else None
        for key in keys:
            change = changes.get((name, key))
            row[names[key]] = values.get((name, key))
            row[f"{names[key]}_change"] = change.change if change else None
            row[f"{names[key]}_q"] = change.q if change else None
        rows.append(row)
    return rows


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV, empty where there is no value."""
    return csv_text.to_csv(list(rows[0]), (row.values() for row in rows))


def draw(sweep: FinishedSweep) -> dict[str, Figure]:
    """`changes`: a heat map, quantizations x headline metrics; `bits`: each headline metric against effective bits.

    Nothing where there is no headline metric or nothing to compare.
    """
    keys = headline_keys(sweep, sweep.records)
    changes = headline_changes(sweep)
    return {"changes": _heat_map(sweep, keys, changes), "bits": _bits(sweep, keys, changes)} if changes else {}


def _heat_map(sweep: FinishedSweep, keys: Sequence[str], changes: Mapping[tuple[str, str], Change]) -> Figure:
    from matplotlib.figure import Figure

    names = [c.quant.name for c in sweep.configurations if any((c.quant.name, key) in changes for key in keys)]
    labels = [short_names(keys)[key].replace("_", " ") for key in keys]
    gain = np.full((len(names), len(keys)), np.nan)
    figure = Figure(figsize=(3.6 + 1.15 * len(keys), 1.9 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(names):
        for j, key in enumerate(keys):
            change = changes.get((name, key))
            if change is not None:
                gain[i, j] = {"better": 1, "worse": -1}.get(change.direction, 0) * abs(change.change)
                axes.text(j, i, f"{change.change:+.3f}\n{change.stars}".strip(), ha="center", va="center", fontsize=8)
    widest = np.nanmax(np.abs(gain), axis=0)
    shown = axes.imshow(gain / np.where(widest > 0, widest, 1), cmap="RdBu", vmin=-1.6, vmax=1.6, aspect="auto")
    axes.set_xticks(range(len(keys)), labels, rotation=25, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    bar = figure.colorbar(shown, ax=axes, ticks=[-1, 0, 1], boundaries=np.linspace(-1, 1, 101), shrink=0.8)
    bar.ax.set_yticklabels(["as much worse", "no change", "as much better"])
    axes.set_title(
        f"{sweep.suite.name}, {sweep.model}: change against fp32\n"
        f"blue is better, red is worse, relative to the column's largest; {STARS}",
        fontsize=10,
    )
    return figure


def _bits(sweep: FinishedSweep, keys: Sequence[str], changes: Mapping[tuple[str, str], Change]) -> Figure:
    from matplotlib.figure import Figure

    across = min(3, len(keys))
    down = -(-len(keys) // across)
    width, height = 4.1 * across, 3.1 * down + 1
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(down, across, squeeze=False)
    tasks, rows, names = declared(sweep), summary(sweep), short_names(keys)
    for axes, key in zip(grid.flat, keys, strict=False):
        task, _, rest = key.split("/", 2)
        wish = WISHES[tasks[task].metric(rest).better]
        _panel(axes, rows, names[key], {q: c for (q, k), c in changes.items() if k == key})
        axes.set_title(f"{names[key]} ({wish})" if wish else names[key], fontsize=10, y=1.0)
    for axes in list(grid.flat)[len(keys) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("effective bits per weight")
    shown = [dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True)) for axes in grid.flat]
    handles = {label: handle for each in reversed(shown) for label, handle in each.items()}
    columns = 1 + int(width // 3)  # of the legend
    figure.legend(list(handles.values()), list(handles), loc="lower center", ncols=columns, fontsize=9)
    bottom = 0.7 + 0.25 * -(-len(handles) // columns)
    place = {"left": 0.6 / width, "right": 1 - 0.1 / width, "bottom": bottom / height, "top": 1 - 0.7 / height}
    figure.subplots_adjust(**place, wspace=0.2, hspace=0.25)  # a layout engine would draw all of it once more
    told = f"{sweep.suite.name}, {sweep.model}: bars are 95 % intervals of the change against fp32"
    figure.suptitle(told, y=1 - 0.15 / height)
    return figure


def _bar(change: Change | None) -> tuple[float, float]:
    """Lengths of a change's interval below and above it; NaN, which draws none, where it has no interval."""
    if change is None or change.low is None or change.high is None:
        return np.nan, np.nan
    return max(0.0, change.change - change.low), max(0.0, change.high - change.change)


def _panel(axes: Axes, rows: Table, name: str, changes: Mapping[str, Change]) -> None:
    """One metric against bits: a colour and a marker for each method, the line is full precision."""
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != "fp32"))
    for method, marker in zip(methods, "osD^vP*X<>hp" * len(methods), strict=False):
        shown = [r for r in rows if r["method"] == method and None not in (r[name], r["effective_bits"])]
        if shown:
            bits, values = zip(*((row["effective_bits"], row[name]) for row in shown), strict=True)
            bars = np.transpose([_bar(changes.get(row["quantization"])) for row in shown])
            colour = LIGHT[methods.index(method) % len(LIGHT)]
            axes.errorbar(bits, values, bars, fmt=marker, color=colour, capsize=2, label=method)
    for row in rows:
        if row["method"] == "fp32" and row[name] is not None:
            axes.axhline(row[name], color="0.4", linestyle="--", linewidth=1, label="fp32")
    axes.grid(alpha=0.3)

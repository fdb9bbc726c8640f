"""Changes of one quantization as coloured cells: heat maps over all quantizations, and grids of a metric's parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmark.plugins import tasks
from benchmark.report.overview import change_tip
from benchmark.report.svg import signed_text
from benchmark.results.compare import Change, adjust
from benchmark.results.rows import Row


@dataclass(frozen=True)
class Heat:
    """One cell of a heat map: what it shows, how strong (0-1), which side, and what a tooltip says."""

    text: str
    stars: str
    share: float
    side: str
    tip: str
    value: float


@dataclass(frozen=True)
class Grid:
    """A heat map of the parts `<row>/<column>/<metric>` of one metric: cells are None where there is no such part."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Heat | None, ...]]


def grids(row: Row) -> list[Grid]:
    """For each evaluation and headline metric that has parts of two names (type and severity, data set and score) the
    change of each against full precision; stars over the cells of the grid.
    """
    found = []
    for name, record in row.records.items():
        task, prefix = tasks.get(record.task), f"{name}/"
        parts: dict[str, dict[tuple[str, str], Change]] = {}
        for key, change in row.changes.items():
            if key.startswith(prefix) and key.count("/") == 4 and task.metric(key).headline:
                across, down, metric = key.removeprefix(prefix).split("/")
                parts.setdefault(metric, {})[across, down] = change
        found += [_grid(f"{prefix}{metric}", cells) for metric, cells in parts.items()]
    return found


def _grid(title: str, cells: Mapping[tuple[str, str], Change]) -> Grid:
    heats = {at: heat(change, absolute=True) for at, change in zip(cells, adjust(cells.values()), strict=True)}
    columns = tuple(sorted({column for _, column in cells}))
    names = dict.fromkeys(name for name, _ in cells)
    return Grid(title, columns, {name: tuple(heats.get((name, column)) for column in columns) for name in names})


FULL_RELATIVE, FULL_ABSOLUTE = 0.2, 0.2
"""Relative change, or change in points of accuracy, at which a cell has its full colour."""


def heat(change: Change, *, absolute: bool = False) -> Heat:
    """A cell: blue better, orange worse; paler where the change is not significant."""
    size = abs(change.change) if absolute or change.relative is None else abs(change.relative)
    share = min(1.0, size / (FULL_ABSOLUTE if absolute else FULL_RELATIVE))
    side = change.direction if change.direction in ("better", "worse") else ""
    strength = share if change.stars else 0.35 * share
    return Heat(
        signed_text(change.change, 3), change.stars, round(strength, 2), side, change_tip(change), change.change
    )

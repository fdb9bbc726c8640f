"""Figures of accuracy gaps: common against counter backgrounds, source against shifted images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmark.report.overview import Figure
from benchmark.report.svg import Axis, Key, Plot, axis, fitted, legend, marker, note, series, signed_text, whisker
from benchmark.results.rows import Row


@dataclass(frozen=True)
class Gap:
    """A pair of accuracies of one row, e.g. on common and on counter backgrounds, and what follows from them."""

    row: Row
    first: float
    second: float
    text: str
    tip: str


def gaps(found: Sequence[Gap], names: tuple[str, str], label: str) -> Figure:
    """A dumbbell for each quantization: how far the second accuracy lies below the first."""
    values = [value for gap in found for value in (gap.first, gap.second)]
    across = axis("accuracy (right is better →)", values)
    plot = Plot(across, Axis("", len(found) - 0.5, -0.5), 560, 50 + 24.0 * len(found), (150, 8, 152, 40))
    marks = []
    for i, gap in enumerate(found):
        a, b = plot.at((gap.first, i)), plot.at((gap.second, i))
        marks += [
            note((plot.margin[0] - 8, a[1] + 4), fitted(gap.row.label, plot.margin[0] - 10), "end", "tick"),
            whisker(a, b, "gap"),
            series("first", marker(a, "mark c0", tip=f"{gap.tip}: {names[0]} {gap.first:.4f}")),
            series("second", marker(b, "mark c1", shape=2, tip=f"{gap.tip}: {names[1]} {gap.second:.4f}")),
            note((plot.width - 142, a[1] + 4), gap.text, "start", "tick"),
        ]
    keys = [Key("first", names[0], "c0", 0), Key("second", names[1], "c1", 2)]
    return Figure(label, plot.svg(f"{label}: {names[0]} and {names[1]}", *marks), legend(keys))


def spurious(rows: Sequence[Row]) -> list[Figure]:
    """Spurious gaps: accuracy on common and counter backgrounds, RSG and its change, for each data set."""
    sides = ("common background", "counter background")
    return _gaps_by_name(rows, "spurious/", ("accuracy_common", "accuracy_counter"), sides, _rsg)


def shifts(rows: Sequence[Row]) -> list[Figure]:
    """Covariate shift: accuracy on the source and on shifted images of the same classes, means over the sets."""

    def told(row: Row, name: str) -> str:
        return f"gap {row.metrics[f'{name}/source_accuracy'] - row.metrics[f'{name}/accuracy']:.3f}"

    return _gaps_by_name(rows, "covariate_shift/", ("source_accuracy", "accuracy"), ("source", "shifted"), told)


def _gaps_by_name(
    rows: Sequence[Row],
    task: str,
    keys: tuple[str, str],
    names: tuple[str, str],
    told: Callable[[Row, str], str],
) -> list[Figure]:
    """A figure for each evaluation of a task, with the rows that have both accuracies."""
    figures = []
    for name in dict.fromkeys(name for row in rows for name in row.records if name.startswith(task)):
        found = []
        for row in rows:
            first, second = (row.metrics.get(f"{name}/{key}") for key in keys)
            if first is not None and second is not None:
                found.append(Gap(row, first, second, told(row, name), f"{row.quantization}, {name}"))
        if found:
            figures.append(gaps(found, names, name))
    return figures


def _rsg(row: Row, name: str) -> str:
    rsg, change = row.metrics.get(f"{name}/rsg"), row.headline.get(f"{name}/rsg") or row.changes.get(f"{name}/rsg")
    if rsg is None:
        return "RSG undefined"
    return f"RSG {rsg:.3f}" + (f" ({signed_text(change.change, 3)}{change.stars})" if change is not None else "")

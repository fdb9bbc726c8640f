"""Figures over all quantizations of a model: Pareto fronts, changes with their intervals, accuracy gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmark.analysis.compare import Change
from benchmark.report.front import front
from benchmark.report.gather import Row, better_of
from benchmark.report.svg import (
    COLOURS,
    Axis,
    Key,
    Plot,
    Point,
    axis,
    doubling,
    legend,
    marker,
    names,
    note,
    path,
    series,
    signed_text,
    tag,
    usual,
    whisker,
)

ARROWS = {"higher": "↑ better", "lower": "↓ better", "neither": ""}
RELIABILITY = "reliability"
Cost = Callable[[Row], "float | None"]
COSTS: Mapping[str, tuple[str, Cost]] = {
    "bits": ("effective bits per weight (← better)", lambda row: row.size.effective_bits if row.size else None),
    "size": ("size of both towers, MB (← better)", lambda row: row.size.megabytes if row.size else None),
    "latency": (
        "latency, ms (← better)",
        lambda row: row.latency.milliseconds if row.latency else None,
    ),
}
"""What a quantization costs: label of the axis, and the value of a row."""


@dataclass(frozen=True)
class Figure:
    """A drawn figure: its title, its SVGs side by side, its legend."""

    title: str
    body: Markup
    legend: Markup


def methods_of(rows: Sequence[Row]) -> dict[str, str]:
    """Method -> colour class; full precision is grey."""
    names = dict.fromkeys(_method(row) for row in rows if not row.full_precision)
    return {name: f"c{i % COLOURS}" for i, name in enumerate(names)}


def _method(row: Row) -> str:
    return row.label.split(" ")[0]


def _shape(row: Row) -> int:
    """Circle: vision, square: both towers, diamond: text."""
    return {"v+t": 1, "text": 2}.get(row.label.split(" ")[-1], 0)


def pareto(rows: Sequence[Row], headline: Sequence[str], chosen: str | None) -> list[Figure]:
    """For reliability and each headline metric one figure, with a panel for each cost that the records know."""
    rows = [row for row in rows if not row.control]
    figures = []
    for key in (RELIABILITY, *headline):
        better = "higher" if key == RELIABILITY else better_of(key)
        panels = [_panel(rows, cost, key, better, chosen) for cost in COSTS]
        drawn = [panel for panel in panels if panel is not None]
        if drawn and better != "neither":
            figures.append(Figure(key, Markup("").join(drawn), _method_legend(rows)))
    return figures


def _method_legend(rows: Sequence[Row]) -> Markup:
    keys = [Key("fp32", "full precision", "ref", 0)] * any(row.full_precision for row in rows)
    keys += [Key(name, name, css, 0) for name, css in methods_of(rows).items()]
    return legend(keys)


@dataclass(frozen=True)
class Placed:
    """A row with its cost and its value, and the ends of the value's interval."""

    row: Row
    cost: float
    value: float
    low: float
    high: float


def _placed(rows: Sequence[Row], cost: str, key: str) -> list[Placed]:
    found = []
    for row in rows:
        c, v = COSTS[cost][1](row), row.reliability if key == RELIABILITY else row.metrics.get(key)
        if c is not None and v is not None:
            found.append(Placed(row, c, v, *_interval(row, key, v)))
    return found


def _panel(rows: Sequence[Row], cost: str, key: str, better: str, chosen: str | None) -> Markup | None:
    """One cost against one value; None where fewer than two quantizations have both."""
    found = _placed(rows, cost, key)
    if sum(not each.row.full_precision for each in found) < 2:
        return None
    label = COSTS[cost][0].replace("better)", f"better{_where(rows) if cost == 'latency' else ''})")
    up = f"{'reliability score' if key == RELIABILITY else key} ({ARROWS[better]})"
    low, high = usual([each.value for each in found])
    ends = [end for each in found for end in (each.low, each.high) if low <= each.value <= high]
    costs = [each.cost for each in found]
    across = doubling(label, costs) if cost == "bits" else axis(label, costs)
    plot = Plot(across, axis(up, ends, signed=key == RELIABILITY), 352, 270)
    sign = 1.0 if better == "higher" else -1.0
    best = front([(each.cost, sign * each.value) for each in found])
    pixels = [plot.at((each.cost, each.value)) for each in found]
    marks = [path(_steps([pixels[i] for i in best]), "front")]
    colours = methods_of(rows)
    for each in found:
        css = "ref" if each.row.full_precision else colours[_method(each.row)]
        tip = f"{each.row.quantization}: {COSTS[cost][0].split(' (')[0]} {each.cost:.4g}, {key} {each.value:.4f}"
        parts = _point(plot, each, css, tip + _tip_interval(each.low, each.high), ring=each.row.quantization == chosen)
        marks.append(series("fp32" if each.row.full_precision else _method(each.row), *parts))
    far = [
        (pixels[i], f"{e.row.label} {signed_text(e.value, 2)}")
        for i, e in enumerate(found)
        if not low <= e.value <= high
    ]
    marks += names(plot, [*far, *((pixels[i], found[i].row.label) for i in best)], pixels)
    return plot.svg(f"{up} against {label}, one point for each quantization", *marks, focusable=True)


def _point(plot: Plot, each: Placed, css: str, tip: str, *, ring: bool) -> list[Markup]:
    at, low, high = (plot.at((each.cost, value)) for value in (each.value, each.low, each.high))
    parts = [whisker(low, high, f"whisker {css}")] if each.low < each.high else []
    parts += [marker(at, "ring", size=9)] if ring else []
    return [*parts, marker(at, f"mark {css}", shape=_shape(each.row), tip=tip, focus=True)]


def _where(rows: Sequence[Row]) -> str:
    """The machine whose times are shown."""
    return next((f"; {row.latency.where}" for row in rows if row.latency is not None), "")


def _steps(points: Sequence[Point]) -> list[Point]:
    """A staircase: no point of the front promises more than it has."""
    stairs = [points[0]]
    for point in points[1:]:
        stairs += [(point[0], stairs[-1][1]), point]
    return stairs


def _interval(row: Row, key: str, value: float) -> tuple[float, float]:
    """Full precision's value plus the ends of the change's interval; the value itself where there is none."""
    change = row.headline.get(key)
    if change is None or change.low is None or change.high is None:
        return value, value
    return change.reference + change.low, change.reference + change.high


def _tip_interval(low: float, high: float) -> str:
    return f" [{low:.4f}, {high:.4f}]" if low < high else ""


def forests(rows: Sequence[Row], headline: Sequence[str]) -> list[Markup]:
    """For each headline metric the change of every quantization with its 95 % interval."""
    drawn = []
    for key in headline:
        changes = [(row, row.headline[key]) for row in rows if key in row.headline]
        if changes:
            drawn.append(_forest(key, changes))
    return drawn


def _forest(key: str, changes: Sequence[tuple[Row, Change]]) -> Markup:
    low, high = usual([change.change for _, change in changes])
    kept = [c for _, c in changes if low <= c.change <= high]
    ends = [end for c in kept for end in (c.low, c.high, c.change, 0.0) if end is not None]
    across = axis(f"change ({_toward(better_of(key))})", ends, signed=True, count=4)
    plot = Plot(across, Axis("", len(changes) - 0.5, -0.5), 352, 66 + 19.0 * len(changes), (104, 22, 68, 44))
    zero, _ = plot.at((0.0, 0.0))
    marks = [tag("text", key, x="2", y="12", class_="title")]
    marks.append(tag("line", x1=zero, x2=zero, y1=plot.margin[1], y2=plot.height - 44, class_="zero"))
    for i, (row, change) in enumerate(changes):
        marks.append(tag("g", *_forest_row(plot, i, row, change)))
    return plot.svg(f"Change of {key} under each quantization, with 95 % interval", *marks, focusable=True)


def _forest_row(plot: Plot, index: int, row: Row, change: Change) -> list[Markup]:
    """Name, interval, point, and the number at the right."""
    css = verdict(change)
    up = plot.at((0.0, index))[1] + 4
    parts = [note((plot.margin[0] - 14, up), row.label, "end", "tick")]
    if change.low is not None and change.high is not None:
        parts.append(whisker(plot.at((change.low, index)), plot.at((change.high, index)), f"whisker {css}"))
    at = plot.at((change.change, index))
    beyond = not plot.x.low <= change.change <= plot.x.high
    parts.append(marker(at, f"mark {css}", shape=3 if beyond else 0, tip=change_tip(change), focus=True))
    text = f"{signed_text(change.change, 3)}{change.stars}"
    return [*parts, note((plot.width - 58, up), text, css="tick" if css == "plain" else "note")]


def _toward(better: str) -> str:
    return {"higher": "right is better →", "lower": "← left is better", "neither": "no better side"}[better]


def verdict(change: Change) -> str:
    """CSS class: better or worse where significant, else plain."""
    return change.direction if change.stars and change.direction in ("better", "worse") else "plain"


def change_tip(change: Change) -> str:
    """One change in words, for a tooltip."""
    known = change.low is not None and change.high is not None
    interval = f", 95 % interval [{change.low:+.4f}, {change.high:+.4f}]" if known else ""
    q = "" if change.q is None else f", q = {change.q:.3f}" if change.q >= 0.001 else ", q < 0.001"
    why = f" ({change.method})" if change.method else f" (no interval: {change.reason})" if change.reason else ""
    values = f"{change.reference:.4f} → {change.value:.4f}, change {change.change:+.4f}"
    return f"{change.quantization}, {change.key}: {values}{interval}{q}{why}"


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
    plot = Plot(across, Axis("", len(found) - 0.5, -0.5), 560, 50 + 24.0 * len(found), (112, 8, 152, 40))
    marks = []
    for i, gap in enumerate(found):
        a, b = plot.at((gap.first, i)), plot.at((gap.second, i))
        marks += [
            note((plot.margin[0] - 8, a[1] + 4), gap.row.label, "end", "tick"),
            whisker(a, b, "gap"),
            series("first", marker(a, "mark c0", tip=f"{gap.tip}: {names[0]} {gap.first:.4f}", focus=True)),
            series("second", marker(b, "mark c1", shape=2, tip=f"{gap.tip}: {names[1]} {gap.second:.4f}", focus=True)),
            note((plot.width - 142, a[1] + 4), gap.text, "start", "tick"),
        ]
    keys = [Key("first", names[0], "c0", 0), Key("second", names[1], "c1", 2)]
    return Figure(label, plot.svg(f"{label}: {names[0]} and {names[1]}", *marks, focusable=True), legend(keys))


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

"""Figures over all quantizations of a model: Pareto fronts, changes with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmark.report.front import front
from benchmark.report.looks import REFERENCE, TRIANGLE, look
from benchmark.report.svg import (
    Axis,
    Key,
    Plot,
    Point,
    axis,
    doubling,
    fitted,
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
from benchmark.results.compare import Change
from benchmark.results.decide import judging
from benchmark.results.rows import Row, better_of

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


def methods_of(rows: Sequence[Row]) -> dict[str, tuple[str, int]]:
    """Method -> colour class and shape."""
    names = dict.fromkeys(_method(row) for row in rows if not row.full_precision)
    return {name: look(i) for i, name in enumerate(names)}


def _method(row: Row) -> str:
    return row.label.split(" ")[0]


def _towers(row: Row) -> str:
    """Class of the fill. Plain: vision, with an outline: both towers, hollow: text."""
    return {"v+t": " both", "text": " hollow"}.get(row.label.split(" ")[-1], "")


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
    keys = [Key("fp32", "full precision", "ref", REFERENCE)] * any(row.full_precision for row in rows)
    keys += [Key(name, name, css, shape) for name, (css, shape) in methods_of(rows).items()]
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
        c, v = COSTS[cost][1](row), row.reliability.value if key == RELIABILITY else row.metrics.get(key)
        if c is not None and v is not None:
            found.append(Placed(row, c, v, *_interval(row, key, v)))
    return found


def _panel(rows: Sequence[Row], cost: str, key: str, better: str, chosen: str | None) -> Markup | None:
    """One cost against one value; None where fewer than two quantizations have both."""
    found = _placed(rows, cost, key)
    if sum(not each.row.full_precision for each in found) < 2:
        return None
    label = COSTS[cost][0]
    up = f"{'reliability, points' if key == RELIABILITY else key} ({ARROWS[better]})"
    low, high = usual([each.value for each in found])
    ends = [end for each in found for end in (each.low, each.high) if low <= each.value <= high]
    costs = [each.cost for each in found]
    across = doubling(label, costs) if cost == "bits" else axis(label, costs)
    plot = Plot(across, axis(up, ends, signed=key == RELIABILITY), 352, 270)
    sign = 1.0 if better == "higher" else -1.0
    best = front([(each.cost, sign * each.value) for each in found])
    pixels = [plot.at((each.cost, each.value)) for each in found]
    marks = [path(_steps([pixels[i] for i in best]), "front")]
    looks = methods_of(rows)
    for each in found:
        css, shape = ("ref", REFERENCE) if each.row.full_precision else looks[_method(each.row)]
        value = f"{key} {signed_text(each.value, 2)} points" if key == RELIABILITY else f"{key} {each.value:.4f}"
        tip = f"{each.row.quantization}: {COSTS[cost][0].split(' (')[0]} {each.cost:.4g}, {value}"
        parts = _point(plot, each, css, shape, tip + _tip_interval(each.low, each.high))
        if each.row.quantization == chosen:
            parts.insert(0, marker(plot.at((each.cost, each.value)), "ring", size=9))
        marks.append(series("fp32" if each.row.full_precision else _method(each.row), *parts))
    far = [
        (
            pixels[i],
            f"{e.row.label} {signed_text(e.value, 1 if key == RELIABILITY else 2)}",
        )
        for i, e in enumerate(found)
        if not low <= e.value <= high
    ]
    rings = [
        (x + dx, y) for (x, y), e in zip(pixels, found, strict=True) if e.row.quantization == chosen for dx in (-6, 6)
    ]
    marks += names(plot, [*far, *((pixels[i], found[i].row.label) for i in best)], [*pixels, *rings])
    return plot.svg(f"{up} against {label}, one point for each quantization", *marks)


def _point(plot: Plot, each: Placed, css: str, shape: int, tip: str) -> list[Markup]:
    at, low, high = (plot.at((each.cost, value)) for value in (each.value, each.low, each.high))
    parts = [whisker(low, high, f"whisker {css}")] if each.low < each.high else []
    return [*parts, marker(at, f"mark {css}{_towers(each.row)}", shape=shape, tip=tip)]


def machine(rows: Sequence[Row]) -> str | None:
    """The machine whose times are shown."""
    return next((row.latency.where for row in rows if row.latency is not None), None)


def _steps(points: Sequence[Point]) -> list[Point]:
    """A staircase: no point of the front promises more than it has."""
    stairs = [points[0]]
    for point in points[1:]:
        stairs += [(point[0], stairs[-1][1]), point]
    return stairs


def _interval(row: Row, key: str, value: float) -> tuple[float, float]:
    """Full precision's value plus the ends of the change's interval; the value itself where there is none."""
    if key == RELIABILITY:
        return row.reliability.interval or (value, value)
    change = row.headline.get(key)
    if change is None or change.low is None or change.high is None:
        return value, value
    return change.reference + change.low, change.reference + change.high


def _tip_interval(low: float, high: float) -> str:
    return f" [{low:.4f}, {high:.4f}]" if low < high else ""


def forests(rows: Sequence[Row], headline: Sequence[str]) -> list[Markup]:
    """For each headline metric, or the one that judges it, the change of every quantization with its 95 % interval."""
    drawn = []
    for key in map(judging, headline):
        found = [(row, row.headline.get(key) or row.changes.get(key)) for row in rows]
        changes = [(row, change) for row, change in found if change is not None]
        if changes:
            drawn.append(_forest(key, changes))
    return drawn


def _forest(key: str, changes: Sequence[tuple[Row, Change]]) -> Markup:
    low, high = usual([change.change for _, change in changes])
    kept = [c for _, c in changes if low <= c.change <= high]
    ends = [end for c in kept for end in (c.low, c.high, c.change, 0.0) if end is not None]
    across = axis(f"change ({_toward(better_of(key))})", ends, signed=True, count=4)
    left = min(170.0, max(104.0, 6.2 * max(len(row.label) for row, _ in changes) + 16))
    plot = Plot(across, Axis("", len(changes) - 0.5, -0.5), 352, 66 + 19.0 * len(changes), (left, 22, 68, 44))
    zero, _ = plot.at((0.0, 0.0))
    marks = [tag("text", fitted(key, 350), x="2", y="12", class_="title")]
    marks.append(tag("line", x1=zero, x2=zero, y1=plot.margin[1], y2=plot.height - 44, class_="zero"))
    for i, (row, change) in enumerate(changes):
        marks.append(tag("g", *_forest_row(plot, i, row, change)))
    return plot.svg(f"Change of {key} under each quantization, with 95 % interval", *marks)


def _forest_row(plot: Plot, index: int, row: Row, change: Change) -> list[Markup]:
    """Name, interval, point, and the number at the right."""
    css = verdict(change)
    up = plot.at((0.0, index))[1] + 4
    parts = [note((plot.margin[0] - 14, up), fitted(row.label, plot.margin[0] - 16), "end", "tick")]
    if change.low is not None and change.high is not None:
        parts.append(whisker(plot.at((change.low, index)), plot.at((change.high, index)), f"whisker {css}"))
    at = plot.at((change.change, index))
    fill = " hollow" if css == "plain" else ""
    beyond = not plot.x.low <= change.change <= plot.x.high
    parts.append(marker(at, f"mark {css}{fill}", shape=TRIANGLE if beyond else 0, tip=change_tip(change)))
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

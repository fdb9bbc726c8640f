"""A small set of parts for charts as SVG: scales, axes, marks. Pure functions; colours and fonts are the style sheet's.

Text is escaped by `tag`. A mark that belongs to a series carries `data-series`, so that the legend can hide it, and
`data-tip`, which the page shows on hover and focus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from markupsafe import Markup, escape

from benchmark.report.looks import CORNERS, SHAPES

Point = tuple[float, float]


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element; children that are not Markup are escaped. `class_` is `class`, `_` in names is `-`, None is left out.

    >>> tag("text", "a < b", class_="tick", text_anchor="end")
    Markup('<text class="tick" text-anchor="end">a &lt; b</text>')
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")


def _number(value: object) -> object:
    """Pixels with one decimal: enough, and half the size of the page."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


@dataclass(frozen=True)
class Axis:
    """One axis: `label` with its unit, limits, and ticks as (value, text); made by `axis` where none are given."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]] = ()
    log: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one; what lies beyond is at the end."""
        low, high, value = (math.log(max(v, 1e-12)) if self.log else v for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def axis(label: str, values: Iterable[float], *, zero: bool = False, count: int = 5, signed: bool = False) -> Axis:
    """An axis around values, with round ticks; `zero`: it begins at zero; `signed`: ticks carry their sign."""
    from matplotlib.ticker import MaxNLocator

    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = (0.0 if zero and low >= 0 else low - room), high + room
    ticks = [float(tick) for tick in MaxNLocator(count).tick_values(low, high) if low <= tick <= high]
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    digits = next(d for d in range(12) if d == 11 or abs(round(step, d) - step) < 1e-6 * step)
    return Axis(label, low, high, [(tick, signed_text(tick, digits, signed)) for tick in ticks])


def doubling(label: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis around positive values, with ticks at powers of two."""
    low, high = min(values) / 1.15, max(values) * 1.15
    powers = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
    ticks = [(2.0**power, f"{2.0**power:g}") for power in powers if low <= 2.0**power <= high]
    return Axis(f"{label}, logarithmic", low, high, ticks, log=True)


def signed_text(value: float, digits: int, signed: bool = True) -> str:
    """A number with a true minus sign; zero has none, and a plus sign stands where it is asked for.

    >>> signed_text(0.5, 2), signed_text(-0.0001, 2), signed_text(0.5, 1, signed=False)
    ('+0.50', '0.00', '0.5')
    """
    rounded = round(value, digits) or 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}".replace("-", "\u2212")


def usual(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a window that leaves far outliers out, so that they do not squeeze everything else into a line.

    Beyond four interquartile ranges from the quartiles a value is far; with fewer than five values none is.
    """
    if len(values) < 5:
        return min(values), max(values)
    first, third = (float(q) for q in np.quantile(values, [0.25, 0.75]))
    room = 4 * (third - first) or math.inf
    kept = [value for value in values if first - room <= value <= third + room]
    return min(kept), max(kept)


@dataclass(frozen=True)
class Plot:
    """The area of a chart: pixels for values of its two axes.

    Attributes:
        margin: pixels left, top, right, bottom of the area; left grows with the texts of the y axis.
    """

    x: Axis
    y: Axis
    width: float = 340.0
    height: float = 240.0
    margin: tuple[float, float, float, float] = (22.0, 10.0, 14.0, 40.0)

    @property
    def left(self) -> float:
        """Where the area begins."""
        return self.margin[0] + max((6.4 * len(text) + 6 for _, text in self.y.ticks), default=0.0)

    def at(self, point: Point) -> Point:
        """Pixels of a point."""
        left, (_, top, right, bottom) = self.left, self.margin
        across = left + self.x.share(point[0]) * (self.width - left - right)
        up = self.height - bottom - self.y.share(point[1]) * (self.height - top - bottom)
        return across, up

    def svg(self, label: str, *marks: Markup) -> Markup:
        """The chart. `label`: what it shows, for those who do not see it. A group where marks can be reached."""
        return tag(
            "svg",
            self._grid(),
            *marks,
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            width=f"{self.width:g}",
            height=f"{self.height:g}",
            role="group" if any("tabindex" in mark for mark in marks) else "img",
            aria_label=label,
        )

    def _grid(self) -> Markup:
        left, (_, top, right, bottom) = self.left, self.margin
        parts = []
        for value, text in self.x.ticks:
            across, _ = self.at((value, self.y.low))
            parts.append(tag("line", x1=across, x2=across, y1=top, y2=self.height - bottom, class_="grid"))
            parts.append(tag("text", text, x=across, y=self.height - bottom + 14, class_="tick", text_anchor="middle"))
        for value, text in self.y.ticks:
            _, up = self.at((self.x.low, value))
            parts.append(tag("line", x1=left, x2=self.width - right, y1=up, y2=up, class_="grid"))
            parts.append(tag("text", text, x=left - 6, y=up + 3.5, class_="tick", text_anchor="end"))
        middle, half = (left + self.width - right) / 2, (top + self.height - bottom) / 2
        along = fitted(self.x.label, 2 * min(middle, self.width - middle))
        parts.append(tag("text", along, x=middle, y=self.height - 6, class_="axis", text_anchor="middle"))
        if self.y.label:
            upward = fitted(self.y.label, 2 * min(half, self.height - half))
            turn = f"translate(11 {half:.1f}) rotate(-90)"
            parts.append(tag("text", upward, transform=turn, class_="axis", text_anchor="middle"))
        return tag("g", *parts, aria_hidden="true")


def series(name: str, *marks: Markup) -> Markup:
    """Marks that the legend shows and hides together."""
    return tag("g", *marks, data_series=name)


def path(points: Sequence[Point], css: str, *, close: bool = False) -> Markup:
    """A line through pixels; points that are not finite break it."""
    written, pen = [], "M"
    for across, up in points:
        if not (math.isfinite(across) and math.isfinite(up)):
            pen = "M"
            continue
        written.append(f"{pen}{across:.1f} {up:.1f}")
        pen = "L"
    return tag("path", d="".join(written) + ("Z" if close else ""), class_=css)


def marker(at: Point, css: str, *, shape: int = 0, size: float = 4.5, tip: str = "") -> Markup:
    """A point; `shape` counts through SHAPES. One with a tip can have the focus."""
    x, y = at
    about = {
        "class_": css,
        "data_tip": tip or None,
        "tabindex": "0" if tip else None,
        "role": "img" if tip else None,
        "aria_label": tip or None,
    }
    kind = SHAPES[shape % len(SHAPES)]
    if kind == "circle":
        return tag("circle", cx=x, cy=y, r=size, **about)
    written = "M" + "L".join(f"{x + size * dx:.1f} {y + size * dy:.1f}" for dx, dy in CORNERS[kind]) + "Z"
    return tag("path", d=written, **about)


def whisker(start: Point, end: Point, css: str) -> Markup:
    """The line of an interval."""
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=css)


def fitted(text: str, pixels: float) -> str:
    """The text, its middle left out where it would be longer than that many pixels; letters are 6.2 wide at most.

    >>> fitted("zero_shot/scenes/accuracy", 100), fitted("short", 100)
    ('zero_sho…ccuracy', 'short')
    """
    most = max(3, int(pixels / 6.2))
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


def note(at: Point, text: str, anchor: Literal["start", "middle", "end"] = "start", css: str = "note") -> Markup:
    """Text beside a mark."""
    return tag("text", text, x=at[0], y=at[1], class_=css, text_anchor=anchor)


def names(plot: Plot, wanted: Sequence[tuple[Point, str]], points: Sequence[Point]) -> list[Markup]:
    """Names beside points, each where it hides neither a point nor another name; left out where there is no room.

    Args: wanted: pixels and text, the most important first. points: pixels of all points.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    placed = []
    for (x, y), text in wanted:
        for across, up in ((8, -5), (-8, -5), (8, 13), (-8, 13), (8, -17), (-8, -17), (8, 25), (-8, 25)):
            width = 6.2 * len(text)
            left, top = (x + across if across > 0 else x + across - width), y + up - 9
            box = (left, top, left + width, top + 11)
            inside = box[0] > plot.left and box[2] < plot.width and top > 0 and box[3] < plot.height - 40
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                placed.append(note((x + across, y + up), text, "start" if across > 0 else "end"))
                break
    return placed


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass(frozen=True)
class Key:
    """One entry of a legend: the series that it hides, its text, its colour class, its shape (None: a line alone).

    `line` is the class of a line that its points lie on.
    """

    series: str
    text: str
    css: str
    shape: int | None = None
    line: str = ""


def legend(keys: Sequence[Key]) -> Markup:
    """Buttons that show and hide series."""
    return tag("div", *(_entry(key) for key in keys), class_="legend", role="group", aria_label="Shown series")


def _entry(key: Key) -> Markup:
    parts = [path([(1, 7), (23, 7)], f"line {key.css} {key.line}")] if key.shape is None or key.line else []
    parts += [] if key.shape is None else [marker((12, 7), f"mark {key.css}", shape=key.shape)]
    swatch = tag("svg", *parts, width="24", height="14", aria_hidden="true")
    return tag("button", swatch, key.text, type="button", aria_pressed="true", data_toggle=key.series)

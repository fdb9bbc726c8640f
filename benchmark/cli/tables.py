"""Tables for the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from benchmark.engine.plan import Plan
from benchmark.ledger.records import Record
from benchmark.results.compare import Change
from benchmark.results.decide import (
    NON_INFERIOR,
    Verdict,
    by_configuration,
    choose_quantization,
    decide,
    images_told,
    margins_told,
    verdicts_told,
)
from benchmark.results.images import grouped
from benchmark.results.notation import ARROWS, STARS, STYLES, fold
from benchmark.results.published import agreeing
from benchmark.results.speed import ratio_text, runtime_ratio, runtime_text, timing_state
from benchmark.results.tables import Cell, TableRow, declared, efficiency_figures, report_figures
from benchmark.spec import FP32

NARROWEST_NAME, WIDEST_NAME = 11, 12
"""Characters that the column of names gets at least, and that its longest word gets at most before it is split."""
VERDICTS: Mapping[Verdict, str] = {"non-inferior": "green", "inferior": "red", "cannot tell": ""}
"""Styles of verdicts."""
LEGEND = f"{STARS}: p adjusted over this table's changes"


class Printer(Protocol):
    """What tables are printed on, e.g. a `rich.console.Console`."""

    @property
    def width(self) -> int:
        """Characters of a line."""

    def print(self, shown: RenderableType, /) -> None:
        """Show a title, a table or a line."""


def print_table(
    rows: Sequence[TableRow],
    keys: Sequence[str],
    reports: Mapping[str, Any],
    plan: Plan,
    console: Printer | None = None,
) -> None:
    """One row per quantization, one column per headline metric: value, and change against full precision.

    Green is better, red is worse (by the metric's direction, which the arrow in the heading shows); `-` stands where
    a value is undefined or failed. Stars after the change: significant, adjusted over the table. The six headline
    metrics of a suite fit 80 columns; further columns go to a second table below.
    """
    console = console or Console()
    names = [row.quantization for row in rows]
    for model in dict.fromkeys(row.model for row in rows):
        console.print(Text(f"{plan.suite.name}, {model}: value and change against fp32", style="bold"))
        shown = [(r, c) for r, c in zip(rows, plan.configurations, strict=True) if r.model == model]
        bits = {row.quantization: _bits(reports.get(configuration.key)) for row, configuration in shown}
        columns = [Column(_header(key, plan), tuple(_text(row.cells.get(key)) for row, _ in shown)) for key in keys]
        for part in lay_out(columns, names, console.width - len(" bits")):
            table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
            table.add_column("run", no_wrap=True)
            table.add_column("bits", justify="right", no_wrap=True)
            for column in part.columns:
                table.add_column(column.header, justify="right", no_wrap=True)
            for i, (name, figure) in enumerate(bits.items()):
                table.add_row(fold(name, part.name), figure, *(column.cells[i] for column in part.columns))
            console.print(table)
    if any(row.cells[key].change is not None for row in rows for key in keys if key in row.cells):
        console.print(Text(LEGEND, style="dim"))


def print_data_sets(records: Iterable[Record]) -> None:
    """The images and classes of each data set, those of one size together."""
    found = grouped(records)
    if found:
        Console().print(Text("; ".join(found), style="dim"))


def print_published(records: Iterable[Record]) -> None:
    """The accuracies in full precision that are the published ones."""
    for line in agreeing(records):
        Console().print(Text(line, style="dim"))


@dataclass(frozen=True)
class Column:
    """A heading of several lines and a cell for each row."""

    header: str
    cells: tuple[Text, ...]

    @property
    def least(self) -> int:
        """Characters that the figures need; a heading can be folded to them."""
        return max((len(line) for cell in self.cells for line in cell.plain.split("\n")), default=1)

    def narrowed(self, width: int) -> Column:
        """With a heading of at most `width` characters a line."""
        lines = [fold(line, width) for line in self.header.split("\n")]
        return replace(self, header="\n".join(lines))

    @property
    def width(self) -> int:
        """Characters of the widest line."""
        return max(self.least, *map(len, self.header.split("\n")))


@dataclass(frozen=True)
class Part:
    """Columns side by side, and the width that is left for the row names."""

    columns: tuple[Column, ...]
    name: int


def lay_out(columns: Sequence[Column], names: Sequence[str], width: int) -> list[Part]:
    """Columns for a window of `width` characters: with folded headings where necessary, in as many tables as necessary.

    Headings are folded at their marks first (`imagenet.far`), within a word where that is not enough, the widest first.
    """
    words = [word for name in names for word in name.replace("-", "- ").replace("+", "+ ").split()]
    room = width - min(max(NARROWEST_NAME, *map(len, words)), WIDEST_NAME)
    parts: list[list[Column]] = [[]]
    for column in columns:
        if parts[-1] and sum(1 + each.least for each in [*parts[-1], column]) > room:
            parts.append([])
        parts[-1].append(column)
    found = [_fitted(part, room) for part in parts]
    return [Part(tuple(part), width - sum(1 + column.width for column in part)) for part in found]


def _fitted(columns: Sequence[Column], room: int) -> list[Column]:
    """The columns with their headings folded as far as necessary."""
    found = list(columns)
    for within_words in (False, True):
        for i in sorted(range(len(found)), key=lambda i: -found[i].width):
            over = sum(1 + column.width for column in found) - room
            if over > 0:
                words = max(map(len, re.split(r"(?<=[-+._])|\n", found[i].header)))
                least = found[i].least if within_words else max(found[i].least, words)
                found[i] = found[i].narrowed(max(least, found[i].width - over))
    return found


def _bits(report: Any) -> str:
    found = report_figures(report).get("effective_bits") if report else None
    return "-" if found is None else f"{found:.1f}"


def print_verdicts(
    changes: Sequence[Change],
    keys: Sequence[str],
    reports: Mapping[str, Any],
    plan: Plan,
    console: Printer | None = None,
) -> None:
    """One row per quantization: non-inferior, inferior or cannot tell, and why; images and margins in the title.

    Args: changes: of all quantizations. keys: the headline metrics.
    """
    console = console or Console()
    decided = by_configuration(keys, changes, plan.suite.margins)
    for model in dict.fromkeys(c.model.name for c in plan.configurations if c.key in decided):
        own = [c for c in plan.configurations if c.model.name == model and c.quant != FP32]
        decisions = {c.quant.name: decided.get(c.key) or decide(keys, {}, plan.suite.margins) for c in own}
        figures = {c.quant.name: report_figures(reports[c.key]) for c in own if c.key in reports}
        bits = {name: found["effective_bits"] for name, found in figures.items() if "effective_bits" in found}
        best = choose_quantization(bits, decisions).recommended
        judged = max((decided[c.key].judged for c in own if c.key in decided), key=len, default=())
        about = f"on {images_told(judged)}; margins: {margins_told(judged)}".replace("`", "")
        console.print(Text(f"{model}: verdict against fp32, {about}", style="bold"))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, words in verdicts_told(decisions, best.name if best else None).items():
            style = VERDICTS[decisions[name].verdict]
            table.add_row(fold(name, NARROWEST_NAME * 2), Text(words, style=style))
        console.print(table)
        if best is None and any(decision.verdict == NON_INFERIOR for decision in decisions.values()):
            words = f"none passes as one of {len(bits)} candidates, so none is recommended; `reliquant report` has more"
            console.print(Text(words, style="dim"))


def print_efficiency(efficiencies: Mapping[str, Any], plan: Plan) -> None:
    """One row per quantization: packed size of the whole model, and the image tower's speed on a real kernel.

    `images/s` is of whole batches, the latencies are of one image alone; `x fp32`: latency as a share of full
    precision's in the same minute, with the half width of its interval, or `noisy` where that is above 10 %; `x its
    fp32`: of float32's on the same runtime (OpenVINO, onnxruntime).

    Args:
        efficiencies: configuration key -> Efficiency as JSON; of a model without any nothing is printed.

    `simulated` marks configurations that nothing shipped runs as: they have a size and no speed.
    """
    console = Console()
    for model in dict.fromkeys(c.model.name for c in plan.configurations if c.key in efficiencies):
        found = [efficiencies[c.key] for c in plan.configurations if c.model.name == model and c.key in efficiencies]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
        runtimes = any(each["speed"] and runtime_ratio(each["speed"]) for each in found)
        own = ("x its fp32",) if runtimes else ()
        for header in ("run", "MB", "images/s", "p50 ms", "p95 ms", "x fp32", *own, "kernel"):
            side: Literal["left", "right"] = "left" if header in ("run", "kernel") else "right"
            table.add_column(header, justify=side, overflow="fold", no_wrap=header not in ("run", "kernel"))
        for each in found:
            figures = efficiency_figures(each)
            speed = [_number(figures.get(name)) for name in ("images_per_second", "latency_ms_p50", "latency_ms_p95")]
            name = fold(each["quantization"], NARROWEST_NAME * 2)
            ratios = [_ratio(each), *([_runtime_ratio(each)] if own else [])]
            cells = [f"{figures['packed_mb']:.1f}", *speed, *ratios, fold(_kernel(each), NARROWEST_NAME * 2)]
            table.add_row(name, *cells)
        for each in plan.configurations:
            if each.model.name == model and each.key not in efficiencies:
                table.add_row(fold(each.quant.name, NARROWEST_NAME * 2), *["-"] * (5 + len(own)), timing_state(None))
        console.print(Text(f"{model}: packed size, speed of the image tower{_machine(found)}", style="bold"))
        console.print(table)


def _kernel(efficiency: Mapping[str, Any]) -> str:
    """The timed kernel, or why there is none."""
    return str(efficiency["speed"]["engine"]) if efficiency["speed"] else timing_state(efficiency)


def _ratio(efficiency: Mapping[str, Any]) -> str:
    state = timing_state(efficiency)
    return ratio_text(efficiency["speed"]) if state == "measured" else state if state == "noisy" else "-"


def _runtime_ratio(efficiency: Mapping[str, Any]) -> str:
    return runtime_text(efficiency["speed"]) if timing_state(efficiency) == "measured" else "-"


def _machine(efficiencies: Sequence[Mapping[str, Any]]) -> str:
    """Batch, threads and device of the times, where they are the same for all of them."""
    speeds = [each["speed"] for each in efficiencies if each["speed"]]
    about = {(s["batch"], s["threads"], s["cpu"] if s["device"] == "cpu" else s["device"]) for s in speeds}
    if len(about) != 1:
        return ""
    batch, threads, device = about.pop()
    return f" (batch {batch}; {device}, {threads} threads)"


def _number(value: float | None) -> str:
    """At least three digits; `-` for none."""
    return "-" if value is None else f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def _header(key: str, plan: Plan) -> str:
    task_name, label, rest = key.split("/", 2)
    arrow = ARROWS[declared(plan)[task_name].metric(rest).better]
    return "\n".join([*task_name.split("_"), *label.split("/"), *rest.split("/"), arrow])


def _text(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-")
    text = Text(f"{cell.value:.3f}")
    if cell.change is not None:
        text.append(f"\n{cell.change:+.3f}{cell.stars}", style=STYLES[cell.direction])
    return text

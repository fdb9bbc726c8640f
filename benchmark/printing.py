"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.analysis.tables import Cell, Row
from benchmark.engine.plan import Plan


def print_table(rows: Sequence[Row], keys: Sequence[str], reports: Mapping[str, Any], plan: Plan) -> None:
    """One row per quantization, one column per headline metric: value, and change against full precision.

    Green is better, red is worse (by the metric's direction); `-` stands where a value is undefined or failed.
    """
    console = Console()
    for model in dict.fromkeys(row.model for row in rows):
        title = f"{plan.suite.name}: {model} (value, change against fp32; arrows say which way is better)"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1), title_style="bold")
        table.add_column("quantization", overflow="fold", min_width=12)
        table.add_column("bits", justify="right", no_wrap=True)
        for key in keys:
            table.add_column(_header(key, plan), justify="right", overflow="fold")
        for row, configuration in zip(rows, plan.configurations, strict=True):
            if row.model == model:
                bits = (reports.get(configuration.key) or {}).get("effective_bits")
                cells = [_text(row.cells.get(key)) for key in keys]
                table.add_row(row.quantization.replace("-", "-\u200b"), f"{bits:.1f}" if bits else "-", *cells)
        console.print(table)


def _header(key: str, plan: Plan) -> str:
    task_name, label, rest = key.split("/", 2)
    task = next(e.task for c in plan.configurations for e in c.evaluations if e.task.name == task_name)
    arrow = {"higher": " ↑", "lower": " ↓", "neither": ""}[task.metric(rest).better]
    return "\n".join([task_name.replace("_", "\n"), label, rest.replace("/", "\n") + arrow])


def _text(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-")
    text = Text(f"{cell.value:.3f}")
    if cell.change is not None:
        style = {True: "green", False: "red", None: "dim"}[cell.improved]
        text.append(f"\n{cell.change:+.3f}", style=style)
    return text

"""Comparison tables as Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from benchmark.metrics.uncertainty import LEVEL
from benchmark.results import csv_text
from benchmark.results.compare import Change
from benchmark.results.notation import MARKS, STARS, WISHES, fold, interval, q_text, short

NOTE = (
    "Change against full precision of the same model, paired by image, with its 95 % interval. "
    f"q: p adjusted over all {{count}} tests of this table (Benjamini-Hochberg); {STARS}."
)
WIDTH = 80
_NONE: Mapping[str, str] = MappingProxyType({})
FIGURES = (6, 8, 18, 8, 4)
"""Least widths of value, change, interval, q and mark, so that the blocks of a table line up."""
COLUMNS = ("metric", "quantization", "value", "fp32", "change", "95 % interval", "q", "")


def rows(changes: Sequence[Change], data: Mapping[str, str] = _NONE) -> list[dict[str, Any]]:
    """One flat mapping a change: all its fields, `stars`, `direction`, `relative_change` and its `data`.

    Args:
        data: evaluation -> its data sets with their images and classes (`benchmark.results.images.by_evaluation`).
    """
    return [
        {
            "model": c.model,
            "quantization": c.quantization,
            "metric": c.key,
            "better": c.better,
            "value": c.value,
            "reference": c.reference,
            "change": c.change,
            "relative_change": c.relative,
            "low": c.low,
            "high": c.high,
            "p": c.p,
            "q": c.q,
            "stars": c.stars,
            "direction": c.direction,
            "method": c.method,
            "images": c.images,
            "reason": c.reason,
            "data": data.get("/".join(c.key.split("/")[:2]), ""),
        }
        for c in changes
    ]


def to_json(changes: Sequence[Change], data: Mapping[str, str] = _NONE) -> str:
    """An object with `level`, the number of `tests` adjusted together, and `rows`."""
    tests = sum(c.p is not None for c in changes)
    content: dict[str, Any] = {"level": LEVEL, "tests": tests, "adjustment": "Benjamini-Hochberg"}
    content["rows"] = rows(changes, data)
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def to_csv(changes: Sequence[Change], data: Mapping[str, str] = _NONE) -> str:
    """One line a change, numbers in full precision, empty where there is none."""
    found = rows(changes, data)
    columns = list(found[0]) if found else ["model", "quantization", "metric"]
    return csv_text.to_csv(columns, (row.values() for row in found))


def to_markdown(changes: Sequence[Change], data: Mapping[str, str] = _NONE) -> str:
    """One table a model. Better changes are marked `+`, worse ones `-`, in the last column, before the stars."""
    parts = []
    for model, lines in _by_model(changes).items():
        table = [f"**{model}**", "", _md_row(COLUMNS), _md_row(["---", "---", *["---:"] * 5, "---"])]
        parts.append("\n".join(table + [_md_row(line) for line in lines]))
    return "\n\n".join([*parts, NOTE.format(count=sum(c.p is not None for c in changes)), *_told(data)]) + "\n"


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |"


def to_latex(changes: Sequence[Change], data: Mapping[str, str] = _NONE) -> str:
    """One booktabs `tabular` a model."""
    import pandas as pd

    parts = []
    for model, lines in _by_model(changes).items():
        frame = pd.DataFrame(lines, columns=list(COLUMNS))
        parts.append(f"% {model}\n{frame.to_latex(index=False, escape=True, column_format='llrrrrrl')}")
    notes = [NOTE.format(count=sum(c.p is not None for c in changes)), *_told(data)]
    return "\n".join([*parts, *(f"% {note}" for note in notes)]) + "\n"


def _by_model(changes: Sequence[Change]) -> dict[str, list[list[str]]]:
    lines: dict[str, list[list[str]]] = {}
    for change in sorted(changes, key=lambda c: c.key):
        lines.setdefault(change.model, []).append(_line(change))
    return lines


def _line(c: Change) -> list[str]:
    ends = interval(c.low, c.high, "{:+.4f}".format)
    value, reference, change = f"{c.value:.4f}", f"{c.reference:.4f}", f"{c.change:+.4f}"
    return [c.key, c.quantization, value, reference, change, ends, q_text(c.q), f"{MARKS[c.direction]}{c.stars}"]


def to_table(changes: Sequence[Change], data: Mapping[str, str] = _NONE) -> str:
    """For the terminal, 80 columns: one block a metric, one line a quantization (more where its name is long)."""
    lines: list[str] = []
    blocks: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        blocks.setdefault((change.model, change.key), []).append(change)
    for model in dict.fromkeys(model for model, _ in blocks):
        lines += textwrap.wrap(f"{model}: change against fp32 of the same model, with 95 % interval", WIDTH)
        for (_, key), found in ((name, block) for name, block in blocks.items() if name[0] == model):
            wish = WISHES[found[0].better]
            base = f"(fp32: {short(found[0].reference)}{wish and f', {wish}'})"
            lines += ["", *([f"{key} {base}"] if len(key) + len(base) < WIDTH else [key, f"  {base}"])]
            lines += _table_lines(found)
        lines.append("")
    count = sum(c.p is not None for c in changes)
    note = f"q: p adjusted over these {count} tests (Benjamini-Hochberg); {STARS}"
    for text in (note, *_told(data)):
        lines += textwrap.wrap(text, WIDTH)
    return "\n".join(lines) + "\n"


def _told(data: Mapping[str, str]) -> list[str]:
    """The data sets of a table in one line."""
    sets = dict.fromkeys(text for texts in data.values() for text in texts.split("; ") if text)
    return [f"Data: {'; '.join(sets)}."] if sets else []


def _table_lines(changes: Sequence[Change]) -> list[str]:
    """The block of one metric: figures in columns as wide as this block needs, names folded into what is left."""
    figures = [_figures(change) for change in changes]
    widths = [max(least, *(len(row[i]) for row in figures)) for i, least in enumerate(FIGURES)]
    room = WIDTH - 2 - sum(1 + width for width in widths)
    lines = []
    for change, row in zip(changes, figures, strict=True):
        first, *rest = fold(change.quantization, room - 2).split("\n")
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row, ">><<<", widths, strict=True)]
        lines += [f"  {first:<{room}} {' '.join(cells)}".rstrip(), *(f"    {part}" for part in rest)]
    return lines


def _figures(c: Change) -> tuple[str, str, str, str, str]:
    """Value, change, interval, q and mark for a narrow column."""
    *_, q, mark = _line(c)
    ends = interval(c.low, c.high, partial(short, sign="+"))
    return short(c.value), short(c.change, "+"), ends, q and f"q {q}", mark


def to_jsonl(changes: Sequence[Change], data: Mapping[str, str] = _NONE) -> str:
    """One JSON object a line, one line a change."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows(changes, data))


FORMATS: Mapping[str, Callable[[Sequence[Change], Mapping[str, str]], str]] = MappingProxyType(
    {
        "table": to_table,
        "md": to_markdown,
        "csv": to_csv,
        "latex": to_latex,
        "json": to_json,
        "jsonl": to_jsonl,
    }
)

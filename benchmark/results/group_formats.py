"""How means over groups are written: a table like a paper's, then each metric with both intervals."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from benchmark.metrics.uncertainty import LEVEL, Estimate
from benchmark.results.groups import GroupMean, flat
from benchmark.results.notation import ARROWS, MARKS, STARS, WISHES, interval

WIDTH = 80
CELL = 10
MOST_COLUMNS = 6
"""Metrics side by side in the overview; their groups' names are folded to what is left."""
NOTE = (
    "Mean change against full precision; quantizations are averaged within a model first. Intervals: 95 %, of these "
    "models and, from three models on, of models of their kind. Stars belong to the second where there is one, else to "
    f"the first: p adjusted over all {{count}} means shown (Benjamini-Hochberg); {STARS}."
)


def tested(means: Sequence[GroupMean]) -> int:
    """How many means are adjusted together."""
    return sum(mean.q is not None for mean in means)


def to_table(means: Sequence[GroupMean], keys: Sequence[str]) -> str:
    """For the terminal, 80 columns: groups by metrics, then a block for each metric with the intervals."""
    names = {mean.group: " ".join(mean.group) for mean in means}
    lines = ["Mean change against full precision, by " + ", ".join(keys), ""]
    metrics = list(dict.fromkeys(mean.key for mean in means))
    for start in range(0, len(metrics), MOST_COLUMNS):
        lines += [*_overview(means, metrics[start : start + MOST_COLUMNS], names), ""]
    for metric in metrics:
        lines += [*_block([mean for mean in means if mean.key == metric], names), ""]
    reasons = {mean.key: mean.reason for mean in means if mean.reason}
    for text in [
        *(f"{key}: no interval, {reason}" for key, reason in reasons.items()),
        NOTE.format(count=tested(means)),
    ]:
        lines += textwrap.wrap(text, WIDTH)
    return "\n".join(lines) + "\n"


def _folded(names: Mapping[tuple[str, ...], str], most: int) -> tuple[dict[tuple[str, ...], list[str]], int]:
    """Each name on lines of at most `most` characters, and the width of the longest."""
    folded = {group: textwrap.wrap(name, most) or [""] for group, name in names.items()}
    return folded, max((len(line) for lines in folded.values() for line in lines), default=0)


def _overview(means: Sequence[GroupMean], metrics: Sequence[str], names: Mapping[tuple[str, ...], str]) -> list[str]:
    """Groups by metrics: mean change and stars."""
    folded, width = _folded(names, WIDTH - len(metrics) * (CELL + 1))
    better = {mean.key: mean.better for mean in means}
    heads = [[*_heading(key), ARROWS[better[key]]] for key in metrics]
    deep = max(len(head) for head in heads)
    padded = [[""] * (deep - len(head)) + head for head in heads]
    lines = [_line("", [head[at] for head in padded], width) for at in range(deep)]
    cells = {(mean.group, mean.key): _cell(mean) for mean in means}
    for group, (first, *rest) in folded.items():
        lines += [
            _line(first, [cells.get((group, key), "") for key in metrics], width),
            *(f"  {each}" for each in rest),
        ]
    return lines


def _heading(key: str) -> list[str]:
    """The words of a metric key on few lines; a word that is too long is cut."""
    lines = [""]
    for word in key.replace("/", " /").replace("_", "_ ").split(" "):
        short = word.strip("/") if len(word.strip("/")) <= CELL else f"{word.strip('/')[: CELL - 1]}."
        if word.startswith("/") or len(lines[-1]) + len(short) > CELL:
            lines.append("")
        lines[-1] += short
    return lines


def _line(name: str, cells: Sequence[str], width: int) -> str:
    return f"{name:<{width}}{''.join(f' {cell:>{CELL}}' for cell in cells)}".rstrip()


def _cell(mean: GroupMean) -> str:
    return f"{mean.change.value:+.3f}{mean.stars}"


def _block(means: Sequence[GroupMean], names: Mapping[tuple[str, ...], str]) -> list[str]:
    """One metric: a line for each group."""
    wish = WISHES[means[0].better]
    heads = ("change", "of these models", "of their kind", "relative", "")
    rows = [_figures(mean) for mean in means]
    widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(5)]
    own = {mean.group: names[mean.group] for mean in means}
    folded, width = _folded(own, max(WIDTH - sum(1 + each for each in widths), CELL))
    lines = [f"{means[0].key}{wish and f' ({wish})'}", _row(" " * width, heads, widths)]
    for mean, row in zip(means, rows, strict=True):
        first, *rest = folded[mean.group]
        lines += [_row(f"{first:<{width}}", row, widths), *(f"  {each}" for each in rest)]
    return lines


def _row(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    sides = "><<><"
    return " ".join([name, *(f"{c:{s}{w}}" for c, s, w in zip(cells, sides, widths, strict=True))]).rstrip()


def _figures(mean: GroupMean) -> tuple[str, str, str, str, str]:
    change = f"{mean.change.value:+.3f}"
    mark = f"{MARKS[mean.direction]}{mean.stars}" if mean.q is not None else ""
    return change, _ends(mean.change.these, 3), _ends(mean.change.kind, 3), _relative(mean), mark


def _ends(estimate: Estimate | None, digits: int) -> str:
    low, high = estimate.interval() if estimate else (None, None)
    return interval(low, high, f"{{:+.{digits}f}}".format) or "-"


def _relative(mean: GroupMean) -> str:
    return "-" if mean.relative is None else f"{mean.relative.value:+.1%}"


def _grid(means: Sequence[GroupMean], keys: Sequence[str]) -> list[dict[str, str]]:
    """One row a group, one column a metric: mean change, stars, relative change, both intervals."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    metrics = dict.fromkeys(mean.key for mean in means)
    for mean in means:
        row = rows.setdefault(mean.group, dict(zip(keys, mean.group, strict=True)) | dict.fromkeys(metrics, ""))
        ends = " ".join(_ends(each, 4) for each in (mean.change.these, mean.change.kind))
        row[mean.key] = f"{mean.change.value:+.4f}{mean.stars} ({_relative(mean)}) {ends}"
    return list(rows.values())


def to_markdown(means: Sequence[GroupMean], keys: Sequence[str]) -> str:
    """One table, groups by metrics; a cell has the mean change, the mean relative change and both intervals."""
    rows = _grid(means, keys)
    columns = list(rows[0]) if rows else list(keys)
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    table = ["| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in line) + " |" for line in lines]
    return "\n".join([*table, "", NOTE.format(count=tested(means))]) + "\n"


def to_latex(means: Sequence[GroupMean], keys: Sequence[str]) -> str:
    """The same as one booktabs `tabular`."""
    import pandas as pd

    rows = _grid(means, keys)
    columns = list(rows[0]) if rows else list(keys)
    form = "l" * len(keys) + "r" * (len(columns) - len(keys))
    frame = pd.DataFrame(rows, columns=columns)
    return f"{frame.to_latex(index=False, escape=True, column_format=form)}% {NOTE.format(count=tested(means))}\n"


def to_json(means: Sequence[GroupMean], keys: Sequence[str]) -> str:
    """An object with `level`, the number of `tests` adjusted together, and `rows`."""
    return json_object(flat(means, keys), by=list(keys), tests=tested(means), adjustment="Benjamini-Hochberg")


def json_object(rows: Sequence[Mapping[str, Any]], **about: Any) -> str:
    """Rows and what is true of all of them, as one object."""
    return json.dumps({"level": LEVEL, **about, "rows": list(rows)}, indent=1, allow_nan=False) + "\n"


def json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def csv_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a row, numbers in full precision, empty where there is none."""
    import pandas as pd

    text: str = pd.DataFrame(list(rows), dtype=object).to_csv(index=False, lineterminator="\n")
    return text


FORMATS: Mapping[str, Callable[[Sequence[GroupMean], Sequence[str]], str]] = MappingProxyType(
    {
        "table": to_table,
        "md": to_markdown,
        "csv": lambda means, keys: csv_lines(flat(means, keys)),
        "latex": to_latex,
        "json": to_json,
        "jsonl": lambda means, keys: json_lines(flat(means, keys)),
    }
)

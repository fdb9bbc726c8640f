"""Figures that the tasks declare, as images of the page: whatever a plugin draws appears, and can touch nothing else.

They are matplotlib figures, the same that the trackers keep. As an SVG inside a data URI a figure loads nothing, runs
no script and shares no names with the page.
"""

from __future__ import annotations

import base64
import inspect
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.plugins import Summary, Task, tasks
from benchmark.results.rows import Results, Row
from benchmark.results.summaries import outcome_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawn:
    """One figure: title, caption, the image as a data URI (empty where `why` says why there is none), and whether it is
    wide enough for a row of its own.
    """

    title: str
    caption: str
    image: str = ""
    why: str = ""
    wide: bool = False


def of_row(results: Results, row: Row, bases: dict[str, Summary]) -> list[Drawn]:
    """What the tasks draw of one quantization, with full precision beside it; in the order of its evaluations.

    Args: bases: summaries of full-precision records that were made before, by key; filled here.
    """
    found: list[Drawn] = []
    for name, record in row.records.items():
        task = tasks.get(record.task)
        if task.drawing is None:
            continue
        base, outcome = results.reference(record), outcome_of(results.ledger, record, whole=False)
        if base is not None and base.key not in bases:
            bases[base.key] = outcome_of(results.ledger, base, whole=False).summary
        if outcome.columns.groups:
            found += _drawn(name, task.drawing, outcome.summary, None if base is None else bases[base.key])
    return found


def of_model(rows: Sequence[Row]) -> list[Drawn]:
    """What the tasks draw of all quantizations of one model together, for each evaluation."""
    found: list[Drawn] = []
    for name in dict.fromkeys(name for row in rows for name in row.records):
        task = _task(rows, name)
        summaries = {row.label: _summary(row, name) for row in rows if name in row.records}
        if task.drawing_all is not None and len(summaries) > 1:
            found += _drawn(name, task.drawing_all, summaries)
    return found


def _task(rows: Sequence[Row], name: str) -> Task:
    return tasks.get(next(row.records[name].task for row in rows if name in row.records))


def _summary(row: Row, name: str) -> Summary:
    """Metrics and notes of a record, keys as the task gave them."""
    record, prefix = row.records[name], f"{name}/"
    return Summary(
        {key.removeprefix(prefix): value for key, value in record.metrics.items()},
        notes={key.removeprefix(prefix): note for key, note in record.notes.items()},
    )


def _drawn(name: str, draw: Callable[..., Mapping[str, Any]], *summaries: Any) -> list[Drawn]:
    """The figures of one evaluation; one that cannot be drawn says why, the numbers are worth more."""
    caption = " ".join((inspect.getdoc(draw) or "").split())
    try:
        figures = draw(*summaries)
        return [
            Drawn(f"{name}: {title.replace('_', ' ')}", caption, image(figure), wide=_wide(figure))
            for title, figure in figures.items()
        ]
    except Exception as error:  # a stranger's drawing may raise anything
        return [Drawn(name, caption, why=f"{type(error).__name__}: {error}")]


def _wide(figure: Figure) -> bool:
    width, height = figure.get_size_inches()
    return bool(width > 2 * height)


def image(figure: Figure) -> str:
    """A figure as a data URI: SVG with its text as text, the same bytes for the same figure.

    Coordinates keep two decimals, a hundredth of a point: matplotlib's six make the page twice as large.
    """
    import matplotlib as mpl

    out = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reliquant"}):
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    short = re.sub(rb"<[^>]*>", lambda tag: re.sub(rb"(\d\.\d\d)\d+", rb"\1", tag[0]), out.getvalue())
    return "data:image/svg+xml;base64," + base64.b64encode(short).decode("ascii")

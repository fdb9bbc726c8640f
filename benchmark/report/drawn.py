"""Figures that the tasks declare, as images of the page: whatever a plugin draws appears, and can touch nothing else.

They are matplotlib figures, the same that the trackers keep. As an SVG inside a data URI a figure loads nothing, runs
no script and shares no names with the page.
"""

from __future__ import annotations

import base64
import inspect
import io
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
    """One figure: its title, the image as a data URI (empty where `why` says why there is none), and its caption."""

    title: str
    caption: str
    image: str = ""
    why: str = ""


def of_row(results: Results, row: Row) -> list[Drawn]:
    """What the tasks draw of one quantization, with full precision beside it; in the order of its evaluations."""
    found: list[Drawn] = []
    for name, record in row.records.items():
        task = tasks.get(record.task)
        if task.drawing is None:
            continue
        base = results.reference(record)
        pair = [outcome_of(results.ledger, r, whole=False) for r in (record, base) if r is not None]
        if pair[0].columns.groups:
            found += _drawn(name, task.drawing, pair[0].summary, pair[1].summary if len(pair) > 1 else None)
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
        return [Drawn(f"{name}: {_words(title)}", caption, image(figure)) for title, figure in figures.items()]
    except Exception as error:  # a stranger's drawing may raise anything
        return [Drawn(name, caption, why=f"{type(error).__name__}: {error}")]


def _words(title: str) -> str:
    return title.replace("_", " ")


def image(figure: Figure) -> str:
    """A figure as a data URI: SVG with its text as text, the same bytes for the same figure."""
    import matplotlib as mpl

    out = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reliquant"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")

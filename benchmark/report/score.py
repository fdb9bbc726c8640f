"""Reliability in words: what it is a mean of, task by task."""

from __future__ import annotations

from benchmark.report.svg import signed_text
from benchmark.results.rows import Row

MEANING = (
    "Reliability is the mean over the tasks of the signed change of their headline metric in points (a hundredth of an "
    "accuracy; positive: better than full precision), with its 95 % interval over the images of all tasks together."
)


def points(value: float | None, digits: int = 2) -> str:
    """A signed number of points, or a dash.

    >>> points(-1.0234), points(0.0), points(None)
    ('−1.02', '0.00', '–')
    """
    return "–" if value is None else signed_text(value, digits)


def tip(row: Row) -> str:
    """The reliability of a row, task by task, for a tooltip."""
    found = row.reliability
    if found.value is None:
        return f"{row.quantization}: no reliability, {found.reason}"
    ends = found.interval
    interval = f", 95 % interval [{points(ends[0])}, {points(ends[1])}]" if ends else f" (no interval: {found.reason})"
    parts = sorted(found.tasks.items(), key=lambda item: -abs(item[1]))
    tasks = ", ".join(f"{task} {points(share)}" for task, share in parts)
    left_out = "".join(f"; without {key}: {why}" for key, why in found.left_out.items())
    return f"{row.quantization}: reliability {points(found.value)} points{interval}; the mean of {tasks}{left_out}"

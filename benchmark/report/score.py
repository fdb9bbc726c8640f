"""The reliability score in words: what it is a mean of, and which task drives it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.report.svg import signed_text
from benchmark.results.rows import Row

LARGE = 0.1
"""A score at least this far from 0 is explained beside the table, not only in its tooltip."""
MEANING = (
    "The reliability score is the mean over the tasks of the signed relative change of their headline metrics "
    "(positive: better than full precision). It has no lower bound: an error that doubles counts −100 %, so a small "
    "one that grows much outweighs all else."
)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a signed percentage, or a dash.

    >>> percent(-1.0234), percent(0.0), percent(None)
    ('−102.3 %', '0.0 %', '–')
    """
    return "–" if value is None else f"{signed_text(100 * value, digits)} %"


def driver(row: Row) -> str | None:
    """The task that moves the score most; None where the row has no score, or nothing moves it."""
    task = max(row.shares, key=lambda name: abs(row.shares[name]), default=None)
    return task if task is not None and row.shares[task] else None


def tip(row: Row) -> str:
    """The score of a row, task by task, for a tooltip."""
    if not row.shares:
        return f"{row.quantization}: no reliability score, a headline metric is missing"
    parts = sorted(row.shares.items(), key=lambda item: -abs(item[1]))
    tasks = ", ".join(f"{task} {percent(share)}" for task, share in parts)
    return f"{row.quantization}: reliability score {percent(row.reliability)}, the mean of {tasks}"


def explained(rows: Sequence[Row]) -> list[str]:
    """A sentence for each row with a large score; names stand between backticks."""
    return [
        _sentence(row) for row in rows if row.reliability is not None and abs(row.reliability) >= LARGE and row.shares
    ]


def _sentence(row: Row) -> str:
    task = driver(row)
    moved = ", ".join(
        f"`{key}` {change.reference:.3f} → {change.value:.3f}"
        for key, change in row.headline.items()
        if key.split("/")[0] == task
    )
    others = [share for name, share in row.shares.items() if name != task]
    share = percent(row.shares[str(task)], 0)
    text = f"`{row.quantization}` {percent(row.reliability)}: driven by {task}, {share} ({moved})"
    if not others:
        return f"{text}."
    mean = sum(others) / len(others)
    return f"{text}; the mean of the other {len(others)} is {percent(mean)}."

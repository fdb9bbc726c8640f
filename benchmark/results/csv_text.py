"""CSV for spreadsheets: a text that one would take for a formula is quoted, control characters are taken out.

All CSV of this package is written here.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def cell(value: Any) -> Any:
    """A value as a cell: numbers as they are, None and NaN empty, a text that begins like a formula behind a `'`.

    Control characters, line separators and marks that turn the direction of writing become blanks.

    >>> cell("=cmd|' /C calc'!A0"), cell(-0.5), cell("a\\tb")
    ("'=cmd|' /C calc'!A0", -0.5, 'a b')
    """
    if value is None or value != value:  # noqa: PLR0124 (NaN of any type)
        return ""
    if not isinstance(value, str):
        return value
    text = _CONTROL.sub(" ", value)
    return f"'{text}" if value.lstrip(" ").startswith(_FORMULA) else text


def to_csv(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A head line and one line a row, with line feeds at their ends."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(cell, columns))
    writer.writerows(map(cell, row) for row in rows)
    return out.getvalue()

"""How changes are written, everywhere alike: arrows, stars, intervals, numbers, and names on several lines."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from benchmark.plugins import Better

Direction: TypeAlias = Literal["better", "worse", "same", "changed"]
ARROWS: Mapping[Better, str] = {"higher": "↑", "lower": "↓", "neither": ""}
WISHES: Mapping[Better, str] = {"higher": "higher is better", "lower": "lower is better", "neither": ""}
STARS = "* q < 0.05, ** q < 0.01, *** q < 0.001"
STYLES: Mapping[Direction, str] = {"better": "green", "worse": "red", "same": "dim", "changed": "dim"}
"""Of a change in the terminal."""
MARKS: Mapping[Direction, str] = {"better": "+", "worse": "-", "same": "", "changed": ""}
"""Of a change where there is no colour."""


def direction(change: float, better: Better) -> Direction:
    """What a change means by the metric's direction; `changed` for a metric without one."""
    if change == 0:
        return "same"
    if better == "neither":
        return "changed"
    return "better" if (change > 0) == (better == "higher") else "worse"


def q_text(q: float | None) -> str:
    """An adjusted p value with three decimals; nothing where there is none."""
    return "" if q is None else f"{q:.3f}" if q >= 0.001 else "<0.001"


def interval(low: float | None, high: float | None, number: Callable[[float], str]) -> str:
    """`[low, high]`, each written by `number`; nothing where there is none."""
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def short(value: float, sign: str = "") -> str:
    """Four decimals, fewer for large numbers: at most six digits, `0.8516`, `12.345`, `1234.5`; `1.2e+08` beyond."""
    digits = len(str(int(abs(value))))
    return f"{value:{sign}.{min(4, max(0, 5 - digits))}f}" if digits <= 7 else f"{value:{sign}.1e}"


def fold(name: str, width: int) -> str:
    """A name on several lines of at most `width` characters, broken after hyphens, in longer parts elsewhere too."""
    lines = [""]
    for token in _tokens(name, width, "-+._"):
        if lines[-1] and len(lines[-1]) + len(token) > width:
            lines.append("")
        lines[-1] += token
    return "\n".join(lines)


def _tokens(text: str, width: int, marks: str) -> list[str]:
    """The parts of a text that end with the first mark; what is still too long is split by the next, at last anywhere.

    >>> _tokens("bits_visual%2Eblocks_8-vision", 10, "-+._")
    ['bits_', 'visual%2Eb', 'locks_', '8-', 'vision']
    """
    if len(text) <= width:
        return [text]
    if not marks:
        return textwrap.wrap(text, width)
    parts = [part for part in text.replace(marks[0], f"{marks[0]}\n").split("\n") if part]
    return [token for part in parts for token in _tokens(part, width, marks[1:])]

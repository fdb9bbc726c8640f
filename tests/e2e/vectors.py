"""What the replay of known holes and the tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Try:
    """One hostile input, and what must come of it.

    Attributes:
        kind: "code", "images" or "ends".
        name: what is tried, in words.
        attempt: runs it; returns the outcome in words ("refused: ...", "skipped: ...", "inert"); raises
            AssertionError when the hole is open.
    """

    kind: str
    name: str
    attempt: Callable[[], str]

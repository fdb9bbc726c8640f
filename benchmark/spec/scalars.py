"""Option values of quantizations: plain words and numbers that a short name can spell."""

from __future__ import annotations

import math
from typing import Any

Scalar = bool | int | float | str


def sorted_pairs(value: Any) -> Any:
    """A mapping as pairs in order of their names; anything else as it is, for pydantic to judge."""
    return tuple(sorted(value.items(), key=lambda item: str(item[0]))) if isinstance(value, dict) else value


def plain_scalar(text: str) -> Scalar:
    """What a word in a short name means: a boolean, a number (in Python's own spelling of it), or itself."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if str(number) == text:
            return number
    return text


def _option_value(name: Any, value: Any) -> Scalar:
    """A value as its short name reads back, "1" as 1, so that equal meanings have equal hashes."""
    if name in ("skip", "bits"):
        raise ValueError(f"'{name}' is a word of short names, not an option")
    plain = plain_scalar(value) if isinstance(value, str) else value
    good = isinstance(plain, Scalar) and plain != "" and abs(plain if isinstance(plain, int | float) else 0) < math.inf
    if not good or (isinstance(plain, int) and abs(plain) >= 2**63):
        raise ValueError(f"option '{name}': expected a finite number, a word, true or false")
    return plain


def option_pairs(value: Any) -> Any:
    """The same for a quantization's options, with each value as its short name reads back."""
    pairs = sorted_pairs(value)
    if not isinstance(pairs, tuple | list) or any(not isinstance(p, tuple | list) or len(p) != 2 for p in pairs):
        return pairs  # pydantic says what is wrong with its shape
    return tuple((name, _option_value(name, item)) for name, item in pairs)

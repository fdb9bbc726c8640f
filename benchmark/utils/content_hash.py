"""Content hashes: SHA-256 of canonical JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(value: Any) -> str:
    """Content hash: SHA-256 (hex) of the canonical JSON of `value` (sorted keys, no blanks, no NaN)."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def canonical(value: Any) -> str:
    """JSON with sorted keys, no blanks and no NaN: equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(parts: Mapping[str, str]) -> str:
    """`digest` of a mapping whose values are given as canonical JSON, made once where many mappings share them.

    >>> digest_of({"b": canonical([1, 2]), "a": canonical("x")}) == digest({"a": "x", "b": [1, 2]})
    True
    """
    text = ",".join(f"{canonical(key)}:{parts[key]}" for key in sorted(parts))
    return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()

"""Content hashes of many mappings that share most of their values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from benchmark.spec import canonical


def canonical_values(content: Mapping[str, Any]) -> dict[str, str]:
    """The values of a mapping as canonical JSON, for `digest_of`."""
    return {key: canonical(value) for key, value in content.items()}


def digest_of(parts: Mapping[str, str]) -> str:
    """`digest` of a mapping whose values are given as canonical JSON, made once where many mappings share them.

    >>> digest_of(canonical_values({"a": "x", "b": [1, 2]})) == digest({"a": "x", "b": [1, 2]})
    True
    """
    text = ",".join(f"{canonical(key)}:{parts[key]}" for key in sorted(parts))
    return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()

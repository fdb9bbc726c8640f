"""Size, then sum, of a file that is here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from benchmark.download.writing import storage
from benchmark.utils.progress import shown

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Sums:
    """What is known of a file's bytes: their number, and sums as hex digits; `git` is the SHA-1 of its git blob."""

    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    git: str | None = None

    @property
    def best(self) -> tuple[str, str] | None:
        """The sum that is compared: its kind and digits; None where there is none."""
        kinds = {"sha256": self.sha256, "md5": self.md5, "git": self.git}
        return next(((kind, digits) for kind, digits in kinds.items() if digits), None)

    @property
    def shown(self) -> str:
        """The best sum in words: `md5 2d8e...`."""
        kind, digits = self.best or ("", "")
        return f"{'git blob' if kind == 'git' else kind} {digits}" if digits else "no sum"


def problem(path: Path, wanted: Sums, name: str) -> str | None:
    """What is wrong with a file; None where nothing is. A file of another size is not read."""
    with storage(path):
        size = path.stat().st_size
    if wanted.bytes is not None and size != wanted.bytes:
        return f"has {size:,} bytes, expected {wanted.bytes:,}"
    if wanted.best is None:
        return None
    kind, digits = wanted.best
    found = sum_of(path, kind, name)
    return None if found == digits else f"has {kind} {found}, expected {digits}"


def sum_of(path: Path, kind: str, name: str) -> str:
    """The hex digits of a file's sum: `sha256`, `md5` or `git`."""
    with storage(path), path.open("rb") as file:
        size = path.stat().st_size
        made = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
        if kind == "git":
            made.update(b"blob %d\0" % size)
        with shown().phase(f"check {name}", size, "B") as advance:
            while block := file.read(_BLOCK):
                made.update(block)
                advance(len(block))
    return made.hexdigest()

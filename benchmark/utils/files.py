"""Files on disk: paths with variables, deterministic listings, fingerprints, small text files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import DataError
from benchmark.utils.content_hash import digest

DATA_VARIABLE = "RELIQUANT_DATA"
LARGEST_NAMES, LARGEST_LIST = 5_000_000, 500_000_000
"""Bytes of a file of names (ImageNet-21k's has half a million) and of an image list (ImageNet's: 60 million)."""
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    *(".pgm", ".ppm"),
)
"""Suffixes (in any case) of files that count as images in a folder or tar file; the content decides the format.

`benchmark.data.decode.IMAGE_FORMATS` are read. PGM and PPM are listed so that they are refused by name: silently
skipping them would shrink the data set.
"""


@dataclass(frozen=True)
class Entry:
    """One file below a root: path relative to it with forward slashes, bytes, time of the last change."""

    path: str
    size: int
    mtime_ns: int


def expand(path: str) -> Path:
    """`~` and `$VARIABLES` replaced; `$DATA` is the folder that the environment variable RELIQUANT_DATA names.

    Raises:
        DataError: a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = DATA_VARIABLE if match["name"] == "DATA" else match["name"]
        if name not in os.environ:
            raise DataError(f"{path}: the environment variable {name} is not set; set it, or give the full path")
        return os.environ[name]

    try:
        return Path(re.sub(r"\$\{?(?P<name>[A-Za-z_]\w*)\}?", value, path)).expanduser().absolute()
    except RuntimeError as error:
        raise DataError(f"{path}: {error}; give the full path") from None


def resolve(path: str) -> Path:
    """Like `expand`, and the path must exist.

    Raises:
        DataError: nothing there.
    """
    found = expand(path)
    try:
        there = found.exists()
    except OSError as error:  # a name that is too long
        raise DataError(f"{path[:80]}: {error.strerror}") from None
    if not there:
        shown = path if str(found) == path else f"{path} ({found})"
        raise DataError(f"{shown}: no such file or folder")
    return found


def natural(text: str) -> tuple[int, int, str]:
    """Sort key: whole numbers by value and before everything else, other names as text."""
    return (0, int(text), text) if text.isascii() and text.isdigit() else (1, 0, text)


def walk(root: Path, suffixes: tuple[str, ...] | None = IMAGE_SUFFIXES) -> list[Entry]:
    """All files below `root` with one of the suffixes (any case; None: all), sorted part by part of their path.

    Hidden files and folders are left out; links are followed.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        entries = [e for e in _walk(root, "") if suffixes is None or e.path.lower().endswith(suffixes)]
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({error.strerror})") from None
    return sorted(entries, key=lambda e: [natural(part) for part in e.path.split("/")])


def _walk(folder: Path, prefix: str, depth: int = 0) -> Iterator[Entry]:
    if depth > 32:
        raise DataError(f"{folder}: more than 32 folders deep (a link to itself?)")
    with os.scandir(folder) as items:
        for item in items:
            if item.name.startswith("."):
                continue
            if item.is_dir():
                yield from _walk(Path(item.path), f"{prefix}{item.name}/", depth + 1)
            elif item.is_file():
                status = item.stat()
                yield Entry(prefix + item.name, status.st_size, status.st_mtime_ns)


def entry(path: Path) -> Entry:
    """A single file as an Entry under its own name."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return Entry(path.name, status.st_size, status.st_mtime_ns)


def fingerprint(entries: Iterable[Entry]) -> str:
    """Content hash of names, sizes and times of change."""
    return digest([[e.path, e.size, e.mtime_ns] for e in entries])


def read_lines(path: Path, limit: int = LARGEST_NAMES) -> tuple[str, ...]:
    """The non-empty lines of a UTF-8 text file, stripped.

    Raises:
        DataError: missing, not UTF-8, more than `limit` bytes, or without a line.
    """
    try:
        if path.is_file() and (size := path.stat().st_size) > limit:
            raise DataError(f"{path}: {size:,} bytes, a file of names has at most {limit:,}")
        lines = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    lines = tuple(line for line in lines if line)
    if not lines:
        raise DataError(f"{path}: has no lines")
    return lines

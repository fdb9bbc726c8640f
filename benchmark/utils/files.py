"""Files on disk: paths with variables, deterministic listings, fingerprints, small text files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import DataError
from benchmark.utils.content_hash import digest
from benchmark.utils.digests import Stamp, file_digests, stamp
from benchmark.utils.image_formats import HEAD, IMAGE_SUFFIXES, image_format

DATA_VARIABLE = "RELIQUANT_DATA"
JUNK = ("__MACOSX", "@eaDir")
"""Folders that operating systems put beside the user's own; like hidden ones they are left out."""
LARGEST_NAMES, LARGEST_LIST = 5_000_000, 500_000_000
"""Bytes of a file of names (ImageNet-21k's has half a million) and of an image list (ImageNet's: 60 million)."""


@dataclass(frozen=True)
class Entry:
    """One file below a root: path relative to it with forward slashes, the file itself, what changes with its bytes."""

    path: str
    file: Path
    stamp: Stamp

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stamp[0]


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


def nfc(name: str) -> str:
    """A name in Unicode's composed form, without blanks around it: what a Mac writes as two characters is one."""
    return unicodedata.normalize("NFC", escaped(name)).strip().strip("\ufeff")


def escaped(name: str) -> str:
    r"""A file's name as text that can be printed and stored: bytes that are no UTF-8 become `\xNN`.

    >>> print(escaped(b"caf\xe9.jpg".decode("utf-8", "surrogateescape")))
    caf\xe9.jpg
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def misnamed(path: str) -> bool:
    """Whether an `escaped` path, which names no file itself, stands for one whose name is not UTF-8."""
    raw = re.sub(rb"\\x([89a-f][0-9a-f])", lambda match: bytes.fromhex(match[1].decode()), path.encode())
    return raw != path.encode() and os.path.lexists(raw)


@dataclass(frozen=True)
class Aside:
    """Something below a root that is not among its entries, with the reason."""

    path: str
    why: str


def walk(root: Path, suffixes: tuple[str, ...] | None = None) -> list[Entry]:
    """All files below `root`, or those with one of the suffixes (any case), sorted part by part of their path.

    Hidden files and folders are left out; links are followed. For images: `list_images`.

    Raises:
        DataError: the folder cannot be read.
    """
    found = [e for e in _all(root) if isinstance(e, Entry)]
    return [e for e in found if suffixes is None or e.path.lower().endswith(suffixes)]


def list_images(root: Path) -> tuple[list[Entry], list[Aside]]:
    """The images below `root`, in the order of `walk`, and everything that is left out.

    A file is an image by its suffix (`IMAGE_SUFFIXES`, in any case) or by its first bytes, whatever its suffix.

    Raises:
        DataError: the folder or a file in it cannot be read.
    """
    images: list[Entry] = []
    asides: list[Aside] = []
    for found in _all(root):
        if isinstance(found, Aside):
            asides.append(found)
        elif found.path.lower().endswith(IMAGE_SUFFIXES) or image_format(_head(root / found.path)) is not None:
            images.append(found)
        else:
            asides.append(Aside(escaped(found.path), "no image" if found.size else "empty"))
    return images, asides


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _all(root: Path) -> list[Entry | Aside]:
    try:
        found = list(_walk(root, ""))
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({error.strerror})") from None
    return sorted(found, key=lambda e: [natural(part) for part in e.path.split("/")])


def _walk(folder: Path, prefix: str, depth: int = 0) -> Iterator[Entry | Aside]:
    if depth > 32:
        raise DataError(f"{folder}: more than 32 folders deep (a link to itself?)")
    with os.scandir(folder) as items:
        for item in items:
            path = prefix + item.name
            if item.name.startswith(".") or item.name in JUNK:
                yield Aside(escaped(path), "hidden")
            elif item.is_dir():
                yield from _walk(Path(item.path), f"{path}/", depth + 1)
            elif item.is_file():
                yield Entry(path, Path(item.path), stamp(item.stat()))
            else:
                yield Aside(escaped(path), "dangling link" if item.is_symlink() else "no file")


def entry(path: Path) -> Entry:
    """A single file as an Entry under its own name."""
    try:
        return Entry(path.name, path.absolute(), stamp(path.stat()))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def fingerprint(entries: Iterable[Entry]) -> str:
    """Content hash of names and bytes: where files lie and when they were written does not count.

    Files that have not changed since an earlier call, in any process, are not read again (`benchmark.utils.digests`).
    """
    found = list(entries)
    digests = file_digests({e.file: e.stamp for e in found})
    return digest([[e.path, digests[e.file]] for e in found])


def numbered_lines(path: Path, limit: int = LARGEST_NAMES) -> list[tuple[int, str]]:
    """The non-empty lines of a UTF-8 text file, stripped, each with its number from 1; a byte order mark is skipped.

    Raises:
        DataError: missing, not UTF-8, more than `limit` bytes, or without a line.
    """
    try:
        if path.is_file() and (size := path.stat().st_size) > limit:
            raise DataError(f"{path}: {size:,} bytes, a file of names has at most {limit:,}")
        text = path.read_text(encoding="utf-8-sig")  # line ends of any system become \n
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path}: has no lines")
    return lines


def read_lines(path: Path) -> tuple[str, ...]:
    """The lines of `numbered_lines` alone."""
    return tuple(line for _, line in numbered_lines(path))


def read_names(path: Path) -> tuple[str, ...]:
    """Names, one a line, in the composed form of `nfc`. A name counts by the number of its line.

    Raises:
        DataError: as `numbered_lines`; an empty line between names, or a comment, which would shift or change names.
    """
    lines = numbered_lines(path)
    for expected, (number, line) in enumerate(lines, 1):
        if number != expected:
            raise DataError(f"{path}: line {expected} is empty, and names count by their line; delete it or fill it in")
        if re.search(r"(^|\s)#", line):
            raise DataError(
                f"{path}: line {number}: '{line[:60]}': comments are not read, and '#' begins one; delete it"
            )
    return tuple(nfc(line) for _, line in lines)

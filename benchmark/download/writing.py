"""Bytes to the disk: a full or read-only disk becomes one line, and room is looked for before it is needed."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from benchmark.errors import StorageError, why
from benchmark.utils.progress import count

RESERVE = 50_000_000
"""Bytes that stay free beside what is planned."""


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Within the block an error of the file system is a `StorageError` that names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.strerror}; make it writable, or choose another folder with --to FOLDER"
    return why(error)


def append(file: FileIO, content: bytes) -> None:
    """Write all of it; an unbuffered file may take less at once."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) or 0 :]


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def truncate(path: Path) -> None:
    """Empty a file, if it is there."""
    with storage(path):
        if path.exists():
            os.truncate(path, 0)


def write_small(path: Path, text: str) -> None:
    """A small file, whole or not at all, also after a power failure."""
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
        try:
            with aside.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def free(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    with storage(place):
        return shutil.disk_usage(place).free


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        StorageError: fewer than `needed` bytes, and a reserve, are free.
    """
    there = free(folder)
    if needed and needed + RESERVE > there:
        raise StorageError(
            f"{what}: needs {count(needed, 'B')} in {folder}, where {count(there, 'B')} are free; make room, choose "
            "files with --only NAME, or another disk with --to FOLDER"
        )

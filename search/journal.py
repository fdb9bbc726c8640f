"""Optuna's journal file, written so that a process killed while writing does not damage it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file

from benchmark.errors import StorageError
from benchmark.utils.sqlite import sqlite_address

_BEGINNING = b'{"op_code":'
_LONGEST = 1 << 20


class Journal(JournalFileBackend):
    """Optuna's journal file, which removes an incomplete last line before it appends the next one.

    Optuna 5.0.0 writes the next line behind the fragment: then nobody can read the journal any more. The path is made
    absolute because the lock is a symbolic link to it: one that leads nowhere is never seen to be stale.

    Raises:
        StorageError: the file exists and is not an Optuna journal; it is left unchanged.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            check_journal(path)
        super().__init__(str(path.absolute()))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines after the last complete one."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._lock), Path(self._file_path).open("r+b") as file:
            file.truncate(_whole(file))
            file.seek(0, os.SEEK_END)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def _whole(file: Any) -> int:
    """Bytes up to the end of the last complete line."""
    end = int(file.seek(0, os.SEEK_END))
    for size in (1, _LONGEST, end):
        start = max(end - size, 0)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + int(at) + 1
    return 0


def check_journal(path: Path) -> None:
    """Refuse a file that does not begin like a journal; an incomplete first line is accepted.

    Raises:
        StorageError: it is not a journal.
    """
    with path.open("rb") as file:
        start = file.read(len(_BEGINNING))
    if start == b"SQLite form":
        raise StorageError(f"--storage {path}: this is a database. Write --storage {sqlite_address(path)}")
    if not _BEGINNING.startswith(start):
        raise StorageError(f"--storage {path}: this is not an Optuna journal. Name another file, or a new one.")

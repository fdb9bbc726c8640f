"""Optuna's journal file, written so that a process that is killed while it writes harms nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file

from benchmark.errors import StorageError

_BEGINNING = b'{"op_code":'
_LONGEST = 1 << 20


class Journal(JournalFileBackend):
    """Optuna's file, in which a line that was not written to its end goes before the next one is written.

    Optuna 5.0.0 writes the next line behind the fragment: then nobody can read the journal any more. The path is made
    absolute because the lock is a symbolic link to it: one that leads nowhere is never seen to be stale.

    Raises:
        StorageError: the file is there and is no journal of Optuna's; it stays as it is.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            check_journal(path)
        super().__init__(str(path.absolute()))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines behind the last whole one."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._lock), Path(self._file_path).open("r+b") as file:
            file.truncate(_whole(file))
            file.seek(0, os.SEEK_END)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def _whole(file: Any) -> int:
    """Bytes up to the end of the last whole line."""
    end = int(file.seek(0, os.SEEK_END))
    for size in (1, _LONGEST, end):
        start = max(end - size, 0)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + int(at) + 1
    return 0


def check_journal(path: Path) -> None:
    """Refuse a file that does not begin as a journal does; a fragment of a first line does.

    Raises:
        StorageError: it is something else.
    """
    with path.open("rb") as file:
        start = file.read(len(_BEGINNING))
    if start == b"SQLite form":
        raise StorageError(f"--storage {path}: this is a database; write --storage sqlite:///{path}")
    if not _BEGINNING.startswith(start):
        raise StorageError(f"--storage {path}: this is no journal of Optuna's; name another file, or a new one")

"""Locks between processes that a stopped process cannot keep for ever.

The operating system gives a dead process's lock back; that of a stopped one (SIGSTOP, Ctrl-Z) it keeps. A holder that
is seen stopped for `PATIENCE` seconds without a break is no longer waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.errors import StorageError
from benchmark.utils.processes import stopped_with

PATIENCE = 20.0
LOOK = 1.0
"""Seconds between looks at who holds a lock."""


@contextmanager
def exclusive(path: Path, needed: bool = True, patience: float = PATIENCE) -> Iterator[bool]:
    """Hold the lock of a file; yields whether it is held.

    Args:
        needed: whether what is done under it must not be done by two processes at once; else, when its holder is
            stopped, it is done without the lock.

    Raises:
        StorageError: it is needed, and its holder is stopped.
        OSError: the file cannot be made.
    """
    lock, since = FileLock(path), None
    while True:
        try:
            lock.acquire(timeout=LOOK)
            break
        except Timeout:
            pid = stopped_with(path)
        now = time.monotonic()
        since = None if pid is None else now if since is None else since
        if since is None or now - since < patience:
            continue
        if needed:
            raise StorageError(
                f"{path} is locked by process {pid}, which is stopped; what is finished is kept: let it go on "
                f"(kill -CONT {pid}) or end it (kill -KILL {pid}), and run the same command again"
            )
        yield False
        return
    try:
        yield True
    finally:
        lock.release()

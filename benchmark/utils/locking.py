"""Locks between processes that do not wait for ever for a suspended holder.

The operating system releases the lock of a dead process, but not of a suspended one (SIGSTOP, Ctrl-Z). After a holder
has been suspended for `PATIENCE` seconds without a break, others stop waiting for it.
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
        needed: whether the block must not run in two processes at once; otherwise it runs without the lock when the
            holder is suspended.

    Raises:
        StorageError: the lock is needed, and its holder is suspended.
        OSError: the lock file cannot be created.
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

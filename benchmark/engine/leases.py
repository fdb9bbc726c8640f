"""Leases: several processes, also on several machines, share one results folder and do no work twice.

A lease consists of an operating-system lock, which a dead owner on this machine loses at once, and a file that names
the owner; the file's modification time is the owner's heartbeat. The heartbeat is for owners on other machines or in
other containers that share the folder: an owner without one for `STALE` seconds counts as dead, whether its lock is
visible here or not. It also works on file systems without locks. Processes refresh and remove only their own name.

A process of this machine can be alive and suspended (SIGSTOP, Ctrl-Z). It counts as dead, although it still has its
lock, after `STOPPED` seconds of silence, or after `STALE` seconds of silence by the observer's clock. (That clock stops
while the whole machine sleeps, so nobody is taken over then.) A lease that was taken over is held without the lock;
when the suspended process continues, it finds another's name, or the records.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Self

from filelock import FileLock, Timeout

from benchmark.errors import StorageError, why
from benchmark.utils.processes import is_gone, is_here, is_stopped, owner

BEAT = 20.0
STALE = 120.0
STOPPED = 30.0
UNSIGNED = "another process"
"""Stands for an owner that has not written its name yet."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Leases:
    """The leases of one process, below `<home>/leases`; all are released when the context ends.

    Args:
        beat: seconds between heartbeats. stale: seconds of silence after which an owner on another machine is dead.
        stopped: the same for a suspended owner on this machine.
    """

    def __init__(self, home: Path, beat: float = BEAT, stale: float = STALE, stopped: float = STOPPED) -> None:
        self.folder, self.beat, self.stale, self.stopped = home / "leases", beat, stale, stopped
        self._heard: dict[str, tuple[tuple[str, float], float]] = {}
        self._held: dict[str, FileLock | None] = {}
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for key in list(self._held):
            self.release(key)

    @contextmanager
    def lease(self, key: str) -> Iterator[str | None]:
        """Try to lease `key` for the block; yields who holds it, None when it is ours."""
        holder = self.take(key)
        try:
            yield holder
        finally:
            if holder is None:
                self.release(key)

    def take(self, key: str) -> str | None:
        """Lease `key` until `release`; returns at once, None or who holds it.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock(key)
            holder = self._sign(key, lock)
        except OSError as error:
            raise StorageError(
                f"leases folder {self.folder}: it cannot be written ({why(error)}). Give a writable --home."
            ) from error
        if holder is not None:
            if lock:
                lock.release()
            return holder
        self._held[key] = lock or None
        if self._heart is None:
            self._heart = threading.Thread(target=self._live, daemon=True, name="leases")
            self._heart.start()
        return None

    def ours(self, key: str) -> bool:
        """Whether this process still holds a lease; another may have taken it over."""
        return key in self._held and self._owner(key) == owner()

    def release(self, key: str) -> None:
        """Release a lease, unless another process took it over while this one was suspended."""
        lock = self._held.pop(key)
        with suppress(OSError):
            self._unsign(key, owner())
        if lock is not None:
            lock.release()

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.owner"

    def _lock(self, key: str) -> FileLock | Literal[False] | None:
        """The operating system's lock; False when another process has it, None where the file system has no locks."""
        lock = FileLock(self.folder / f"{key}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise
        return lock

    def _sign(self, key: str, lock: FileLock | Literal[False] | None) -> str | None:
        """Write our name, over that of a dead owner; returns a living owner's."""
        holder = self._owner(key)
        if holder is None and lock is False and self._silent(key, "", 0.0) < self.stopped:
            return UNSIGNED
        if holder is not None:
            if self._alive(key, holder, lock):
                return holder or UNSIGNED
            self._unsign(key, holder)
        return None if write_once(self._file(key), owner()) else self._owner(key) or UNSIGNED

    def _unsign(self, key: str, holder: str) -> None:
        """Remove an owner's name, but not that of another owner who signed meanwhile."""
        if self._owner(key) != holder:
            return
        aside = self.folder / f".gone-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):  # another process was faster
            self._file(key).rename(aside)
            found = aside.read_text(encoding="utf-8", errors="replace")
            if found != holder:
                write_once(self._file(key), found)
            aside.unlink()

    def _alive(self, key: str, holder: str, lock: FileLock | Literal[False] | None) -> bool:
        if is_here(holder) and is_gone(holder):
            return False
        if isinstance(lock, FileLock) and holder in ("", owner()):  # a living owner would hold the lock
            return False
        try:
            beat = self._file(key).stat().st_mtime
        except FileNotFoundError:  # released just now
            return False
        if is_here(holder) or (not holder and lock is False):
            silent = self._silent(key, holder, beat)
            if is_stopped(holder) and max(silent, self._since(beat)) >= self.stopped:
                return False
            return silent < self.stale
        return self._since(beat) < self.stale

    def _silent(self, key: str, holder: str, beat: float) -> float:
        """Seconds for which this process has seen no new owner and no heartbeat."""
        now, sign = time.monotonic(), (holder, beat)
        before, since = self._heard.get(key, (sign, now))
        self._heard[key] = (sign, since if sign == before else now)
        return now - self._heard[key][1]

    def _since(self, beat: float) -> float:
        """Seconds since a heartbeat, by the file server's clock."""
        probe = self.folder / f".clock-{uuid.uuid4().hex}"
        try:
            probe.touch()
            return probe.stat().st_mtime - beat
        finally:
            probe.unlink(missing_ok=True)

    def _owner(self, key: str) -> str | None:
        try:
            return self._file(key).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def _live(self) -> None:
        while not self._ended.wait(self.beat):
            for key in list(self._held):
                with suppress(OSError):
                    if self._owner(key) == owner():  # else it was taken over while this process was suspended
                        os.utime(self._file(key))


def write_once(path: Path, text: str) -> bool:
    """Write a small file atomically; False where it exists already.

    Raises:
        OSError: the folder cannot be written.
    """
    aside = path.with_name(f".new-{uuid.uuid4().hex}")
    aside.write_text(text, encoding="utf-8")
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        aside.unlink(missing_ok=True)
    return True

"""SHA-256 of files, remembered between processes: a file is its bytes, and reading them all takes a while.

A digest is remembered under the file's path, size, times of change and inode. The time of the last change of status
(ctime) cannot be set: a file that was replaced in place with its old size and time is read again. So is one that was
changed within the last seconds, since a second change would leave no trace.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from benchmark.utils.progress import shown

Stamp = tuple[int, int, int, int]
"""Size, mtime and ctime in ns, inode."""

SETTLED_NS = 2_000_000_000
"""Age that a change must have: file systems keep times in steps of up to 2 s."""
SHOWN_BYTES = 100_000_000
CACHE_VARIABLE = "RELIQUANT_CACHE"
_UNREADABLE = "cannot be read"
_NEVER_WAITING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Opening a pipe would wait for a writer."""


def stamp(status: os.stat_result) -> Stamp:
    """What changes when a file's bytes do."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def memo_folder() -> Path:
    """Where digests are remembered: `$RELIQUANT_CACHE`, or `reliquant` in the user's folder of caches."""
    if place := os.environ.get(CACHE_VARIABLE):
        return Path(place)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reliquant"
    except RuntimeError:  # a user without a home
        return Path(os.devnull)


def file_digests(files: Mapping[Path, Stamp]) -> dict[Path, str]:
    """SHA-256 (hex) of each file's bytes; of one that cannot be read, or is no file, a text that says so.

    Args:
        files: path -> its stamp now.
    """
    if not files:
        return {}
    memo = _Memo(files)
    known = {path: found for path, now in files.items() if (found := memo.get(path, now)) is not None}
    wanted = [path for path in files if path not in known]
    size = sum(files[path][0] for path in wanted)
    if size < SHOWN_BYTES:
        made = _read_all(wanted, lambda _: None)
    else:
        with shown().phase("read the files", size, "B") as advance:
            made = _read_all(wanted, lambda path: advance(files[path][0]))
    memo.keep({path: (files[path], made[path]) for path in wanted})
    return known | made


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    place = path.resolve()
    found = file_digests({place: stamp(place.stat())})[place]
    if found.startswith(_UNREADABLE):
        with place.open("rb"):  # says why
            raise OSError(f"{path}: {found}")
    return found


def _read_all(paths: list[Path], done: Callable[[Path], None]) -> dict[Path, str]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = {}
        for path, digest in zip(paths, pool.map(_read, paths), strict=True):
            found[path] = digest
            done(path)
        return found


def _read(path: Path) -> str:
    try:
        with os.fdopen(os.open(path, _NEVER_WAITING), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return f"{_UNREADABLE}: not a regular file"
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{_UNREADABLE}: {error.strerror or error}"


class _Memo:
    """Digests of the files below one folder, in one JSON file; without it (nobody may write there) all are read."""

    def __init__(self, files: Mapping[Path, Stamp]) -> None:
        self.root = os.path.commonpath([path.parent for path in files])
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:32]
        self.file = memo_folder() / "digests" / f"{name}.json"
        self.known: dict[str, list[object]] = {}
        with suppress(OSError, ValueError):
            read = json.loads(self.file.read_bytes())
            self.known = read if isinstance(read, dict) else {}

    def _name(self, path: Path) -> str:
        return str(path)[len(self.root) :]

    def get(self, path: Path, now: Stamp) -> str | None:
        """The digest of a file that has not changed."""
        match self.known.get(self._name(path)):
            case [*then, str(digest)] if then == list(now):
                return digest
        return None

    def keep(self, made: Mapping[Path, tuple[Stamp, str]]) -> None:
        """Remember digests of files that have been left alone for a while; what another process keeps may get lost."""
        before = time.time_ns() - SETTLED_NS
        settled = {
            self._name(path): [*then, digest]
            for path, (then, digest) in made.items()
            if max(then[1], then[2]) < before and not digest.startswith(_UNREADABLE)
        }
        if not settled:
            return
        aside = self.file.with_suffix(f".{os.getpid()}-{uuid.uuid4().hex}.tmp")
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(self.known | settled), encoding="ascii")
            aside.replace(self.file)

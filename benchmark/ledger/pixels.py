"""A folder of uint8 arrays named by content hash: written aside and renamed, checked by digest, bounded in size.

An entry is a folder `<key>/` with `pixels.bin` (raw, C order) and `meta.json`. Several processes may use one folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import StorageError, why
from benchmark.spec import digest
from benchmark.utils.durable import sync_folder
from benchmark.utils.locking import exclusive
from benchmark.utils.processes import is_stopped_here

ARRAY, META = "pixels.bin", "meta.json"
FORMAT = 1
STALE_SECONDS = 86_400


@dataclass(frozen=True)
class Stored:
    """An entry: the read-only memory-mapped array, and what was written beside it."""

    array: NDArray[np.uint8]
    info: dict[str, Any]


class Writer:
    """Takes an entry chunk by chunk; becomes visible all at once when the context ends without an error."""

    def __init__(self, folder: Path, row_shape: tuple[int, ...]) -> None:
        self.folder, self.row_shape = folder, row_shape
        self.rows = 0
        self.sizes: list[int] = []
        self.digests: list[str] = []
        self.info: dict[str, Any] = {}
        self._file = (folder / ARRAY).open("wb")

    def append(self, chunk: NDArray[np.uint8]) -> None:
        """Write (B, *row_shape) uint8."""
        raw = np.ascontiguousarray(chunk).tobytes()
        self._file.write(raw)
        self.rows += len(chunk)
        self.sizes.append(len(raw))
        self.digests.append(hashlib.sha256(raw).hexdigest())

    def finish(self) -> None:
        """Bytes and description on disk."""
        _sync(self._file)
        self._file.close()
        meta: dict[str, Any] = {
            "format": FORMAT,
            "shape": [self.rows, *self.row_shape],
            "sizes": self.sizes,
            "sha256": self.digests,
            "info": self.info,
        }
        with (self.folder / META).open("w", encoding="utf-8") as file:
            json.dump(meta | {"meta_sha256": digest(meta)}, file)
            _sync(file)

    def close(self) -> None:
        """Give the file up."""
        with suppress(OSError):  # a full disk: what is not written is not wanted either
            self._file.close()


class Store:
    """Arrays by content hash, at most `budget` bytes of them; the least recently used go first.

    Args:
        folder: made when missing.
        budget: bytes; 0 keeps nothing.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder, self.budget = folder, budget
        self._checked: dict[str, int] = {}

    def fits(self, size: int) -> bool:
        """Whether an entry of `size` bytes may be kept at all."""
        return size <= self.budget

    def get(self, key: str, threads: int = 1) -> Stored | None:
        """An entry, or None when it is missing or damaged.

        The digest of the bytes is checked once per process, in `threads` threads.
        """
        place = self.folder / key
        try:
            meta = self._meta(place)
            if meta is None:
                return None
            stamp = (place / ARRAY).stat().st_mtime_ns
            shape = tuple(meta["shape"])
            if (place / ARRAY).stat().st_size != sum(meta["sizes"]) or np.prod(shape) != sum(meta["sizes"]):
                return None
            if shape[0] == 0:
                return Stored(np.empty(shape, np.uint8), meta["info"])
            array = np.memmap(place / ARRAY, np.uint8, "r", shape=shape)
            if self._checked.get(key) != stamp:
                if not _intact(place / ARRAY, meta["sizes"], meta["sha256"], threads):
                    return None
                self._checked[key] = stamp
            with suppress(OSError):  # a folder that can only be read: then nothing is evicted either
                os.utime(place / META)
        except OSError:  # not there, or evicted by another process in the meantime; what else is wrong shows in `lock`
            return None
        return Stored(array, meta["info"])

    def __contains__(self, key: str) -> bool:
        return (self.folder / key).is_dir()

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Only one process makes an entry; the others wait and then find it, but for one that is stopped."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(self.folder / f"{key}.lock", needed=False):
                yield
        except OSError as error:
            raise StorageError(f"pixel cache {self.folder}: {why(error)}") from None

    @contextmanager
    def writing(self, key: str, row_shape: tuple[int, ...], size: int) -> Iterator[Writer]:
        """Make an entry of about `size` bytes; call within `lock(key)`.

        Raises:
            StorageError: the folder cannot be written, or the disk is full.
        """
        self.drop(key)
        for stale in self.folder.glob(f"{key}.*.part"):
            if not _stopped(stale):  # it may go on
                shutil.rmtree(stale, ignore_errors=True)
        self._make_room(size, key)
        aside = self.folder / f"{key}.{os.getpid()}.part"
        aside.mkdir()
        writer = Writer(aside, row_shape)
        try:
            yield writer
            writer.finish()
            sync_folder(aside)
            self._put(aside, key)
            sync_folder(self.folder)
        finally:
            writer.close()
            shutil.rmtree(aside, ignore_errors=True)

    def _put(self, aside: Path, key: str) -> None:
        try:
            aside.rename(self.folder / key)
        except OSError:
            if key not in self:  # else another did not wait for this process, which was stopped: its copy stays
                raise

    def drop(self, key: str) -> None:
        """Remove an entry; whoever has it mapped keeps it."""
        place = self.folder / key
        gone = self.folder / f"{key}.{os.getpid()}.gone"
        try:
            place.rename(gone)
        except FileNotFoundError:
            return
        self._checked.pop(key, None)
        shutil.rmtree(gone, ignore_errors=True)

    def used(self) -> int:
        """Bytes of all arrays in the folder."""
        return sum(size for _, size, _ in self._entries())

    def _entries(self) -> list[tuple[float, int, str]]:
        """(time of last use, bytes, key) of every entry."""
        found = []
        for place in self.folder.iterdir() if self.folder.is_dir() else ():
            try:
                if place.is_dir() and "." not in place.name:
                    found.append(((place / META).stat().st_mtime, (place / ARRAY).stat().st_size, place.name))
            except FileNotFoundError:
                continue
        return sorted(found)

    def _make_room(self, size: int, key: str) -> None:
        with exclusive(self.folder / "evict.lock", needed=False):
            entries = self._entries()
            used = sum(entry[1] for entry in entries)
            for _, bytes_, name in entries:
                if used + size <= self.budget:
                    break
                if name != key:
                    self.drop(name)
                    used -= bytes_
            for left in (*self.folder.glob("*.part"), *self.folder.glob("*.gone")):  # of processes that were killed
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)

    def _meta(self, place: Path) -> dict[str, Any] | None:
        try:
            meta = json.loads((place / META).read_text(encoding="utf-8"))
            claimed = meta.pop("meta_sha256")
        except (ValueError, KeyError, AttributeError, UnicodeDecodeError):
            return None
        return meta if claimed == digest(meta) and meta["format"] == FORMAT else None


def _stopped(part: Path) -> bool:
    pid = part.suffixes[-2].removeprefix(".") if len(part.suffixes) > 1 else ""
    return pid.isdigit() and is_stopped_here(int(pid))


def _intact(path: Path, sizes: list[int], digests: list[str], threads: int) -> bool:
    offsets = np.cumsum([0, *sizes[:-1]]).tolist()

    def same(offset: int, size: int, expected: str) -> bool:
        with path.open("rb") as file:
            file.seek(offset)
            return hashlib.sha256(file.read(size)).hexdigest() == expected

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return all(pool.map(same, offsets, sizes, digests))


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())

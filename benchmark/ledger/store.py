"""One content-addressed store for pixels, features, statistics and comparisons.

An entry is a folder `<key[:2]>/<key>/` with `meta.json` and one file `NAME.bin` (raw, C order) for each array. It is
written aside, brought to the disk and renamed: it is there as a whole or not at all. Several processes, also on several
machines, may use one folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import DTypeLike, NDArray

from benchmark.errors import StorageError, why
from benchmark.utils.content_hash import canonical, digest
from benchmark.utils.durable import sync_folder
from benchmark.utils.locking import exclusive
from benchmark.utils.processes import is_gone, is_here, owner

META = "meta.json"
BLOCK = 1 << 24
"""Bytes that have one digest: larger files are checked by several threads."""
_PIECE = 1 << 18
STALE_SECONDS = 86_400
_ASIDE = ".tmp-"


class Entry(dict[str, NDArray[Any]]):
    """Read-only, memory-mapped arrays by name, and `info`, the plain JSON values that were written with them."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None:
        super().__init__(arrays)
        self.info = info


class Writer:
    """Takes the arrays of an entry: whole, chunk by chunk, or in place for arrays that are larger than memory.

    Attributes:
        info: plain JSON values to keep with the arrays.
        entry: what was written, once the block of `Store.writing` has ended.

    Every method raises StorageError where the folder cannot be written.
    """

    entry: Entry

    def __init__(self, folder: Path) -> None:
        self.info: dict[str, Any] = {}
        self.arrays: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._folder = folder

    def add(self, name: str, array: NDArray[Any]) -> None:
        """Write a whole array."""
        self._write(name, array)
        self.arrays[name] = (array.dtype.str, array.shape)

    def append(self, name: str, rows: NDArray[Any]) -> None:
        """Write rows (B, ...) behind those that are there; all chunks have one type and one shape of a row."""
        dtype, (before, *row) = self.arrays.get(name, (rows.dtype.str, (0, *rows.shape[1:])))
        if (dtype, tuple(row)) != (rows.dtype.str, rows.shape[1:]):
            raise ValueError(
                f"{name}: rows {row} of {dtype} cannot be followed by {rows.shape[1:]} of {rows.dtype.str}"
            )
        self._write(name, rows)
        self.arrays[name] = (dtype, (before + len(rows), *row))

    def room(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 array on the disk, to be filled before the block ends.

        Its room is taken at once, so that a full disk is an error here and not a signal when it is filled.
        """
        path = self._folder / f"{name}.bin"
        with _writable(self._folder.parent):
            array: NDArray[np.float32] = np.memmap(path, np.float32, "w+", shape=shape)
            if hasattr(os, "posix_fallocate"):  # else the file has holes until it is filled
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, array.nbytes)
        self.arrays[name] = (array.dtype.str, shape)
        return array

    def _write(self, name: str, array: NDArray[Any]) -> None:
        with _writable(self._folder.parent), (self._folder / f"{name}.bin").open("ab") as file:
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


class Store:
    """Named arrays and JSON values under content hashes.

    Entries are checked against their SHA-256 once per process; a damaged one is removed, reported through `damaged`,
    and counts as missing. Before the store outgrows `budget` bytes of arrays, the least recently used entries go.

    Args:
        folder: made when something is written. budget: bytes; None for no limit.
    """

    def __init__(self, folder: Path, budget: int | None = None) -> None:
        self.folder, self.budget = folder, budget
        self.damaged: list[str] = []
        self._checked: dict[str, tuple[int, int]] = {}

    def path(self, key: str) -> Path:
        """Folder of an entry."""
        return self.folder / key[:2] / key

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (self.path(key) / META).is_file()

    def fits(self, size: int) -> bool:
        """Whether the budget has room for `size` bytes at all."""
        return self.budget is None or size <= self.budget

    def get(self, key: str) -> Entry | None:
        """An entry, or None when it is missing or damaged.

        Raises:
            StorageError: it is there and cannot be read: no permission, too many open files, a failing disk.
        """
        if key not in self:
            return None
        folder = self.path(key)
        try:
            meta, stamp = _meta(folder), _stamp(folder)
            if self._checked.get(key) != stamp:
                for name, about in meta["arrays"].items():
                    if _digests(folder / f"{name}.bin") != about["sha256"]:
                        raise ValueError(f"{name}.bin does not match its digest")
                self._checked[key] = stamp
            entry = _opened(folder, meta)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise StorageError(f"the cache entry {folder} cannot be read: {why(error)}") from error
            if folder.is_dir():  # else another process has just evicted it, whole
                self.damaged.append(f"{folder}: {error}")
                with suppress(OSError):  # a store that we may only read; whoever writes to it will be told
                    self._remove(folder)
            return None
        with suppress(OSError):  # evicted just now, or a store that we may only read: then nothing is evicted either
            os.utime(folder / META)
        return entry

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any] | None = None) -> Entry:
        """Store whole arrays and JSON values, and return them memory-mapped.

        Raises:
            StorageError: the folder cannot be written (read-only, disk full).
        """
        with self.writing(key, sum(array.nbytes for array in arrays.values())) as writer:
            for name, array in arrays.items():
                writer.add(name, array)
            writer.info |= info or {}
        return writer.entry

    @contextmanager
    def writing(self, key: str, size: int = 0) -> Iterator[Writer]:
        """Make an entry piece by piece; where another process has made the same one meanwhile, that one stays.

        Args:
            size: bytes that its arrays will have, where that is known: room is made for them.

        Raises:
            StorageError: the folder cannot be written (read-only, disk full).
        """
        aside = self._aside()
        try:
            with _writable(self.folder):
                self._make_room(size)
                aside.mkdir(parents=True)
            writer = Writer(aside)
            yield writer
            with _writable(self.folder):
                writer.entry = self._publish(key, aside, writer)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Only one process makes what this key stands for; the others wait and then find it.

        One that is stopped is not waited for: then two may make it, and one of the copies stays.
        Keys share 256 lock files. Never take two locks at once.

        Raises:
            StorageError: the folder cannot be written.
        """
        place = self.folder / ".locks" / key[:2]
        with _writable(self.folder):
            place.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                stack.enter_context(exclusive(place, needed=False))
                held = stack.pop_all()
        with held:
            yield

    def used(self) -> int:
        """Bytes of all arrays in the store."""
        return sum(size for _, size, _ in self._entries())

    def _publish(self, key: str, aside: Path, writer: Writer) -> Entry:
        arrays = {}
        for name, (dtype, shape) in writer.arrays.items():
            path = aside / f"{name}.bin"
            _fsync(path)
            arrays[name] = {"dtype": dtype, "shape": list(shape), "sha256": _digests(path)}
        meta = {"arrays": arrays, "info": writer.info}
        (aside / META).write_text(canonical({**meta, "sha256": digest(meta)}), encoding="ascii")
        _fsync(aside / META)
        sync_folder(aside)
        entry = _opened(aside, meta)  # mapped before others can evict it; a mapping outlives its file's name
        stamp, target = _stamp(aside), self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.rename(target)
        except OSError:
            if key not in self:  # not another writer's whole entry: remains of a killed process, or a real failure
                self._remove(target)
                aside.rename(target)
        sync_folder(target.parent)
        self._checked[key] = stamp
        return entry

    def _aside(self) -> Path:
        """A new name that says whose it is."""
        return self.folder / f"{_ASIDE}{quote(owner(), safe='')}-{uuid.uuid4().hex}"

    def _remove(self, folder: Path) -> None:
        """Take an entry away as a whole; whoever has it mapped keeps it."""
        aside = self._aside()
        with suppress(FileNotFoundError):  # another process was faster
            folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _make_room(self, size: int) -> None:
        """Remove what dead writers left behind, and least recently used entries until `size` more bytes fit."""
        for leftover in self.folder.glob(f"{_ASIDE}*"):
            if _abandoned(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
        if self.budget is None:
            return
        entries = sorted(self._entries())
        total = size + sum(taken for _, taken, _ in entries)
        for _, taken, folder in entries:
            if total <= self.budget:
                return
            self._remove(folder)
            total -= taken

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Time of last use, bytes of the arrays, and folder of every entry."""
        for meta in self.folder.glob(f"[0-9a-f][0-9a-f]/*/{META}"):
            with suppress(FileNotFoundError):  # another process has just taken it away
                size = sum(file.stat().st_size for file in meta.parent.glob("*.bin"))
                yield meta.stat().st_mtime, size, meta.parent


def _abandoned(aside: Path) -> bool:
    """Whether its writer is dead; one on another machine is when it has written nothing for a day."""
    who = unquote(aside.name[len(_ASIDE) : -len("-") - 32])
    if is_here(who) or is_gone(who):
        return is_gone(who)
    try:
        return time.time() - max(path.stat().st_mtime for path in (aside, *aside.iterdir())) > STALE_SECONDS
    except FileNotFoundError:
        return False


def _meta(folder: Path) -> dict[str, Any]:
    meta = json.loads((folder / META).read_bytes())
    if not isinstance(meta, dict) or meta.pop("sha256", None) != digest(meta):
        raise ValueError(f"{META} is damaged")
    return meta


def _opened(folder: Path, meta: Mapping[str, Any]) -> Entry:
    arrays = meta["arrays"].items()
    return Entry({name: _mapped(folder / f"{name}.bin", **about) for name, about in arrays}, meta["info"])


def _mapped(path: Path, dtype: DTypeLike, shape: list[int], sha256: object) -> NDArray[Any]:
    """Mapped so that a write past numpy's flag, by torch, changes a private page: not the file, and no signal comes."""
    if 0 in shape:  # nothing that could be mapped
        return np.empty(shape, dtype)
    try:
        array: NDArray[Any] = np.memmap(path, dtype, "c", shape=tuple(shape))
    except OSError as error:
        if error.errno != errno.ENOMEM:  # the system promises no memory for copies of all of it
            raise
        array = np.memmap(path, dtype, "r", shape=tuple(shape))
    array.flags.writeable = False
    return array


def _stamp(folder: Path) -> tuple[int, int]:
    """Another one for another folder of the same name."""
    status = folder.stat()
    return status.st_ino, status.st_mtime_ns


def _digests(path: Path) -> list[str]:
    """SHA-256 of each block of a file."""

    def one(start: int) -> str:
        seen, left = hashlib.sha256(), BLOCK
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while left and (piece := file.read(min(left, _PIECE))):
                seen.update(piece)
                left -= len(piece)
        return seen.hexdigest()

    starts = range(0, path.stat().st_size, BLOCK)
    if len(starts) < 2:
        return [one(0)]
    with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1)) as pool:
        return list(pool.map(one, starts))


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the cache {folder} cannot be written: {why(error)}") from error

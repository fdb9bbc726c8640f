"""Content-addressed store of arrays: written aside, fsynced, renamed; digest checked on the first read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import StorageError, why
from benchmark.utils.durable import sync_folder
from benchmark.utils.locking import exclusive

Arrays = Mapping[str, NDArray[Any]]
Room = Callable[[tuple[int, ...]], NDArray[np.float32]]
_STALE_SECONDS = 24 * 3600


class ArrayStore:
    """Named arrays under content hashes: `<folder>/<key[:2]>/<key>/{NAME.npy, meta.json}`.

    An entry is a folder that appears whole or not at all (rename), so two processes may write the same key: the
    second finds the first's and drops its own. Entries are checked against their SHA-256 once per process; a damaged
    one is removed, reported through `damaged`, and counts as missing. When the store outgrows `budget` bytes, the
    least recently used entries go.
    """

    def __init__(self, folder: Path, budget: int | None = None) -> None:
        self.folder, self.budget = folder, budget
        self.damaged: list[str] = []
        self._checked: set[str] = set()

    def path(self, key: str) -> Path:
        """Folder of an entry."""
        return self.folder / key[:2] / key

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (self.path(key) / "meta.json").is_file()

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """Memory-mapped, read-only arrays of an entry, or None when it is missing or damaged.

        Raises:
            StorageError: it is there and cannot be read: no permission, too many open files, a failing disk.
        """
        if key not in self:
            return None
        folder = self.path(key)
        try:
            digests = _digests(folder)
            if key not in self._checked:
                for name, sha in digests.items():
                    if _sha256(folder / f"{name}.npy") != sha:
                        raise ValueError(f"{name}.npy does not match its digest")
                self._checked.add(key)
            arrays = _open(folder, digests)
        except (OSError, ValueError, EOFError) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise StorageError(f"the cache entry {folder} cannot be read: {why(error)}") from error
            if folder.is_dir():  # else another process has just evicted it, whole
                self.damaged.append(f"{folder}: {error}")
                self._remove(folder)
            return None
        with suppress(OSError):  # evicted just now, or a store that we may only read
            os.utime(folder / "meta.json")
        return arrays

    def put(self, key: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Store arrays and return them memory-mapped.

        Raises:
            StorageError: the folder cannot be written (read-only, disk full).
        """
        target = self.path(key)
        aside = self.folder / f".tmp-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            aside.mkdir(parents=True)
            sha256 = {name: _write(aside / f"{name}.npy", array) for name, array in arrays.items()}
            meta = aside / "meta.json"
            meta.write_text(json.dumps({"sha256": sha256}))
            _fsync(meta)
            sync_folder(aside)
            found = _open(aside, sha256)  # mapped before others can evict it; a mapping outlives its file's name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                aside.rename(target)
            except OSError:
                if key not in self:  # not another writer's whole entry: remains of a killed process, or a real failure
                    self._remove(target)
                    aside.rename(target)
            sync_folder(target.parent)
        except OSError as error:
            raise StorageError(f"the cache {self.folder} cannot be written: {why(error)}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._checked.add(key)
        self.trim(keep=key)
        return found

    @contextmanager
    def scratch(self) -> Iterator[Room]:
        """For arrays that are larger than memory: files aside, to be filled piece by piece and then `put`.

        What it yields makes such an array, float32, of a shape. Its room on the disk is taken at once, so
        that a full disk is an error here and not a signal when it is filled.

        Raises:
            StorageError: the folder cannot be written.
        """
        aside = self.folder / f".tmp-{os.getpid()}-{uuid.uuid4().hex}"

        def room(shape: tuple[int, ...]) -> NDArray[np.float32]:
            try:
                aside.mkdir(parents=True, exist_ok=True)
                return _room(aside / f"{len(list(aside.iterdir()))}.npy", shape)
            except OSError as error:
                raise StorageError(f"the cache {self.folder} cannot be written: {why(error)}") from error

        try:
            yield room
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
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                stack.enter_context(exclusive(place, needed=False))
                held = stack.pop_all()
        except OSError as error:
            raise StorageError(f"the cache {self.folder} cannot be written: {why(error)}") from error
        with held:
            yield

    def trim(self, keep: str = "") -> None:
        """Drop least recently used entries until the budget holds, and files that dead writers left behind."""
        for leftover in self.folder.glob(".tmp-*"):
            if time.time() - _modified(leftover) > _STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        if self.budget is None:
            return
        found = self.folder.glob("[0-9a-f][0-9a-f]/*/meta.json")  # never inside .tmp-*, which others take away
        entries = sorted((_modified(meta), meta.parent) for meta in found)
        sizes = {entry: _size(entry) for _, entry in entries}
        total = sum(sizes.values())
        for _, entry in entries:
            if total <= self.budget:
                return
            if entry.name != keep:
                self._remove(entry)
                total -= sizes[entry]

    def _remove(self, folder: Path) -> None:
        """Take an entry away as a whole: other processes see all of it or nothing."""
        aside = self.folder / f".tmp-{os.getpid()}-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):  # another process was faster
            folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    meta = json.loads((folder / "meta.json").read_text())
    digests = meta.get("sha256") if isinstance(meta, dict) else None
    if not isinstance(digests, dict) or not digests:
        raise ValueError("meta.json is damaged")
    return digests


def _open(folder: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    return {name: _load(folder / f"{name}.npy") for name in names}


def _load(path: Path) -> NDArray[Any]:
    """Mapped so that a write past numpy's flag, by torch, changes a private page: not the file, and no signal comes."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except OSError as error:
        if error.errno != errno.ENOMEM:  # the system promises no memory for copies of all of it
            raise
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    array.flags.writeable = False
    return array


def _room(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    if hasattr(os, "posix_fallocate"):  # else the file has holes until it is filled
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _modified(path: Path) -> float:
    """Time of the last change; now for what another process has just taken away."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:
        return 0


def _write(path: Path, array: NDArray[Any]) -> str:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return _sha256(path)


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

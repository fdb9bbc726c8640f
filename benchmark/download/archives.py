"""Archives into a folder: nothing outside of it, no links, no surprise from a half-done step.

All members are unpacked into a folder aside, and then moved to where they belong. What is there already with the same
size is replaced; anything else in the way is an error before anything is moved.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from benchmark.download.schema import HIDDEN, Unpack
from benchmark.download.writing import RESERVE, check_room, free, storage
from benchmark.errors import DataError, StorageError
from benchmark.utils.files import escaped
from benchmark.utils.progress import Advance, count, shown

_BLOCK = 1 << 20
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)
ENCRYPTED = 0x1


@dataclass(frozen=True)
class Unpacked:
    """What came of an archive: number of files, and the paths in the folder as in `Marker.made`."""

    files: int
    made: tuple[str, ...]


def unpack(archive: Path, name: str, how: Unpack, folder: Path, aside: Path) -> Unpacked:
    """Unpack an archive into `folder`.

    Args:
        name: of the archive, for messages. aside: a folder on the same disk that nobody else uses; it is emptied.

    Raises:
        DataError: it is no tar or zip, damaged, has a password, or a member that leads elsewhere; or something else
            is in the way of a member.
        StorageError: the disk has no room for it.
    """
    with storage(aside):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    try:
        with _readable(archive, name):
            number = _extract(archive, name, how, aside)
        with storage(folder):
            _refuse_obstacles(aside, folder, name)
            made = sorted(_move(aside, folder, ""))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Unpacked(number, tuple(made))


def _extract(archive: Path, name: str, how: Unpack, aside: Path) -> int:
    """Unpack the members into `aside`; returns the number of files."""
    if tarfile.is_tarfile(archive):
        return _extract_tar(archive, name, how, aside)
    if zipfile.is_zipfile(archive):
        return _extract_zip(archive, name, how, aside)
    raise DataError(f"{archive}: {name} is no tar and no zip archive; delete it and fetch it again")


@contextmanager
def _readable(archive: Path, name: str) -> Iterator[None]:
    """Within the block a damaged archive is one line; a full disk is the disk's error and not the archive's."""
    with storage(archive):
        try:
            yield
        except _BROKEN as error:
            raise _damaged(archive, name, error) from None
        except OSError as error:
            if error.errno is None:  # of gzip or bz2, not of the system
                raise _damaged(archive, name, error) from None
            raise


def _damaged(archive: Path, name: str, error: Exception) -> DataError:
    told = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{archive}: {name} is damaged ({told}); delete it and fetch it again")


def _extract_tar(archive: Path, name: str, how: Unpack, aside: Path) -> int:
    number, seen = 0, set[str]()
    size = archive.stat().st_size
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as tar, _phase(name, size) as advance:
        read = 0
        for member in tar:
            advance(raw.tell() - read)
            read = raw.tell()
            place = _place(member.name, name, how)
            if member.isdir() or place is None:
                continue
            if not member.isreg():
                raise DataError(f"{name}: {escaped(member.name)} is a link or a device, which is not unpacked")
            tarfile.data_filter(member, str(aside))  # what Python itself refuses
            source = tar.extractfile(member)
            if source is None:
                raise DataError(f"{name}: {escaped(member.name)} has no content")
            with source:
                _write(source, aside, place, member.size, name, seen)
            number += 1
    return number


def _extract_zip(archive: Path, name: str, how: Unpack, aside: Path) -> int:
    with zipfile.ZipFile(archive) as bundle:
        members = [(each, _place(each.filename, name, how)) for each in bundle.infolist()]
        chosen = [(each, place) for each, place in members if place is not None and not each.is_dir()]
        for each, _ in chosen:
            if each.flag_bits & ENCRYPTED:
                raise DataError(
                    f"{archive}: {name} has a password, which its publisher's page tells; unpack it yourself (unzip) "
                    f"into the data set's folder and remove the folder {HIDDEN} there"
                )
            kind = stat.S_IFMT(each.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise DataError(f"{name}: {each.filename} is a link or a device, which is not unpacked")
        total = sum(each.file_size for each, _ in chosen)
        check_room(aside, total, f"unpack {name}")
        seen = set[str]()
        with _phase(name, total) as advance:
            for each, place in chosen:
                with bundle.open(each) as source:
                    _write(source, aside, place, each.file_size, name, seen)
                advance(each.file_size)
    return len(chosen)


def _phase(name: str, total: int) -> AbstractContextManager[Advance]:
    return shown().phase(f"unpack {name}", total, "B")


def _place(member: str, name: str, how: Unpack) -> str | None:
    """Where a member lands.

    Raises:
        DataError: it would lead out of the folder, or into the folder of markers.
    """
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or "\0" in member or member[1:2] == ":":
        raise DataError(f"{name}: the member {escaped(member)!r} leads out of the folder; nothing was unpacked")
    place = how.place(member)
    if place is not None and HIDDEN in PurePosixPath(place).parts:
        raise DataError(f"{name}: the member {escaped(member)!r} would lie among the markers; nothing was unpacked")
    return place


def _write(source: IO[bytes], aside: Path, place: str, size: int, name: str, seen: set[str]) -> None:
    """One member into `aside`.

    Raises:
        DataError: another member is there. StorageError: no room.
    """
    if place in seen:
        raise DataError(f"{name}: two members would become {escaped(place)}; unpack.strip is too large for it")
    seen.add(place)
    if size + RESERVE > (there := free(aside)):
        raise StorageError(f"unpack {name}: {count(there, 'B')} are free in {aside.parent}; make room and go on")
    target = aside / place
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


def _refuse_obstacles(source: Path, target: Path, name: str) -> None:
    """Look for what is in the way of the files below `source`.

    Raises:
        DataError: a file of another size, a folder in the place of a file, or the other way round.
    """
    for entry in sorted(source.iterdir()):
        there = target / entry.name
        if entry.is_dir() and there.is_dir():
            _refuse_obstacles(entry, there, name)
        elif there.exists() or there.is_symlink():
            same = entry.is_file() and there.is_file() and there.stat().st_size == entry.stat().st_size
            if not same:
                raise DataError(f"{there}: is in the way of what {name} holds, and differs from it; move it away")


def _move(source: Path, target: Path, prefix: str) -> Iterator[str]:
    """Move all below `source` into `target`; yields the paths that were made, a folder that was new as a whole."""
    for entry in sorted(source.iterdir()):
        there = target / entry.name
        if entry.is_dir() and there.is_dir():
            yield from _move(entry, there, f"{prefix}{entry.name}/")
            continue
        target.mkdir(parents=True, exist_ok=True)
        entry.replace(there)
        yield f"{prefix}{entry.name}"

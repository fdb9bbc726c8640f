"""What of a download is here, what is missing, and how much room the rest takes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.download import hub
from benchmark.download.catalogue import catalogue
from benchmark.download.items import Ask, Item, items
from benchmark.download.places import Places, is_here, is_whole, touched
from benchmark.download.schema import HIDDEN, Download
from benchmark.download.writing import size_of
from benchmark.errors import UnknownNameError
from benchmark.spec.catalogue import catalogue as data_sets

Status = Literal["here", "partial", "missing", "by hand", "unknown"]
"""`unknown`: the hub has not said which files there are."""


@dataclass(frozen=True)
class FileState:
    """One file: `here` bytes of it have arrived."""

    item: Item
    status: Status
    here: int = 0

    @property
    def to_fetch(self) -> int | None:
        """Bytes to come; None where its size is not known."""
        if self.status == "here":
            return 0
        return None if self.item.sums.bytes is None else max(0, self.item.sums.bytes - self.here)

    @property
    def stays(self) -> int:
        """Bytes on the disk when it is finished, beyond what is here of it; a lower bound where sizes are unknown."""
        if self.status == "here":
            return 0
        unpack, size = self.item.unpack, self.item.sums.bytes or 0
        if unpack is None:
            return size - self.here
        return (unpack.bytes or size) + (size if unpack.keep else 0) - self.here

    @property
    def most(self) -> int:
        """Bytes on the disk at the moment when it takes most."""
        if self.status == "here":
            return 0
        unpack, size = self.item.unpack, self.item.sums.bytes or 0
        return size - self.here + (0 if unpack is None else unpack.bytes or size)


@dataclass(frozen=True)
class State:
    """A download in a folder.

    Attributes:
        name, download: as in the catalogue. root: the folder of all data. files: those that are wanted.
        own: what it provides is there, and `fetch` has put nothing there: it is left alone, and no file is listed.
    """

    name: str
    download: Download
    root: Path
    files: tuple[FileState, ...]
    own: bool = False

    @property
    def folder(self) -> Path:
        """The data set's own."""
        return self.root / self.download.folder

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.own or all(file.status == "here" for file in self.files)

    @property
    def missing(self) -> tuple[FileState, ...]:
        """What is not here."""
        return () if self.own else tuple(file for file in self.files if file.status != "here")

    @property
    def to_fetch(self) -> int | None:
        """Bytes to come, by hand included; None where the size of a file is not known."""
        sizes = [file.to_fetch for file in self.missing]
        return None if None in sizes else sum(size or 0 for size in sizes)


def state(
    name: str,
    root: Path,
    known: Mapping[str, Download] | None = None,
    only: Sequence[str] = (),
    *,
    fresh: bool = False,
    ask: Ask = hub.listing,
) -> State:
    """What of a download is in a folder.

    Args:
        root: the folder of all data. known: the catalogue (default: the shipped one).
        only: names of files, or patterns; without them all that are not optional.
        fresh: ask the hub again for what a revision that is no commit names now, and keep its answer.

    Raises:
        UnknownNameError: no such download. SpecError: the catalogue is wrong.
    """
    known = catalogue() if known is None else known
    if name not in known:
        raise UnknownNameError("download", name, known)
    download = known[name]
    folder = root / download.folder
    if not only and _is_own(download, folder, root):
        return State(name, download, root, (), own=True)
    found = [
        item
        for item in items(download, folder, fresh, ask)
        if (any(_is_meant(item, wanted) for wanted in only) if only else not item.optional)
    ]
    return State(name, download, root, tuple(_file(item, folder) for item in found))


def _is_meant(item: Item, wanted: str) -> bool:
    """Whether a name or pattern of the user's means a file, or may mean one of those that could not be listed."""
    unlisted = item.problem is not None and fnmatch.fnmatchcase(wanted, item.name)
    return unlisted or fnmatch.fnmatchcase(item.name, wanted)


def _file(item: Item, folder: Path) -> FileState:
    places = Places(folder, item.name)
    if item.problem is not None:
        return FileState(item, "unknown")
    if is_here(places, item.sums, item.unpack):
        return FileState(item, "here", item.sums.bytes or 0)
    arrived = [places.final, places.whole]
    if any(is_whole(places, item.sums, path) for path in arrived) or places.final.is_file():
        return FileState(item, "partial", max(map(size_of, arrived)))
    if part := size_of(places.part):
        return FileState(item, "partial", part)
    return FileState(item, "by hand" if item.by_hand else "missing")


def _is_own(download: Download, folder: Path, root: Path) -> bool:
    """Whether the user put the data there.

    Of a folder that several downloads share only what this one unpacks into folders of its own tells. An archive that
    waits in its place to be unpacked is no data yet.
    """
    if touched(folder, download.files) or not _provided(download, root):
        return False
    needed = {name: file.unpack for name, file in download.files.items() if not file.optional}
    if any(how is not None and (folder / name).is_file() for name, how in needed.items()):
        return False
    places = [how.to for how in needed.values() if how is not None and how.to is not None]
    return all(_has_content(folder / place) for place in places) if places else not touched(folder)


def _provided(download: Download, root: Path) -> bool:
    """Whether all that a download provides can be found below the folder of all data."""
    if not download.provides:
        return False
    data = data_sets()
    paths = [data[name].spec.path for name in download.provides if name in data]
    return bool(paths) and all(path is not None and _has_content(below(path, root)) for path in paths)


def _has_content(path: Path) -> bool:
    """Whether a file, or something in a folder, is there; what `fetch` itself keeps in the folder does not count."""
    return any(each.name != HIDDEN for each in path.iterdir()) if path.is_dir() else path.is_file()


def below(path: str, root: Path) -> Path:
    """A data set's path with the given folder in the place of `$DATA`."""
    for variable in ("$DATA", "${DATA}"):
        if path == variable or path.startswith(f"{variable}/"):
            return root / path[len(variable) :].lstrip("/")
    return Path(path)


def chosen(states: Iterable[State], only: Sequence[str], known: Mapping[str, Download]) -> list[State]:
    """The states, after a look at whether each name of `only` chose a file of one of them.

    Raises:
        UnknownNameError: it chose none.
    """
    found = list(states)
    for wanted in only:
        if not any(_is_meant(file.item, wanted) for each in found for file in each.files):
            raise UnknownNameError("file", wanted, [name for each in found for name in known[each.name].files])
    return found


def room(states: Iterable[State]) -> int:
    """Bytes that must be free to get all that is missing, one file after the other; sizes not known count as 0."""
    settled, most = 0, 0
    for each in states:
        for file in each.missing:
            most = max(most, settled + file.most)
            settled += file.stays
    return max(most, settled, 0)

"""Where each file of a download lies, and the marker that says that it is whole; a marker is written last."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark.download.schema import HIDDEN, Unpack
from benchmark.download.sums import Sums
from benchmark.download.writing import size_of, write_small

MOST_MADE = 2000
"""Paths that a marker names at most."""


@dataclass(frozen=True)
class Places:
    """The paths of one file: `folder` is the data set's, everything unfinished lies in its hidden folder.

    Attributes:
        final: the file itself. part: what has arrived of it. whole: an archive that is unpacked next and then removed.
        unpacking: where it is unpacked. marker, lock: as they say.
    """

    folder: Path
    name: str

    def _hidden(self, suffix: str) -> Path:
        return self.folder / HIDDEN / f"{self.name}{suffix}"

    @property
    def final(self) -> Path:
        return self.folder / self.name

    @property
    def part(self) -> Path:
        return self._hidden(".part")

    @property
    def whole(self) -> Path:
        return self._hidden(".whole")

    @property
    def unpacking(self) -> Path:
        return self._hidden(".unpacking")

    @property
    def marker(self) -> Path:
        return self._hidden(".json")

    @property
    def lock(self) -> Path:
        return self._hidden(".lock")


@dataclass(frozen=True)
class Marker:
    """A file that arrived whole, and was unpacked where that was asked.

    Attributes:
        bytes, sums: of the file; kind of sum -> hex digits, those that were compared.
        source: where it came from. commit: of the hub, where it did. time: UTC. pattern: that it was found by.
        unpack: how it was unpacked; None before that, and of a file that stays as it is. files: number of them.
        made: the paths in the data set's folder that came of it, without what lies in a folder that came of it whole.
    """

    bytes: int
    sums: Mapping[str, str]
    source: str
    time: str
    commit: str | None = None
    pattern: str | None = None
    unpack: Mapping[str, Any] | None = None
    files: int = 1
    made: tuple[str, ...] = field(default=())

    def fits(self, wanted: Sums) -> bool:
        """Whether the file is the one that is wanted, as far as sums of one kind are known of both."""
        if wanted.bytes is not None and wanted.bytes != self.bytes:
            return False
        known = {"sha256": wanted.sha256, "md5": wanted.md5, "git": wanted.git}
        return all(self.sums[kind] == digits for kind, digits in known.items() if digits and kind in self.sums)


def write_marker(places: Places, marker: Marker) -> None:
    """Write it, whole or not at all."""
    write_small(places.marker, json.dumps(asdict(marker), indent=1))


def read_marker(places: Places) -> Marker | None:
    """The marker of a file; None where there is none that can be read."""
    try:
        read = json.loads(places.marker.read_bytes())
        return Marker(**{**read, "made": tuple(read["made"]), "bytes": int(read["bytes"]), "sums": dict(read["sums"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_here(places: Places, wanted: Sums, unpack: Unpack | None) -> bool:
    """Whether a file is here as it is wanted; reads its marker and sizes, not the file."""
    marker = read_marker(places)
    if marker is None or not marker.fits(wanted):
        return False
    if unpack is not None and marker.unpack != recipe(unpack):
        return False
    kept = unpack is None or unpack.keep
    if kept and (not places.final.is_file() or size_of(places.final) != marker.bytes):
        return False
    return all((places.folder / path).exists() for path in marker.made)


def is_whole(places: Places, wanted: Sums, archive: Path) -> bool:
    """Whether an archive was compared with its sum by an earlier command, and waits to be unpacked."""
    marker = read_marker(places)
    return marker is not None and marker.fits(wanted) and archive.is_file() and size_of(archive) == marker.bytes


def recipe(unpack: Unpack) -> dict[str, Any]:
    """How an archive is unpacked, as JSON: what changes the files that come of it."""
    return unpack.model_dump(mode="json", exclude={"bytes", "keep"})


def markers(folder: Path) -> Iterator[tuple[Places, Marker]]:
    """All files of a data set's folder that have a marker."""
    hidden = folder / HIDDEN
    for path in sorted(hidden.rglob("*.json")) if hidden.is_dir() else ():
        places = Places(folder, path.relative_to(hidden).as_posix().removesuffix(".json"))
        if (marker := read_marker(places)) is not None:
            yield places, marker


def touched(folder: Path, names: Iterable[str] = ("*",)) -> bool:
    """Whether `fetch` has begun to put files into a data set's folder; of these names or patterns alone."""
    hidden, wanted = folder / HIDDEN, list(names)
    begun = [path for suffix in (".part", ".whole") for path in hidden.rglob(f"*{suffix}")]
    found = [path.with_suffix("").relative_to(hidden).as_posix() for path in begun]
    found += [places.name for places, _ in markers(folder)]
    return any(fnmatch.fnmatchcase(name, pattern) for name in found for pattern in wanted)

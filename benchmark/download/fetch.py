"""Get what is missing of a download: from its sources in order, or from files that the user has.

Whatever stops it (Ctrl-C, kill, a full disk, a dead server), the same command goes on from there, and what comes out is
the same. Two processes may fetch the same: the second waits for each file, and finds it done.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from benchmark.download import hub
from benchmark.download.archives import unpack
from benchmark.download.items import Ask, Item
from benchmark.download.places import (
    MOST_MADE,
    Marker,
    Places,
    is_here,
    is_whole,
    markers,
    read_marker,
    recipe,
    write_marker,
)
from benchmark.download.refusals import SourceError
from benchmark.download.schema import Download, Source
from benchmark.download.state import State, state
from benchmark.download.sums import problem
from benchmark.download.transfer import Network, Target, connected, note_path, receive
from benchmark.download.writing import check_room, size_of, storage
from benchmark.errors import DataError, InputError
from benchmark.utils.durable import sync_folder
from benchmark.utils.locking import exclusive
from benchmark.utils.progress import shown

SYNCED = 10_000_000
"""Bytes of an archive from which on the disk is asked to write what came of it before the archive is removed."""


@dataclass(frozen=True)
class Missing:
    """A file that is still missing.

    Attributes:
        why: what each source answered, in order; empty where only the user can get it.
        by_hand: sources for the user.
    """

    item: Item
    why: tuple[str, ...] = ()

    @property
    def by_hand(self) -> tuple[Source, ...]:
        return tuple(source for source in self.item.sources if source.by_hand)


@dataclass(frozen=True)
class Outcome:
    """What `fetch` did: files that it got, that were here, and that are still missing."""

    state: State
    got: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()


@dataclass(frozen=True)
class _Whole:
    """A file that has its sum: where it lies, and where it is from. `ours`: whether it may be moved or removed."""

    path: Path
    source: str
    ours: bool
    commit: str | None = None


@dataclass(frozen=True)
class _Job:
    """One file to get."""

    item: Item
    places: Places
    archives: Mapping[str, Path]
    network: Network
    failures: list[str] = field(default_factory=list)


def fetch(
    name: str,
    root: Path,
    known: Mapping[str, Download] | None = None,
    only: Sequence[str] = (),
    archives: Mapping[str, Path] | None = None,
    network: Network | None = None,
    ask: Ask = hub.listing,
) -> Outcome:
    """Get what is missing of one download (not of those that it needs) into its folder below `root`.

    Args:
        known, only, ask: as for `state`. archives: name of a file -> where the user has it (`matched`).
        network: the client (default: one for this call).

    Raises:
        UnknownNameError: no such download. StorageError: the disk is full or cannot be written.
        InputError: an archive of the user's is another file.
    """
    found = state(name, root, known, only, fresh=True, ask=ask)
    if found.own:
        return Outcome(found)
    with storage(found.folder):
        found.folder.mkdir(parents=True, exist_ok=True)
    with nullcontext(network) if network is not None else connected() as client:
        return _fetched(found, archives or {}, client, remove=not only)


def _fetched(found: State, archives: Mapping[str, Path], network: Network, remove: bool) -> Outcome:
    """Get the files one after the other. Args: remove: also what another revision had and this one has not."""
    got, missing = [], []
    for file in found.files:
        given = file.item.pattern is None and file.item.name in archives
        if file.item.problem is not None and not given:
            missing.append(Missing(file.item, (file.item.problem,)))
            continue
        job = _Job(file.item, Places(found.folder, file.item.name), archives, network)
        with _alone(job):
            match _obtained(job):
                case True:
                    got.append(file.item.name)
                case None:
                    missing.append(Missing(file.item, tuple(job.failures)))
    if remove:
        _remove_stale(found)
    return Outcome(found, tuple(got), tuple(missing))


def _obtained(job: _Job) -> bool | None:
    """Get one file: True where it is here now, False where it was before, None where it is missing (`failures`)."""
    if is_here(job.places, job.item.sums, job.item.unpack):
        _clear(job)
        return False
    try:
        whole = _whole(job)
        if whole is not None:
            _settle(job, whole)
        return None if whole is None else True
    except DataError as error:
        job.failures.append(str(error))
        return None


@contextmanager
def _alone(job: _Job) -> Iterator[None]:
    """Hold a file's lock; says so when another process has it."""
    lock = job.places.lock
    with storage(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            FileLock(lock).acquire(timeout=0).lock.release()
        except Timeout:
            shown().message(f"{job.item.name}: another process is getting it; waiting for that")
    with exclusive(lock):
        yield


def _whole(job: _Job) -> _Whole | None:
    """The file with its sum: found here, among the user's, or received; None where no source gave it."""
    found = _arrived(job) or _given(job)
    if found is not None:
        return found
    automatic = [source for source in job.item.sources if not source.by_hand]
    for source in automatic:
        try:
            if source.hub is not None and (path := _in_hub_cache(job, source)):
                return _Whole(path, f"the hub's cache: {source.shown}", ours=False, commit=job.item.commit)
            return _received(job, source)
        except SourceError as error:
            job.failures.append(str(error))
            if source != automatic[-1]:
                shown().message(f"{job.item.name}: {error}; asking the next source")
    return None


def _arrived(job: _Job) -> _Whole | None:
    """A file that an earlier command finished, or that somebody put in its place.

    Raises:
        DataError: what lies in its place is something else.
    """
    places, item = job.places, job.item
    marker = read_marker(places)
    for path in (places.whole, places.final):
        if marker is not None and is_whole(places, item.sums, path):
            return _Whole(path, marker.source, ours=path == places.whole, commit=marker.commit)
    if not places.final.exists():
        return None
    wrong = "is a folder" if places.final.is_dir() else problem(places.final, item.sums, item.name)
    if wrong is None:
        return _Whole(places.final, "found in its place", ours=False)
    if marker is not None and marker.bytes == size_of(places.final):
        return None  # ours, of another revision: it is replaced
    raise DataError(f"{places.final}: {wrong}; move it away and run the same command again")


def _given(job: _Job) -> _Whole | None:
    """The user's own copy.

    Raises:
        InputError: it is another file.
    """
    path = job.archives.get(job.item.name)
    if path is None:
        return None
    if wrong := problem(path, job.item.sums, job.item.name):
        raise InputError(f"--from-archive {path}: {wrong}; it is not the {job.item.name} that is wanted")
    return _Whole(path, f"--from-archive {path.name}", ours=False)


def _in_hub_cache(job: _Job, source: Source) -> Path | None:
    path = hub.cached(source)
    if path is None or problem(path, job.item.sums, job.item.name) is not None:
        return None
    return path


def _received(job: _Job, source: Source) -> _Whole:
    """The file from one source, with the right sum.

    Raises:
        SourceError: it has another, or none came.
    """
    item, part = job.item, job.places.part
    url, headers = hub.address(source) if source.hub is not None else (str(source.url), {})
    target = Target(item.name, url, source.shown, headers, item.sums.bytes, item.sums.best is not None)
    resumed = receive(target, part, job.network)
    wrong = problem(part, item.sums, item.name)
    if wrong is not None and resumed:
        shown().message(f"{item.name}: {wrong}; beginning again, since it was put together from parts")
        _drop(part)
        receive(target, part, job.network)
        wrong = problem(part, item.sums, item.name)
    if wrong is not None:
        _drop(part)
        raise SourceError(f"{source.shown}: {wrong}")
    return _Whole(part, source.shown, ours=True, commit=job.item.commit)


def _drop(part: Path) -> None:
    with storage(part):
        part.unlink(missing_ok=True)
        note_path(part).unlink(missing_ok=True)


def _settle(job: _Job, whole: _Whole) -> None:
    """Put a whole file where it belongs, unpack it where that is asked, and write its marker last."""
    item, places, how = job.item, job.places, job.item.unpack
    home = places.final if how is None or how.keep else places.whole
    if whole.ours and whole.path != home:
        with storage(home):
            home.parent.mkdir(parents=True, exist_ok=True)
            whole.path.replace(home)
            sync_folder(home.parent)
    elif not whole.ours and home == places.final and whole.path != home:
        _copy(whole.path, home, places.part)
    lies = home if whole.ours or home == places.final else whole.path
    marker = _marker(item, whole, size_of(lies))
    if how is None:
        write_marker(places, marker)
    else:
        if whole.ours or lies == places.final:
            write_marker(places, marker)  # so that it is not read for its sum again
        unpacked = unpack(lies, item.name, how, places.folder, places.unpacking)
        if marker.bytes >= SYNCED and hasattr(os, "sync"):
            os.sync()
        made = unpacked.made[:MOST_MADE]
        write_marker(places, replace(marker, unpack=recipe(how), files=unpacked.files, made=made))
    _clear(job)


def _marker(item: Item, whole: _Whole, size: int) -> Marker:
    return Marker(
        bytes=size,
        sums={} if item.sums.best is None else dict([item.sums.best]),
        source=whole.source,
        commit=whole.commit,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        pattern=item.pattern,
    )


def _copy(source: Path, target: Path, aside: Path) -> None:
    """The user's file in another place: as a hard link where that can be, otherwise as a copy; it stays where it is."""
    with storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), aside)
        except OSError:  # another disk, or a file system without links
            check_room(target.parent, size_of(source), f"copy {source.name}")
            shutil.copyfile(source, aside)
        aside.replace(target)
        sync_folder(target.parent)


def _clear(job: _Job) -> None:
    """Remove what a finished file needs no more."""
    places, how = job.places, job.item.unpack
    with storage(places.part):
        _drop(places.part)
        shutil.rmtree(places.unpacking, ignore_errors=True)
        if how is None or not how.keep:
            places.whole.unlink(missing_ok=True)


def _remove_stale(found: State) -> None:
    """Remove files that a pattern found in another revision and not in this one, if they are still as they came."""
    listed = {file.item.pattern for file in found.files if file.item.pattern and file.item.problem is None}
    wanted = {file.item.name for file in found.files}
    for places, marker in list(markers(found.folder)):
        if marker.pattern in listed and places.name not in wanted and marker.unpack is None:
            with storage(places.final):
                if size_of(places.final) == marker.bytes:
                    shown().message(f"{places.name}: not in the revision that was asked for; removed")
                    places.final.unlink(missing_ok=True)
                places.marker.unlink(missing_ok=True)


def matched(paths: Sequence[Path], states: Sequence[State]) -> dict[str, dict[str, Path]]:
    """The user's files by download and name of the file that they are: by their own name, otherwise by their sum.

    Raises:
        InputError: there is no such file, or it is none of those that are wanted.
    """
    found: dict[str, dict[str, Path]] = {}
    wanted = [(each.name, file.item) for each in states for file in each.files]
    for path in paths:
        if not path.is_file():
            raise InputError(f"--from-archive {path}: no such file")
        named = [(name, item) for name, item in wanted if item.name.rpartition("/")[2] == path.name]
        fitting = named or [
            (name, item)
            for name, item in wanted
            if item.sums.best is not None
            and item.sums.bytes in (None, size_of(path))
            and problem(path, item.sums, path.name) is None
        ]
        if not fitting:
            names = ", ".join(dict.fromkeys(item.name for _, item in wanted)) or "nothing is missing"
            raise InputError(f"--from-archive {path}: neither its name nor its sum is that of a wanted file ({names})")
        for name, item in fitting:
            if item.sums.bytes not in (None, size_of(path)):
                raise InputError(f"--from-archive {path}: has {size_of(path):,} bytes, expected {item.sums.bytes:,}")
            found.setdefault(name, {})[item.name] = path
    return found

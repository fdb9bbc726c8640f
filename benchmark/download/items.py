"""The single files of a download: patterns replaced by what the hub has, sizes and sums where it knows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.download import hub
from benchmark.download.refusals import SourceError
from benchmark.download.schema import HIDDEN, Download, File, Source, Unpack, is_pattern
from benchmark.download.sums import Sums
from benchmark.download.writing import write_small
from benchmark.utils.content_hash import digest
from benchmark.utils.hub import COMMIT

Ask = Callable[[Source], hub.Listing]


def remembering(ask: Ask = hub.listing) -> Ask:
    """A way to ask that asks for nothing twice, and not at all once the hub has not answered."""
    known: dict[str, hub.Listing] = {}
    silent: list[str] = []

    def asked(source: Source) -> hub.Listing:
        key = source.model_dump_json()
        if key not in known:
            if silent:
                raise SourceError(f"{source.shown}: {silent[0]}")
            try:
                known[key] = ask(source)
            except hub.Unreachable as error:
                silent.append(error.told)
                raise
        return known[key]

    return asked


@dataclass(frozen=True)
class Item:
    """One file to have.

    Attributes:
        name: relative to the data set's folder. sums: what is known of its bytes. sources: in order.
        unpack, optional, unverified: as in the catalogue. pattern: the catalogue's name for it and others.
        commit: of the hub, from which its sums are. problem: why it cannot be fetched yet.
    """

    name: str
    sums: Sums
    sources: tuple[Source, ...]
    unpack: Unpack | None = None
    optional: bool = False
    unverified: str | None = None
    pattern: str | None = None
    commit: str | None = None
    problem: str | None = None

    @property
    def by_hand(self) -> bool:
        """Whether only the user can get it."""
        return all(source.by_hand for source in self.sources)


def items(download: Download, folder: Path, fresh: bool = False, ask: Ask = hub.listing) -> list[Item]:
    """The files of a download, in the catalogue's order.

    What the hub lists is kept in the data set's folder, so that a finished data set needs no network to be checked. Of
    a pattern that cannot be listed one Item with a `problem` stands for its files.

    Args:
        folder: the data set's own. fresh: ask again for a revision that is not a whole commit.
    """
    found: list[Item] = []
    for name, file in download.files.items():
        source = file.sources[0]
        if source.hub is None or (file.bytes is not None and (file.md5 or file.sha256)):
            found.append(_plain(name, file))
            continue
        try:
            listed = _listing(source, folder, fresh, ask)
        except SourceError as error:
            known = file.md5 or file.sha256  # then another source, or the user, may still give it
            found.append(_plain(name, file, None if known and not is_pattern(name) else str(error)))
            continue
        found += [_listed(name, file, each, listed.commit) for each in listed.files]
    return found


def _plain(name: str, file: File, problem: str | None = None) -> Item:
    sums = Sums(file.bytes, file.sha256, file.md5)
    about = {"unpack": file.unpack, "optional": file.optional, "unverified": file.unverified}
    pattern = name if is_pattern(name) else None
    return Item(name, sums, file.sources, **about, pattern=pattern, problem=problem)  # type: ignore[arg-type]


def _listed(name: str, file: File, each: hub.HubFile, commit: str) -> Item:
    """A file of the hub, under its catalogue's name or, of a pattern, its place in the repository."""
    pinned = file.sources[0].model_copy(update={"path": each.path, "revision": commit})
    sums = Sums(
        each.bytes if file.bytes is None else file.bytes,
        file.sha256 or each.sha256,
        file.md5,
        each.git,
    )
    several = is_pattern(name)
    about = {"unpack": file.unpack, "optional": file.optional, "unverified": file.unverified}
    sources = (pinned, *file.sources[1:])
    own = each.path if several else name
    return Item(own, sums, sources, **about, pattern=name if several else None, commit=commit)  # type: ignore[arg-type]


def _listing(source: Source, folder: Path, fresh: bool, ask: Ask) -> hub.Listing:
    """The saved listing of a source, or a new one, which is saved.

    Raises:
        SourceError: there is none, and the hub gives none.
    """
    key = digest(source.model_dump(mode="json"))[:24]
    path = folder / HIDDEN / "listings" / f"{key}.json"
    saved = _read(path)
    pinned = COMMIT.fullmatch(str(source.revision)) is not None
    if saved is not None and (pinned or not fresh):
        return saved
    try:
        made = ask(source)
    except SourceError:
        if saved is not None:
            return saved
        raise
    if fresh:
        write_small(path, json.dumps(asdict(made)))
    return made


def _read(path: Path) -> hub.Listing | None:
    try:
        read = json.loads(path.read_bytes())
        return hub.Listing(str(read["commit"]), tuple(hub.HubFile(**each) for each in read["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None

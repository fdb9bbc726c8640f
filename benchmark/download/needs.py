"""From what a user names (a suite, a data set, a download) to the downloads that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.download.catalogue import in_order
from benchmark.download.schema import Download
from benchmark.download.state import below
from benchmark.errors import UnknownNameError
from benchmark.spec.base import DataSpec
from benchmark.spec.catalogue import catalogue as data_sets
from benchmark.spec.suite import load_suite, suite_names


@dataclass
class Needs:
    """What is needed.

    Attributes:
        downloads: by name, what others need first before them, each with what it is for.
        others: data sets that nothing here can fetch, each with its path and what it is for.
    """

    downloads: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, names: Sequence[str], purpose: str) -> None:
        """Note that downloads are needed for something."""
        for name in names:
            purposes = self.downloads.setdefault(name, [])
            if purpose not in purposes:
                purposes.append(purpose)


def needs(names: Sequence[str], known: Mapping[str, Download], catalogues: Sequence[Path] = ()) -> Needs:
    """The downloads that the names stand for; all that there are for no name.

    A name is a suite's (or the path of its YAML file), else a download's, else a data set's of the catalogue;
    `suite:NAME` and `data:NAME` say which where two have one name.

    Args:
        known: the catalogue of downloads. catalogues: the user's own catalogues of data sets.

    Raises:
        UnknownNameError: none of these. SpecError: a suite or catalogue is wrong.
    """
    providers: dict[str, list[str]] = {}
    for name, download in known.items():
        for provided in download.provides:
            providers.setdefault(provided, []).append(name)
    found, sets = Needs(), {name: entry.spec for name, entry in data_sets(catalogues).items()}
    for name in names or list(known):
        prefix, _, after = name.partition(":")
        kind, rest = (prefix, after) if prefix in ("suite", "data") and after else ("", name)
        suite = rest.endswith((".yaml", ".yml")) or rest in suite_names()
        if (suite or kind == "suite") and kind != "data" and names:
            _add_suite(rest, found, providers, sets, catalogues)
        elif rest in known:
            found.add([rest], "")
        elif rest in providers:
            found.add(providers[rest], rest)
        elif rest in sets:
            _add_other(rest, sets[rest], rest, found)
        else:
            raise UnknownNameError("suite, data set or download", rest, {*known, *sets, *suite_names()})
    for name in in_order(list(found.downloads), known):  # what is needed first comes first
        found.downloads[name] = found.downloads.pop(name, [f"needed by {_needing(name, found, known)}"])
    return found


def _add_suite(
    name: str,
    found: Needs,
    providers: Mapping[str, Sequence[str]],
    sets: Mapping[str, DataSpec],
    catalogues: Sequence[Path],
) -> None:
    """The data sets of a suite, known again by how and where they are read."""
    by_place: dict[tuple[str, str | None], list[str]] = {}
    for other, spec in sets.items():
        by_place.setdefault((spec.source, spec.path), []).append(other)
    for label, spec in load_suite(name, (), catalogues).data.items():
        if spec.path is None:  # embedded, or read from the hub by its source
            continue
        entries = by_place.get((spec.source, spec.path), [])
        ways = [way for entry in entries for way in providers.get(entry, ())]
        purpose = f"suite {name}: {label}"
        if ways:
            found.add(ways, purpose)
        else:
            _add_other(entries[0] if entries else label, spec, purpose, found)


def _add_other(name: str, spec: DataSpec, purpose: str, found: Needs) -> None:
    if spec.path is not None:
        found.others.setdefault(name, (spec.path, purpose))


def _needing(name: str, found: Needs, known: Mapping[str, Download]) -> str:
    return ", ".join(other for other in found.downloads if name in known[other].needs) or "others"


def is_there(path: str, root: Path) -> bool:
    """Whether a data set's path exists, with `$DATA` as the folder of all data."""
    return below(path, root).expanduser().exists()

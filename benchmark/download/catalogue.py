"""The catalogue of downloads: `files.yaml` of this package, with the user's own file laid over it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from benchmark.download.schema import Download
from benchmark.errors import SpecError, UnknownNameError
from benchmark.spec.base import check_name, parse_spec
from benchmark.spec.yaml_file import load_yaml, place

SHIPPED = "files.yaml"
VARIABLE = "RELIQUANT_DOWNLOADS"
OWN = "downloads.yaml"
"""The user's file in the results folder."""


def own_files(home: Path | None = None) -> list[Path]:
    """The user's own entries: `$RELIQUANT_DOWNLOADS`, otherwise `downloads.yaml` in the results folder."""
    if given := os.environ.get(VARIABLE):
        return [Path(given).expanduser()]
    own = None if home is None else home / OWN
    return [own] if own is not None and own.is_file() else []


def catalogue(paths: Iterable[Path] = ()) -> dict[str, Download]:
    """All downloads by name, the shipped ones first, then those of each file in turn.

    For a name that exists, the fields given replace those of the entry before, unless `files` is among them: then the
    whole entry is replaced.

    Raises:
        SpecError: names the file, the entry and the field; also a `needs` that names nothing, or itself in a circle.
    """
    with as_file(files("benchmark.download").joinpath(SHIPPED)) as shipped:
        raw = _entries(shipped)
        origins = dict.fromkeys(raw, shipped)
    for path in paths:
        for name, fields in _entries(path).items():
            raw[name] = fields if "files" in fields else raw.get(name, {}) | fields
            origins[name] = path
    found = {name: _parsed(name, fields, origins[name]) for name, fields in raw.items()}
    for name in found:
        _check_needs(name, found, origins[name])
    return found


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise SpecError(f"{path}: expected names of downloads with their fields")
    for name, fields in data.items():
        check_name(str(name), f"{path}: name of a download")
        if not isinstance(fields, dict):
            raise SpecError(f"{path}: {name}: expected fields such as 'folder' and 'files'")
    return {str(name): fields for name, fields in data.items()}


def _parsed(name: str, fields: Mapping[str, Any], origin: Path) -> Download:
    def where(field: str) -> str:
        return place(origin, f"{name}.{field}")

    return parse_spec(Download, dict(fields), f"{origin}: {name}", partial(where))


def _check_needs(name: str, known: Mapping[str, Download], origin: Path) -> None:
    for other in known[name].needs:
        if other not in known:
            raise SpecError(f"{origin}: {name}: needs: {UnknownNameError('download', other, known)}")
    reached: set[str] = set()
    waiting = list(known[name].needs)
    while waiting:
        other = waiting.pop()
        if other == name:
            raise SpecError(f"{origin}: {name}: needs: it needs itself, by way of {', '.join(known[name].needs)}")
        if other not in reached:
            reached.add(other)
            waiting += known[other].needs


def in_order(names: Iterable[str], known: Mapping[str, Download]) -> list[str]:
    """The downloads with what they need before them, each once."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if name not in found:
            for other in known[name].needs:
                add(other)
            found[name] = None

    for name in names:
        add(name)
    return list(found)

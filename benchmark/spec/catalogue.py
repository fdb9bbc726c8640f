"""The catalogue: names of data sets -> specifications, from YAML. A user's files are laid over the one shipped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from benchmark.errors import DataError, SpecError
from benchmark.spec.base import DataSpec, check_name, parse_spec
from benchmark.spec.yaml_file import load_yaml, place
from benchmark.utils.files import expand, list_images, walk

SHIPPED = "catalogue.yaml"

_DETECT = {
    "webdataset": r"\.tar$",
    "parquet": r"\.(parquet|arrow)$",
    "cifar_c": r"^labels\.npy$",
}
"""Source -> pattern of a file name, relative to the folder, that tells it; the first that fits. Images come last."""


@dataclass(frozen=True)
class Entry:
    """One data set of the catalogue.

    Attributes:
        spec: how it is read.
        about: one line.
        hub: id on the Hugging Face hub, or None.
        images: number of images as published (of each corrupted version), or None.
        classes_present: number of classes with an image as published, or None.
        origin: the file that gave its fields last, or `reliquant`.
    """

    spec: DataSpec
    about: str = ""
    hub: str | None = None
    images: int | None = None
    classes_present: int | None = None
    origin: str = "reliquant"

    @property
    def found(self) -> bool:
        """Whether its path exists on this machine."""
        try:
            return self.spec.path is None or expand(self.spec.path).exists()
        except DataError:  # RELIQUANT_DATA is not set
            return False


def catalogue(paths: Iterable[Path] = ()) -> dict[str, Entry]:
    """All entries, the shipped ones first, then those of each file in turn.

    For a name that exists, the fields given replace those of the entry before, unless `source` is among them: then
    the whole entry is replaced.

    Raises:
        SpecError: names the file and the entry or field.
    """
    with as_file(files("benchmark.spec").joinpath(SHIPPED)) as shipped:
        raw, origins = _entries(shipped), dict.fromkeys(_entries(shipped), "reliquant")
    for path in paths:
        for name, fields in _entries(path).items():
            raw[name] = fields if "source" in fields else raw.get(name, {}) | fields
            origins[name] = str(path)
    return {name: _entry(name, fields, origins[name]) for name, fields in raw.items()}


def load_catalogue(paths: Iterable[Path] = ()) -> dict[str, DataSpec]:
    """The specifications of `catalogue`."""
    return {name: entry.spec for name, entry in catalogue(paths).items()}


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise SpecError(f"{path}: expected names of data sets with their fields")
    for name, fields in data.items():
        check_name(str(name), f"{path}: data set name")
        if not isinstance(fields, dict):
            raise SpecError(f"{path}: {name}: expected fields such as 'source' and 'path'")
    return data


def _entry(name: str, fields: dict[str, Any], origin: str) -> Entry:
    fields = dict(fields)
    about, hub = fields.pop("about", ""), fields.pop("hub", None)
    counts = {count: fields.pop(count, None) for count in ("images", "classes_present")}
    where = f"{'catalogue' if origin == 'reliquant' else origin}: {name}"
    for count, number in counts.items():
        if number is not None and (not isinstance(number, int) or number < 1):
            raise SpecError(f"{where}: {count}: expected a positive number, got {number!r}")
    at = None if origin == "reliquant" else lambda field: place(Path(origin), f"{name}.{field}")
    spec = parse_spec(DataSpec, fields, where, at)
    return Entry(spec, str(about), None if hub is None else str(hub), origin=origin, **counts)


def detect(path: str) -> DataSpec:
    """The specification of a bare path: a folder of images, shards, parquet files, CIFAR-C arrays, or an image list.

    Raises:
        DataError: nothing there, or nothing that a source can read.
    """
    place = expand(path)
    if not place.exists():
        raise DataError(f"{path}: no such file or folder")
    if place.is_file():
        kinds = {".tar": "webdataset", ".parquet": "parquet", ".arrow": "parquet", ".txt": "image_list"}
        if place.suffix not in kinds:
            raise DataError(f"{path}: expected a folder, or a file *.tar, *.parquet, *.arrow or *.txt (an image list)")
        return DataSpec(source=kinds[place.suffix], path=path)
    names = [entry.path for entry in walk(place)]
    for source, pattern in _DETECT.items():
        if any(re.search(pattern, name, re.IGNORECASE) for name in names):
            return DataSpec(source=source, path=path)
    if list_images(place)[0]:
        return DataSpec(source="image_folder", path=path)
    raise DataError(f"{path}: no class folders with images, no *.tar, *.parquet or *.arrow files in it")

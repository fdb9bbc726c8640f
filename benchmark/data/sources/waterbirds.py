"""Waterbirds as released: `metadata.csv` and the images, land and water birds on land and on water."""

from __future__ import annotations

import csv
from pathlib import Path

from benchmark.data.sources.base import LoadedData, Source, SourceOptions, paths_dataset
from benchmark.errors import DataError, UnknownNameError
from benchmark.spec import DataSpec
from benchmark.utils.digests import stamp
from benchmark.utils.files import Entry, entry, fingerprint

METADATA = "metadata.csv"
COLUMNS = ("img_filename", "y", "place", "split")
SPLITS = ("train", "val", "test")
"""By the number in the column `split`."""
CLASSES = ("landbird", "waterbird")
GROUPS = tuple(f"{bird} on {place}" for bird in CLASSES for place in ("land", "water"))


class Waterbirds(Source[SourceOptions]):
    """The images of one split (`test` by default). Labels: 0 landbird, 1 waterbird; groups: 2 label + place.

    Source: Sagawa et al. 2020, `waterbird_complete95_forest2water2`.
    """

    name = "waterbirds"
    version = 1
    title = "Waterbirds: metadata.csv (img_filename, y, place, split) and the images; split train, val or test"
    options = SourceOptions

    def check(self, spec: DataSpec) -> None:
        """The split is one of the three, and the list is there."""
        super().check(spec)
        if spec.split is not None and spec.split not in SPLITS:
            raise UnknownNameError("split", spec.split, SPLITS)
        if not (self.root(spec) / METADATA).is_file():
            raise DataError(f"{self.root(spec) / METADATA}: no such file")

    def fingerprint(self, spec: DataSpec) -> str:
        """Bytes of the list, paths and bytes of the images."""
        root = self.root(spec)
        return fingerprint([entry(root / METADATA), *(found for found, _, _ in self.listed(spec))])

    def listed(self, spec: DataSpec) -> list[tuple[Entry, int, int]]:
        """The images of the split, each with label and place.

        Raises:
            DataError: names the line with a wrong value or a missing image.
        """
        root, wanted = self.root(spec), SPLITS.index(spec.split or "test")
        found = []
        for number, row in enumerate(_rows(root / METADATA), 2):
            where = f"{root / METADATA}: line {number}"
            y, place, split = (_number(row, name, top, where) for name, top in (("y", 1), ("place", 1), ("split", 2)))
            if split == wanted:
                path = root / str(row["img_filename"])
                try:
                    found.append((Entry(str(row["img_filename"]), path, stamp(path.stat())), y, place))
                except OSError as error:
                    raise DataError(f"{where}: {path}: {error.strerror}") from None
        return found

    def load(self, spec: DataSpec) -> LoadedData:
        """List the images; none is opened."""
        listed = self.listed(spec)
        return LoadedData(
            dataset=paths_dataset(
                [str(image.file) for image, _, _ in listed],
                [y for _, y, _ in listed],
                [image.path for image, _, _ in listed],
                group=[2 * y + place for _, y, place in listed],
            ),
            class_names=CLASSES,
            group_names=GROUPS,
        )


def _rows(path: Path) -> list[dict[str, str | None]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: no column '{missing[0]}'; its columns are {', '.join(reader.fieldnames or ())}")
    return rows


def _number(row: dict[str, str | None], name: str, top: int, where: str) -> int:
    text = row[name]
    if text is None or not text.isascii() or not text.isdigit() or int(text) > top:
        raise DataError(f"{where}: column '{name}': expected a whole number from 0 to {top}, got {text!r}")
    return int(text)


source = Waterbirds()

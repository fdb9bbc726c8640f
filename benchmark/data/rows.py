"""Rows, labels and ids: checked, cut down to some classes, limited. Independent of the source of the data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmark.data import prompts
from benchmark.data.labels import matched
from benchmark.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    import datasets

Ints = NDArray[np.int64]


def check_ids(ids: NDArray[np.str_]) -> None:
    """Sample ids pair images between quantizations: a DataError names one that occurs twice."""
    values, counts = np.unique(ids, return_counts=True)
    if len(values) != len(ids):
        raise DataError(f"sample id '{values[counts.argmax()]}' occurs {counts.max()} times; ids must be unique")


def check_captions(
    captions: Sequence[Sequence[str]] | None, ids: NDArray[np.str_], columns: Sequence[str] = ()
) -> None:
    """A DataError where there are no captions, or names the first image without one."""
    if captions is None:
        have = f"; its columns are {', '.join(columns)}" if columns else ""
        raise DataError(f"has no captions{have} (option caption: names a column, in a webdataset a suffix)")
    bare = [row for row, texts in enumerate(captions) if not texts]
    if bare:
        more = f" ({len(bare)} of {len(captions)} images have none)" if len(bare) > 1 else ""
        raise DataError(f"image {bare[0]} ({ids[bare[0]]}) has no caption{more}; write one, or remove the image")


def check_inside(table: datasets.Dataset, roots: Sequence[Path]) -> None:
    """Paths written inside data (parquet, image lists) stay below one of the roots; links there may lead anywhere.

    Raises:
        DataError: names row and path of the first that leaves them.
    """
    if not roots or "image" not in table.column_names:
        return
    inside = tuple(os.path.join(os.path.normpath(root), "") for root in roots)  # noqa: PTH118 (adds the slash)
    row = 0
    for chunk in table.data.column("image").chunks:
        held = chunk.field("bytes").is_valid().to_pylist()
        for path, own in zip(chunk.field("path").to_pylist(), held, strict=True):
            if path is not None and not own:
                place = path.split("::")[-1]
                if not (place.startswith(inside) and "/.." not in place):
                    place = os.path.normpath(os.path.abspath(place))  # noqa: PTH100 (follows no link)
                if not place.startswith(inside):
                    raise DataError(
                        f"image {row}: its path {path} leads out of {roots[0]}; allow it by --allow-outside"
                    )
            row += 1


def check_labels(labels: Ints, ids: NDArray[np.str_], names: Sequence[str]) -> None:
    """A DataError names file, row and label of the first label outside -1 to C - 1."""
    wrong = np.flatnonzero((labels < -1) | (labels >= len(names)))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"label {labels[row]} of image {row} ({ids[row]}) is outside its {len(names)} classes (0 to "
            f"{len(names) - 1}; -1 marks out of distribution)"
        )


def take_classes(
    subset: str | Sequence[str] | None, labels: Ints, names: tuple[str, ...]
) -> tuple[Ints, Ints, tuple[str, ...]]:
    """Rows (in order), labels and names of the classes that the option `subset` keeps."""
    if subset is None:
        return np.arange(len(labels)), labels, names
    kept = prompts.class_names(subset)
    places = [_place(name, names) for name in kept]
    if len(set(places)) != len(places):
        raise DataError("option subset names a class twice")
    renumber = np.full(len(names), -1, np.int64)
    renumber[places] = np.arange(len(places))
    rows = np.flatnonzero((labels >= 0) & (renumber[labels] >= 0))
    if not len(rows):
        raise DataError("has no image of the classes in option subset")
    return rows, renumber[labels[rows]], tuple(names[place] for place in places)


def _place(name: str, names: Sequence[str]) -> int:
    """Where a name of the option `subset` stands among the classes, in any spelling that means one of them only."""
    found = matched([name], names)
    if found is None and names.count(name) != 1:
        raise UnknownNameError("class (option subset)", name, names)
    return names.index(name) if found is None else found[0]


def take_half(half: str | None, rows: Ints, labels: Ints, ids: NDArray[np.str_]) -> tuple[Ints, Ints]:
    """Rows and labels of half `a` or `b` (None: all): a hash of the sample id decides, whatever else is in the data.

    So the corrupted versions of an image fall into the same half as the image itself.
    """
    if half is None:
        return rows, labels
    first = np.array([hashlib.sha256(f"half {ids[row]}".encode()).digest()[0] < 128 for row in rows], dtype=bool)
    kept = first if half == "a" else ~first
    if not kept.any():
        raise DataError(f"has no image in half {half}: {len(rows)} images are too few to split")
    return rows[kept], labels[kept]


def take_limit(
    rows: Ints, labels: Ints, ids: NDArray[np.str_], limit: int, names: Sequence[str] = ()
) -> tuple[Ints, Ints]:
    """A subset that depends on ids and classes only: classes in turn, within a class by the hash of the sample id.

    The classes take their turns in the order of the hashes of their names, so that data sets of the same classes
    (ImageNet, -V2, -Sketch) keep the same classes where a limit has room for only some. A smaller limit chooses a
    part of what a larger one chooses; the order of the rows stays.
    """
    if limit >= len(rows):
        return rows, labels
    hashes = _hashes(ids[row] for row in rows)
    present, which = np.unique(labels, return_inverse=True)
    by_class = _hashes(f"class {names[label] if 0 <= label < len(names) else label}" for label in present.tolist())
    order = np.lexsort((hashes, labels))
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0])
    sizes = np.diff(np.r_[starts, len(order)])
    turn = np.empty(len(rows), np.int64)
    turn[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    chosen = np.sort(np.lexsort((hashes, by_class[which], turn))[:limit])
    return rows[chosen], labels[chosen]


def _hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)

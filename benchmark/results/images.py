"""How many images and classes the data sets of records have: shown wherever their numbers are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.ledger.records import Record


def data_sets(records: Iterable[Record]) -> dict[str, str]:
    """Data set -> `300 images, 96 classes`, in the order of the records; several such texts where they differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, about in record.provenance.get("counts", {}).items():
            found.setdefault(name, {})[described(about)] = None
    return {name: " or ".join(texts) for name, texts in found.items()}


def described(about: Mapping[str, Any]) -> str:
    """One data set in words.

    >>> described({"images": 96, "versions": 2, "classes": 4, "classes_present": 3})
    '2 x 48 images, 4 classes (1 without images)'
    """
    images, versions, classes = about["images"], about["versions"], about["classes"]
    each = images // versions
    text = f"{versions:,} x {each:,} images" if versions > 1 and each * versions == images else f"{images:,} images"
    if not classes:
        return text
    missing = classes - about["classes_present"]
    return f"{text}, {classes:,} classes" + (f" ({missing:,} without images)" if missing else "")


def by_evaluation(records: Iterable[Record]) -> dict[str, str]:
    """Evaluation (`task/label`) -> its data sets in words: `scenes: 300 images, 96 classes; far: 300 images`."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.name, []).append(record)
    return {name: "; ".join(sentences(found)) for name, found in grouped.items()}


def sentences(records: Iterable[Record]) -> Sequence[str]:
    """`scenes: 300 images, 96 classes` for each data set."""
    return [f"{name}: {text}" for name, text in data_sets(records).items()]


def grouped(records: Iterable[Record]) -> list[str]:
    """The same for a narrow place: data sets of one size together, `near, far: 300 images`."""
    names: dict[str, list[str]] = {}
    for name, text in data_sets(records).items():
        names.setdefault(text, []).append(name)
    return [f"{', '.join(found)}: {text}" for text, found in names.items()]

"""Images that a quantization flips, as thumbnails: read from the data source again, no model is run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.data import open_data
from benchmark.data.decode import decode
from benchmark.data.opening import Data
from benchmark.errors import ReliquantError
from benchmark.ledger.records import Record
from benchmark.plugins import Columns, paired
from benchmark.results.rows import Results, Row
from benchmark.spec.suite import limit_of

LOST, REPAIRED = 8, 4
"""Shown images that turn from right to wrong, and from wrong to right."""
SIDE = 112
"""Longest side of a thumbnail in pixels."""
COLUMNS = {"sample_id", "prediction", "label", "confidence", "correct"}
"""What tells a flip: an evaluation whose columns have a group with these can have its images shown."""


@dataclass(frozen=True)
class Flip:
    """One image whose prediction changes: its id, indices of classes, and how sure each of the two models is."""

    sample_id: str
    label: int
    before: int
    after: int
    confidence_before: float
    confidence_after: float
    lost: bool


@dataclass(frozen=True)
class Example:
    """A flip with its picture (a data URI) and the names of its classes."""

    flip: Flip
    image: str
    label: str
    before: str
    after: str


@dataclass(frozen=True)
class Examples:
    """The flips of one quantization: how many there are, and the worst; `why` says why none is shown."""

    evaluation: str
    lost: int = 0
    repaired: int = 0
    shown: tuple[Example, ...] = ()
    why: str = ""


def flips(quantized: Columns, reference: Columns, group: str) -> list[Flip]:
    """All images that are right in one of the two only; lost ones first, the surest wrong answers at the top.

    Raises:
        DataError: the two were not evaluated on the same images.
    """
    q, f = (columns[group] for columns in paired(quantized, reference))
    found = [
        Flip(
            str(q["sample_id"][i]),
            int(q["label"][i]),
            int(f["prediction"][i]),
            int(q["prediction"][i]),
            float(f["confidence"][i]),
            float(q["confidence"][i]),
            bool(f["correct"][i]),
        )
        for i in np.flatnonzero(q["correct"] != f["correct"])
    ]
    return sorted(found, key=lambda flip: (not flip.lost, -flip.confidence_after, flip.sample_id))


def worst(results: Results, row: Row, data: dict[str, Data | str]) -> Examples | None:
    """The flips of a row on the first evaluation, in the suite's order, whose columns tell them; None without one.

    Args:
        data: data sets that are open already, or why they cannot be opened; filled here.
    """
    names = [key.rsplit("/", 1)[0] for key in results.headline]
    for name in dict.fromkeys([*names, *row.records]):
        record = row.records.get(name)
        base = results.reference(record) if record is not None else None
        if record is None or base is None:
            continue
        pair = [results.ledger.outcome(r, whole=False).columns for r in (record, base)]
        if not pair[0].groups and record.samples is not None:
            return Examples(name, why="the per-sample columns of this evaluation are not in the results folder")
        group = next((group for group, columns in pair[0].groups.items() if columns.keys() >= COLUMNS), None)
        if group is not None and group in pair[1]:
            return _of(results, record, flips(pair[0], pair[1], group), group, data)
    return None


def _of(results: Results, record: Record, found: list[Flip], role: str, data: dict[str, Data | str]) -> Examples:
    lost = [flip for flip in found if flip.lost]
    repaired = [flip for flip in found if not flip.lost]
    if record.name not in data:
        data[record.name] = _open(results, record, role)
    images = data[record.name]
    if isinstance(images, str):
        return Examples(record.name, len(lost), len(repaired), why=images)
    shown = _with_images([*lost[:LOST], *repaired[:REPAIRED]], images)
    return Examples(record.name, len(lost), len(repaired), shown)


def _open(results: Results, record: Record, role: str) -> Data | str:
    """The images that an evaluation has in a role, or why they cannot be shown."""
    if results.spec is None:
        return f"the file of suite '{results.suite}' is not known: give it as FILE.yaml to see the images"
    binding = results.spec.tasks.get(record.task, {}).get(record.dataset)
    if binding is None or role not in binding.roles:
        return f"the suite's file has no evaluation {record.name} any more"
    name = binding.data(role)[0]
    asked = results.spec.model_copy(update={"limit": record.provenance.get("limit", results.spec.limit)})
    try:
        single = asked.data[name].model_copy(update={"limit": limit_of(asked, name)})
        data = open_data(single, name, results.allow_outside)
    except ReliquantError as error:
        return str(error)
    recorded = record.provenance.get("data", {}).get(name)
    if recorded is not None and recorded != data.digest:
        return f"data set '{name}' is not the one that was evaluated (its digest differs)"
    return data


def _with_images(found: Sequence[Flip], data: Data) -> tuple[Example, ...]:
    order = np.argsort(data.sample_ids, kind="stable")
    wanted = np.array([flip.sample_id for flip in found], dtype=np.str_)
    at = np.searchsorted(data.sample_ids, wanted, sorter=order).clip(max=len(order) - 1)
    kept = [
        (flip, row)
        for flip, row in zip(found, order[at].tolist(), strict=True)
        if data.sample_ids[row] == flip.sample_id
    ]
    names = data.class_names
    return tuple(
        Example(flip, thumbnail(encoded), names[flip.label], names[flip.before], names[flip.after])
        for (flip, _), encoded in zip(kept, data.encoded([row for _, row in kept]), strict=True)
    )


def thumbnail(encoded: bytes) -> str:
    """A JPEG of at most SIDE pixels as a data URI.

    Raises:
        DataError: it is no image.
    """
    image = decode(encoded)
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")

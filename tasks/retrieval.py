"""Retrieval: does a search by text or by image find the same as before, and does an old index still serve?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark import Answers, Banks, Columns, Errors, FeatureBank, Metric, NoOptions, Summary, task
from benchmark.errors import DataError, UndefinedMetric
from benchmark.metrics.retrieval import Found, kept, overlap_replicates, search
from benchmark.metrics.uncertainty import groups_of

from .figures import heat_map

CUTS = (1, 5, 10)
NEIGHBOURS = 10
NOTE = "note:"
"""Before the metric key, in the columns' `about`: why it is undefined."""
GROUPS_OF = "groups_of_nearest"
"""Column of a direction: the group of pictures of each of the ten items that full precision finds."""
STORED = "full precision is not at hand: the model was stored quantized"

Kind = Literal["image", "text"]


@dataclass(frozen=True)
class Direction:
    """What is looked for among what. `group`: the columns whose rows are the queries."""

    queries: Kind
    index: Kind
    group: str


DIRECTIONS = {
    "image_to_text": Direction("image", "text", "test"),
    "text_to_image": Direction("text", "image", "captions"),
    "image_to_image": Direction("image", "image", "test"),
}
WAYS = {"": (True, True), "new_queries/": (True, False), "new_index/": (False, True)}
"""Part of a key -> whether queries, and the index, are the evaluated model's; otherwise they are full precision's."""

SHORT = {
    **{"image_to_text": "I>T", "text_to_image": "T>I", "image_to_image": "I>I"},
    **{"": "", "new_queries/": " q", "new_index/": " i"},
}
"""Directions and ways in a figure."""


@task(
    "retrieval",
    version=1,
    needs=("test",),
    captions=("test",),
    full_precision=("test",),
    words={
        "recall_at_10": "share of queries with a right item among the first ten",
        "overlap_at_10": "share of full precision's ten nearest neighbours that are found",
        "new_queries": "quantized queries in an index made in full precision",
        "new_index": "full-precision queries in a quantized index",
    },
    metrics=[
        *(Metric(f"recall_at_{cut}", "higher") for cut in CUTS),
        Metric(f"overlap_at_{NEIGHBOURS}", "higher"),
        Metric("finds_itself", "higher"),
        Metric("images", "neither", unit="count"),
        Metric("captions", "neither", unit="count"),
    ],
)
def retrieval(banks: Banks, options: NoOptions) -> Columns:
    """Search by text and by image: what is found, what full precision would find, and whether an old index serves.

    Keys: `<direction>/<metric>` with queries and index by the evaluated model, `<direction>/new_queries/<metric>` with
    its queries in an index that full precision made, `<direction>/new_index/<metric>` the reverse. Directions:
    `image_to_text`, `text_to_image`, and `image_to_image` (an image is no neighbour of itself). `recall_at_k`: share of
    queries with a right item among the first k, as CLIP_benchmark's `zeroshot_retrieval` has it: every caption is an
    item and a query, right for its own image only, equal captions of other images included. `overlap_at_10`: share of
    the ten nearest that are also among the ten that full precision finds in its own index. `finds_itself`: share of
    images that come first for their own picture, embedded by the other model. Of equal scores the item with the lower
    sample id comes first. The index stays whole when samples are left out for an interval.
    """
    pair = _Pair.of(banks["test"], banks.full_precision["test"][0] if banks.full_precision else None)
    notes = _undefined(pair)
    groups = {"test": pair.now.bank.columns(), "captions": pair.now.caption_columns()}
    for key, column in _columns(pair, notes):
        groups[DIRECTIONS[key.split("/")[0]].group][key] = column
    return Columns(groups, {f"{NOTE}{key}": np.array(why) for key, why in notes.items()})


@dataclass(frozen=True)
class _Side:
    """What one model makes of the images, in the order of their ids, and of their captions, image by image.

    `owner` (P,): the place of each caption's image.
    """

    bank: FeatureBank
    features: Mapping[Kind, NDArray[Any]]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, bank: FeatureBank) -> _Side:
        bank = bank.take(np.argsort(bank.sample_id, kind="stable"))
        caption, owner = bank.caption, bank.caption_image
        if caption is None or owner is None or len(np.unique(owner)) < len(bank):
            raise DataError(f"data set '{bank.dataset}': an image has no caption")
        if len(bank) < 2:
            raise UndefinedMetric(f"data set '{bank.dataset}' has one image with captions; retrieval needs two or more")
        return cls(bank, {"image": bank.image, "text": caption}, owner)

    def right(self, direction: Direction) -> NDArray[np.int64]:
        """(Q, 2) first and one past the last right item of each query."""
        images = np.arange(len(self.bank))
        if direction.index == "text":
            return np.searchsorted(self.owner, np.stack([images, images + 1], axis=1))
        at = self.owner if direction.queries == "text" else images
        return np.stack([at, at + 1], axis=1)

    def caption_columns(self) -> dict[str, NDArray[Any]]:
        """Ids of the captions: their image's, and which of its captions it is."""
        images, place = self.bank.columns(), np.arange(len(self.owner))
        number = (place - np.searchsorted(self.owner, self.owner)).astype(str)
        ids = np.char.add(np.char.add(images["sample_id"][self.owner], "#"), number)
        return {"sample_id": ids, "base_id": images["base_id"][self.owner]}


@dataclass(frozen=True)
class _Pair:
    """The evaluated model and full precision (None: not at hand). `changed`: towers whose features differ."""

    now: _Side
    full: _Side | None
    changed: Mapping[Kind, bool]

    @classmethod
    def of(cls, bank: FeatureBank, full_precision: FeatureBank | None) -> _Pair:
        now = _Side.of(bank)
        if full_precision is None:
            return cls(now, None, {"image": True, "text": True})
        full = _Side.of(full_precision)
        if not np.array_equal(now.bank.sample_id, full.bank.sample_id) or not np.array_equal(now.owner, full.owner):
            raise DataError(f"data set '{bank.dataset}': full precision saw other images or captions")
        same = {kind: np.array_equal(found, full.features[kind]) for kind, found in now.features.items()}
        return cls(now, full, {kind: not equal for kind, equal in same.items()})

    def sides(self, direction: Direction, new: tuple[bool, bool]) -> tuple[bool, bool]:
        """Whether queries and index really are the evaluated model's: features that are equal count as the other's."""
        return new[0] and self.changed[direction.queries], new[1] and self.changed[direction.index]

    def items(self, name: str) -> int:
        """Number of items that a query of this direction can find."""
        return len(self.now.features[DIRECTIONS[name].index]) - (name == "image_to_image")

    def groups(self, direction: Direction) -> NDArray[np.uint8]:
        """Group of pictures of every item of an index."""
        pictures = groups_of(self.now.bank.columns()["base_id"]).astype(np.uint8)
        return pictures if direction.index == "image" else pictures[self.now.owner]

    def search(self, name: str, sides: tuple[bool, bool]) -> Found:
        """All queries of a direction, with the neighbours where the index has more than those."""
        direction = DIRECTIONS[name]
        queries, index = (self.now if new or self.full is None else self.full for new in sides)
        return search(
            queries.features[direction.queries],
            index.features[direction.index],
            self.now.right(direction),
            NEIGHBOURS if self.items(name) > NEIGHBOURS else 0,
            but_itself=name == "image_to_image",
        )


def _made_of(name: str, way: str) -> Iterator[tuple[str, str, int]]:
    """Keys of a direction and way, the column that each is made of, and how many items it looks at."""
    if name != "image_to_image":
        yield from ((f"{name}/{way}recall_at_{cut}", f"{name}/{way}rank", cut) for cut in CUTS)
    elif way:
        yield f"{name}/{way}finds_itself", f"{name}/{way}rank", 1
    yield f"{name}/{way}overlap_at_{NEIGHBOURS}", f"{name}/{way}kept", NEIGHBOURS


def _undefined(pair: _Pair) -> dict[str, str]:
    """Notes for what these banks do not allow."""
    notes: dict[str, str] = {}
    one = [kind for kind, changed in pair.changed.items() if changed]
    for name, direction in DIRECTIONS.items():
        for way, new in WAYS.items():
            idle = len(one) == 1 and not any(pair.sides(direction, new))
            for key, column, cut in _made_of(name, way):
                if pair.full is None and (way or column.endswith("kept")):
                    notes[key] = STORED
                elif idle:
                    notes[key] = f"only the {one[0]} tower is quantized, which has no part in it"
                elif cut >= pair.items(name):
                    notes[key] = f"the index has {pair.items(name)} items: all are among the first {cut}"
    return notes


def _columns(pair: _Pair, notes: Mapping[str, str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Ranks and overlaps of every direction and way that has a metric without a note."""
    for name, direction in DIRECTIONS.items():
        found: dict[tuple[bool, bool], Found] = {}
        for way, new in WAYS.items():
            wanted = {column for key, column, _ in _made_of(name, way) if key not in notes}
            for sides in [pair.sides(direction, new), (False, False)] if wanted else []:
                if sides not in found and (sides != (False, False) or pair.full is not None):
                    found[sides] = pair.search(name, sides)
            now = found.get(pair.sides(direction, new))
            for column in sorted(wanted):
                if now is not None and column.endswith("rank"):
                    yield column, now.rank.astype(np.int32)
                elif now is not None:
                    yield column, kept(now.nearest, found[False, False].nearest)
        if found and pair.items(name) > NEIGHBOURS and pair.full is not None:
            yield f"{name}/{GROUPS_OF}", pair.groups(direction)[found[False, False].nearest]


@retrieval.summarise
def summarise(columns: Columns, options: NoOptions) -> Summary:
    """Shares of hits, mean overlaps, and how much was searched."""
    metrics: dict[str, float] = {}
    for name, direction in DIRECTIONS.items():
        group = columns[direction.group]
        for way in WAYS:
            for key, column, cut in _made_of(name, way):
                if column in group and f"{NOTE}{key}" not in columns.about:
                    values = group[column]
                    metrics[key] = float((values < cut).mean() if column.endswith("rank") else values.mean())
    metrics |= {"images": float(len(columns["test"]["sample_id"]))}
    metrics |= {"captions": float(len(columns["captions"]["sample_id"]))}
    notes = {key.removeprefix(NOTE): str(why) for key, why in columns.about.items() if key.startswith(NOTE)}
    return Summary(metrics, notes=notes)


@retrieval.errors
def errors(columns: Columns, options: NoOptions, groups: Mapping[str, NDArray[Any]]) -> Errors:
    """Hits are right answers. Where a picture has several (its captions), they stand and fall with the picture.

    For an overlap a picture is left out as a query and as an item.
    """
    answers, slack, replicates = {}, {}, {}
    for name, direction in DIRECTIONS.items():
        group = columns[direction.group]
        _, rows = np.unique(group["base_id"], return_counts=True)
        for way in WAYS:
            for key, column, cut in _made_of(name, way):
                if column not in group or f"{NOTE}{key}" in columns.about:
                    continue
                if column.endswith("kept"):
                    nearest = group[f"{name}/{GROUPS_OF}"].astype(np.int64)
                    replicates[key] = overlap_replicates(group[column], groups[direction.group], nearest)
                elif rows.max() == 1:
                    answers[key] = Answers(direction.group, group[column] < cut)
                else:
                    slack[key] = float(np.mean((rows / rows.sum()) ** 2))
    return Errors(replicates, answers, slack)


@retrieval.draw_all
def draw_all(summaries: Mapping[str, Summary]) -> Mapping[str, Any]:
    """Search by text for images (T>I), by an image for texts (I>T) and for images (I>I): queries and index both by the
    quantization; q: its queries in an index that full precision made; i: the reverse. Recall: share of queries with a
    right item among the first ten. Overlap: share of full precision's ten nearest neighbours that are found. Empty:
    nothing in it is quantized, or it is undefined.
    """
    figures = {}
    for title, metric in {
        "Recall at 10": "recall_at_10",
        f"Overlap at {NEIGHBOURS}": f"overlap_at_{NEIGHBOURS}",
    }.items():
        keys = {f"{name}/{way}{metric}": SHORT[name] + SHORT[way] for name in DIRECTIONS for way in WAYS}
        keys = {key: label for key, label in keys.items() if any(key in s.metrics for s in summaries.values())}
        if keys:
            values = np.array([[s.metrics.get(key, np.nan) for key in keys] for s in summaries.values()])
            figures[metric] = heat_map(values, list(summaries), list(keys.values()), (title, ""))
    return figures

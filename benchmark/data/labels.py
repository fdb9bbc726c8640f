"""Class names meet labels by name: which class of the data is which of the names that the user gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.data import prompts
from benchmark.data.sources.base import LoadedData
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils.files import nfc

SHOWN = 12
"""Names of a list that a message shows."""


def _plain(name: str) -> str:
    """With `_` as a blank, and single blanks."""
    return " ".join(nfc(name).replace("_", " ").split())


def _folded(name: str) -> str:
    """The same in any case."""
    return _plain(name).casefold()


SPELLINGS: tuple[Callable[[str], str], ...] = (nfc, _plain, _folded)
"""What counts as one name, the strictest first; a looser one holds only where it keeps the names apart."""


@dataclass(frozen=True)
class ClassNames:
    """The label space of a data set.

    Attributes:
        names: C names; none for `text: none` and `text: captions`.
        places: (K,) int64, the data's own label -> index into `names`; None: the same.
        keys: what marks each class in the data, for messages; the names where the data says nothing else.
        origin: `spec`, `data`, or the `text` of a data set without classes.
    """

    names: tuple[str, ...]
    origin: str
    places: NDArray[np.int64] | None = None
    keys: tuple[str, ...] = ()

    def relabelled(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The data's own labels as indices into `names`; -1 stays."""
        return labels if self.places is None else np.where(labels < 0, -1, self.places[labels])


def class_names(spec: DataSpec, loaded: LoadedData) -> ClassNames:
    """The names that a data set is classified over, and which of them each label means.

    Names given (`classes:`, or else a list that lies with the data) meet the data's own by name in any order, in
    one of `SPELLINGS`, and are then the label space: also those without an image. `classes_by: position` pairs the
    two lists in order. Data that bring numbers only have nothing to meet: the list counts by position.

    Raises:
        DataError: no names at all; names that are not the data's, shown side by side.
    """
    if spec.text != "classes":
        return ClassNames((), spec.text)
    own = None if loaded.class_names is None else tuple(map(nfc, loaded.class_names))
    keys = tuple(map(nfc, loaded.class_keys or own or ()))
    given, what, origin = _given(spec, loaded)
    if own is None:
        if given is None:
            raise DataError("brings no class names; give 'classes:' (a list, a file, or imagenet), or 'text: none'")
        return ClassNames(given, origin, keys=given)
    if given is None or loaded.settled or given == own:
        return ClassNames(own, "data" if given is None or loaded.settled else origin, keys=keys)
    if spec.classes_by == "position":
        if len(given) != len(own):
            raise DataError(f"'{what}' gives {len(given)} names, the data has {len(own)} classes")
        return ClassNames(given, origin, keys=keys)
    found = matched(keys, given) or matched(own, given)
    if found is None:
        raise DataError(_side_by_side(keys, given, what))
    marks = list(given)
    for key, place in zip(keys, found, strict=True):
        marks[place] = key
    return ClassNames(given, origin, np.array(found, np.int64), tuple(marks))


def _given(spec: DataSpec, loaded: LoadedData) -> tuple[tuple[str, ...] | None, str, str]:
    """Names that the data's own must meet, where they stand, and their origin."""
    if spec.classes is not None:
        return prompts.class_names(spec.classes), "classes", "spec"
    return loaded.listed, "classnames.txt", "data"


def matched(own: Sequence[str], given: Sequence[str]) -> list[int] | None:
    """For each own name the place of the same name among the given ones; None where one has none, or several.

    >>> matched(["bee_fly", "Cat"], ["cat", "dog", "bee fly"])
    [2, 0]
    """
    for spelling in SPELLINGS:
        mine, theirs = [*map(spelling, own)], [*map(spelling, given)]
        counts = Counter(theirs)
        if len(set(mine)) == len(mine) and all(counts[name] == 1 for name in mine):
            places = {name: place for place, name in enumerate(theirs)}
            return [places[name] for name in mine]
    return None


def alike(name: str, others: Sequence[str]) -> str | None:
    """One of the others that is this name in another spelling, and not this very name; None where there is none."""
    return None if name in others else next((other for other in others if _folded(other) == _folded(name)), None)


def _side_by_side(own: Sequence[str], given: Sequence[str], what: str) -> str:
    """Both lists in one line; of long ones the names that the other lacks."""
    counts = f"'{what}' gives {len(given)} names, the data has {len(own)} classes"
    head = counts if len(own) != len(given) else f"'{what}' and the data name different classes"
    lists = []
    for owner, names, others in (("data", own, given), (what, given, own)):
        left = {*map(_folded, names)} - {*map(_folded, others)}
        many = len(names) > SHOWN
        shown = [name for name in names if not many or _folded(name) in left]
        title = f"{owner}, without a counterpart" if many else owner
        lists.append(f"{title}: {', '.join(shown[:SHOWN])}{', ...' if len(shown) > SHOWN else ''}")
    twice = next((name for name in given if given.count(name) > 1), None)
    hint = f" ('{twice}' stands twice)" if twice is not None else ""
    return (
        f"{head}{hint}. {' | '.join(lists)}. Give the data's own names in any order, "
        "or 'classes_by: position' if both lists are in the same order"
    )


def check_prompts(found: ClassNames, templates: Sequence[str], allowed: bool) -> None:
    """Two classes with one name, or names that differ in case and `_` only, have one prompt for most tokenizers.

    Raises:
        DataError: names the pair.
    """
    seen: dict[str, int] = {}
    for place, name in enumerate(() if allowed else found.names):
        first = seen.setdefault(_folded(name), place)
        if first != place:
            raise DataError(equal_prompts((first, place), found.keys or found.names, prompts.fill(templates[0], name)))


def equal_prompts(pair: tuple[int, int], names: Sequence[str], prompt: str) -> str:
    """What is wrong with two classes that have one prompt, and the ways out."""
    first, second = pair
    return (
        f"classes {first} ('{names[first]}') and {second} ('{names[second]}') have the same prompt ('{prompt}'), and "
        "the model cannot tell them apart; rename one, or set 'allow_equal_prompts: true'"
    )


def split_names(names: Sequence[str]) -> list[str]:
    """Those of the names that mean a split of a data set, such as `train`."""
    return [name for name in names if name.lower() in SPLITS]


SPLITS = frozenset(
    [
        *("train", "training", "trainval", "train_val", "val", "valid", "validation"),
        *("dev", "devel", "eval", "evaluation", "test", "testing"),
    ]
)
"""Names of folders and files that hold a part of a data set, not a class."""

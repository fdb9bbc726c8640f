"""Features of a data set that shares images with others: each image goes through the model once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data import Data
from benchmark.data.pixels import Pixels
from benchmark.engine.embed import stream_features
from benchmark.ledger.store import Store
from benchmark.models.base import ClipModel
from benchmark.utils.progress import Advance

Room = Callable[[str, tuple[int, ...]], NDArray[np.float32]]

COPIED = 1024
"""Number of rows copied at a time."""


class Part:
    """The features of one data set: copied from a data set with the same images where possible, otherwise new.

    Attributes:
        rows: (N,) rows of the data set that have pixels. new: (P,) which of the pixels go through the model.
    """

    def __init__(
        self,
        data: Data,
        others: Sequence[Data],
        arrays: Sequence[str],
        pixels: Pixels,
        key: Callable[[Data, str], str],
        store: Store,
    ) -> None:
        """Args: others share images with `data`; pixels: of the largest of them all; key: names an array's entry."""
        self.pixels, self.arrays = pixels, arrays
        self.rows = np.flatnonzero(np.isin(data.sample_ids, pixels.ids)) if others else pixels.rows
        self.ids = data.sample_ids[self.rows]
        self.known: list[tuple[NDArray[np.int64], dict[str, Any], NDArray[np.int64]]] = []
        have = np.zeros(len(self.ids), bool)
        for other in others:
            entries = {array: store.get(key(other, array)) for array in arrays}
            found = {array: entry[array] for array, entry in entries.items() if entry is not None}
            first = entries[arrays[0]]
            if first is None or len(found) < len(arrays):
                continue
            _, mine, theirs = np.intersect1d(self.ids, other.sample_ids[first["rows"]], return_indices=True)
            fresh = ~have[mine]
            self.known.append((mine[fresh], found, theirs[fresh]))
            have[mine] = True
        self.have = have
        self.new = np.isin(pixels.ids, self.ids[~have]) if others else np.ones(len(pixels), bool)

    def features(
        self, model: ClipModel, batch_size: int, advance: Advance, room: Room
    ) -> dict[str, NDArray[np.float32]]:
        """All arrays (N, ...), in the order of `rows`, each in the place that `room(name, shape)` gives, by batches."""
        whole: dict[str, NDArray[np.float32]] = {}
        for mine, found, theirs in self.known:
            for array in self.arrays:
                if array not in whole:
                    whole[array] = room(array, (len(self.ids), *found[array].shape[1:]))
                for start in range(0, len(mine), COPIED):
                    part = slice(start, start + COPIED)
                    whole[array][mine[part]] = found[array][theirs[part]]
        if not self.new.any():
            return whole
        places, done = np.flatnonzero(~self.have), 0
        batches = self.pixels.batches(batch_size, None if self.new.all() else self.new)
        taps = [array for array in self.arrays if array != "image"]
        for outputs in stream_features(model, batches, advance, taps):
            here = places[done : done + len(outputs["image"])]
            for array in self.arrays:
                if array not in whole:
                    whole[array] = room(array, (len(self.ids), *outputs[array].shape[1:]))
                whole[array][here] = outputs[array]
            done += len(here)
        return whole

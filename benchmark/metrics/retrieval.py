"""Retrieval: where the right item stands among all items of an index, and which ones come first.

Scores are dot products of L2-normalised features, summed in float64 and rounded to float32, so that equal features tie
whatever block they fall into. Among equal scores the item that stands earlier in the index comes first, as in a sorted
list; so features that carry nothing find their items as often as chance. Similarities are made in blocks of queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.metrics.arrays import Bools, Floats, Ints
from benchmark.metrics.uncertainty import GROUPS

BLOCK_BYTES = 8_000_000
"""Bytes of the similarities that are held at once; what is made of them takes about five times as much."""
FEWEST = 16
"""Queries of a block, however long the index is."""
TILE = 2048
"""Items of the index that are turned to float64 at once."""

Features = npt.NDArray[np.floating[npt.NBitBase]]
Scores = npt.NDArray[np.float32]


class Found(NamedTuple):
    """What queries find in an index.

    Attributes:
        rank: (Q,) int64, how many items come before the first right one: 0 is the best.
        nearest: (Q, k) int64, the places in the index of the k first items, ascending; k = 0 where none were wanted.
    """

    rank: Ints
    nearest: Ints


def search(
    queries: Features,
    index: Features,
    right: npt.ArrayLike,
    nearest: int = 0,
    *,
    but_itself: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> Found:
    """Rank of the first right item, and the nearest items, of each query.

    Args:
        queries: (Q, D), index: (N, D) float32, L2-normalised.
        right: (Q, 2) int, the first and one past the last place of the query's right items, which stand side by side.
        nearest: how many items to name, at most N (N - 1 `but_itself`).
        but_itself: the right items are no neighbours: they are the query itself.
        block_bytes: memory of a block of similarities; the result does not depend on it.

    Raises:
        InputError: shapes that do not fit, no right item, or more neighbours than items.
    """
    spans = np.asarray(right, dtype=np.int64)
    _check(queries, index, spans, nearest, but_itself)
    rank = np.empty(len(queries), np.int64)
    found = np.empty((len(queries), nearest), np.int64)
    place = np.arange(len(index))
    for rows, scores in _blocks(queries, index, block_bytes):
        own = spans[rows]
        inside = (place >= own[:, :1]) & (place < own[:, 1:])
        best = np.where(inside, scores, -np.inf).max(axis=1, keepdims=True)
        ahead = (scores > best) | ((scores == best) & (place < own[:, :1]))
        rank[rows] = ahead.sum(axis=1)
        if nearest:
            found[rows] = _first(np.where(inside, -np.inf, scores) if but_itself else scores, nearest)
    return Found(rank, found)


def _check(queries: Features, index: Features, spans: Ints, nearest: int, but_itself: bool) -> None:
    if queries.ndim != 2 or index.ndim != 2 or queries.shape[1] != index.shape[1]:
        raise InputError(f"queries {queries.shape} and index {index.shape}: expected (Q, D) and (N, D)")
    if spans.shape != (len(queries), 2):
        raise InputError(f"right: expected shape {(len(queries), 2)}, got {spans.shape}")
    if len(spans) and not ((spans[:, 0] >= 0) & (spans[:, 0] < spans[:, 1]) & (spans[:, 1] <= len(index))).all():
        raise InputError(f"right: each query needs at least one item among the {len(index)} of the index")
    if not 0 <= nearest <= len(index) - but_itself:
        raise InputError(f"nearest: {nearest}, the index has {len(index) - but_itself} items")


def _blocks(queries: Features, index: Features, block_bytes: int) -> Iterator[tuple[slice, Scores]]:
    """Queries and their similarities (B, N) to the whole index."""
    size = max(FEWEST, block_bytes // (4 * max(1, len(index))))
    for start in range(0, len(queries), size):
        block = np.asarray(queries[start : start + size], np.float64)
        scores = np.empty((len(block), len(index)), np.float32)
        for first in range(0, len(index), TILE):
            scores[:, first : first + TILE] = block @ np.asarray(index[first : first + TILE], np.float64).T
        yield slice(start, start + len(block)), scores


def _first(scores: Scores, count: int) -> Ints:
    """(B, count) places of the highest scores, ascending; of equal ones the earlier."""
    last = np.partition(scores, scores.shape[1] - count, axis=1)[:, [-count]]
    chosen = scores >= last
    for row in np.flatnonzero(chosen.sum(axis=1) > count):
        ties = np.flatnonzero(scores[row] == last[row])
        surplus = int(chosen[row].sum()) - count
        chosen[row, ties[len(ties) - surplus :]] = False
    return np.nonzero(chosen)[1].reshape(len(scores), count)


def kept(nearest: npt.ArrayLike, before: npt.ArrayLike) -> Bools:
    """(Q, k) which of the neighbours `before` (Q, k) are still among the `nearest` (Q, k); the mean is the overlap.

    Raises:
        InputError: the lists differ in shape, or are empty.
    """
    now, known = np.asarray(nearest), np.asarray(before)
    if now.shape != known.shape or now.ndim != 2 or now.shape[1] == 0:
        raise InputError(f"neighbours {now.shape} and {known.shape}: expected the same shape (Q, k), k at least 1")
    found = np.zeros(known.shape, dtype=bool)
    for shift in range(known.shape[1]):
        found |= known == np.roll(now, shift, axis=1)
    return found


def overlap_replicates(kept: Bools, queries: Ints, items: Ints) -> Floats:
    """(GROUPS,) mean of `kept` without each group of pictures, as queries and as items.

    The errors of one picture in an index are common to all queries that look for it, so it is left out of both.

    Args:
        kept: (Q, k), see `kept`. queries: (Q,), items: (Q, k) groups of the queries and of the neighbours before.
    """
    own = np.broadcast_to(queries[:, None], items.shape)
    same, left = own == items, []
    for weight in (kept.astype(np.float64), np.ones(kept.shape)):
        by_query, by_item = (np.bincount(g.ravel(), weight.ravel(), minlength=GROUPS) for g in (own, items))
        both = np.bincount(own[same], weight[same], minlength=GROUPS)
        left.append(weight.sum() - by_query - by_item + both)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(left[0] / left[1], dtype=np.float64)

"""Chunks of pixels: images that are decoded, corrupted and written together, in order, by threads or processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data import decode
from benchmark.data.opening import Data
from benchmark.errors import DataError

if TYPE_CHECKING:
    from benchmark.models.base import Preprocess

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Chunk:
    """Pixels of some rows; `broken` names the rows that could not be decoded, with the reason."""

    pixels: Images
    broken: tuple[tuple[int, str], ...] = ()


def chunk_rows(size: tuple[int, int]) -> int:
    """Images that are decoded or corrupted in one piece: about 4 MB, between 16 and 64."""
    return max(16, min(64, 4_000_000 // (3 * size[0] * size[1])))


def id_chunks(ids: NDArray[np.str_], size: tuple[int, int]) -> Iterator[NDArray[np.str_]]:
    """The ids in chunks of `chunk_rows` images."""
    step = chunk_rows(size)
    for start in range(0, len(ids), step):
        yield ids[start : start + step]


def decode_chunks(data: Data, preprocess: Preprocess, workers: int) -> Iterator[Chunk]:
    """Decode all images in order, in threads (Pillow releases the interpreter lock)."""
    table = data.dataset
    table = table.select_columns([c for c in ("image", "offset", "size") if c in table.column_names])
    table = table.with_format("arrow")
    step = chunk_rows(preprocess.size)
    starts = range(0, len(data), step)

    def job(start: int) -> Chunk:
        return _decode_rows(table[start : start + step].to_pylist(), start, preprocess)

    if workers < 1:
        yield from map(job, starts)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Chunk]] = deque()
        for start in starts:
            waiting.append(pool.submit(job, start))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decode_rows(rows: list[dict[str, Any]], start: int, preprocess: Preprocess) -> Chunk:
    made, broken = [], []
    for offset, row in enumerate(rows):
        try:
            made.append(decode.pixels(decode.read_bytes(row), preprocess))
        except DataError as error:
            broken.append((start + offset, str(error)))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""  # the id need not be the path
            broken.append((start + offset, f"{where}cannot be read ({error.strerror or error})"))
    empty = np.empty((0, 3, *preprocess.size), np.uint8)
    return Chunk(np.stack(made) if made else empty, tuple(broken))

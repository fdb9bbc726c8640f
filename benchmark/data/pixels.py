"""The pixels of a data set at a model's input size: decoded, resized and corrupted once, then memory-mapped.

All quantizations of a model read one store. Corruptions are applied here, to 8-bit pixels that already have the
model's input size, as ImageNet-C's files are released at 224 x 224.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmark.data.chunks import Chunk, Images, chunk_rows, decode_chunks, id_chunks
from benchmark.data.opening import Data
from benchmark.errors import DataError
from benchmark.ledger.store import Entry, Store
from benchmark.spec import digest
from benchmark.utils.progress import Progress, Silent

if TYPE_CHECKING:
    from benchmark.models.base import Preprocess

POOL_AFTER = 2.0
"""Seconds of corrupting in one process after which worker processes are started; for less work they do not pay off."""


@dataclass(frozen=True)
class Pixels:
    """The images of one data set as uint8 (3, H, W).

    Attributes:
        data: the data set.
        rows: (N,) int64, the rows of `data` that have pixels, in order: all, unless broken images were skipped.
        skipped: one line for each image that was skipped.
        digest: content hash of the pixels.
    """

    data: Data
    rows: NDArray[np.int64] = field(repr=False)
    size: tuple[int, int]
    skipped: tuple[str, ...]
    digest: str
    _stored: Images | None = field(repr=False, default=None)
    _stream: Callable[[], Iterator[Images]] | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> NDArray[np.str_]:
        """(N,) sample ids."""
        return self.data.sample_ids[self.rows]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) labels."""
        return self.data.labels[self.rows]

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """(N,) groups, or None."""
        return None if self.data.groups is None else self.data.groups[self.rows]

    @property
    def stored(self) -> bool:
        """Whether the pixels lie in the cache; otherwise every pass decodes them anew."""
        return self._stored is not None

    @property
    def array(self) -> Images:
        """(N, 3, H, W) uint8: memory-mapped where stored, otherwise decoded into memory by this call."""
        if self._stored is not None:
            return self._stored
        chunks = list(self._chunks())
        return np.concatenate(chunks) if chunks else np.empty((0, 3, *self.size), np.uint8)

    def batches(self, size: int) -> Iterator[Images]:
        """Writable copies (B, 3, H, W), B = `size` but for the last, in the order of `rows`."""
        if self._stored is not None:
            for start in range(0, len(self), size):
                yield np.array(self._stored[start : start + size])
            return
        waiting: list[Images] = []
        for chunk in self._chunks():
            waiting.append(chunk)
            while sum(map(len, waiting)) >= size:
                joined = np.concatenate(waiting)
                yield joined[:size].copy()
                waiting = [joined[size:]]
        rest = [chunk for chunk in waiting if len(chunk)]
        if rest:
            yield np.concatenate(rest)

    def _chunks(self) -> Iterator[Images]:
        if self._stream is None:
            raise DataError("these pixels have neither a store nor a stream")
        yield from self._stream()


class PixelCache:
    """Pixels by content hash in a folder of bounded size.

    Args:
        folder: where the arrays lie.
        budget_bytes: size that they may take together; 0 stores nothing and decodes anew for every pass.
        skip_broken: leave out images that cannot be decoded (and name them) instead of raising.
    """

    def __init__(self, folder: Path, budget_bytes: int, skip_broken: bool = False) -> None:
        self.store = Store(folder, budget_bytes)
        self.skip_broken = skip_broken
        self._serial_seconds = 0.0

    def open(self, data: Data, preprocess: Preprocess, progress: Progress | None = None, workers: int = 0) -> Pixels:
        """The pixels of a data set, from the cache or made now.

        Args:
            preprocess: size, resize mode and interpolation; mean and standard deviation do not matter here.
            workers: threads that decode and processes that corrupt; the result does not depend on it.

        Raises:
            DataError: an image that cannot be decoded, named by file and row.
            StorageError: the cache folder cannot be written.
        """
        progress = progress or Silent()
        key = self.key(data, preprocess)
        size = 3 * preprocess.size[0] * preprocess.size[1] * len(data)
        if not self.store.fits(size):
            return self._streamed(data, key, preprocess, workers)
        stored = self.store.get(key) or self._fill(data, key, preprocess, progress, workers, size)
        return self._pixels(data, key, preprocess, stored)

    def key(self, data: Data, preprocess: Preprocess) -> str:
        """Content hash that names the pixels."""
        return digest([data.digest, preprocess.pixel_digest()])

    def _pixels(self, data: Data, key: str, preprocess: Preprocess, stored: Entry) -> Pixels:
        broken = [(int(row), str(reason)) for row, reason in stored.info["broken"]]
        self._refuse(data, broken)
        _check_classes(data, broken)
        kept = np.setdiff1d(np.arange(len(data)), [row for row, _ in broken])
        return Pixels(data, kept, preprocess.size, _lines(data, broken), key, stored["pixels"])

    def _fill(self, data: Data, key: str, preprocess: Preprocess, progress: Progress, workers: int, size: int) -> Entry:
        chunks = self._make(data, preprocess, progress, workers)
        with self.store.lock(key):
            stored = self.store.get(key)
            if stored is not None:  # another process was faster
                return stored
            broken: list[tuple[int, str]] = []
            with (
                self.store.writing(key, size) as writer,
                progress.phase(f"pixels {data.name}", len(data)) as advance,
            ):
                for chunk in chunks:
                    broken += chunk.broken
                    self._refuse(data, broken)
                    writer.append("pixels", chunk.pixels)
                    advance(len(chunk.pixels) + len(chunk.broken))
                writer.info["broken"] = broken
        return writer.entry

    def _make(self, data: Data, preprocess: Preprocess, progress: Progress, workers: int) -> Iterator[Chunk]:
        """The chunks of a data set. The images behind a corrupted version are opened at once: before any lock."""
        if not data.generated:
            return decode_chunks(data, preprocess, workers)
        base = self.open(data.clean, preprocess, progress, workers)
        broken = np.setdiff1d(np.arange(len(data)), base.rows).tolist()
        skipped = Chunk(np.empty((0, 3, *preprocess.size), np.uint8), tuple(zip(broken, base.skipped, strict=True)))
        made = self._corrupt(base, str(data.spec.corruption), int(data.spec.severity or 0), workers)
        return chain([skipped] if broken else [], made)

    def _corrupt(self, base: Pixels, corruption: str, severity: int, workers: int) -> Iterator[Chunk]:
        from benchmark.data.corruptions import corrupt_pixels

        jobs = (
            (pixels, ids, corruption, severity)
            for pixels, ids in zip(base.batches(chunk_rows(base.size)), id_chunks(base.ids, base.size), strict=True)
        )
        if workers > 1 and self._serial_seconds > POOL_AFTER:
            import joblib  # type: ignore[import-untyped]

            pool = joblib.Parallel(n_jobs=workers, return_as="generator", pre_dispatch="2*n_jobs")
            yield from map(Chunk, pool(joblib.delayed(corrupt_pixels)(*job) for job in jobs))
            return
        for job in jobs:
            start = monotonic()
            made = corrupt_pixels(*job)
            self._serial_seconds += monotonic() - start
            yield Chunk(made)

    def _streamed(self, data: Data, key: str, preprocess: Preprocess, workers: int) -> Pixels:
        broken: list[tuple[int, str]] = []
        if self.skip_broken:  # one more pass: the rows must be known before the first batch
            for chunk in self._make(data, preprocess, Silent(), workers):
                broken += chunk.broken
            _check_classes(data, broken)
        kept = np.setdiff1d(np.arange(len(data)), [row for row, _ in broken])

        def stream() -> Iterator[Images]:
            for chunk in self._make(data, preprocess, Silent(), workers):
                self._refuse(data, list(chunk.broken))
                yield chunk.pixels

        return Pixels(data, kept, preprocess.size, _lines(data, broken), key, None, stream)

    def _refuse(self, data: Data, broken: list[tuple[int, str]]) -> None:
        if broken and not self.skip_broken:
            raise DataError(f"data set '{data.name}': {_line(data, *broken[0])} (--skip-broken leaves such images out)")
        if broken and len(broken) == len(data):
            raise DataError(f"data set '{data.name}': none of its {len(data)} images can be decoded; {broken[0][1]}")


def _check_classes(data: Data, broken: list[tuple[int, str]]) -> None:
    """A class that loses all its images to `--skip-broken` would make the others look better.

    Raises:
        DataError: names the class and the first reason, unless the data set allows empty classes.
    """
    if not broken or data.spec.text != "classes" or data.spec.allow_empty_classes:
        return
    gone = np.zeros(len(data), bool)
    gone[[row for row, _ in broken]] = True
    lost = np.setdiff1d(data.labels[gone & (data.labels >= 0)], data.labels[~gone])
    if len(lost):
        row, reason = next((row, reason) for row, reason in broken if data.labels[row] == lost[0])
        raise DataError(
            f"data set '{data.name}': class '{data.class_names[lost[0]]}' loses all its images; "
            f"{_line(data, row, reason)} ('allow_empty_classes: true' goes on without them)"
        )


def _line(data: Data, row: int, reason: str) -> str:
    return f"image {row} ({data.sample_ids[row]}{_shard(data, row)}): {reason}"


def _shard(data: Data, row: int) -> str:
    """The tar file that an image lies in, since its id does not name it; empty for other images."""
    image = data.dataset.select_columns("image").with_format("arrow")[row]["image"][0].as_py()
    path = str((image or {}).get("path"))
    return f" in {path.rsplit('::', maxsplit=1)[-1]}" if path.startswith("tar://") else ""


def _lines(data: Data, broken: list[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(_line(data, row, reason) for row, reason in broken)

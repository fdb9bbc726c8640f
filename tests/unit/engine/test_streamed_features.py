"""Features of a data set: streamed to the disk, whatever their number."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.engine.embed import stream_features, write_features
from benchmark.ledger.store import Store

WIDTH = 4096


class Tower:
    """A model that gives the mean of an image and a wide tap of it."""

    device = torch.device("cpu")
    module = torch.nn.Identity()

    def encode_image_with(self, batch: torch.Tensor, taps: list[str]) -> dict[str, torch.Tensor]:
        mean = batch.float().mean(dim=(1, 2, 3))[:, None]
        return {"image": mean, "penultimate": mean.repeat(1, WIDTH)}


class Images:
    """So many tiny images, made as they are asked for."""

    def __init__(self, count: int) -> None:
        self.rows = np.arange(count)

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int) -> Any:
        for start in range(0, len(self.rows), size):
            some = self.rows[start : start + size] % 251
            yield np.broadcast_to(some[:, None, None, None], (len(some), 3, 2, 2)).astype(np.uint8)


def write(store: Store, count: int) -> tuple[dict[str, Any], int]:
    """The features of so many images as they were written, and how many were run."""
    ran: list[int] = []
    outputs = stream_features(Tower(), Images(count).batches(64), ran.append, ["penultimate"])  # type: ignore[arg-type]
    places: dict[str, Any] = {}
    with store.writing(f"{count:02d}") as writer:

        def room(name: str, shape: tuple[int, ...]) -> Any:
            return places.setdefault(name, writer.room(name, shape))

        write_features(outputs, count, ["image", "penultimate"], room)
        return {name: np.array(place[:, :1]) for name, place in places.items()}, sum(ran)


def peak(store: Store, count: int) -> int:
    tracemalloc.start()
    try:
        write(store, count)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Ten times the images: 60 MB of features more, none of them held."""
    store = Store(tmp_path)
    peak(store, 64)  # what is made once
    few, many = peak(store, 400), peak(store, 4000)
    assert many < 1.2 * few + 2**20


@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
def test_each_image_stands_in_its_row(tmp_path: Path, count: int) -> None:
    found, ran = write(Store(tmp_path), count)
    expected = (np.arange(count) % 251).astype(np.float32)[:, None]
    np.testing.assert_array_equal(found["image"], expected)
    np.testing.assert_array_equal(found["penultimate"], expected)
    assert ran == count

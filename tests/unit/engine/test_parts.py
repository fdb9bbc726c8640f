"""Features of a data set: streamed to the disk, whatever their number; images that others have are not run again."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.engine.parts import Part
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
        self.ids = np.array([f"{i:05d}" for i in range(count)])

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, keep: NDArray[np.bool_] | None = None) -> Any:
        rows = self.rows if keep is None else self.rows[keep]
        for start in range(0, len(rows), size):
            some = rows[start : start + size] % 251
            yield np.broadcast_to(some[:, None, None, None], (len(some), 3, 2, 2)).astype(np.uint8)


def data(ids: NDArray[np.str_], name: str = "own") -> Any:
    return SimpleNamespace(sample_ids=ids, name=name)


def key(of: Any, array: str) -> str:
    return f"{of.name}-{array}"


def part(store: Store, count: int, others: list[Any]) -> Part:
    images = Images(count)
    return Part(data(images.ids), others, ["image", "penultimate"], images, key, store)  # type: ignore[arg-type]


def run(store: Store, one: Part, room: Any) -> tuple[dict[str, Any], int]:
    """The features, and how many images were run."""
    ran: list[int] = []
    return one.features(Tower(), 64, ran.append, room), sum(ran)  # type: ignore[arg-type]


def peak(store: Store, count: int) -> int:
    one = part(store, count, [])
    tracemalloc.start()
    try:
        with store.writing(f"{count:02d}") as writer:
            run(store, one, writer.room)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Ten times the images: 60 MB of features more, none of them held."""
    store = Store(tmp_path)
    peak(store, 64)  # what is made once
    few, many = peak(store, 400), peak(store, 4000)
    assert many < 1.2 * few + 2**20


@pytest.mark.parametrize("have", [[], [0, 1, 2], [5, 7, 299], list(range(300))])
def test_images_of_others_are_not_run_again(tmp_path: Path, have: list[int]) -> None:
    store = Store(tmp_path)
    ids = Images(300).ids
    other = data(ids[have], "other")
    if have:
        values = (np.array(have) % 251).astype(np.float32)[:, None]
        rows = np.arange(len(have))
        store.put(key(other, "image"), {"image": values, "rows": rows})
        store.put(key(other, "penultimate"), {"penultimate": values.repeat(WIDTH, 1), "rows": rows})
    with store.writing("new") as writer:
        found, ran = run(store, part(store, 300, [other]), writer.room)
        expected = (np.arange(300) % 251).astype(np.float32)[:, None]
        np.testing.assert_array_equal(found["image"], expected)
        np.testing.assert_array_equal(found["penultimate"], expected.repeat(WIDTH, 1))
    assert ran == 300 - len(have)

"""The array store: whole entries or none, damage found, size kept, writers side by side."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import StorageError
from benchmark.ledger.arrays import ArrayStore

KEY = "ab" + "0" * 62
OTHER = "cd" + "1" * 62
ARRAYS = {
    "image": np.arange(12, dtype=np.float32).reshape(3, 4),
    "label": np.array([1, -1, 0]),
    "sample_id": np.array(["a", "bb", "ä/c"]),
}


def same(found: dict[str, Any] | None, expected: dict[str, Any]) -> bool:
    return (
        found is not None
        and found.keys() == expected.keys()
        and all(
            np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in expected.items()
        )
    )


def test_what_is_put_is_got(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path)
    assert store.get(KEY) is None
    assert KEY not in store
    assert same(store.put(KEY, ARRAYS), ARRAYS)
    assert KEY in store
    assert same(ArrayStore(tmp_path).get(KEY), ARRAYS)
    assert store.damaged == []


def test_arrays_are_memory_mapped_and_read_only(tmp_path: Path) -> None:
    found = ArrayStore(tmp_path).put(KEY, ARRAYS)["image"]
    assert isinstance(found, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 5), np.float32), np.array(3.5), np.zeros((2, 0)), np.array([True]), np.array([], dtype=np.str_)],
    ids=["no rows", "number", "no columns", "bool", "no text"],
)
def test_unusual_shapes_come_back(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    store = ArrayStore(tmp_path)
    assert same(store.put(KEY, {"x": array}), {"x": array})
    assert same(ArrayStore(tmp_path).get(KEY), {"x": array})


def test_nothing_half_written_is_ever_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that dies at any moment before the rename leaves no entry, and no litter when it only fails."""
    store = ArrayStore(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr("benchmark.ledger.arrays.os.fsync" if name == "fsync" else "pathlib.Path.rename", fail)
            with pytest.raises(StorageError, match="No space left"):
                store.put(KEY, ARRAYS)
        assert KEY not in store
        assert not list(tmp_path.glob(".tmp-*"))
    assert same(store.put(KEY, ARRAYS), ARRAYS)


@given(data=st.data())
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_flipped_bit_is_found(tmp_path: Path, data: st.DataObject) -> None:
    """The same arrays come back (the bit meant nothing), or the entry is gone and reported."""
    if not (tmp_path / "whole").exists():
        ArrayStore(tmp_path / "whole").put(KEY, ARRAYS)
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "store")
    folder = ArrayStore(tmp_path / "store").path(KEY)
    path = folder / data.draw(st.sampled_from(sorted(p.name for p in folder.iterdir())))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    store = ArrayStore(tmp_path / "store")
    found = store.get(KEY)
    if found is None:
        assert KEY in store.damaged[0]
        assert KEY not in store
        assert not folder.exists()
    else:
        assert same(found, ARRAYS)


@pytest.mark.parametrize(
    "content", ["", "5", "[]", "null", '{"sha256": []}', '{"sha256": 5}', '{"sha256": {"x": 1}}', '{"sha256": {}}']
)
def test_a_damaged_description_is_found(tmp_path: Path, content: str) -> None:
    ArrayStore(tmp_path).put(KEY, ARRAYS)
    store = ArrayStore(tmp_path)
    (store.path(KEY) / "meta.json").write_text(content)
    assert store.get(KEY) is None
    assert store.damaged
    assert same(store.put(KEY, ARRAYS), ARRAYS)


@pytest.mark.parametrize("missing", ["image.npy", "meta.json"])
def test_an_entry_half_removed_by_a_killed_process_is_made_anew(tmp_path: Path, missing: str) -> None:
    ArrayStore(tmp_path).put(KEY, ARRAYS)
    store = ArrayStore(tmp_path)
    (store.path(KEY) / missing).unlink()
    assert store.get(KEY) is None
    assert same(store.put(KEY, ARRAYS), ARRAYS)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    megabyte = {"x": np.zeros(2**17)}
    store = ArrayStore(tmp_path, budget=int(3.5 * 2**20))
    keys = [f"{i:02d}" + "e" * 62 for i in range(5)]
    for place, key in enumerate(keys[:3]):
        store.put(key, megabyte)
        os.utime(store.path(key) / "meta.json", (place, place))
    assert store.get(keys[0]) is not None  # used now, so no longer the oldest
    store.put(keys[3], megabyte)
    assert [key in store for key in keys[:4]] == [True, False, True, True]
    store.put(keys[4], megabyte)
    assert sum(key in store for key in keys) == 3
    assert keys[4] in store


def test_an_entry_larger_than_the_budget_is_still_usable(tmp_path: Path) -> None:
    store = ArrayStore(tmp_path, budget=10)
    assert same(store.put(KEY, ARRAYS), ARRAYS)
    assert same(store.put(OTHER, ARRAYS), ARRAYS)
    assert KEY not in store


def test_litter_of_dead_writers_is_swept_after_a_day(tmp_path: Path) -> None:
    for name, age in (("old", 2 * 24 * 3600), ("young", 60)):
        place = tmp_path / f".tmp-{name}"
        place.mkdir()
        (place / "image.npy").write_bytes(b"x")
        os.utime(place, (time.time() - age, time.time() - age))
    ArrayStore(tmp_path).put(KEY, ARRAYS)
    assert not (tmp_path / ".tmp-old").exists()
    assert (tmp_path / ".tmp-young").exists()


def test_an_unwritable_folder_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        ArrayStore(tmp_path / "file" / "cache").put(KEY, ARRAYS)


def _write_many(folder: Path, seed: int, gate: Any, results: Any) -> None:
    store = ArrayStore(folder, budget=40_000)
    gate.wait()
    try:
        for round_ in range(30):
            number = round_ % 6
            array = np.full(1000, number, dtype=np.float64)
            key = f"{number:02d}" + "f" * 62
            found = store.get(key) or store.put(key, {"x": array})
            if not np.array_equal(found["x"], array):
                results.put(f"writer {seed}: other numbers")
                return
        results.put(store.damaged or "fine")
    except Exception as error:
        results.put(f"writer {seed}: {type(error).__name__}: {error}")


def test_two_processes_write_and_evict_the_same_keys(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_write_many, args=(tmp_path, i, gate, results)) for i in range(2)]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert answers == ["fine", "fine"]
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_what_cannot_be_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A failing disk, no permission, too many open files: the entry stays, and the reason is said."""
    ArrayStore(tmp_path).put(KEY, ARRAYS)
    store = ArrayStore(tmp_path)

    def refuse(*_: object) -> str:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("benchmark.ledger.arrays._sha256", refuse)
        with pytest.raises(StorageError, match=f"cannot be read: {os.strerror(code)}"):
            store.get(KEY)
    assert store.damaged == []
    assert same(store.get(KEY), ARRAYS)


def test_scratch_takes_its_room_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArrayStore(tmp_path)
    with store.scratch() as room:
        array = room((3, 4))
        array[:] = ARRAYS["image"]
        assert same(store.put(KEY, {"image": array}), {"image": ARRAYS["image"]})
    assert not list(tmp_path.glob(".tmp-*"))

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="cannot be written: No space left"), store.scratch() as room:
        room((3, 4))
    assert not list(tmp_path.glob(".tmp-*"))

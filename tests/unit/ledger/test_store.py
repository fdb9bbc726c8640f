"""The store: whole entries or none, damage found, size kept, writers side by side, arrays larger than memory."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import StorageError
from benchmark.ledger import store as store_module
from benchmark.ledger.store import Store

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
    store = Store(tmp_path)
    assert store.get(KEY) is None
    assert KEY not in store
    assert same(store.put(KEY, ARRAYS), ARRAYS)
    assert KEY in store
    assert same(Store(tmp_path).get(KEY), ARRAYS)
    assert store.damaged == []


def test_arrays_are_memory_mapped_and_read_only(tmp_path: Path) -> None:
    found = Store(tmp_path).put(KEY, ARRAYS)["image"]
    assert isinstance(found, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 5), np.float32), np.array(3.5), np.zeros((2, 0)), np.array([True]), np.array([], dtype=np.str_)],
    ids=["no rows", "number", "no columns", "bool", "no text"],
)
def test_unusual_shapes_come_back(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    store = Store(tmp_path)
    assert same(store.put(KEY, {"x": array}), {"x": array})
    assert same(Store(tmp_path).get(KEY), {"x": array})


def test_nothing_half_written_is_ever_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that dies at any moment before the rename leaves no entry, and no litter when it only fails."""
    store = Store(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync" if name == "fsync" else "pathlib.Path.rename", fail)
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
        Store(tmp_path / "whole").put(KEY, ARRAYS)
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "store")
    folder = Store(tmp_path / "store").path(KEY)
    path = folder / data.draw(st.sampled_from(sorted(p.name for p in folder.iterdir())))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    store = Store(tmp_path / "store")
    found = store.get(KEY)
    if found is None:
        assert KEY in store.damaged[0]
        assert KEY not in store
        assert not folder.exists()
    else:
        assert same(found, ARRAYS)


@pytest.mark.parametrize(
    "content", ["", "5", "[]", "null", "{}", '{"sha256": 5}', '{"arrays": {}, "info": {}}', '{"sha256": NaN}', "\xff"]
)
def test_a_damaged_description_is_found(tmp_path: Path, content: str) -> None:
    Store(tmp_path).put(KEY, ARRAYS)
    store = Store(tmp_path)
    (store.path(KEY) / "meta.json").write_text(content)
    assert store.get(KEY) is None
    assert store.damaged
    assert same(store.put(KEY, ARRAYS), ARRAYS)


@pytest.mark.parametrize("missing", ["image.bin", "meta.json"])
def test_an_entry_half_removed_by_a_killed_process_is_made_anew(tmp_path: Path, missing: str) -> None:
    Store(tmp_path).put(KEY, ARRAYS)
    store = Store(tmp_path)
    (store.path(KEY) / missing).unlink()
    assert store.get(KEY) is None
    assert same(store.put(KEY, ARRAYS), ARRAYS)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    megabyte = {"x": np.zeros(2**17)}
    store = Store(tmp_path, budget=int(3.5 * 2**20))
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
    store = Store(tmp_path, budget=10)
    assert same(store.put(KEY, ARRAYS), ARRAYS)
    assert same(store.put(OTHER, ARRAYS), ARRAYS)
    assert KEY not in store


def _leave(folder: Path, key: str, gate: Any) -> None:
    with Store(folder).writing(key) as writer:
        writer.append("x", np.zeros((4, 4)))
        gate.wait()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(2)
    writer = context.Process(target=_leave, args=(tmp_path, KEY, gate))
    writer.start()
    store = Store(tmp_path)
    with store.writing(OTHER) as other:
        other.add("x", np.zeros(3))
        gate.wait()  # it is killed after this one has begun, which would remove what it left
        writer.join()
        assert KEY not in store
        assert len(list(tmp_path.glob(".tmp-*"))) == 2
        store.put(KEY, ARRAYS)  # the other's, which still runs, stays
        assert len(list(tmp_path.glob(".tmp-*"))) == 1
    assert same(store.get(OTHER), {"x": np.zeros(3)})
    assert not list(tmp_path.glob(".tmp-*"))


def test_litter_of_writers_elsewhere_is_removed_after_a_day(tmp_path: Path) -> None:
    """Whether they are alive cannot be seen from here, only when they last wrote."""
    for name, folder_age, file_age in (("old", 48, 48), ("long", 48, 0), ("young", 1, 1)):
        place = tmp_path / f".tmp-{name}%20host%2012%20boot%3A1%3A5-{'0' * 32}"
        place.mkdir()
        (place / "image.bin").write_bytes(b"x")
        for path, hours in ((place / "image.bin", file_age), (place, folder_age)):
            os.utime(path, (time.time() - hours * 3600,) * 2)
    Store(tmp_path).put(KEY, ARRAYS)
    assert {path.name[5:].partition("%")[0] for path in tmp_path.glob(".tmp-*")} == {"long", "young"}


def test_an_unwritable_folder_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        Store(tmp_path / "file" / "cache").put(KEY, ARRAYS)


def _write_many(folder: Path, seed: int, gate: Any, results: Any) -> None:
    store = Store(folder, budget=40_000)
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
    Store(tmp_path).put(KEY, ARRAYS)
    store = Store(tmp_path)

    def refuse(*_: object) -> str:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("hashlib.sha256", refuse)
        with pytest.raises(StorageError, match=f"cannot be read: {os.strerror(code)}"):
            store.get(KEY)
    assert store.damaged == []
    assert same(store.get(KEY), ARRAYS)


def test_an_array_is_written_in_place_and_takes_its_room_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    with store.writing(KEY) as writer:
        writer.room("image", (3, 4))[:] = ARRAYS["image"]
    assert same(writer.entry, {"image": ARRAYS["image"]})
    assert same(Store(tmp_path).get(KEY), {"image": ARRAYS["image"]})

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="cannot be written: No space left"), store.writing(OTHER) as writer:
        writer.room("image", (3, 4))
    assert OTHER not in store
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_array_is_written_chunk_by_chunk_and_checked_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BLOCK", 1000)
    whole = np.arange(3000, dtype=np.uint8).reshape(100, 30)
    with Store(tmp_path).writing(KEY, whole.nbytes) as writer:
        for rows in (whole[:0], whole[:7], whole[7:64], whole[64:]):
            writer.append("pixels", rows)
        with pytest.raises(ValueError, match="cannot be followed"):
            writer.append("pixels", whole[:, :5])
        writer.info["broken"] = [[3, "cut off"]]
    entry = Store(tmp_path).get(KEY)
    assert same(entry, {"pixels": whole})
    assert entry is not None
    assert entry.info == {"broken": [[3, "cut off"]]}
    for place in (0, 1000, 2999):
        file = Store(tmp_path).path(KEY) / "pixels.bin"
        content = bytearray(file.read_bytes())
        content[place] ^= 1
        file.write_bytes(content)
        store = Store(tmp_path)
        assert store.get(KEY) is None
        assert "pixels.bin does not match its digest" in store.damaged[0]
        store.put(KEY, {"pixels": whole})


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def rows() -> Iterator[Any]:
        yield np.zeros((4, 3))
        raise KeyboardInterrupt

    def write() -> None:
        with store.writing(KEY) as writer:
            for chunk in rows():
                writer.append("x", chunk)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert KEY not in store
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_entry_may_be_values_alone(tmp_path: Path) -> None:
    Store(tmp_path).put(KEY, {}, {"p": 0.1, "why": "ä"})
    entry = Store(tmp_path).get(KEY)
    assert entry is not None
    assert (dict(entry), entry.info) == ({}, {"p": 0.1, "why": "ä"})


def test_a_folder_that_can_only_be_read_gives_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A colleague's cache on a shared disk, say; what is damaged there is missing, and stays."""
    Store(tmp_path).put(KEY, ARRAYS)
    Store(tmp_path).put(OTHER, ARRAYS)
    (Store(tmp_path).path(OTHER) / "image.bin").write_bytes(b"x")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "rename", refuse)
    store = Store(tmp_path)
    assert same(store.get(KEY), ARRAYS)
    assert store.get(OTHER) is None
    assert len(store.damaged) == 1


def test_an_entry_that_another_process_replaced_is_checked_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(KEY, ARRAYS)
    shutil.rmtree(store.path(KEY))
    Store(tmp_path).put(KEY, ARRAYS)
    file = store.path(KEY) / "label.bin"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert store.get(KEY) is None


def test_the_budget_holds_and_who_has_an_entry_mapped_keeps_it(tmp_path: Path) -> None:
    store = Store(tmp_path, budget=96)
    assert (store.used(), store.fits(96), store.fits(97)) == (0, True, False)
    mapped = store.put(KEY, {"image": ARRAYS["image"]})["image"]
    store.put(OTHER, {"image": ARRAYS["image"]})
    assert store.used() == 96
    os.utime(store.path(KEY) / "meta.json", (1, 1))
    store.put("ef" + "2" * 62, {"image": ARRAYS["image"]})
    assert (KEY in store, OTHER in store, store.used()) == (False, True, 96)
    np.testing.assert_array_equal(mapped, ARRAYS["image"])


def _race(folder: Path, gate: Any, results: Any) -> None:
    store, made = Store(folder), 0
    gate.wait()
    try:
        for number in range(12):
            key = f"{number:064x}"
            if store.get(key) is None:
                with store.lock(key):
                    if store.get(key) is None:
                        made += 1
                        with store.writing(key) as writer:
                            for part in range(5):
                                writer.append("x", np.full((4, 4), number + part, np.uint8))
                                time.sleep(0.001)
            found = store.get(key)
            assert found is not None
            assert (found["x"] == np.repeat(np.arange(5) + number, 4)[:, None]).all()
        results.put(made)
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")


def test_under_a_lock_each_entry_is_made_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_race, args=(tmp_path, gate, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(answers) == 12

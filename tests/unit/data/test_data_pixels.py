"""The pixel cache: atomic, checked, bounded, shared between processes; streams give the same pixels."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from benchmark.data import PixelCache, corruptions, expand, open_data
from benchmark.data import pixels as pixels_module
from benchmark.data.chunks import Chunk, chunk_rows
from benchmark.errors import DataError, StorageError
from benchmark.ledger.store import Store
from benchmark.models.base import Preprocess
from benchmark.spec import DataSpec
from tests import layouts

P32 = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
BYTES = 20 * 3 * 32 * 32


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    layouts.write_image_folder(tmp_path / "data", ["ant", "bee", "cat"])
    return DataSpec(source="image_folder", path=str(tmp_path / "data"))


def broken(tmp_path: Path) -> DataSpec:
    """Image 2 of class ant is cut off."""
    file = sorted((tmp_path / "data" / "ant").iterdir())[2]
    file.write_bytes(file.read_bytes()[:100])
    return DataSpec(source="image_folder", path=str(tmp_path / "data"))


def entry(cache: PixelCache) -> Path:
    (found,) = cache.store.folder.glob("??/*")
    return found


def no_decoding(*_: object) -> None:
    raise AssertionError("decoded again")


def test_stored_once_and_read_by_the_next_process(
    spec: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = PixelCache(tmp_path / "cache", 10**8).open(open_data(spec, "pictures"), P32)
    assert first.stored
    assert isinstance(first.array, np.memmap)
    assert first.array.shape == (20, 3, 32, 32)
    monkeypatch.setattr(pixels_module, "decode_chunks", no_decoding)
    again = PixelCache(tmp_path / "cache", 10**8).open(open_data(spec, "another name"), P32)
    np.testing.assert_array_equal(first.array, again.array)
    assert first.digest == again.digest
    assert not os.access(first.array.filename, os.W_OK) or not again.array.flags.writeable


def test_a_folder_that_can_only_be_read_gives_what_it_has(
    spec: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague's cache on a shared disk, say."""
    first = PixelCache(tmp_path / "c", 10**8).open(open_data(spec, "d"), P32)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Store, "lock", refuse)
    again = PixelCache(tmp_path / "c", 10**8).open(open_data(spec, "d"), P32)
    assert np.array_equal(first.array, again.array)


def test_the_budget_zero_streams_the_same_pixels(spec: DataSpec, tmp_path: Path) -> None:
    stored = PixelCache(tmp_path / "cache", 10**8).open(open_data(spec, "pictures"), P32)
    streamed = PixelCache(tmp_path / "none", 0).open(open_data(spec, "pictures"), P32)
    assert not streamed.stored
    assert not (tmp_path / "none").exists()
    assert streamed.digest == stored.digest
    np.testing.assert_array_equal(streamed.array, stored.array)
    for size in (1, 7, 20, 64):
        for pixels in (stored, streamed):
            batches = list(pixels.batches(size))
            assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
            np.testing.assert_array_equal(np.concatenate(batches), stored.array)
            batches[0][:] = 0  # a batch is a copy: the store does not change
    np.testing.assert_array_equal(streamed.array, stored.array)


def test_mean_and_deviation_share_the_pixels_and_the_size_does_not(spec: DataSpec, tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "cache", 10**8)
    first = cache.open(open_data(spec, "pictures"), P32)
    assert cache.open(open_data(spec, "pictures"), Preprocess((32, 32), (0.1,) * 3, (0.2,) * 3)).digest == first.digest
    other = cache.open(open_data(spec, "pictures"), Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3, resize="squash"))
    assert other.digest != first.digest


@pytest.mark.parametrize("damage", ["flipped", "cut", "no array", "no meta", "meta cut", "meta changed"])
def test_damage_is_found_said_and_made_again(spec: DataSpec, tmp_path: Path, damage: str) -> None:
    good = np.array(PixelCache(tmp_path / "cache", 10**8).open(open_data(spec, "pictures"), P32).array)
    cache = PixelCache(tmp_path / "cache", 10**8)
    array, meta = entry(cache) / "pixels.bin", entry(cache) / "meta.json"
    if damage == "flipped":
        raw = bytearray(array.read_bytes())
        raw[-1] ^= 1
        array.write_bytes(bytes(raw))
    elif damage == "cut":
        array.write_bytes(array.read_bytes()[:-1])
    elif damage == "no array":
        array.unlink()
    elif damage == "no meta":
        meta.unlink()
    elif damage == "meta cut":
        meta.write_text(meta.read_text()[:40])
    else:
        meta.write_text(meta.read_text().replace('"broken":[]', '"broken":[[3,"hidden"]]'))
    np.testing.assert_array_equal(cache.open(open_data(spec, "pictures"), P32).array, good)
    assert len(cache.store.damaged) == (damage != "no meta")  # without it, it was no entry


def test_a_writer_that_is_interrupted_leaves_nothing(
    spec: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PixelCache(tmp_path / "cache", 10**8)

    def interrupted(*_: object) -> Iterator[Chunk]:
        yield Chunk(np.zeros((4, 3, 32, 32), np.uint8))
        raise KeyboardInterrupt

    monkeypatch.setattr(pixels_module, "decode_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.open(open_data(spec, "pictures"), P32)
    assert not list((tmp_path / "cache").glob(".tmp-*"))
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_versions_of_one_data_set_never_wait_for_their_own_lock(spec: DataSpec, tmp_path: Path) -> None:
    """Keys share lock files: the images behind a corrupted version are made before its lock is taken."""
    cache = PixelCache(tmp_path / "cache", 10**8)
    held: list[str] = []
    real = cache.store.lock

    @contextmanager
    def lock(key: str) -> Iterator[None]:
        assert not held
        held.append(key)
        with real(key):
            yield
        held.pop()

    cache.store.lock = lock  # type: ignore[method-assign]
    cache.open(open_data(spec.model_copy(update={"corruption": "contrast", "severity": 5}), "pictures"), P32)
    assert len(list((tmp_path / "cache").rglob("*.bin"))) == 2


def test_a_changed_file_is_decoded_again(spec: DataSpec, tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "cache", 10**8)
    before = np.array(cache.open(open_data(spec, "pictures"), P32).array)
    file = sorted((tmp_path / "data" / "ant").iterdir())[0]
    file.write_bytes(layouts.encoded(layouts.picture(99), file.suffix[1:]))
    after = np.array(cache.open(open_data(spec, "pictures"), P32).array)
    assert (before != after).any(axis=(1, 2, 3)).sum() == 1


def test_the_least_recently_used_entry_is_evicted(spec: DataSpec, tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "cache", 2 * BYTES + 100)
    sizes = [Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3, fill=fill) for fill in range(3)]
    digests = []
    for p in sizes[:2]:
        digests.append(cache.open(open_data(spec, "pictures"), p).digest)
        time.sleep(0.02)
    mapped = cache.open(open_data(spec, "pictures"), sizes[0])  # now sizes[1] is the oldest
    time.sleep(0.02)
    held = np.array(mapped.array)
    digests.append(cache.open(open_data(spec, "pictures"), sizes[2]).digest)
    assert [d in cache.store for d in digests] == [True, False, True]
    assert cache.store.used() <= cache.store.budget
    shutil.rmtree(cache.store.path(digests[0]))
    np.testing.assert_array_equal(mapped.array, held)  # who has it mapped keeps it


def test_an_entry_larger_than_the_budget_is_streamed(spec: DataSpec, tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "cache", BYTES - 1)
    assert not cache.open(open_data(spec, "pictures"), P32).stored
    assert PixelCache(tmp_path / "cache", BYTES).open(open_data(spec, "pictures"), P32).stored


def test_a_broken_image_is_named_by_file_and_row(spec: DataSpec, tmp_path: Path) -> None:
    spec = broken(tmp_path)
    for budget in (0, 10**8):
        cache = PixelCache(tmp_path / "cache", budget)
        with pytest.raises(DataError, match=r"data set 'pictures': image 2 \(ant/s.*\): broken image") as error:
            np.array(cache.open(open_data(spec, "pictures"), P32).array)
        assert "\n" not in str(error.value)


def test_broken_images_are_skipped_and_counted_on_request(spec: DataSpec, tmp_path: Path) -> None:
    whole = np.array(PixelCache(tmp_path / "cache", 10**8).open(open_data(spec, "pictures"), P32).array)
    spec = broken(tmp_path)
    for budget in (0, 10**8):
        pixels = PixelCache(tmp_path / "cache", budget, skip_broken=True).open(open_data(spec, "pictures"), P32)
        assert len(pixels) == len(pixels.ids) == len(pixels.labels) == 19
        assert 2 not in pixels.rows
        assert len(pixels.skipped) == 1
        assert "image 2 (ant/" in pixels.skipped[0]
        np.testing.assert_array_equal(pixels.array, np.delete(whole, 2, axis=0))
    with pytest.raises(DataError, match="image 2"):  # stored with a gap, but now every image is wanted
        PixelCache(tmp_path / "cache", 10**8).open(open_data(spec, "pictures"), P32)


def test_corrupted_versions_skip_the_same_images(spec: DataSpec, tmp_path: Path) -> None:
    spec = broken(tmp_path).model_copy(update={"corruption": "contrast", "severity": 5})
    for budget in (0, 10**8):
        pixels = PixelCache(tmp_path / "cache", budget, skip_broken=True).open(open_data(spec, "pictures"), P32)
        assert len(pixels) == len(pixels.array) == 19
        assert "image 2 (ant/" in pixels.skipped[0]


def test_only_broken_images_is_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.jpg").write_bytes(b"no image")
    spec = DataSpec(source="image_folder", path=str(tmp_path / "data"))
    with pytest.raises(DataError, match="none of its 2 images"):
        PixelCache(tmp_path / "cache", 10**8, skip_broken=True).open(open_data(spec, "pictures"), P32)


def test_a_deleted_image_is_named(spec: DataSpec, tmp_path: Path) -> None:
    data = open_data(spec, "pictures")
    sorted((tmp_path / "data" / "bee").iterdir())[0].unlink()
    with pytest.raises(DataError, match=r"image 7 \(bee/.*cannot be read"):
        PixelCache(tmp_path / "cache", 10**8).open(data, P32)


def test_an_unwritable_folder_is_named(spec: DataSpec, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"the cache .*file.* cannot be written"):
        PixelCache(tmp_path / "file" / "cache", 10**8).open(open_data(spec, "pictures"), P32)


def test_names_of_data_sets_never_become_paths(spec: DataSpec, tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "cache", 10**8)
    cache.open(open_data(spec, "../../evil"), P32)
    made = {p.name for p in tmp_path.iterdir()}
    assert made == {"data", "cache"}
    assert all("evil" not in p.name for p in (tmp_path / "cache").iterdir())


def test_corrupted_versions_are_made_once_and_do_not_depend_on_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts.write_image_folder(tmp_path / "data", ["ant", "bee"], count=150)
    spec = DataSpec(source="image_folder", path=str(tmp_path / "data"))
    monkeypatch.setattr(pixels_module, "POOL_AFTER", -1.0)
    group = expand("p", spec.model_copy(update={"corruptions": ("gaussian_noise", "glass_blur"), "severities": (1, 5)}))
    arrays = {}
    for workers in (0, 2):
        cache = PixelCache(tmp_path / f"cache{workers}", 10**8)
        arrays[workers] = [np.array(cache.open(open_data(s, n), P32, workers=workers).array) for n, s in group.items()]
    for one, two in zip(arrays[0], arrays[2], strict=True):
        np.testing.assert_array_equal(one, two)
    assert len({a.tobytes() for a in arrays[0]}) == 4
    monkeypatch.setattr(corruptions, "corrupt_pixels", no_decoding)
    monkeypatch.setattr(pixels_module, "decode_chunks", no_decoding)
    cache = PixelCache(tmp_path / "cache0", 10**8)
    for array, (name, version) in zip(arrays[0], group.items(), strict=True):
        np.testing.assert_array_equal(cache.open(open_data(version, name), P32).array, array)


def test_a_corrupted_image_depends_on_its_id_only(tmp_path: Path) -> None:
    """A limit, and with it other neighbours in the batch, changes nothing."""
    layouts.write_image_folder(tmp_path / "data", ["ant", "bee"], count=40)
    spec = DataSpec(source="image_folder", path=str(tmp_path / "data"), corruption="elastic_transform", severity=3)
    cache = PixelCache(tmp_path / "cache", 0)
    whole = cache.open(open_data(spec, "p"), P32)
    part = cache.open(open_data(spec.model_copy(update={"limit": 9}), "p"), P32)
    where = np.searchsorted(np.asarray(whole.ids), np.asarray(part.ids))
    np.testing.assert_array_equal(part.array, whole.array[where])


@pytest.mark.parametrize("skipped", [False, True])
def test_batches_from_a_stream_are_those_from_the_store(tmp_path: Path, skipped: bool) -> None:
    """Over several chunks, also where a broken image is left out before them."""
    layouts.write_image_folder(tmp_path / "data", ["ant", "bee"], count=140)
    spec = broken(tmp_path) if skipped else DataSpec(source="image_folder", path=str(tmp_path / "data"))
    for budget in (0, 10**8):
        cache = PixelCache(tmp_path / f"cache{budget}", budget, skip_broken=skipped)
        pixels = cache.open(open_data(spec, "pictures"), P32)
        assert len(pixels) == 140 - skipped > 2 * chunk_rows(P32.size)
        np.testing.assert_array_equal(np.concatenate(list(pixels.batches(16))), pixels.array)

"""The contract of a data source."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from benchmark.data import PixelCache, check_data, data_digest, open_data, sources
from benchmark.data.decode import decode, read_bytes
from benchmark.data.sources.base import IMAGE_COLUMNS, Source, SourceOptions
from benchmark.errors import DataError, ReliquantError, SpecError
from benchmark.models.base import Preprocess
from benchmark.spec import DataSpec
from benchmark.testing.registering import register

PREPROCESS = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)


class SourceContract(ABC):
    """What every data source must satisfy. Set `source`, and write at least four images of it in `write`.

    A source with `needs_path` is also tried on a missing path, an empty folder, a moved folder and changed files.
    """

    source: ClassVar[Source[Any]]

    @abstractmethod
    def write(self, folder: Path) -> DataSpec:
        """Write a small data set below `folder`, which need not exist yet; returns the specification that reads it."""

    @pytest.fixture(autouse=True)
    def _fresh(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The source is registered, and `datasets` caches within the test's folder."""
        import datasets

        register(sources, self.source)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")

    @pytest.fixture
    def spec(self, tmp_path: Path) -> DataSpec:
        """The specification of the small data set, which lies in `tmp_path / "data"`."""
        return self.write(tmp_path / "data")

    @pytest.fixture
    def on_disk(self) -> None:
        """Skips the checks that only make sense for files."""
        if not self.source.needs_path:
            pytest.skip("this source reads no path")

    def test_declaration(self) -> None:
        """What `reliquant list data` and the content hashes rely on."""
        assert isinstance(self.source, Source)
        assert self.source.version >= 1
        assert self.source.title
        assert "\n" not in self.source.title
        assert issubclass(self.source.options, SourceOptions)

    def test_columns_labels_and_ids(self, spec: DataSpec) -> None:
        """Undecoded images, integer labels from -1 up, unique ids."""
        import datasets

        loaded = self.source.load(spec)
        assert isinstance(loaded.dataset, datasets.Dataset)
        assert set(IMAGE_COLUMNS) <= set(loaded.dataset.column_names)
        assert isinstance(loaded.dataset.features["image"], datasets.Image)
        ids = loaded.dataset["sample_id"][:]
        assert len(set(ids)) == len(ids) >= 4
        labels = np.asarray(loaded.dataset["label"][:])
        assert labels.dtype.kind == "i"
        assert labels.min() >= -1
        images = loaded.dataset.with_format("arrow")
        for row in (0, len(ids) - 1):
            assert decode(read_bytes(images[row].to_pylist()[0])).mode == "RGB"

    def test_opening_twice_gives_the_same(self, spec: DataSpec) -> None:
        """Labels, ids, names and digest do not depend on what was opened before."""
        check_data(spec, "pictures")
        first = open_data(spec, "pictures")
        second = open_data(spec, "pictures")
        assert first.digest == second.digest == data_digest(spec)
        np.testing.assert_array_equal(first.labels, second.labels)
        np.testing.assert_array_equal(first.sample_ids, second.sample_ids)
        assert first.class_names == second.class_names
        assert first.templates == second.templates
        assert first.labels.dtype == np.int64

    def test_a_description_has_the_columns_of_the_table(self, spec: DataSpec) -> None:
        """Whatever the source says without its images, it says with them too."""
        loaded, told = self.source.load(spec), self.source.describe(spec)
        assert replace(told, dataset=None) == replace(loaded, dataset=None)
        assert {*told.dataset.column_names, "image"} == set(loaded.dataset.column_names)
        for column in {*told.dataset.column_names} - {"image"}:
            assert list(told.dataset[column]) == list(loaded.dataset[column][:]), column

    def test_single_images_are_those_of_the_table(self, spec: DataSpec) -> None:
        """In the order asked for, of a subset too."""
        data = open_data(spec, "pictures")
        few = open_data(spec.model_copy(update={"limit": 3}), "pictures")
        table = [read_bytes(row) for row in data.dataset.with_format("arrow")[:].to_pylist()]
        assert data.encoded([3, 0]) == [table[3], table[0]]
        assert data.encoded([]) == []
        ids = data.sample_ids.tolist()
        assert few.encoded([2, 1]) == [table[ids.index(few.sample_ids[row])] for row in (2, 1)]

    def test_limits_nest_and_keep_the_order(self, spec: DataSpec) -> None:
        """A smaller limit chooses a part of what a larger one chooses."""
        small, large = (open_data(spec.model_copy(update={"limit": limit}), "pictures") for limit in (2, 4))
        assert len(small) == 2
        assert len(large) == 4
        assert [i for i in large.sample_ids if i in set(small.sample_ids)] == list(small.sample_ids)
        assert small.digest != large.digest

    def test_pixels_do_not_depend_on_workers(self, spec: DataSpec, tmp_path: Path) -> None:
        """Decoded images come in the order of the ids, however many processes decode them."""
        arrays = []
        for workers in (0, 1, 2):
            cache = PixelCache(tmp_path / f"cache{workers}", 10**8)
            pixels = cache.open(open_data(spec, "pictures"), PREPROCESS, workers=workers)
            assert pixels.array.shape == (len(pixels), 3, 32, 32)
            assert len(pixels) == len(open_data(spec, "pictures"))
            arrays.append(np.array(pixels.array))
        np.testing.assert_array_equal(arrays[0], arrays[1])
        np.testing.assert_array_equal(arrays[0], arrays[2])
        assert arrays[0].std() > 0

    def test_an_unknown_option_is_named(self, spec: DataSpec) -> None:
        """A misspelt option is not ignored."""
        wrong = spec.model_copy(update={"options": (("shuffel", 1),)})
        with pytest.raises(SpecError, match="shuffel") as error:
            check_data(wrong, "pictures")
        assert "\n" not in str(error.value)

    @pytest.mark.usefixtures("on_disk")
    def test_a_missing_path_is_named_before_any_work(self, spec: DataSpec, tmp_path: Path) -> None:
        """One line with the path."""
        wrong = spec.model_copy(update={"path": str(tmp_path / "nowhere")})
        with pytest.raises(DataError, match=r"data set 'pictures': .*nowhere: no such file or folder") as error:
            check_data(wrong, "pictures")
        assert "\n" not in str(error.value)
        with pytest.raises(DataError, match="'path' is missing"):
            check_data(spec.model_copy(update={"path": None}), "pictures")

    @pytest.mark.usefixtures("on_disk")
    def test_an_empty_folder_is_an_error(self, spec: DataSpec, tmp_path: Path) -> None:
        """One line that begins with the name of the data set."""
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(ReliquantError) as error:
            open_data(spec.model_copy(update={"path": str(empty)}), "pictures")
        assert str(error.value).startswith("data set 'pictures': ")
        assert "\n" not in str(error.value)

    @pytest.mark.usefixtures("on_disk")
    def test_the_digest_sees_changed_bytes_but_not_where_or_when(self, spec: DataSpec, tmp_path: Path) -> None:
        """Moving and touching the data keeps what was computed; other bytes do not, even of equal size and time."""
        before = data_digest(spec)
        root, moved = tmp_path / "data", tmp_path / "elsewhere"
        root.rename(moved)
        there = DataSpec.model_validate_json(spec.model_dump_json().replace(str(root), str(moved)))
        assert data_digest(there) == before
        for file in moved.rglob("*.*"):
            os.utime(file, ns=(1, 1))
        assert data_digest(there) == before
        for file in (path for path in moved.rglob("*.*") if path.is_file()):
            content = file.read_bytes()
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            os.utime(file, ns=(1, 1))
        try:
            after = data_digest(there)
        except ReliquantError:
            return  # files that such a change makes unreadable are refused, which is no stale answer either
        assert after != before

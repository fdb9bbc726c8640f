"""Every registered data source keeps the same promises, on data written in its published layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from benchmark.data import PixelCache, check_data, data_digest, forget, open_data, sources
from benchmark.data.sources.base import IMAGE_COLUMNS, Source, SourceOptions
from benchmark.errors import DataError, ReliquantError, SpecError
from benchmark.models.base import Preprocess
from benchmark.spec import DataSpec
from tests import layouts

PREPROCESS = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
WNIDS = ("n01440764", "n01518878", "n02129604")


def _demo(root: Path) -> DataSpec:
    return DataSpec(source="demo", split="far_ood", limit=20, text="none")


def _image_folder(root: Path) -> DataSpec:
    layouts.write_image_folder(root, ["ant", "bee", "cat"])
    return DataSpec(source="image_folder", path=str(root))


def _webdataset(root: Path) -> DataSpec:
    layouts.write_webdataset(root, ["ant", "bee", "cat"])
    return DataSpec(source="webdataset", path=str(root))


def _parquet(root: Path) -> DataSpec:
    layouts.write_waterbirds(root)
    names = ("landbird", "waterbird")
    return DataSpec(source="parquet", path=str(root), split="test", classes=names, options=(("group", "group"),))


def _hub(root: Path) -> DataSpec:
    return DataSpec(source="hub", path="someone/pictures", classes=("ant", "bee"))


def _image_list(root: Path) -> DataSpec:
    path = layouts.write_image_list(root)
    return DataSpec(
        source="image_list", path=str(path), text="none", options=(("root", str(root / "images_largescale")),)
    )


def _cifar_c(root: Path) -> DataSpec:
    layouts.write_cifar_c(root, ["fog"])
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return DataSpec(source="cifar_c", path=str(root), classes=names, corruption="fog", severity=3)


def _imagenet_c(root: Path) -> DataSpec:
    layouts.write_imagenet_c(root, WNIDS, ["snow"], severities=[2])
    return DataSpec(source="imagenet_c", path=str(root), corruption="snow", severity=2)


def _counteranimal(root: Path) -> DataSpec:
    layouts.write_counteranimal(root)
    return DataSpec(source="counteranimal", path=str(root))


LAYOUTS: dict[str, Callable[[Path], DataSpec]] = {
    "demo": _demo,
    "image_folder": _image_folder,
    "webdataset": _webdataset,
    "parquet": _parquet,
    "hub": _hub,
    "image_list": _image_list,
    "cifar_c": _cifar_c,
    "imagenet_c": _imagenet_c,
    "counteranimal": _counteranimal,
}
ON_DISK = sorted(set(LAYOUTS) - {"demo", "hub"})


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory of files, no cache of `datasets` outside the test's folder, and a hub that needs no network."""
    forget()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    made = layouts.samples(10, 2)
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": s.encoded, "path": None} for s in made], "label": [s.label for s in made]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )

    def load_dataset(path: str, *_: Any, **__: Any) -> datasets.Dataset:
        assert path == "someone/pictures"
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    from benchmark.data.sources import hub

    hub._load.cache_clear()


@pytest.fixture
def spec(name: str, tmp_path: Path) -> DataSpec:
    """A specification of the source `name` with data in its layout."""
    return LAYOUTS[name](tmp_path / "data")


def test_every_source_that_ships_has_a_layout_here() -> None:
    ours = {name for name in sources.names() if sources.origin(name).distribution == "reliquant"}
    assert ours == set(LAYOUTS)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_declaration(name: str) -> None:
    source = sources.get(name)
    assert isinstance(source, Source)
    assert source.name == name
    assert source.version >= 1
    assert source.title
    assert "\n" not in source.title
    assert issubclass(source.options, SourceOptions)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_columns_labels_and_ids(name: str, spec: DataSpec) -> None:
    loaded = sources.get(name).load(spec)
    assert isinstance(loaded.dataset, datasets.Dataset)
    assert set(IMAGE_COLUMNS) <= set(loaded.dataset.column_names)
    assert isinstance(loaded.dataset.features["image"], datasets.Image)
    ids = loaded.dataset["sample_id"][:]
    assert len(set(ids)) == len(ids) > 0
    labels = np.asarray(loaded.dataset["label"][:])
    assert labels.dtype.kind == "i"
    assert labels.min() >= -1
    for row in (0, len(ids) - 1):
        assert isinstance(loaded.dataset[row]["image"], Image.Image)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_opening_twice_gives_the_same(name: str, spec: DataSpec) -> None:
    check_data(spec, "pictures")
    first = open_data(spec, "pictures")
    forget()
    second = open_data(spec, "pictures")
    assert first.digest == second.digest == data_digest(spec)
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.sample_ids, second.sample_ids)
    assert first.class_names == second.class_names
    assert first.templates == second.templates
    assert first.labels.dtype == np.int64


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_limits_nest_and_keep_the_order(name: str, spec: DataSpec) -> None:
    small, large = (open_data(spec.model_copy(update={"limit": limit}), "pictures") for limit in (2, 4))
    assert len(small) == 2
    assert len(large) == 4
    assert [i for i in large.sample_ids if i in set(small.sample_ids)] == list(small.sample_ids)
    assert small.digest != large.digest


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_pixels_do_not_depend_on_workers(name: str, spec: DataSpec, tmp_path: Path) -> None:
    arrays = []
    for workers in (0, 1, 2):
        cache = PixelCache(tmp_path / f"cache{workers}", 10**8)
        pixels = cache.open(spec, "pictures", PREPROCESS, workers=workers)
        assert pixels.array.shape == (len(pixels), 3, 32, 32)
        assert len(pixels) == len(open_data(spec, "pictures"))
        arrays.append(np.array(pixels.array))
    np.testing.assert_array_equal(arrays[0], arrays[1])
    np.testing.assert_array_equal(arrays[0], arrays[2])
    assert arrays[0].std() > 10


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_an_unknown_option_is_named(name: str, spec: DataSpec) -> None:
    wrong = spec.model_copy(update={"options": (("shuffel", 1),)})
    with pytest.raises(SpecError, match="shuffel") as error:
        check_data(wrong, "pictures")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ON_DISK)
def test_a_missing_path_is_named_before_any_work(name: str, spec: DataSpec, tmp_path: Path) -> None:
    wrong = spec.model_copy(update={"path": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match=r"data set 'pictures': .*nowhere: no such file or folder") as error:
        check_data(wrong, "pictures")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="'path' is missing"):
        check_data(spec.model_copy(update={"path": None}), "pictures")


@pytest.mark.parametrize("name", ON_DISK)
def test_an_empty_folder_is_an_error(name: str, spec: DataSpec, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ReliquantError) as error:
        open_data(spec.model_copy(update={"path": str(empty)}), "pictures")
    assert str(error.value).startswith("data set 'pictures': ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ON_DISK)
def test_the_digest_sees_a_changed_file_but_not_where_the_data_lies(name: str, spec: DataSpec, tmp_path: Path) -> None:
    before = data_digest(spec)
    root = tmp_path / "data"
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    forget()
    text = spec.model_dump_json().replace(str(root), str(moved))
    there = DataSpec.model_validate_json(text)
    assert data_digest(there) == before
    forget()
    for file in moved.rglob("*.*"):
        os.utime(file, ns=(1, 1))
    assert data_digest(there) != before

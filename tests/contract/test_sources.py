"""Every registered data source keeps the same promises, on data written in its published layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmark.data import sources
from benchmark.spec import DataSpec
from benchmark.testing import SourceContract
from tests import layouts
from tests.hub import Hub

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
    layouts.write_webdataset(root, ["ant", "bee"])
    HUB.dataset("someone/pictures").commit_folder(root)
    return DataSpec(source="hub", path="someone/pictures")


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


def _planted(root: Path) -> DataSpec:
    return DataSpec(source="planted", split="test", limit=20)


HUB = Hub()

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
    "planted": _planted,
}


@pytest.fixture(autouse=True)
def _hub_on_the_loopback(tmp_path: Path) -> Iterator[None]:
    with HUB, HUB.asked_here(tmp_path):
        yield


def test_every_source_that_ships_has_a_layout_here() -> None:
    ours = {name for name in sources.names() if sources.origin(name).distribution == "reliquant"}
    assert ours == set(LAYOUTS)


def contract(name: str) -> type[SourceContract]:
    """The contract class of one source."""
    return type(name, (SourceContract,), {"source": sources.get(name), "write": lambda _, root: LAYOUTS[name](root)})


TestDemo = contract("demo")
TestImageFolder = contract("image_folder")
TestWebdataset = contract("webdataset")
TestParquet = contract("parquet")
TestHub = contract("hub")
TestImageList = contract("image_list")
TestCifarC = contract("cifar_c")
TestImagenetC = contract("imagenet_c")
TestCounteranimal = contract("counteranimal")
TestPlanted = contract("planted")


def test_every_source_has_a_contract_class() -> None:
    classes = [value for key, value in globals().items() if key.startswith("Test")]
    assert {value.source.name for value in classes} == set(LAYOUTS)

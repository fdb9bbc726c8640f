"""A path written inside a data file leads out of the data's folder only where that is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark.data import open_data
from benchmark.data.decode import read_bytes
from benchmark.errors import DataError
from benchmark.spec import DataSpec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with one picture, and another picture beside it."""
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), "red").save(tmp_path / name / "a.png")
    return tmp_path / "data"


def by_parquet(root: Path, path: str) -> DataSpec:
    pq.write_table(pa.table({"image": ["a.png", path], "label": [0, 0]}), root / "test.parquet")
    return DataSpec(source="parquet", path=str(root), text="none")


def by_struct(root: Path, path: str) -> DataSpec:
    images = [{"bytes": (root / "a.png").read_bytes(), "path": "/etc/passwd"}, {"bytes": None, "path": path}]
    pq.write_table(pa.table({"image": images, "label": [0, 0]}), root / "test.parquet")
    return DataSpec(source="parquet", path=str(root / "test.parquet"), text="none")


def by_list(root: Path, path: str) -> DataSpec:
    (root / "list.txt").write_text(f"a.png 0\n{path} 0\n")
    return DataSpec(source="image_list", path=str(root / "list.txt"), text="none")


WAYS = pytest.mark.parametrize("made", [by_parquet, by_struct, by_list])
Made = Callable[[Path, str], DataSpec]


@WAYS
@pytest.mark.parametrize("path", ["../other/a.png", "{root}/../other/a.png", "{other}/a.png", "x/../../other/a.png"])
def test_a_path_that_leads_outside(root: Path, made: Made, path: str) -> None:
    (root / "x").mkdir()
    path = path.format(root=root, other=root.parent / "other")
    spec = made(root, path)
    with pytest.raises(DataError, match=rf"image 1: its path \S+ leads out of {root}; allow it by --allow-outside"):
        open_data(spec, "mine")
    data = open_data(spec, "mine", allow_outside=True)
    assert read_bytes(data.dataset[1]) == (root.parent / "other" / "a.png").read_bytes()


@WAYS
def test_links_are_followed(root: Path, made: Made) -> None:
    (root / "link.png").symlink_to(root.parent / "other" / "a.png")
    (root / "folder").symlink_to(root.parent / "other")
    for path in ("link.png", "folder/a.png", f"{root}/link.png"):
        data = open_data(made(root, path), "mine")
        assert len(read_bytes(data.dataset[1])) > 0


def test_relative_paths_in_parquet_begin_at_its_folder(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("RGB", (8, 8), "blue").save(elsewhere / "a.png")
    monkeypatch.chdir(elsewhere)
    data = open_data(by_parquet(root, f"{root}/a.png"), "mine")
    assert [read_bytes(row) for row in data.dataset] == [(root / "a.png").read_bytes()] * 2


def test_the_root_option_of_a_list_is_its_folder(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("a.png 0\n")
    spec = DataSpec(
        source="image_list", path=str(tmp_path / "lists" / "list.txt"), text="none", options={"root": str(root)}
    )
    assert len(open_data(spec, "mine")) == 1

"""Captions of images: one a line in text files, a text or a list of texts in columns, and images that have none."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.data.opening import Data, open_data
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from tests import layouts


def webdataset(root: Path, texts: list[bytes | None]) -> Data:
    """Pairs of a picture and a `.txt`; None: no such member."""
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as archive:
        for sample, text in zip(layouts.samples(len(texts), 1), texts, strict=True):
            for name, content in ((sample.file, sample.encoded), (f"{sample.key}.txt", text)):
                if content is not None:
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return open_data(DataSpec(source="webdataset", path=str(root), text="captions"), "pairs")


def parquet(root: Path, captions: list[Any], text: str = "captions", **options: str) -> Data:
    """Pictures with a column `caption`."""
    images = [{"bytes": sample.encoded, "path": sample.file} for sample in layouts.samples(len(captions), 1)]
    pq.write_table(pa.table({"image": images, "caption": captions}), root / "all.parquet")
    path = str(root / "all.parquet")
    return open_data(DataSpec(source="parquet", path=path, text=text, options=options), "pairs")  # type: ignore[arg-type]


def test_a_text_file_has_a_caption_a_line(tmp_path: Path) -> None:
    data = webdataset(tmp_path / "p", [b"a cat\na small cat \r\n\n", "one \N{HONEYBEE}".encode(), b"\n\n b\n"])
    assert data.captions == (("a cat", "a small cat"), ("one \N{HONEYBEE}",), ("b",))
    assert data.class_names == ("a cat", "one \N{HONEYBEE}", "b")
    assert data.labels.tolist() == [0, 1, 2]
    assert data.first_captions([2, 0]) == ["b", "a cat"]


@pytest.mark.parametrize("lists", [False, True])
def test_a_column_has_texts_or_lists_of_texts(tmp_path: Path, lists: bool) -> None:
    columns: list[Any] = [["a cat", "two\nlines"], ["b"]] if lists else ["a cat\ntwo lines", "b"]
    assert parquet(tmp_path, columns).captions == (("a cat", "two lines"), ("b",))


@pytest.mark.parametrize("empty", [None, "", "  \n "])
def test_an_image_without_a_caption_is_named(tmp_path: Path, empty: str | None) -> None:
    with pytest.raises(DataError, match=r"data set 'pairs': image 1 \(00000001\) has no caption; write one, or remove"):
        parquet(tmp_path, ["a", empty, "b"])
    with pytest.raises(DataError, match=r"image 0 \(00000000\) has no caption \(2 of 3 images have none\)"):
        parquet(tmp_path, [empty, empty, "b"])


def test_captions_that_nobody_looks_at_may_be_missing(tmp_path: Path) -> None:
    data = parquet(tmp_path, ["a", None, "b"], text="none")
    assert data.captions == (("a",), (), ("b",))
    assert data.first_captions(range(3)) == ["a", "b"]


def test_pairs_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"key 's0000001' has no member \.txt, other keys have"):
        webdataset(tmp_path / "a", [b"one", None])
    root = tmp_path / "b"
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("alone.txt"))
    with pytest.raises(DataError, match="key 'alone' has no image member"):
        open_data(DataSpec(source="webdataset", path=str(root), text="captions"), "pairs")


def test_all_captions_of_all_images_are_in_their_digest(tmp_path: Path) -> None:
    first = webdataset(tmp_path / "a", [b"a\nb", b"c"])
    second = webdataset(tmp_path / "b", [b"a", b"b\nc"])
    assert first.captions_digest != second.captions_digest
    assert first.captions_digest == webdataset(tmp_path / "c", [b"a\n\nb\n", b"c"]).captions_digest

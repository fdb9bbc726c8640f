"""Nothing disappears: what is no image is counted, and a class, a shard or a split that is missing is an error."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, features

from benchmark.data import PixelCache, open_data
from benchmark.engine.provenance import data_warnings
from benchmark.errors import DataError, InputError
from benchmark.models.base import Preprocess
from benchmark.spec import DataSpec
from benchmark.spec.catalogue import detect
from benchmark.utils.image_formats import IMAGE_FORMATS, image_format
from tests import layouts

P32 = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def _fresh(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    layouts.write_image_folder(tmp_path / "d", ["cat", "dog"], 8)
    return tmp_path / "d"


def of(root: Path, **fields: object) -> DataSpec:
    return DataSpec.model_validate({"source": "image_folder", "path": str(root), **fields})


def refused(spec: DataSpec, *words: str) -> None:
    with pytest.raises(InputError) as error:
        open_data(spec, "pets")
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    layouts.picture(1).save(buffer, kind)
    return buffer.getvalue()


def pixels(spec: DataSpec, skip_broken: bool = False) -> int:
    return len(PixelCache(Path("unused"), 0, skip_broken).open(open_data(spec, "pets"), P32).array)


# which files are images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
@pytest.mark.parametrize("name", ["x", "x.JPE", "x.bin", "x.jfif", "x.Png", "x.txt"])
def test_images_are_recognised_by_content(root: Path, kind: str, name: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    (root / "cat" / name).write_bytes(saved(kind))
    data = open_data(of(root), "pets")
    assert f"cat/{name}" in data.sample_ids
    assert pixels(of(root)) == 9
    assert data.left_out == ()
    assert image_format(saved(kind)[:32]) == kind


def test_what_is_no_image_is_counted_and_said(root: Path) -> None:
    (root / "cat" / "notes.md").write_text("BMW is a car, no bitmap")
    (root / "cat" / "nothing").write_bytes(b"")
    (root / "cat" / ".hidden.png").write_bytes(saved("PNG"))
    (root / "__MACOSX").mkdir()
    (root / "dog" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "loose.png").write_bytes(saved("PNG"))
    (root / "zeroshot_classification_templates.txt").write_text("{}\n")
    data = open_data(of(root), "pets")
    assert len(data) == 8
    assert Counter(aside.why for aside in data.left_out) == {
        "no image": 1, "empty": 1, "hidden": 2, "dangling link": 1, "image in no class folder": 1,
    }  # fmt: skip
    (line,) = data_warnings({"pets": data})
    assert line.startswith("data set 'pets': 6 files left out: ")
    for part in ("1 no image (cat/notes.md)", "1 dangling link (dog/gone.jpg)", "2 hidden (__MACOSX, cat/.hidden.png)"):
        assert part in line


@pytest.mark.parametrize("name", ["x.heic", "x", "x.dat"])
def test_images_of_an_unread_format_are_refused_by_name(root: Path, name: str) -> None:
    (root / "cat" / name).write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00" + bytes(40))
    with pytest.raises(DataError, match=rf"cat/{name}\): HEIC is not read; convert it to PNG \(--skip-broken"):
        pixels(of(root))
    assert pixels(of(root), skip_broken=True) == 8


def test_an_empty_image_is_broken(root: Path) -> None:
    (root / "cat" / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"cat/x\.jpg\): broken image: empty file"):
        pixels(of(root))


@pytest.mark.parametrize("content", [None, "notes.txt", ".x.jpg"])
def test_a_class_folder_without_an_image_is_an_error_unless_allowed(root: Path, content: str | None) -> None:
    (root / "fox").mkdir()
    if content:
        (root / "fox" / content).write_bytes(b"nothing of an image")
    refused(of(root), "class 'fox' has no image: ", content or "no files", "allow_empty_classes: true")
    data = open_data(of(root, allow_empty_classes=True), "pets")
    assert data.class_names == ("cat", "dog", "fox")
    assert data.empty_classes == ("fox",)
    assert set(data.labels.tolist()) == {0, 1}


def test_a_named_class_whose_files_are_no_images_is_an_error_too(root: Path) -> None:
    (root / "fox").mkdir()
    (root / "fox" / "x.svg").write_text("<svg/>")
    refused(of(root, classes=("fox", "dog", "cat")), "class 'fox' has no image: files of it: 1, images: 0 (fox/x.svg")
    data = open_data(of(root, classes=("dog", "cat")), "pets")  # the list says that this folder is no class
    assert data.class_names == ("dog", "cat")
    assert [aside.path for aside in data.left_out] == ["fox/x.svg"]


def test_a_class_that_loses_all_images_to_skip_broken_is_an_error(root: Path) -> None:
    for file in (root / "dog").iterdir():
        file.write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(DataError, match=r"class 'dog' loses all its images; image 4 \(dog/.*allow_empty_classes: true"):
        pixels(of(root), skip_broken=True)
    assert pixels(of(root, allow_empty_classes=True), skip_broken=True) == 4
    kept = PixelCache(root.parent / "cache", 10**8, skip_broken=True)
    kept.open(open_data(of(root, allow_empty_classes=True), "pets"), P32)
    with pytest.raises(DataError, match="class 'dog' loses all"):  # stored pixels are no excuse
        kept.open(open_data(of(root), "pets"), P32)


def test_a_bare_path_of_images_without_suffix_is_an_image_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(saved("PNG"))
    assert detect(str(tmp_path)).source == "image_folder"


def test_data_without_classes_need_no_class_folders(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(saved("PNG"))
    refused(of(tmp_path), "2 images, but none in a class folder", "text: none")
    far = open_data(of(tmp_path, text="none"), "far")
    assert list(far.sample_ids) == ["a.png", "b.jpg"]
    assert set(far.labels.tolist()) == {-1}
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c.png").write_bytes(saved("PNG"))
    assert len(open_data(of(tmp_path, text="none"), "far")) == 3


# splits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("splits", [("train", "val"), ("Test", "train", "validation")])
def test_split_folders_are_no_classes(tmp_path: Path, splits: tuple[str, ...], nested: bool) -> None:
    for split in splits:
        classes = [f"{split}/cat", f"{split}/dog"] if nested else [split]
        layouts.write_image_folder(tmp_path, classes, 4)
    refused(of(tmp_path), f"the folders {', '.join(sorted(splits))} look like splits", f"'split: {sorted(splits)[0]}'")
    refused(of(tmp_path, text="none"), "look like splits")
    if nested:
        assert open_data(of(tmp_path, split=splits[0]), "pets").class_names == ("cat", "dog")
    assert open_data(of(tmp_path, split="."), "pets").class_names == tuple(sorted(splits))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """A vehicle of CIFAR-100."""
    layouts.write_image_folder(tmp_path, ["bus", "train"], 4)
    assert open_data(of(tmp_path), "vehicles").class_names == ("bus", "train")


def write(path: Path, labels: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [s.encoded for s in layouts.samples(len(labels), 2, "jpg")]
    pq.write_table(pa.table({"image": images, "label": labels}), path)


@pytest.mark.parametrize(
    "files",
    [
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("train/0.parquet", "test/0.parquet"),
        ("data/train.parquet", "data/test.parquet"),
        ("train_0.parquet", "test_0.parquet"),
        ("train.parquet", "more.parquet", "test.parquet"),
    ],
)
def test_parquet_files_of_several_splits_ask_for_one(tmp_path: Path, files: tuple[str, ...]) -> None:
    for number, name in enumerate(files, 1):
        write(tmp_path / name, [0] * number)
    spec = DataSpec(source="parquet", path=str(tmp_path), classes=("a", "b"))
    refused(spec, "files of several splits (test, train", "split: test")
    assert len(open_data(spec.model_copy(update={"split": "train"}), "x")) == 1
    assert len(open_data(spec.model_copy(update={"split": "test"}), "x")) == len(files)


def test_a_split_is_not_another_that_begins_so(tmp_path: Path) -> None:
    write(tmp_path / "test-00000-of-00001.parquet", [0])
    write(tmp_path / "test_internal-00000-of-00001.parquet", [0, 1])
    spec = DataSpec(source="parquet", path=str(tmp_path), split="test", classes=("a", "b"))
    assert len(open_data(spec, "x")) == 1


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (("test-00000-of-00003.parquet", "test-00001-of-00003.parquet"), "number 2 of 'test' is missing"),
        (("test-00001-of-00002.parquet",), "number 0 of 'test'"),
        (("0.parquet", "2.parquet"), "number 1 of '*'"),
        (("part-0.parquet", "part-2.parquet"), "number 1 of 'part'"),
    ],
)
def test_a_gap_in_numbered_parquet_files(tmp_path: Path, files: tuple[str, ...], missing: str) -> None:
    for name in files:
        write(tmp_path / name, [0, 1])
    spec = DataSpec(source="parquet", path=str(tmp_path), classes=("a", "b"))
    refused(spec, missing, f"options: {{shards: {len(files)}}}")
    sure = spec.model_copy(update={"options": (("shards", len(files)),)})
    assert len(open_data(sure, "x")) == 2 * len(files)
    refused(spec.model_copy(update={"options": (("shards", 9),)}), "option shards says 9")


# images that a table names by their paths -----------------------------------------------------------------------------


@pytest.mark.parametrize("struct", [True, False])
def test_relative_paths_lie_beside_the_parquet_file(
    tmp_path: Path, struct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    made = layouts.samples(3, 1, "jpg")
    (tmp_path / "d" / "images").mkdir(parents=True)
    for sample in made:
        (tmp_path / "d" / "images" / sample.file).write_bytes(sample.encoded)
    paths = [f"images/{sample.file}" for sample in made]
    images: list[object] = [{"bytes": None, "path": p} for p in paths] if struct else list(paths)
    pq.write_table(pa.table({"image": images, "label": [0, 1, 0]}), tmp_path / "d" / "x.parquet")
    spec = DataSpec(source="parquet", path=str(tmp_path / "d" / "x.parquet"), classes=("a", "b"))
    assert pixels(spec) == 3
    (tmp_path / "d" / paths[1]).unlink()
    with pytest.raises(DataError) as error:
        pixels(spec)
    assert f"image 1 (00000001): {tmp_path / 'd' / paths[1]}: cannot be read (No such file" in str(error.value)


# shards and their members ---------------------------------------------------------------------------------------------


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            layouts._member(archive, name, data)


def tar(root: Path, *names: str) -> DataSpec:
    for place, name in enumerate(names):
        shard(root / name, {f"{place}.jpg": saved("JPEG"), f"{place}.cls": b"0"})
    return DataSpec(source="webdataset", path=str(root), classes=("a",))


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("0.tar", "2.tar"), "number 1 of '*' is missing"),
        (("00001.tar", "00002.tar"), "number 0"),
        (("part-000.tar", "part-002.tar"), "number 1 of 'part'"),
        (("x-0-of-3.tar", "x-1-of-3.tar"), "number 2 of 'x'"),
    ],
)
def test_a_gap_in_numbered_shards(tmp_path: Path, names: tuple[str, ...], missing: str) -> None:
    spec = tar(tmp_path, *names)
    refused(spec, missing, "options: {shards: 2}")
    assert len(open_data(spec.model_copy(update={"options": (("shards", 2),)}), "x")) == 2


def test_shards_without_a_gap_are_read_without_a_count(tmp_path: Path) -> None:
    assert len(open_data(tar(tmp_path / "a", "0.tar", "1.tar", "2.tar"), "x")) == 3
    assert len(open_data(tar(tmp_path / "b", "cifar-10.tar"), "x")) == 1
    assert len(open_data(tar(tmp_path / "c", "old.tar", "new.tar"), "x")) == 2


def test_a_wrong_count_of_shards(tmp_path: Path) -> None:
    spec = tar(tmp_path, "0.tar", "1.tar", "2.tar")
    for count, words in (("2", "counts 2 shards, there are 3"), ("4", "3.tar: missing"), ("3\n1", "number of shards")):
        (tmp_path / "nshards.txt").write_text(count)
        refused(spec, words, "nshards.txt" if count != "4" else "counts 4 shards")
    (tmp_path / "nshards.txt").write_text("3\r\n")
    assert len(open_data(spec, "x")) == 3


def test_shards_of_several_splits_ask_for_one(tmp_path: Path) -> None:
    spec = tar(tmp_path / "a", "train-000.tar", "train-001.tar", "test-000.tar")
    refused(spec, "files of several splits (test, train)")
    assert len(open_data(spec.model_copy(update={"split": "train"}), "x")) == 2
    below = tar(tmp_path / "b", "train/0.tar", "val/0.tar")
    refused(below, "no *.tar shards, but folders train, val; choose one with 'split: train'")
    assert len(open_data(below.model_copy(update={"split": "val"}), "x")) == 1


@pytest.mark.parametrize("suffix", ["json", "cls.txt", "label"])
def test_label_members_of_other_names_are_named(tmp_path: Path, suffix: str) -> None:
    """Without them every image would be out of distribution."""
    shard(tmp_path / "0.tar", {"a.jpg": saved("JPEG"), f"a.{suffix}": b"1"})
    spec = DataSpec(source="webdataset", path=str(tmp_path), classes=("x", "y"))
    refused(spec, "key 'a' has no member .cls with the label", f"it has .{suffix}", "options: {label: SUFFIX}")
    told = spec.model_copy(update={"options": (("label", suffix),)})
    assert open_data(told, "x").labels.tolist() == [1]
    assert open_data(spec.model_copy(update={"text": "none"}), "x").labels.tolist() == [-1]


def test_members_are_images_by_content_too(tmp_path: Path) -> None:
    members = {"a.bin": saved("PNG"), "a.cls": b"0", "b.JPE": saved("JPEG"), "b.cls": b"1", "b.md5": b"x"}
    shard(tmp_path / "0.tar", members)
    spec = DataSpec(source="webdataset", path=str(tmp_path), classes=("x", "y"))
    assert open_data(spec, "x").labels.tolist() == [0, 1]
    assert pixels(spec) == 2


def test_a_key_with_two_images_asks_which(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"a.jpg": saved("JPEG"), "a.png": saved("PNG"), "a.cls": b"0"})
    spec = DataSpec(source="webdataset", path=str(tmp_path), classes=("x",))
    refused(spec, "key 'a' has two images, a.jpg and a.png", "option image:")
    chosen = open_data(spec.model_copy(update={"options": (("image", "png"),)}), "x")
    assert chosen.dataset["image"][0]["path"].startswith("tar://a.png")


def test_hidden_members_and_links_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, data in {"a.jpg": saved("JPEG"), "a.cls": b"0", "._a.jpg": b"Mac"}.items():
            layouts._member(archive, name, data)
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
    data = open_data(DataSpec(source="webdataset", path=str(tmp_path), classes=("x",)), "x")
    assert Counter(aside.why for aside in data.left_out) == {"hidden": 1, "link": 1}


def test_counteranimal_counts_images_in_no_group(tmp_path: Path) -> None:
    layouts.write_counteranimal(tmp_path)
    (tmp_path / "80 black grouse" / "rare").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "80 black grouse" / "rare" / "x.png")
    data = open_data(DataSpec(source="counteranimal", path=str(tmp_path)), "animals")
    assert [aside.path for aside in data.left_out] == ["80 black grouse/rare/x.png"]


def test_lines_of_a_list_keep_their_numbers(tmp_path: Path) -> None:
    path = layouts.write_image_list(tmp_path, count=2)
    path.write_text("\n\n" + path.read_text() + "broken\n")
    spec = DataSpec(
        source="image_list", path=str(path), text="none", options={"root": str(tmp_path / "images_largescale")}
    )
    refused(spec, "line 5: expected 'path label', got 'broken'")


def test_names_that_are_not_utf8_are_told_escaped(root: Path) -> None:
    (root / "cat" / "caf\udce9.txt").write_text("latin-1")
    (line,) = data_warnings({"pets": open_data(of(root), "pets")})
    assert line.endswith(r"1 file left out: 1 no image (cat/caf\xe9.txt)")

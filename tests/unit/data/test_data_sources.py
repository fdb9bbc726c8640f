"""What each source makes of its layout, and what it says about a broken one."""

from __future__ import annotations

import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.data import PixelCache, decode, expand, open_data
from benchmark.errors import DataError, InputError, UnknownNameError
from benchmark.models.base import Preprocess
from benchmark.spec import DataSpec
from tests import layouts

P32 = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def _fresh(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def refused(spec: DataSpec, message: str, kind: type[InputError] = DataError) -> None:
    """Opening fails with one line that fits `message`."""
    with pytest.raises(kind, match=message) as error:
        open_data(spec, "pictures")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("data set 'pictures': ")


def same_pixels(spec: DataSpec, samples: list[layouts.Sample]) -> None:
    """The pixels are those of the samples' own bytes, in order."""
    pixels = PixelCache(Path("unused"), 0).open(open_data(spec, "pictures"), P32)
    expected = np.stack([decode.pixels(sample.encoded, P32) for sample in samples])
    np.testing.assert_array_equal(pixels.array, expected)


# Image folder -------------------------------------------------------------------------------------------------------


def test_image_folder_with_a_split_and_clutter(tmp_path: Path) -> None:
    made = layouts.write_image_folder(tmp_path, CLASSES, split="test")
    layouts.write_image_folder(tmp_path, CLASSES, count=3, split="train")
    (tmp_path / "test" / "ant" / ".hidden.jpg").write_bytes(b"x")
    (tmp_path / "test" / "ant" / "readme.txt").write_text("no image")
    (tmp_path / "test" / "ant" / "deeper").mkdir()
    (tmp_path / "test" / "ant" / "deeper" / "UPPER.JPEG").write_bytes(layouts.encoded(layouts.picture(0), "JPEG"))
    spec = DataSpec(source="image_folder", path=str(tmp_path), split="test")
    data = open_data(spec, "pictures")
    assert len(data) == 21
    assert "ant/deeper/UPPER.JPEG" in data.sample_ids
    (tmp_path / "test" / "ant" / "deeper" / "UPPER.JPEG").unlink()
    same_pixels(spec, sorted(made, key=lambda s: (s.label, s.file)))


def test_image_folder_without_images(tmp_path: Path) -> None:
    spec = DataSpec(source="image_folder", path=str(tmp_path))
    refused(spec, "no images")
    (tmp_path / "a.jpg").write_bytes(b"x")
    refused(spec, r"1 images, but none in a class folder")


# Webdataset ---------------------------------------------------------------------------------------------------------


def test_webdataset_reads_members_in_place(tmp_path: Path) -> None:
    made = layouts.write_webdataset(tmp_path, CLASSES, captions=True)
    spec = DataSpec(source="webdataset", path=str(tmp_path))
    data = open_data(spec, "pictures")
    assert data.class_names == CLASSES
    assert data.templates == ("a photo of a {}.", "a drawing of the {}.")
    assert data.labels.tolist() == [sample.label for sample in made]
    assert data.sample_ids[0] == "s0000000"
    assert data.sample_ids[-1] == "s0000019"
    assert data.captions is not None
    assert data.captions[3] == ("a caption of s0000003 \N{HONEYBEE}",)
    same_pixels(spec, made)
    first = datasets.Image().decode_example(data.dataset[0]["image"])  # the address works for `datasets` too
    assert first.size == layouts.SIZES[0]


def test_webdataset_of_pairs_and_a_single_shard(tmp_path: Path) -> None:
    layouts.write_webdataset(tmp_path, None, count=8, captions=True)
    data = open_data(DataSpec(source="webdataset", path=str(tmp_path), text="captions"), "pairs")
    assert len(data) == 8
    assert data.class_names[0].startswith("a caption of s0000000")
    one = open_data(DataSpec(source="webdataset", path=str(tmp_path / "00001.tar"), text="captions"), "pairs")
    assert list(one.sample_ids) == list(data.sample_ids[4:])


def test_the_shards_do_not_matter(tmp_path: Path) -> None:
    made = layouts.samples(24, len(CLASSES))
    opened = []
    for name, order in (("a", range(24)), ("b", np.random.default_rng(3).permutation(24))):
        layouts.write_shards(
            tmp_path / name, [[made[i] for i in order[k : k + 2]] for k in range(0, 24, 2)], CLASSES, None
        )
        opened.append(open_data(DataSpec(source="webdataset", path=str(tmp_path / name), limit=10), "pictures"))
    first, second = opened
    assert first.sample_ids.tolist() == second.sample_ids.tolist() == sorted(first.sample_ids.tolist())
    assert first.labels.tolist() == second.labels.tolist()
    bytes_of = [[decode.read_bytes(row) for row in data.dataset.data.to_pylist()] for data in opened]
    assert bytes_of[0] == bytes_of[1]


def test_shards_with_equal_keys_keep_the_order_of_their_numbers(tmp_path: Path) -> None:
    part = layouts.samples(2, len(CLASSES))
    layouts.write_shards(tmp_path, [part] * 12, CLASSES, None)
    data = open_data(DataSpec(source="webdataset", path=str(tmp_path)), "pictures")
    assert [i.split("/")[0] for i in data.sample_ids] == [str(n) for n in range(12) for _ in range(2)]


def test_broken_webdatasets(tmp_path: Path) -> None:
    spec = DataSpec(source="webdataset", path=str(tmp_path))
    layouts.write_webdataset(tmp_path, CLASSES)
    shard = tmp_path / "test" / "1.tar"
    whole = shard.read_bytes()
    for cut in (len(whole) // 2, 700):
        shard.write_bytes(whole[:cut])
        refused(spec, r"1\.tar: broken shard")
    shard.write_bytes(b"\x01" * 4096)
    refused(spec, r"1\.tar: broken shard")
    shard.unlink()
    refused(spec, r"1\.tar: missing; nshards\.txt counts 2 shards")
    (tmp_path / "test" / "nshards.txt").write_text("two\n")
    refused(spec, r"nshards\.txt: expected the number of shards, got 'two'")
    refused(spec.model_copy(update={"split": "train"}), "train: no such folder")


def _shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            layouts._member(archive, name, data)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"x", "a.cls": b"0", "b.cls": b"1"}, r"key 'b' has no image member"),
        ({"a.jpg": b"x", "a.cls": b"0", "b.jpg": b"x"}, r"key 'b' has no member \.cls, other keys have"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, r"key 'a': label 'cat' in \.cls is not a whole number"),
        ({"a.jpg": b"x", "a.cls": b"\xff"}, r"'a\.cls' is not UTF-8"),
        ({"a.jpg": b"x", "a.cls": b"3"}, r"label 3 of image 0 \(a\) is outside its 3 classes \(0 to 2"),
        ({"a.jpg": b"x", "a.cls": b"-2"}, r"label -2 of image 0"),
        ({}, r"has no images|broken shard"),
    ],
)
def test_wrong_members(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    _shard(tmp_path / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("a\nb\nc\n")
    refused(DataSpec(source="webdataset", path=str(tmp_path)), message)


def test_a_webdataset_without_names_asks_for_them(tmp_path: Path) -> None:
    _shard(tmp_path / "0.tar", {"a.jpg": b"x", "a.cls": b"0"})
    refused(DataSpec(source="webdataset", path=str(tmp_path)), r"brings no class names; give 'classes:'")


def test_the_same_key_twice_in_a_shard_is_one_sample_and_in_two_shards_is_two(tmp_path: Path) -> None:
    _shard(tmp_path / "0.tar", {"a.jpg": b"x", "a.cls": b"0"})
    _shard(tmp_path / "1.tar", {"a.jpg": b"x", "a.cls": b"1", "dir/a.PNG": b"y", "dir/a.cls": b"0"})
    data = open_data(DataSpec(source="webdataset", path=str(tmp_path), classes=("x", "y")), "pictures")
    assert list(data.sample_ids) == ["0/a", "1/a", "1/dir/a"]


# Parquet, arrow and the hub -----------------------------------------------------------------------------------------


def test_waterbirds(tmp_path: Path) -> None:
    made = layouts.write_waterbirds(tmp_path)
    spec = DataSpec(
        source="parquet", path=str(tmp_path), split="test", classes=("landbird", "waterbird"),
        options={"image": "image", "label": "label", "group": "group"},
    )  # fmt: skip
    data = open_data(spec, "pictures")
    assert data.labels.tolist() == [sample.label for sample in made]
    assert data.groups is not None
    assert set(data.groups.tolist()) == {0, 1, 2, 3}
    same_pixels(spec, made)
    limited = open_data(spec.model_copy(update={"limit": 6}), "pictures")
    assert limited.groups is not None
    assert len(limited.groups) == 6


def test_missing_columns_name_those_that_are_there(tmp_path: Path) -> None:
    layouts.write_waterbirds(tmp_path)
    spec = DataSpec(source="parquet", path=str(tmp_path), split="test", classes=("a", "b"))
    refused(
        spec.model_copy(update={"options": (("group", "background"),)}),
        r"no column 'background' \(option group\); its columns are image, label, place, group",
    )
    pq.write_table(pa.table({"picture": [b"x"], "label": [0]}), tmp_path / "other.parquet")
    refused(
        DataSpec(source="parquet", path=str(tmp_path / "other.parquet")),
        r"no image column; its columns are picture, label \(option image: names one\)",
    )
    refused(spec.model_copy(update={"split": "dev"}), r"no file of split 'dev' among other\.parquet, test-0")


def test_text_labels_bytes_images_and_own_ids(tmp_path: Path) -> None:
    made = layouts.samples(4, 2)
    rows = {"img": [s.encoded for s in made], "kind": ["dog", "cat", "dog", "cat"], "key": ["a", "b", "c", "d"]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    spec = DataSpec(source="parquet", path=str(tmp_path), options={"label": "kind", "id": "key"})
    data = open_data(spec, "pictures")
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert list(data.sample_ids) == ["a", "b", "c", "d"]
    same_pixels(spec, made)
    given = open_data(spec.model_copy(update={"classes": ("dog", "cat")}), "pictures")
    assert given.labels.tolist() == [0, 1, 0, 1]
    refused(spec.model_copy(update={"classes": ("dog", "bird")}), r"data: cat, dog \| classes: dog, bird")
    rows["key"] = ["a", "b", "a", "d"]
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    refused(spec, r"sample id 'a' occurs 2 times")


def test_arrow_files_and_saved_data_sets(tmp_path: Path) -> None:
    made = layouts.samples(6, 2)
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": s.encoded, "path": None} for s in made], "label": [s.label for s in made]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["yes", "no"])}),
    )
    table.save_to_disk(tmp_path / "saved")
    spec = DataSpec(source="parquet", path=str(tmp_path / "saved"))
    data = open_data(spec, "pictures")
    assert data.class_names == ("yes", "no")
    same_pixels(spec, made)


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    layouts.write_waterbirds(tmp_path)
    file = tmp_path / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    refused(DataSpec(source="parquet", path=str(file), classes=("a", "b")), r"test-00000-of-00001\.parquet: cannot be")
    (tmp_path / "x.parquet").write_bytes(b"nothing like it")
    refused(DataSpec(source="parquet", path=str(tmp_path / "x.parquet")), r"x\.parquet: cannot be read")


def test_the_picture_behind_a_sample_comes_from_a_column(tmp_path: Path) -> None:
    """Option `base` names it; without it the source says nothing, and the sample ids stand for the pictures."""
    rows = {"image": [layouts.samples(1, 1)[0].encoded] * 3, "label": [0, 1, 0], "of": ["p", "q", "p"]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    spec = DataSpec(source="parquet", path=str(tmp_path), classes=("a", "b"))
    assert open_data(spec, "pictures").base_ids is None
    base = open_data(spec.model_copy(update={"options": (("base", "of"),)}), "pictures").base_ids
    assert base is not None
    assert base.tolist() == ["p", "q", "p"]


def test_null_images_are_named_by_row(tmp_path: Path) -> None:
    rows = {"image": [layouts.samples(1, 1)[0].encoded, None], "label": [0, 1]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    spec = DataSpec(source="parquet", path=str(tmp_path), classes=("a", "b"))
    with pytest.raises(DataError, match=r"image 1 \(00000001\): the image is missing"):
        PixelCache(tmp_path / "cache", 10**8).open(open_data(spec, "pictures"), P32)


def test_ids_that_no_repository_can_have() -> None:
    refused(DataSpec(source="hub", path="/some/folder"), "must be an id")
    refused(DataSpec(source="hub"), "must be an id")
    refused(DataSpec(source="hub", path="org/x", options={"revision": "../x"}), "options.revision must be a branch")


# Lists, CIFAR-C, ImageNet-C, CounterAnimal --------------------------------------------------------------------------


def test_openood_lists(tmp_path: Path) -> None:
    path = layouts.write_image_list(tmp_path)
    root = str(tmp_path / "images_largescale")
    spec = DataSpec(source="image_list", path=str(path), text="none", options={"root": root})
    data = open_data(spec, "pictures")
    assert set(data.labels.tolist()) == {-1}
    assert data.sample_ids[4] == "ninco/class 1/s0000004.jpg"
    same_pixels(spec, layouts.samples(12, 1))
    refused(spec.model_copy(update={"options": ()}), r"line 1: .*No such file.*option root: names the folder")
    refused(spec.model_copy(update={"text": "classes"}), "brings no class names")


def test_labels_of_lists_are_checked(tmp_path: Path) -> None:
    path = layouts.write_image_list(tmp_path, count=3, labels=[0, 1, 2])
    options = {"root": str(tmp_path / "images_largescale")}
    spec = DataSpec(source="image_list", path=str(path), classes=("a", "b"), options=options)
    refused(spec, r"label 2 of image 2 \(ninco/class 2/s0000002.png\) is outside its 2 classes")
    for text, message in (("justapath\n", r"line 1: expected 'path label', got 'justapath'"), ("\n\n", "no lines")):
        path.write_text(text)
        refused(spec, message)
    refused(spec.model_copy(update={"path": str(tmp_path)}), "expected a text file")


def test_cifar_c_blocks_are_severities(tmp_path: Path) -> None:
    images, labels = layouts.write_cifar_c(tmp_path, ["fog", "snow"])
    spec = DataSpec(source="cifar_c", path=str(tmp_path), classes=tuple("abcdefghij"), corruptions=("snow",))
    for name, version in expand("c", spec).items():
        data = open_data(version, name)
        pixels = PixelCache(Path("unused"), 0).open(open_data(version, name), P32)
        block = images[(version.severity or 0) * 12 - 12 : (version.severity or 0) * 12]
        np.testing.assert_array_equal(pixels.array, block.transpose(0, 3, 1, 2))  # 32 pixels stay as they are
        assert data.labels.tolist() == labels.tolist()
        assert data.sample_ids[5] == "00005"
        assert not data.generated


def test_broken_cifar_c(tmp_path: Path) -> None:
    layouts.write_cifar_c(tmp_path, ["fog"])
    spec = DataSpec(source="cifar_c", path=str(tmp_path), classes=tuple("abcdefghij"), corruption="fog", severity=1)
    refused(spec.model_copy(update={"corruption": None, "severity": None}), "needs a corruption and a severity")
    refused(spec.model_copy(update={"corruption": "snow"}), r"snow\.npy: no such file")
    refused(spec.model_copy(update={"corruption": "fgo"}), "Did you mean 'fog'", UnknownNameError)
    np.save(tmp_path / "labels.npy", np.zeros(7, np.uint8))
    refused(spec, r"labels\.npy: expected 12 or 60 whole numbers, got uint8 \(7,\)")
    np.save(tmp_path / "labels.npy", np.full(60, 10, np.uint8))
    refused(spec, r"label 10 of image 0 \(00000\) is outside its 10 classes")
    np.save(tmp_path / "fog.npy", np.zeros((12, 32, 32), np.uint8))
    refused(spec, r"fog\.npy: expected uint8 \(5n, H, W, 3\)")
    (tmp_path / "fog.npy").write_bytes((tmp_path / "fog.npy").read_bytes()[:500])
    refused(spec, r"fog\.npy: not a NumPy array file, or cut off")
    np.save(tmp_path / "fog.npy", np.array([{"a": 1}]), allow_pickle=True)
    refused(spec, r"fog\.npy: not a NumPy array file")  # pickles are never loaded


def test_imagenet_c_pairs_with_the_clean_folders(tmp_path: Path) -> None:
    wnids = ("n01440764", "n01518878")
    layouts.write_imagenet_c(tmp_path / "flat", wnids, ["fog", "snow"], severities=[1, 3])
    layouts.write_imagenet_c(tmp_path / "tars" / "weather", wnids, ["fog"], severities=[1])
    for root in ("flat", "tars"):
        spec = DataSpec(source="imagenet_c", path=str(tmp_path / root), corruption="fog", severity=1)
        data = open_data(spec, "pictures")
        assert data.class_names == ("tench", "ostrich")
        assert data.sample_ids[0] == "n01440764/ILSVRC2012_val_00000000.JPEG"
    missing = DataSpec(source="imagenet_c", path=str(tmp_path / "flat"), corruption="fog", severity=2)
    refused(missing, r"fog/2: no such folder")
    refused(missing.model_copy(update={"corruption": None, "severity": None}), "needs a corruption")


def test_released_files_of_224_pixels_are_not_resampled(tmp_path: Path) -> None:
    layouts.write_imagenet_c(tmp_path, ["n01440764"], ["fog"], severities=[1])
    spec = DataSpec(source="imagenet_c", path=str(tmp_path), corruption="fog", severity=1)
    pixels = PixelCache(Path("unused"), 0).open(open_data(spec, "c"), Preprocess((224, 224), (0.5,) * 3, (0.5,) * 3))
    raw = np.asarray(decode.decode(Path(str(pixels.data.dataset.data["image"][0]["path"])).read_bytes()))
    np.testing.assert_array_equal(pixels.array[0], raw.transpose(2, 0, 1))


def test_counteranimal(tmp_path: Path) -> None:
    layouts.write_counteranimal(tmp_path)
    layouts.write_counteranimal(tmp_path, ["n02128925", "polar bear"])
    spec = DataSpec(source="counteranimal", path=str(tmp_path))
    both = open_data(spec, "animals")
    assert len(both.class_names) == 1000
    assert {both.class_names[label] for label in both.labels} == {
        "black grouse", "ostrich", "tiger", "jaguar", "polar bear",
    }  # fmt: skip
    assert both.groups is not None
    assert both.group_names == ("common", "counter")
    assert np.bincount(both.groups).tolist() == [15, 10]
    common, counter = (
        open_data(spec.model_copy(update={"options": (("group", g),)}), "animals") for g in ("common", "counter")
    )
    assert len(common) == 15
    assert len(counter) == 10
    assert common.digest != counter.digest
    few = open_data(spec.model_copy(update={"options": (("label_space", "present"),)}), "animals")
    assert few.class_names == ("ostrich", "black grouse", "jaguar", "tiger", "polar bear")
    refused(spec.model_copy(update={"options": (("group", "rare"),)}), "group", InputError)
    layouts.write_counteranimal(tmp_path, ["polar beer"])
    refused(spec, "Did you mean 'polar bear'", UnknownNameError)

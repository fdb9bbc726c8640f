"""The layouts that published archives leave behind, and the one copy that ImageNet's roles share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import DataSets, PixelCache, expand, open_data
from benchmark.data.prompts import imagenet_classes
from benchmark.data.sources.image_list import spellings
from benchmark.errors import DataError, InputError, UnknownNameError
from benchmark.models.base import Preprocess
from benchmark.spec import DataSpec
from benchmark.spec.catalogue import catalogue
from tests import layouts

WNIDS = ("n01440764", "n01518878", "n02129604")
P32 = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIQUANT_DATA", str(tmp_path))


def entry(name: str) -> DataSpec:
    """The catalogue's specification."""
    return catalogue()[name].spec


def refused(spec: DataSpec, message: str, kind: type[InputError] = DataError) -> None:
    with pytest.raises(kind, match=message) as error:
        open_data(spec, "pictures")
    assert "\n" not in str(error.value)


# ImageNet -----------------------------------------------------------------------------------------------------------


def test_either_layout_of_imagenet_has_the_same_labels_and_names(tmp_path: Path) -> None:
    made = layouts.write_webdataset(tmp_path / "imagenet", imagenet_classes(), 12)
    shards = open_data(entry("imagenet"), "imagenet")
    assert shards.labels.tolist() == [sample.label for sample in made]
    layouts.write_imagenet_folders(tmp_path / "imagenet" / "val", WNIDS)
    folders = open_data(entry("imagenet"), "imagenet")  # read first: their ids pair with ImageNet-C
    assert folders.labels.tolist() == [0, 0, 9, 9, 292, 292]
    assert shards.class_names == folders.class_names == imagenet_classes()
    assert shards.templates == folders.templates
    assert len(shards.templates) == 80
    layouts.write_imagenet_c(tmp_path / "imagenet-c", WNIDS, ["fog"], severities=[1])
    foggy = expand("c", entry("imagenet-c"))["c/fog/1"]
    assert open_data(foggy, "c").sample_ids.tolist() == folders.sample_ids.tolist()


def test_both_roles_of_imagenet_are_one_data_set(tmp_path: Path) -> None:
    layouts.write_imagenet_folders(tmp_path / "imagenet" / "val", WNIDS)
    sets = DataSets()
    digests = {sets.open(entry(name), name).digest for name in ("imagenet", "imagenet-val")}
    assert len(digests) == 1


def test_imagenet_that_is_not_there_names_both_ways_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "imagenet").mkdir()
    refused(entry("imagenet"), r"neither val/<wnid>/ nor test/\*\.tar; `reliquant data fetch imagenet` .* prepare")


def test_folders_named_by_label_are_not_sorted_as_text(tmp_path: Path) -> None:
    root = tmp_path / "imagenet-v2" / "imagenetv2-matched-frequency-format-val"
    for label in (0, 9, 10, 292, 999):
        layouts.write_imagenet_folders(root, [str(label)])
    data = open_data(entry("imagenet-v2-archive"), "v2")
    assert sorted(set(data.labels.tolist())) == [0, 9, 10, 292, 999]
    assert all(int(name.partition("/")[0]) == label for name, label in zip(data.sample_ids, data.labels, strict=True))


@pytest.mark.parametrize(
    ("name", "folder", "classes"),
    [
        ("imagenet-a-archive", "imagenet-a/imagenet-a", 3),
        ("imagenet-r-archive", "imagenet-r/imagenet-r", 3),
        ("imagenet-sketch-archive", "imagenet-sketch/sketch", 1000),
    ],
)
def test_archives_in_folders_named_by_wordnet_id(name: str, folder: str, classes: int, tmp_path: Path) -> None:
    layouts.write_imagenet_folders(tmp_path / folder, WNIDS)
    (tmp_path / folder / "README.txt").write_text("read me")
    data = open_data(entry(name), name)
    assert data.classes == classes
    assert [data.class_names[label] for label in data.labels] == ["tench"] * 2 + ["ostrich"] * 2 + ["tiger"] * 2


# OpenOOD ------------------------------------------------------------------------------------------------------------


def _ninco(root: Path, listed: str, lies: str) -> DataSpec:
    """An image at `lies` below the set's folder, listed as `listed`."""
    image = root / "openood" / "images_largescale" / "ninco" / lies
    image.parent.mkdir(parents=True)
    image.write_bytes(layouts.samples(1, 1)[0].encoded)
    lists = root / "openood" / "benchmark_imglist" / "imagenet"
    lists.mkdir(parents=True)
    (lists / "test_ninco.txt").write_text(f"{listed} -1\n")
    return entry("ninco")


@pytest.mark.parametrize(
    ("listed", "lies"),
    [
        ("ninco/amphiuma_means/1.jpg", "amphiuma_means/1.jpg"),  # OpenOOD's own list
        ("NINCO_OOD_classes/amphiuma_means/1.jpg", "amphiuma_means/1.jpg"),
        ("NINCO_OOD_classes/Caracal caracal caracal/a b.jpg", "Caracal_caracal_caracal/a_b.jpg"),
        ("NINCO_OOD_classes/Caracal caracal caracal/a b.jpg", "NINCO_OOD_classes/Caracal caracal caracal/a b.jpg"),
        ("ninco/Caracal caracal caracal/1.jpg", "Caracal caracal caracal/1.jpg"),
        ("1.jpg", "images/1.jpg"),
        ("images/1.jpg", "images/1.jpg"),
    ],
)
def test_a_listed_path_means_its_file_in_any_published_spelling(listed: str, lies: str, tmp_path: Path) -> None:
    data = open_data(_ninco(tmp_path, listed, lies), "ninco")
    assert data.sample_ids.tolist() == [listed]
    assert len(data.encoded([0])) == 1


def test_the_listed_path_itself_comes_first_and_a_missing_one_is_named(tmp_path: Path) -> None:
    spec = _ninco(tmp_path, "ninco/a/1.jpg", "a/1.jpg")
    own = tmp_path / "openood" / "images_largescale" / "ninco" / "ninco" / "a" / "1.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(layouts.samples(2, 1)[1].encoded)
    assert open_data(spec, "ninco").encoded([0]) == [own.read_bytes()]
    own.unlink()
    (tmp_path / "openood" / "images_largescale" / "ninco" / "a" / "1.jpg").unlink()
    refused(spec, r"line 1: .*/ninco/ninco/a/1\.jpg: No such file")


@given(st.text("ab /_", min_size=1, max_size=20), st.sampled_from(["ninco", "a"]))
def test_spellings_begin_with_the_path_and_are_distinct_ways_down(name: str, folder: str) -> None:
    tried = list(spellings(name, folder))
    assert tried[0] == name
    assert not any(".." in path for path in tried)


# CIFAR, Waterbirds, CounterAnimal, Crossmodal-3600 ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder", "file", "corrupted", "classes"),
    [
        ("cifar10-binary", "cifar-10-batches-bin", "test_batch.bin", "cifar10-c", 10),
        ("cifar100-binary", "cifar-100-binary", "test.bin", "cifar100-c", 100),
    ],
)
def test_cifars_binary_version_pairs_with_its_corruptions(
    name: str, folder: str, file: str, corrupted: str, classes: int, tmp_path: Path
) -> None:
    images, labels = layouts.write_cifar_binary(tmp_path / folder, file)
    data = open_data(entry(name), name)
    assert data.labels.tolist() == labels.tolist()
    assert data.classes == classes
    pixels = PixelCache(Path("unused"), 0).open(data, P32)
    np.testing.assert_array_equal(pixels.array, images.transpose(0, 3, 1, 2))
    layouts.write_cifar_c(tmp_path / corrupted.replace("cifar", "CIFAR-").replace("-c", "-C"), ["fog"])
    foggy = open_data(expand("c", entry(corrupted))["c/fog/1"], "c")
    assert foggy.sample_ids.tolist() == data.sample_ids.tolist()
    assert foggy.class_names == data.class_names
    path = tmp_path / folder / file
    path.write_bytes(path.read_bytes()[:-1])
    refused(entry(name), r"bytes, not a number of records of 3,07[34]; fetch it again")
    path.unlink()
    refused(entry(name), "expected one of test_batch.bin and test.bin, found 0")


def test_both_copies_of_waterbirds_have_the_same_groups(tmp_path: Path) -> None:
    layouts.write_waterbirds(tmp_path / "waterbirds", 22)
    folder = tmp_path / "waterbird_complete95_forest2water2"
    made = layouts.write_waterbirds_archive(folder, 22)
    parquet, files = open_data(entry("waterbirds"), "birds"), open_data(entry("waterbirds-archive"), "birds")
    assert files.labels.tolist() == [sample.label for sample in made]
    assert parquet.groups is not None
    assert files.groups is not None
    assert parquet.groups[2:].tolist() == files.groups.tolist()  # the first two are of other splits
    assert parquet.class_names == files.class_names == ("landbird", "waterbird")
    assert files.group_names == ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
    train = entry("waterbirds-archive").model_copy(update={"split": "train"})
    assert len(open_data(train, "birds")) == 1
    refused(train.model_copy(update={"split": "trian"}), "Did you mean 'train'", UnknownNameError)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("img_filename", "file", "no column 'img_filename'; its columns are img_id, file, y"),
        (",1,2,", ",2,2,", r"line \d+: column 'y': expected a whole number from 0 to 1, got '2'"),
        (".jpg", ".gif", r"line \d+: .*\.gif: No such file"),
    ],
)
def test_a_wrong_list_of_waterbirds_is_one_line(old: str, new: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "waterbird_complete95_forest2water2"
    layouts.write_waterbirds_archive(folder)
    metadata = folder / "metadata.csv"
    metadata.write_text(metadata.read_text().replace(old, new))
    refused(entry("waterbirds-archive"), says)


def test_the_45_classes_of_counteranimal_have_imagenets_labels(tmp_path: Path) -> None:
    layouts.write_counteranimal(tmp_path / "counteranimal" / "LAION-final", layouts.COUNTERANIMAL)
    (tmp_path / "counteranimal" / "LAION-final" / "imagenet_names.txt").write_text("0\ttench\n")
    common = open_data(entry("counteranimal-common"), "common")
    assert len(set(common.labels.tolist())) == catalogue()["counteranimal-common"].classes_present == 45
    for sample, label in zip(common.sample_ids, common.labels.tolist(), strict=True):
        number, name = str(sample).partition("/")[0].split(" ", 1)
        assert int(number) == label
        assert {*name.lower().replace("-", " ").split()} & {
            *imagenet_classes()[label].lower().replace("-", " ").split()
        }
    assert len(open_data(entry("counteranimal-counter"), "counter")) == 2 * 45


def test_crossmodal_captions_by_language(tmp_path: Path) -> None:
    root = tmp_path / "crossmodal3600"
    made = layouts.write_crossmodal(root)
    data = open_data(entry("crossmodal3600"), "pairs")
    assert data.sample_ids.tolist() == [sample.key for sample in made]
    assert data.captions is not None
    assert data.captions[0] == ("a picture s0000000", "the picture s0000000")
    assert data.left_out == ()
    german = entry("crossmodal3600").model_copy(update={"options": (("language", "de"),)})
    assert open_data(german, "pairs").class_names[0] == "ein Bild s0000000"
    absent = german.model_copy(update={"options": (("language", "fr"),)})
    refused(absent, r"line 1: no captions in 'fr' \(option language\); it has de, en")
    (root / "images" / made[3].file).unlink()
    refused(entry("crossmodal3600"), r"line 4: no image s0000003\.jpg below")
    (root / "captions.jsonl").write_text(json.dumps({"key": 1}) + "\n")
    refused(entry("crossmodal3600"), "line 1: expected JSON with 'image/key'")


def test_one_shard_of_coco_captions_is_whole_by_itself(tmp_path: Path) -> None:
    layouts.write_webdataset(tmp_path / "coco-pairs", None, 12, shards=1, captions=True)
    (tmp_path / "coco-pairs" / "00000.tar").rename(tmp_path / "coco-pairs" / "0.tar")
    data = open_data(entry("coco-pairs"), "pairs")
    assert len(data) == 12
    assert data.captions is not None

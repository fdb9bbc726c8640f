"""From a DataSpec to labels, ids, class names and prompts: limits, subsets, templates, digests, expansion."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmark.data import DataSets, check_data, data_digest, expand, open_data, opening, prompts, sources
from benchmark.data.corruption_names import COMMON
from benchmark.data.rows import take_limit
from benchmark.errors import DataError, InputError, SpecError, UnknownNameError
from benchmark.spec import DataSpec
from tests import layouts

CLASSES = ("ant", "bee_fly", "cat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    layouts.write_image_folder(tmp_path / "data", CLASSES, count=30)
    return tmp_path / "data"


def of(folder: Path, **fields: object) -> DataSpec:
    return DataSpec(source="image_folder", path=str(folder), **fields)  # type: ignore[arg-type]


def test_labels_names_and_the_stated_default_template(folder: Path) -> None:
    data = open_data(of(folder), "animals")
    assert data.class_names == ("ant", "bee fly", "cat")
    assert Counter(data.labels.tolist()) == {0: 10, 1: 10, 2: 10}
    assert data.templates == ("a photo of a {}.",)
    assert (data.templates_origin, data.classes_origin) == ("simple", "data")
    assert data.prompts()[1] == ["a photo of a bee fly."]
    assert data.sample_ids[0].startswith("ant/s")


def test_classes_and_templates_can_be_given(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("an ant\na bee\na {curly} cat\n\n")
    names = str(tmp_path / "names.txt")
    spec = of(folder, classes=names, classes_by="position", templates=("{} here", "see {c}!"))
    data = open_data(spec, "animals")
    assert data.class_names == ("an ant", "a bee", "a {curly} cat")
    assert data.prompts()[2] == ["a {curly} cat here", "see a {curly} cat!"]
    assert (data.templates_origin, data.classes_origin) == ("spec", "spec")
    assert open_data(of(folder, templates="imagenet"), "animals").templates == prompts.imagenet_templates()


def test_files_beside_the_folders_are_used(folder: Path) -> None:
    (folder / "classnames.txt").write_text("Ant\nBee fly\nCat\n")
    (folder / "zeroshot_classification_templates.txt").write_text("one {c}.\ntwo {c}.\n")
    data = open_data(of(folder), "animals")
    assert data.class_names == ("Ant", "Bee fly", "Cat")
    assert data.templates == ("one {}.", "two {}.")
    assert data.templates_origin == "data"


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"classes": ("a", "b")}, DataError, r"'classes' gives 2 names, the data has 3 classes"),
        ({"classes": "imagenet"}, DataError, r"'classes' gives 1000 names, the data has 3 classes"),
        ({"classes": "imagnet"}, UnknownNameError, r"unknown class list.*'imagnet'.*Did you mean 'imagenet'"),
        ({"classes": "no/such.txt"}, DataError, r"no/such.txt.*no such file"),
        ({"classes": ("a", " ", "c")}, DataError, r"class name number 1 is empty"),
        ({"templates": ("a photo",)}, DataError, r"template 'a photo': expected one '\{\}'"),
        ({"templates": ("{} and {}",)}, DataError, r"expected one '\{\}'"),
        ({"templates": "simpel"}, UnknownNameError, r"Did you mean 'simple'"),
        ({"split": "test"}, DataError, r"no such folder"),
        ({"source": "image_foldr"}, UnknownNameError, r"Did you mean 'image_folder'"),
        ({"options": {"label_space": "all"}}, SpecError, r"label_space"),
        ({"options": {"label_space": "imagenet"}}, DataError, r"WordNet id or by label 0 to 999, got 'ant'"),
        ({"options": {"subset": ["ant", "dog"]}}, UnknownNameError, r"unknown class \(option subset\) 'dog'"),
        ({"options": {"subset": ["ant", "ant"]}}, DataError, r"twice"),
        ({"text": "captions"}, DataError, r"has no captions; its columns are image, label, sample_id"),
        ({"corruption": "snwo", "severity": 1}, UnknownNameError, r"Did you mean 'snow'"),
    ],
)
def test_bad_input_is_one_line_that_names_the_data_set(
    folder: Path, fields: dict[str, object], error: type[InputError], message: str
) -> None:
    spec = DataSpec.model_validate({"source": "image_folder", "path": str(folder)} | fields)
    with pytest.raises(error, match=message) as caught:
        open_data(spec, "animals")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("data set 'animals': ")


@pytest.mark.parametrize(
    "fields",
    [{"classes": "imagnet"}, {"templates": ("a photo",)}, {"corruption": "snwo", "severity": 1}, {"options": {"a": 1}}],
)
def test_bad_names_are_found_without_listing_a_file(folder: Path, fields: dict[str, object]) -> None:
    spec = DataSpec.model_validate({"source": "image_folder", "path": str(folder)} | fields)
    with pytest.raises(InputError, match="data set 'animals'"):
        check_data(spec, "animals")


def test_a_subset_by_name_renumbers_the_labels(folder: Path) -> None:
    whole = open_data(of(folder), "animals")
    part = open_data(of(folder, options={"subset": ["cat", "ant"]}), "animals")
    assert part.class_names == ("cat", "ant")
    names = {i: whole.class_names[label] for i, label in zip(whole.sample_ids, whole.labels, strict=True)}
    assert len(part) == 20
    for sample, label in zip(part.sample_ids, part.labels, strict=True):
        assert part.class_names[label] == names[sample]
    assert [i for i in whole.sample_ids if i in set(part.sample_ids)] == list(part.sample_ids)


def test_the_limit_takes_the_classes_in_turn(folder: Path) -> None:
    for limit in (1, 3, 4, 11, 30, 99):
        data = open_data(of(folder, limit=limit), "animals")
        counts = np.bincount(data.labels, minlength=3)
        assert len(data) == min(limit, 30)
        assert counts.max() - counts.min() <= 1
        assert data.dataset["sample_id"][:] == list(data.sample_ids)
        assert len(data.class_names) == 3


@settings(deadline=None)
@given(hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(-1, 4)), st.integers(1, 70), st.integers(1, 70))
def test_limits_nest_balance_and_do_not_depend_on_the_order(labels: np.ndarray, first: int, second: int) -> None:
    ids = np.array([f"id{row}" for row in range(len(labels))])
    rows = np.arange(len(labels))
    small, large = sorted((first, second))
    few, few_labels = take_limit(rows, labels, ids, small)
    many, _ = take_limit(rows, labels, ids, large)
    assert set(few) <= set(many)
    assert len(few) == min(small, len(rows))
    assert (np.diff(few) > 0).all()
    np.testing.assert_array_equal(few_labels, labels[few])
    taken, there = Counter(few_labels.tolist()), Counter(labels.tolist())
    fullest = max(taken.values())
    assert all(taken[label] >= min(fullest - 1, there[label]) for label in there)
    order = np.random.default_rng(0).permutation(len(labels))
    again, _ = take_limit(rows, labels[order], ids[order], small)
    assert set(ids[order][again]) == set(ids[few])


@given(st.integers(1, 30), st.integers(0, 9))
def test_a_limit_below_the_number_of_classes_keeps_the_same_classes_of_related_data(limit: int, seed: int) -> None:
    rng, names = np.random.default_rng(seed), np.array([f"class {i}" for i in range(30)])
    kept = []
    for copy in range(2):  # other labels for the same names, other images, other ids
        order = rng.permutation(30)
        labels, ids = np.repeat(np.arange(30), 2), np.array([f"{copy}/{i}" for i in range(60)])
        _, chosen = take_limit(np.arange(60), labels, ids, limit, names[order])
        kept.append(set(names[order][chosen]))
    assert kept[0] == kept[1]
    assert len(kept[0]) == limit


def test_the_demo_draws_a_prefix_and_a_subset_of_the_whole() -> None:
    data = open_data(DataSpec(source="demo", split="digits", limit=30), "digits")
    assert list(data.sample_ids) == [f"digits/{i:06d}" for i in range(30)]
    assert data.class_names[3] == "three"
    assert data.templates_origin == "data"
    zeros = open_data(DataSpec(source="demo", split="digits", limit=30, options={"subset": ["zero"]}), "digits")
    assert len(zeros) == 30
    assert set(zeros.labels.tolist()) == {0}


def test_captions_become_the_classes() -> None:
    data = open_data(DataSpec(source="demo", split="calibration", limit=8, text="captions"), "pairs")
    assert data.labels.tolist() == list(range(8))
    assert data.captions == tuple((name,) for name in data.class_names)
    assert data.prompts()[0] == list(data.captions[0])
    assert (data.templates_origin, data.classes_origin) == ("captions", "captions")


def test_no_text_makes_all_images_out_of_distribution(folder: Path) -> None:
    data = open_data(of(folder, text="none"), "far")
    assert set(data.labels.tolist()) == {-1}
    assert data.class_names == ()
    assert data.templates == ()
    assert data.prompts() == []


def test_imagenet_folders_by_wordnet_id(tmp_path: Path) -> None:
    wnids = ("n01518878", "n01440764", "n15075141")
    layouts.write_image_folder(tmp_path / "a", wnids, count=6)
    data = open_data(of(tmp_path / "a"), "a")
    assert data.class_names == ("tench", "ostrich", "toilet paper")
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    named = open_data(of(tmp_path / "a", classes="imagenet"), "a")  # the label space is the named one
    assert (named.labels.tolist(), len(named.class_names)) == ([0, 0, 9, 9, 999, 999], 1000)
    present = of(tmp_path / "a", classes="imagenet", options={"label_space": "present"})
    assert open_data(present, "a").class_names == data.class_names
    whole = open_data(of(tmp_path / "a", options={"label_space": "imagenet"}), "a")
    assert whole.labels.tolist() == [0, 0, 9, 9, 999, 999]
    assert whole.class_names == prompts.imagenet_classes()
    layouts.write_image_folder(tmp_path / "b", ["n00000001"], count=1)
    with pytest.raises(DataError, match="n00000001: not one of the 1,000 WordNet ids"):
        open_data(of(tmp_path / "b"), "b")


def test_the_wordnet_ids_are_timms_and_the_names_open_clips() -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    assert prompts.imagenet_wnids() == tuple(info.index_to_label_name(i) for i in range(1000))
    for index in (0, 9, 151, 292, 999):
        description = info.index_to_description(index).lower()
        assert any(word in description for word in prompts.imagenet_classes()[index].lower().split())
    assert len(prompts.imagenet_templates()) == 80


def test_imagenet_v2_folders_sort_by_number(tmp_path: Path) -> None:
    layouts.write_image_folder(tmp_path / "v2", ["0", "10", "2", "1"], count=8)
    data = open_data(of(tmp_path / "v2"), "v2")
    assert data.class_names == ("0", "1", "2", "10")
    assert [s.split("/")[0] for s in data.sample_ids] == ["0", "0", "1", "1", "2", "2", "10", "10"]
    whole = open_data(of(tmp_path / "v2", options={"label_space": "imagenet"}), "v2")
    assert whole.labels.tolist() == [0, 0, 1, 1, 2, 2, 10, 10]


def test_groups_of_corruptions_expand() -> None:
    spec = DataSpec(source="demo", split="test", corruptions="all")
    names = expand("scenes", spec)
    assert list(names) == [f"scenes/{c}/{s}" for c in COMMON for s in (1, 2, 3, 4, 5)]
    assert len(expand("scenes", spec.model_copy(update={"corruptions": "extra"}))) == 95
    some = expand("s", DataSpec(source="demo", split="test", corruptions=("fog", "snow"), severities=(2, 4)))
    assert list(some) == ["s/fog/2", "s/fog/4", "s/snow/2", "s/snow/4"]
    version = some["s/snow/4"]
    assert (version.corruption, version.severity, version.corruptions) == ("snow", 4, None)
    assert expand("s", version) == {"s": version}
    with pytest.raises(UnknownNameError, match=r"data set 's': corruption 'fgo'.*Did you mean 'fog'"):
        expand("s", DataSpec(source="demo", split="test", corruptions=("fgo",)))
    with pytest.raises(DataError, match="expand it first"):
        open_data(spec, "scenes")


def test_corrupted_versions_share_rows_but_not_the_digest(folder: Path) -> None:
    group = expand("a", of(folder, corruptions=("fog",), severities=(1, 2), limit=5))
    opened = {name: open_data(spec, name) for name, spec in group.items()}
    clean = open_data(of(folder, limit=5), "a")
    assert all(d.generated for d in opened.values())
    assert not clean.generated
    assert all((d.sample_ids == clean.sample_ids).all() for d in opened.values())
    assert len({clean.digest, *(d.digest for d in opened.values())}) == 3


def test_what_the_digest_covers(folder: Path) -> None:
    base = data_digest(of(folder))
    assert data_digest(of(folder, templates=("{}",))) == base  # prompts have a digest of their own
    assert data_digest(of(folder, limit=5)) != base
    assert data_digest(of(folder, classes=("a", "b", "c"), classes_by="position")) != base
    assert data_digest(of(folder, classes=("cat", "bee fly", "ant"))) != base
    assert data_digest(of(folder, classes=("ant", "bee fly", "cat"))) == base  # which says nothing new
    assert data_digest(of(folder, options={"subset": ["ant"]})) != base
    assert data_digest(of(folder, corruption="fog", severity=1)) != base
    (folder / "notes.md").write_text("not an image")
    sets = DataSets()
    assert sets.open(of(folder), "a").digest == base
    (folder / "ant" / "new.png").write_bytes(layouts.encoded(layouts.picture(1), "png"))
    assert sets.open(of(folder), "a").digest == base  # files are looked at once ...
    assert DataSets().open(of(folder), "a").digest != base  # ... by each object


def test_the_digest_covers_what_is_in_a_list_file(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "kept.txt"
    digests = []
    for text in ("ant\ncat\n", "cat\nant\n"):
        listed.write_text(text)
        digests.append(data_digest(of(folder, options={"subset": str(listed)})))
    assert digests[0] != digests[1]
    assert data_digest(of(folder, options={"subset": ["cat", "ant"]})) == digests[1]


def test_the_text_digest_follows_names_and_templates(folder: Path) -> None:
    digests = {
        open_data(of(folder, **fields), "a").text_digest  # type: ignore[arg-type]
        for fields in (
            {},
            {"templates": ("a {}",)},
            {"classes": ("x", "y", "z"), "classes_by": "position"},
            {"text": "none"},
        )
    }
    assert len(digests) == 4
    assert open_data(of(folder), "a").text_digest == open_data(of(folder, limit=3), "b").text_digest


def test_the_path_may_hold_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec(source="image_folder", path="$DATA/data")
    monkeypatch.delenv("RELIQUANT_DATA", raising=False)
    with pytest.raises(DataError, match=re.escape("$DATA/data: the environment variable RELIQUANT_DATA is not set")):
        open_data(spec, "animals")
    monkeypatch.setenv("RELIQUANT_DATA", str(folder.parent))
    assert len(open_data(spec, "animals")) == 30


def test_opened_data_is_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan holds the 75 versions of CIFAR-10-C at once, but not their images: of those only some tables."""
    layouts.write_cifar_c(tmp_path, COMMON)
    spec = DataSpec(source="cifar_c", path=str(tmp_path), classes=tuple("abcdefghij"), corruptions="all")
    sets, loaded, load = DataSets(), [], type(sources.get("cifar_c")).load
    monkeypatch.setattr(type(sources.get("cifar_c")), "load", lambda self, s: loaded.append(s) or load(self, s))
    opened = [sets.open(version, name) for name, version in expand("c", spec).items()]
    assert len(opened) == 75
    assert len({id(data.labels) for data in opened}) == len({id(data.sample_ids) for data in opened}) == 1
    images = {bytes(data.dataset.with_format("arrow")[0].to_pylist()[0]["image"]["bytes"]) for data in opened}
    assert len(images) == 75
    loaded.clear()
    for data in opened[-opening.KEPT_TABLES :]:
        assert len(data.dataset) == len(data)
    assert not loaded
    assert len(opened[0].dataset) == len(opened[0])
    assert len(loaded) == 1


def test_files_that_vanish_while_running_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "KEPT_TABLES", 0)  # as when eight other data sets were opened in the meantime
    data = open_data(of(folder), "animals")
    next((folder / "ant").iterdir()).unlink()
    with pytest.raises(DataError, match="data set 'animals': had 30 images, has 29 now"):
        len(data.dataset)

"""Class names meet labels by name: in folders, lists, files and columns, whatever their order and spelling."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.data import data_digest, open_data
from benchmark.data.labels import matched
from benchmark.data.prompts import imagenet_classes, imagenet_templates
from benchmark.engine.label_spaces import check_classes
from benchmark.errors import DataError, InputError, SpecError
from benchmark.plugins import tasks
from benchmark.spec import DataSpec, parse_spec
from benchmark.spec.catalogue import load_catalogue
from tests import layouts

NAMES = ("cat", "dog", "eel", "fox")


@pytest.fixture(autouse=True)
def _fresh(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def folder(root: Path, names: tuple[str, ...] = NAMES, count: int = 8) -> Path:
    layouts.write_image_folder(root, names, count)
    return root


def of(root: Path, **fields: object) -> DataSpec:
    return DataSpec.model_validate({"source": "image_folder", "path": str(root), **fields})


def truth(spec: DataSpec) -> list[tuple[str, str]]:
    """(class name that the data set gives, class folder) of each image."""
    data = open_data(spec, "pets")
    return [(data.class_names[label], i.split("/")[0]) for label, i in zip(data.labels, data.sample_ids, strict=True)]


def right(spec: DataSpec) -> bool:
    """Every image has the name of its folder."""
    return all(name.replace("_", " ").lower() == own.replace("_", " ").lower() for name, own in truth(spec))


def refused(spec: DataSpec, *words: str) -> str:
    with pytest.raises(InputError) as error:
        open_data(spec, "pets")
    message = str(error.value)
    assert message.startswith("data set 'pets': ")
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def table(root: Path, labels: list[object], **columns: list[object]) -> DataSpec:
    root.mkdir(parents=True, exist_ok=True)
    images = [s.encoded for s in layouts.samples(len(labels), 2, "jpg")]
    pq.write_table(pa.table({"image": images, "label": labels, **columns}), root / "x.parquet")
    return DataSpec(source="parquet", path=str(root))


# by name, in any order ------------------------------------------------------------------------------------------------


def test_classes_in_the_users_own_order_meet_the_folders_by_name(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    mine = ("fox", "cat", "eel", "dog")
    data = open_data(of(root, classes=mine), "pets")
    assert data.class_names == mine
    assert right(of(root, classes=mine))
    loose = ("Fox", "CAT", "eel ", "dog")
    assert right(of(root, classes=loose))
    assert open_data(of(root, classes=loose), "pets").class_names == ("Fox", "CAT", "eel", "dog")


def test_a_names_file_in_another_order_does_not_move_text_labels(tmp_path: Path) -> None:
    """And the digests of two orders differ, so that no record of one is taken for the other."""
    spec = table(tmp_path / "d", ["dog", "cat", "fox", "cat"])
    (tmp_path / "names.txt").write_text("fox\ndog\ncat\n")
    listed, filed = (spec.model_copy(update={"classes": c}) for c in (("cat", "dog", "fox"), f"{tmp_path}/names.txt"))
    for each in (spec, listed, filed):
        data = open_data(each, "pets")
        assert [data.class_names[label] for label in data.labels] == ["dog", "cat", "fox", "cat"]
    assert data_digest(listed) == data_digest(spec) != data_digest(filed)
    same = spec.model_copy(update={"classes": ("fox", "dog", "cat")})
    assert data_digest(filed) == data_digest(same)


@pytest.mark.parametrize("names", [("no", "yes"), ("yes", "no"), ("maybe", "no", "yes")])
def test_names_of_a_class_label_are_the_datas_own(tmp_path: Path, names: tuple[str, ...]) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["yes", "no"])})
    rows = {"image": [{"bytes": s.encoded, "path": None} for s in layouts.samples(3, 2)], "label": [0, 1, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    data = open_data(DataSpec(source="parquet", path=str(tmp_path / "saved"), classes=names), "answers")
    assert [data.class_names[label] for label in data.labels] == ["yes", "no", "no"]
    assert data.empty_classes == (("maybe",) if len(names) == 3 else ())


def test_a_class_label_of_bare_numbers_takes_names_by_number(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1"])})
    rows = {"image": [{"bytes": s.encoded, "path": None} for s in layouts.samples(2, 2)], "label": [0, 1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    data = open_data(DataSpec(source="parquet", path=str(tmp_path / "saved"), classes=("zero", "one")), "digits")
    assert [data.class_names[label] for label in data.labels] == ["zero", "one"]


def test_names_that_are_not_the_folders_are_shown_side_by_side(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    other = ("a cat", "a dog", "an eel", "a fox")
    refused(of(root, classes=other), "data: cat, dog, eel, fox | classes: a cat, a dog, an eel", "classes_by: position")
    data = open_data(of(root, classes=other, classes_by="position"), "pets")
    assert data.class_names == other
    assert [(data.class_names[label].split()[1]) for label in data.labels] == [own for _, own in truth(of(root))]
    refused(of(root, classes=other[:3], classes_by="position"), "'classes' gives 3 names, the data has 4 classes")
    refused(of(root, classes=("cat", "dog", "eel")), "'classes' gives 3 names, the data has 4 classes", "data: cat")


def test_long_lists_show_the_names_without_a_counterpart(tmp_path: Path) -> None:
    own = tuple(f"class {i:02d}" for i in range(30))
    root = folder(tmp_path / "d", own, 30)
    message = refused(of(root, classes=(*own[:29], "klass 29")), "class 29", "klass 29")
    assert "class 07" not in message


def test_the_named_label_space_stays_whole(tmp_path: Path) -> None:
    """One class folder is missing, another is empty: both stay wrong answers that an image can get."""
    root = folder(tmp_path / "d", ("cat", "eel"))
    (root / "fox").mkdir()
    (root / "classnames.txt").write_text("cat\ndog\neel\nfox\n")
    data = open_data(of(root), "pets")
    assert data.class_names == NAMES
    assert data.empty_classes == ("dog", "fox")
    assert right(of(root))


def test_classnames_beside_the_folders_meet_them_by_name(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    (root / "classnames.txt").write_text("fox\neel\ndog\ncat\n")
    assert right(of(root))
    (root / "classnames.txt").write_text("one\ntwo\nthree\nfour\n")
    refused(of(root), "'classnames.txt' and the data name different classes")
    assert open_data(of(root, classes_by="position"), "pets").class_names == ("one", "two", "three", "four")


def test_imagenet_folders_meet_a_list_by_wordnet_id_or_name(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("n01440764", "n01518878"))
    for classes in (("ostrich", "tench"), ("n01518878", "n01440764")):
        data = open_data(of(root, classes=classes), "birds")
        assert data.class_names == classes
        assert [data.class_names[label] for label in data.labels[:4]] == [classes[1]] * 4


def test_a_subset_takes_names_in_any_spelling(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("red_cat", "dog"))
    data = open_data(of(root, options={"subset": ["Red cat"]}), "pets")
    assert data.class_names == ("red cat",)
    assert len(data) == 4


@pytest.mark.parametrize(
    ("own", "given", "places"),
    [
        (["a_b", "c"], ["c", "a b"], [1, 0]),
        (["Cat", "cat"], ["cat", "Cat"], [1, 0]),
        (["Cat"], ["cat", "CAT"], None),
        (["cat"], ["dog"], None),
        (["cat", "cat"], ["cat", "dog"], None),
    ],
)
def test_matched(own: list[str], given: list[str], places: list[int] | None) -> None:
    assert matched(own, given) == places


# names files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"cat\r\ndog\r\neel\r\nfox\r\n", b"\xef\xbb\xbfcat\ndog\neel\nfox", b"cat\n dog \neel\nfox\n\n \n"]
)
def test_names_files_of_other_systems(tmp_path: Path, content: bytes) -> None:
    root = folder(tmp_path / "d")
    (tmp_path / "names.txt").write_bytes(content)
    assert open_data(of(root, classes=f"{tmp_path}/names.txt"), "pets").class_names == NAMES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cat\n\ndog\neel\n", "line 2 is empty"),
        ("\ncat\ndog\n", "line 1 is empty"),
        ("cat\ndog\n# the rest\neel\n", "line 3: '# the rest': comments"),
        ("cat\ndog # barks\neel\n", "line 2: 'dog # barks': comments"),
    ],
)
def test_a_names_file_that_could_shift_names_is_refused_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    """Whole numbers as labels make the line a name's only mark."""
    spec = table(tmp_path / "d", [0, 1, 2])
    (tmp_path / "names.txt").write_text(content)
    refused(spec.model_copy(update={"classes": f"{tmp_path}/names.txt"}), "names.txt: ", words)
    root = folder(tmp_path / "f")
    (root / "classnames.txt").write_text(content)
    refused(of(root), "classnames.txt: ", words)


def test_too_few_names_for_the_labels(tmp_path: Path) -> None:
    spec = table(tmp_path / "d", [0, 1, 2])
    refused(spec.model_copy(update={"classes": ("a", "b")}), "label 2 of image 2", "2 classes")
    more = open_data(spec.model_copy(update={"classes": ("a", "b", "c", "d")}), "pets")
    assert more.empty_classes == ("d",)


# spellings of one name ------------------------------------------------------------------------------------------------


def test_composed_and_decomposed_are_one_name(tmp_path: Path) -> None:
    """A folder copied from a Mac beside the same folder: one class; lists in either form meet it."""
    nfd, nfc = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFD", "NFC"))
    assert nfd != nfc
    layouts.write_image_folder(tmp_path / "d", [nfd, "bar"], 4)
    layouts.write_image_folder(tmp_path / "d", [nfc, "bar"], 2)
    for fields in ({}, {"classes": ("bar", nfc)}, {"classes": ("bar", nfd)}, {"options": {"subset": [nfd, "bar"]}}):
        data = open_data(of(tmp_path / "d", **fields), "places")
        assert set(data.class_names) == {nfc, "bar"}
        assert len(data) == 5  # "bar" of both calls, two and one under the two forms of the other
        counts = np.bincount(data.labels, minlength=2)
        assert counts[data.class_names.index(nfc)] == 3


def test_text_labels_in_two_forms_are_one_class(tmp_path: Path) -> None:
    data = open_data(table(tmp_path / "d", ["e\u0301t\u00e9", "\u00e9te\u0301", "hiver"]), "seasons")
    assert data.class_names == ("hiver", "\u00e9t\u00e9")
    assert data.labels.tolist() == [1, 1, 0]


# equal prompts --------------------------------------------------------------------------------------------------------


def test_two_folders_with_one_prompt_are_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ("red circle", "red_circle", "dog"))
    refused(of(root), "'red circle'", "'red_circle'", "same prompt ('a photo of a red circle.')", "allow_equal_prompts")
    assert open_data(of(root, allow_equal_prompts=True), "shapes").class_names.count("red circle") == 2


def test_a_name_twice_in_a_list_is_named(tmp_path: Path) -> None:
    spec = table(tmp_path / "d", [0, 1, 2]).model_copy(update={"classes": ("cat", "dog", "cat")})
    refused(spec, "classes 0 ('cat') and 2 ('cat') have the same prompt")
    allowed = spec.model_copy(update={"allow_equal_prompts": True})
    assert open_data(allowed, "pets").class_names == ("cat", "dog", "cat")
    refused(of(folder(tmp_path / "f"), classes=("cat", "dog", "eel", "cat")), "'cat' stands twice")


def test_published_lists_may_repeat_names(tmp_path: Path) -> None:
    """ImageNet's list, and the catalogue's data sets that bring it as a file."""
    root = folder(tmp_path / "d", ("n03773504", "n04008634"))  # both are a "missile" there
    assert open_data(of(root), "missiles").class_names == ("missile", "missile")
    spec = table(tmp_path / "t", [657, 744]).model_copy(update={"classes": "imagenet"})
    assert len(open_data(spec, "missiles").class_names) == 1000
    known = load_catalogue()
    assert all(known[name].allow_equal_prompts for name in ("imagenet-v2", "imagenet-sketch"))
    assert known["imagenet"].classes == "imagenet"


# labels and lists that YAML or a table spoils -------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["classes", "templates"])
@pytest.mark.parametrize("value", [[0, 1], [True, False], ["a", None], 7, True])
def test_unquoted_lists_say_how_to_write_them(field: str, value: object) -> None:
    with pytest.raises(SpecError, match=rf"data\.yaml: {field}: .*put entries in quotes: \[\"0\", \"1\"\]"):
        parse_spec(DataSpec, {"source": "demo", field: value}, "data.yaml")


def test_an_unquoted_subset_says_so_too(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    refused(of(root, options={"subset": [0]}), "subset", "put entries in quotes")


@pytest.mark.parametrize("labels", [["a", None, "b"], [0, None, 1], [0.0, float("nan"), 1.0]])
def test_a_null_label_names_its_row(tmp_path: Path, labels: list[object]) -> None:
    spec = table(tmp_path / "d", labels)
    refused(spec.model_copy(update={"classes": ("a", "b")}), "column 'label', row 1: no label (null; 1 of 3)")
    assert set(open_data(spec.model_copy(update={"text": "none"}), "far").labels.tolist()) == {-1}


def test_whole_numbers_as_floats_are_labels_and_others_are_named(tmp_path: Path) -> None:
    spec = table(tmp_path / "d", [0.0, 1.0]).model_copy(update={"classes": ("a", "b")})
    assert open_data(spec, "x").labels.tolist() == [0, 1]
    spec = table(tmp_path / "d", [0.0, 1.5]).model_copy(update={"classes": ("a", "b")})
    refused(spec, "row 1: expected a whole number or a name, got 1.5")


def test_classes_of_data_without_labels_ask_for_the_column(tmp_path: Path) -> None:
    spec = table(tmp_path / "d", [0, 1], kind=[0, 1])
    pq.write_table(pq.read_table(tmp_path / "d" / "x.parquet").drop(["label"]), tmp_path / "d" / "x.parquet")
    refused(
        spec.model_copy(update={"classes": ("a", "b")}), "no label column; its columns are image, kind", "text: none"
    )
    with pytest.raises(DataError):
        open_data(spec, "x")


# several data sets ----------------------------------------------------------------------------------------------------


def test_shared_classes_meet_whatever_their_unicode_form(tmp_path: Path) -> None:
    """One class of the source side would be dropped, and only the others' accuracy printed."""
    forms = {form: unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")}
    opened = {form: open_data(of(folder(tmp_path / form, (name, "bar"))), form) for form, name in forms.items()}
    assert opened["NFC"].class_names == opened["NFD"].class_names
    names = {"source": {"a": opened["NFC"].class_names}, "shifted": {"b": opened["NFD"].class_names}}
    check_classes(tasks.get("covariate_shift"), names, "suite")


@pytest.mark.parametrize(("own", "other"), [("Cat", "cat"), ("red_cat", "red cat")])
def test_shared_classes_in_another_spelling_are_named(own: str, other: str) -> None:
    names = {"source": {"a": (own, "dog")}, "shifted": {"b": ("dog", other)}}
    with pytest.raises(
        SpecError, match=rf"role 'shifted': class '{other}' of 'b' would not meet '{own}' of 'a'; write"
    ):
        check_classes(tasks.get("covariate_shift"), names, "suite")


def test_imagenets_names_and_templates_are_those_that_open_clip_hands_out() -> None:
    import open_clip

    assert imagenet_classes() == tuple(open_clip.IMAGENET_CLASSNAMES)
    assert [each.replace("{}", "cat") for each in imagenet_templates()] == [
        each("cat") for each in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]

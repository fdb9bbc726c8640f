"""Images, labels, prompts: what of a data set is in which key, as `test_hash_completeness.py` has it for the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from benchmark.data import DataSets, SourceOptions, sources
from benchmark.data.opening import Data
from benchmark.registry import Origin
from benchmark.spec import DataSpec
from tests import layouts
from tests.hash_keys import (
    ANSWERS,
    CALIBRATION,
    CLASSES,
    IMAGES,
    NAMES,
    Irrelevant,
    Row,
    Scene,
    Table,
    changed,
    keys,
    raised,
    rows,
)
from tests.registries import restored


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def own(tmp_path: Path) -> Scene:
    """A scene whose files may change."""
    return Scene(tmp_path)


FOG = {"corruptions": ("fog",)}
DATA_FIELDS: Table = {
    "source": Row({"source": "twin"}, IMAGES),
    "path": Irrelevant("what lies there counts: test_a_moved_folder_is_the_same"),
    "split": Row({"split": "two"}, IMAGES, {"split": "one"}),
    "classes": Row({"classes": ("Cat", "Ant", "Bee")}, NAMES, may=IMAGES),
    "classes_by": Row(
        {"classes": ("Cat", "Ant", "Bee"), "classes_by": "position"}, IMAGES, {"classes": ("Cat", "Ant", "Bee")}
    ),
    "allow_equal_prompts": Row({"allow_equal_prompts": True}, why="it refuses data or not, and changes no number"),
    "allow_empty_classes": Row({"allow_empty_classes": True}, why="it refuses data or not, and changes no number"),
    "templates": Row({"templates": ("see {}",)}, NAMES),
    "text": Row({"text": "none"}, NAMES, of="others", may=IMAGES),
    "limit": Row({"limit": 4}, IMAGES),
    "corruptions": Row({"corruptions": ("fog",)}, IMAGES, {"corruptions": ("contrast",)}, of="others"),
    "severities": Row(
        {"corruptions": ("fog",), "severities": (2,)},
        IMAGES,
        {"corruptions": ("fog",), "severities": (1,)},
        of="others",
    ),
    "corruption": Row({"corruption": "fog", "severity": 1}, IMAGES, {"corruption": "contrast", "severity": 1}),
    "published": Row({"published": "imagenet-1k"}, why="it says what full precision is compared with"),
    "severity": Row({"corruption": "fog", "severity": 2}, IMAGES, {"corruption": "fog", "severity": 1}),
    "options": Row({"options": {"half": "a"}}, IMAGES, {"options": {"half": "b"}}),
}
SOURCE_OPTIONS: Table = {
    "subset": Row({"options": {"subset": ["Ant", "Cat"]}}, IMAGES | NAMES),
    "half": Row({"options": {"half": "a"}}, IMAGES),
}


@pytest.fixture
def twin() -> Iterator[None]:
    """A second source that reads the same folders."""
    kind: Any = type(sources.get("image_folder"))
    with restored():
        sources.add("twin", type("Twin", (kind,), {"name": "twin"})(), Origin("tests", "tests"))
        yield


@pytest.mark.usefixtures("twin")
@pytest.mark.parametrize(("name", "row"), [*rows(DATA_FIELDS), *rows(SOURCE_OPTIONS)])
def test_data(own: Scene, name: str, row: Row) -> None:
    if name == "split":
        shutil.copytree(own.root / "splits" / "one", own.root / "splits" / "two")
        own.suite["data"]["photos"]["path"] = str(own.root / "splits")
    before, after = (keys(own.with_data(row.of, **some), of=row.of) for some in (row.before or {}, row.after))
    row.check(before, after)


def test_a_moved_folder_is_the_same(own: Scene) -> None:
    before = keys(own.with_fields())
    (own.root / "photos").rename(own.root / "moved")
    assert keys(own.with_data("photos", path=str(own.root / "moved"))) == before


def test_the_version_of_a_source(scene: Scene) -> None:
    before = keys(scene.with_fields())
    with raised(sources.get("image_folder")):
        assert changed(before, keys(scene.with_fields())) == IMAGES


@pytest.mark.parametrize("name", sources.names())
def test_every_option_of_every_source_counts_but_for_places(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.get(name)
    monkeypatch.setattr(type(source), "fingerprint", lambda self, spec: "files")
    monkeypatch.setattr(type(source), "check", lambda self, spec: None)
    before = DataSets().files_digest(DataSpec(source=name))
    for option in source.options.model_fields:
        after = DataSets().files_digest(DataSpec.model_validate({"source": name, "options": {option: ["x"]}}))
        assert (after == before) == (option in source.places), option


def rewrite(path: Path, text: str) -> None:
    path.write_text(text)


def picture(path: Path) -> None:
    path.write_bytes(layouts.encoded(layouts.picture(777), path.suffix[1:]))


def relabel(scene: Scene) -> None:
    file = sorted((scene.root / "photos" / "ant").iterdir())[0]
    file.rename(scene.root / "photos" / "bee" / file.name)


def captions(scene: Scene) -> None:
    """The same images in the same shard, with other captions."""
    parts = [[replace(one, key=f"x{one.key[1:]}") for one in layouts.samples(4, 1)]]
    layouts.write_shards(scene.root / "pairs", parts, None, None, captions=True)


FILES: dict[str, tuple[Callable[[Scene], None], frozenset[str], frozenset[str]]] = {
    "an image": (lambda s: picture(sorted((s.root / "photos" / "ant").iterdir())[0]), IMAGES, frozenset()),
    "an image more": (lambda s: picture(s.root / "photos" / "ant" / "new.jpg"), IMAGES, frozenset()),
    "a label": (relabel, IMAGES, frozenset()),
    "the class names": (lambda s: rewrite(s.root / "photos" / "classnames.txt", "Cat\nBee\nAnt\n"), NAMES, IMAGES),
    "the templates": (
        lambda s: rewrite(s.root / "photos" / "zeroshot_classification_templates.txt", "the {c}.\n"), NAMES, IMAGES,
    ),
    "the calibration pairs": (captions, CALIBRATION, frozenset()),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files(own: Scene, name: str) -> None:
    change, must, may = FILES[name]
    before = keys(own.with_fields())
    change(own)
    Row({}, must, may=may).check(before, keys(own.with_fields()))


def test_class_names_beside_the_images_choose_the_images_of_a_limit(own: Scene) -> None:
    """The classes take their turns in the order of their names' hashes."""
    before = keys(own.with_data("photos", limit=4, classes_by="position"))
    rewrite(own.root / "photos" / "classnames.txt", "A\nB\nC\n")
    Row({}, IMAGES | NAMES).check(before, keys(own.with_data("photos", limit=4, classes_by="position")))


COMES = Irrelevant("it comes with the digest: files, source and specification determine it")
DATA_PROPERTIES: dict[str, frozenset[str] | Irrelevant] = {
    "name": Irrelevant("the suite's name of the data, a part of metric keys: test_the_name_of_a_data_set"),
    "spec": Irrelevant("see DATA_FIELDS"),
    "labels": COMES,
    "sample_ids": COMES,
    "class_names": NAMES,
    "templates": NAMES,
    "templates_origin": Irrelevant("it is for people"),
    "classes_origin": Irrelevant("it is for people"),
    "digest": IMAGES,
    "groups": COMES,
    "group_names": COMES,
    "captions": COMES,
    "base_ids": COMES,
    "empty_classes": COMES,
    "left_out": Irrelevant("it is for people"),
    "origin": Irrelevant("the digest holds the files: a commit names them"),
    "equal_prompts": Irrelevant("it refuses data or not, and changes no number"),
}


@pytest.mark.parametrize("name", [name for name, row in DATA_PROPERTIES.items() if not isinstance(row, Irrelevant)])
def test_data_property(scene: Scene, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = keys(scene.with_fields()), DataSets.open
    other = {"class_names": CLASSES, "templates": ("a {}.", "the {}."), "digest": "other"}[name]

    def opened(self: DataSets, spec: DataSpec, called: str) -> Data:
        data = real(self, spec, called)
        return replace(data, **{name: other}) if called == "photos" else data  # type: ignore[arg-type]

    monkeypatch.setattr(DataSets, "open", opened)
    must = DATA_PROPERTIES[name]
    assert not isinstance(must, Irrelevant)
    Row({}, must).check(before, keys(scene.with_fields()))


def test_the_name_of_a_data_set(own: Scene) -> None:
    """It stands in the metric keys of an evaluation, and nowhere else."""
    before = keys(own.with_fields())
    own.suite["data"]["renamed"] = own.suite["data"]["others"]
    assert changed(before, keys(own.with_binding({"id": "photos", "ood": "renamed"}))) == ANSWERS


@pytest.mark.parametrize(
    ("kind", "table"), [(DataSpec, DATA_FIELDS), (SourceOptions, SOURCE_OPTIONS)], ids=["DataSpec", "SourceOptions"]
)
def test_every_field_of_data_is_listed(kind: type[BaseModel], table: Table) -> None:
    assert set(table) == set(kind.model_fields)


def test_every_attribute_of_data_is_listed() -> None:
    assert set(DATA_PROPERTIES) == {field.name for field in fields(Data) if not field.name.startswith("_")}

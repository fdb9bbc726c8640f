"""The catalogue shipped, a user's catalogue over it, and what a bare path is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.data import check_data, expand, open_data, sources
from benchmark.errors import DataError, SpecError
from benchmark.spec.catalogue import catalogue, detect, load_catalogue
from tests import layouts


def test_every_entry_names_a_source_and_says_what_it_is() -> None:
    entries = catalogue()
    assert {
        "imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r", "objectnet", "cifar10", "cifar100",
        "cifar10-c", "imagenet-c", "ssb-hard", "ninco", "inaturalist", "textures", "openimage-o",
        "counteranimal-common", "counteranimal-counter", "waterbirds", "cc3m",
    } <= set(entries)  # fmt: skip
    for name, entry in entries.items():
        assert entry.spec.source in sources, name
        assert entry.about, name
        assert entry.spec.path is not None, name
        assert entry.spec.path.startswith("$DATA/"), name
        sources.get(entry.spec.source).parse(entry.spec)
        assert expand(name, entry.spec)


def test_entries_say_whether_their_data_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELIQUANT_DATA", raising=False)
    assert not catalogue()["cifar10-c"].found
    with pytest.raises(DataError, match="RELIQUANT_DATA is not set"):
        check_data(expand("c", catalogue()["cifar10-c"].spec)["c/fog/1"], "c")
    monkeypatch.setenv("RELIQUANT_DATA", str(tmp_path))
    layouts.write_cifar_c(tmp_path / "CIFAR-10-C", ["fog"])
    assert catalogue()["cifar10-c"].found
    data = open_data(expand("c", load_catalogue()["cifar10-c"])["c/fog/2"], "c")
    assert data.class_names[0] == "airplane"
    assert len(data.templates) == 18


def test_a_users_catalogue_is_laid_over(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "imagenet: {path: /mnt/imagenet, limit: 500}\n"
        "waterbirds: {source: image_folder, path: /mnt/birds}\n"
        "my-birds: {source: image_folder, path: birds, about: my own}\n"
    )
    entries = catalogue([mine])
    assert entries["imagenet"].spec.source == "imagenet"
    assert entries["imagenet"].spec.path == "/mnt/imagenet"
    assert entries["imagenet"].spec.limit == 500
    assert entries["imagenet"].about.startswith("ImageNet-1k")
    assert entries["waterbirds"].spec.classes is None
    assert entries["my-birds"].about == "my own"
    assert entries["my-birds"].origin == str(mine)
    assert entries["ninco"].origin == "reliquant"
    assert set(load_catalogue([mine])) == set(entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: {source: image_folder, pth: a}", r"mine\.yaml: x: .*unknown field 'pth'.*Did you mean 'path'"),
        ("x: {path: a}", r"mine\.yaml: x: source: Field required"),
        ("x: folder", r"mine\.yaml: x: expected fields"),
        ("- x", r"mine\.yaml: expected names"),
        ("x/y: {source: demo}", r"mine\.yaml: data set name 'x/y'"),
        ("../x: {source: demo}", r"mine\.yaml: data set name '\.\./x'"),
        ("x: {source: [}", r"mine\.yaml: not valid YAML at line 1"),
        ("x: !!python/object:os.system {}", r"mine\.yaml: not valid YAML"),
    ],
)
def test_a_wrong_catalogue_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SpecError, match=message) as error:
        catalogue([tmp_path / "mine.yaml"])
    assert "\n" not in str(error.value)


def test_bare_paths_are_recognised(tmp_path: Path) -> None:
    layouts.write_image_folder(tmp_path / "folder", ["a", "b"], count=2)
    layouts.write_webdataset(tmp_path / "wds", ["a", "b"], count=2)
    layouts.write_waterbirds(tmp_path / "birds", count=2)
    layouts.write_cifar_c(tmp_path / "cifar", ["fog"])
    listed = layouts.write_image_list(tmp_path / "ood", count=2)
    found = {name: detect(str(tmp_path / name)).source for name in ("folder", "wds", "birds", "cifar")}
    assert found == {"folder": "image_folder", "wds": "webdataset", "birds": "parquet", "cifar": "cifar_c"}
    assert detect(str(listed)).source == "image_list"
    assert detect(str(tmp_path / "wds" / "test" / "0.tar")).source == "webdataset"
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.doc").touch()
    for path, message in (("empty", "no class folders"), ("x.doc", "expected a folder"), ("none", "no such file")):
        with pytest.raises(DataError, match=message):
            detect(str(tmp_path / path))

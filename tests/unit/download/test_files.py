"""What can be fetched, beside what the data catalogue reads: the two files say one thing."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from benchmark.download.catalogue import catalogue as downloads
from benchmark.download.schema import File
from benchmark.spec.catalogue import catalogue
from benchmark.spec.suite import load_suite

DATA, FILES = catalogue(), downloads()
PROVIDERS = {name: key for key, download in FILES.items() for name in download.provides}


def test_every_data_set_below_the_folder_of_data_can_be_fetched() -> None:
    wanted = {name for name, entry in DATA.items() if (entry.spec.path or "").startswith("$DATA")}
    assert set(PROVIDERS) == wanted
    assert len(PROVIDERS) == sum(len(download.provides) for download in FILES.values())  # each by one of them


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_data_set_lies_where_its_download_leaves_it(name: str) -> None:
    download, spec = FILES[PROVIDERS[name]], DATA[name].spec
    folders = {download.folder, *(FILES[other].folder for other in download.needs)}
    places = [spec.path, spec.option("root")]
    for place in (PurePosixPath(str(path).removeprefix("$DATA/")) for path in places if path):
        assert any(place.is_relative_to(folder) for folder in folders), place
    if spec.source == "image_list":  # the archive is unpacked into the folder that the list's images lie in
        unpacked = [f"$DATA/{download.folder}/{file.unpack.to}" for file in download.files.values() if file.unpack]
        assert unpacked == [spec.option("root")]


@pytest.mark.parametrize("name", PROVIDERS)
def test_hub_names_agree(name: str) -> None:
    hubs = {source.hub for file in FILES[PROVIDERS[name]].files.values() for source in file.sources if source.hub}
    if DATA[name].hub is not None:
        assert hubs == {DATA[name].hub}
    if any(str(hub).startswith("clip-benchmark/") for hub in hubs):
        assert DATA[name].hub is not None
        if DATA[name].spec.path not in ("$DATA/imagenet", "$DATA/coco-pairs"):
            assert DATA[name].spec.path == f"$DATA/{str(DATA[name].hub).partition('/')[2]}"


def every_file() -> list[tuple[str, File]]:
    """`download: file` with the file."""
    return [(f"{key}: {name}", file) for key, download in FILES.items() for name, file in download.files.items()]


@pytest.mark.parametrize(("name", "file"), every_file(), ids=[name for name, _ in every_file()])
def test_no_branch_is_followed_in_silence(name: str, file: File) -> None:
    for source in file.sources:
        if source.hub and not re.fullmatch("[0-9a-f]{40}", str(source.revision)):
            assert source.revision == "main"  # the hub takes no shortened commit
            assert file.sha256 or file.unverified
    by_hand = [source.by_hand for source in file.sources]
    assert by_hand == sorted(by_hand), "what the user must do comes last"
    if name.endswith((".zip", ".tgz", ".tar.gz")) and not name.startswith("imagenet-archives"):
        assert file.unpack is not None


def test_the_two_clip_benchmark_spellings() -> None:
    """`/` of a data set's name is `-` in the repository's, and the underscore of imagenet_sketch stays."""
    hubs = {source.hub for _, file in every_file() for source in file.sources}
    assert {"clip-benchmark/wds_vtab-cifar10", "clip-benchmark/wds_vtab-cifar100"} <= hubs
    assert {"clip-benchmark/wds_imagenet_sketch", "clip-benchmark/wds_imagenet-a"} <= hubs


@pytest.mark.parametrize("suite", ["cifar", "imagenet", "paper"])
def test_what_a_suite_needs_can_be_fetched(suite: str) -> None:
    needed = {name for name, entry in DATA.items() for spec in load_suite(suite).data.values() if entry.spec == spec}
    assert len(needed) >= len(load_suite(suite).data)
    assert needed <= set(PROVIDERS)

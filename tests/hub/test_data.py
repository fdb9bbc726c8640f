"""`source: hub` through the real client: read as what the files say they are, by commit, whole or not at all."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.data import Data, open_data
from benchmark.errors import DataError
from benchmark.spec import DataSpec
from benchmark.utils import hub_client
from tests import layouts
from tests.hub import Hub, Repository

NAMES = ["ant", "bee"]


@pytest.fixture
def hub(loopback_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks; nobody sleeps between tries."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with loopback_hub.asked_here(tmp_path / "client"):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
        yield loopback_hub


def opened(name: str = "org/wds", **fields: Any) -> Data:
    return open_data(DataSpec(source="hub", path=name, **fields), "pictures")


def refused(what: str, name: str = "org/wds", **fields: Any) -> None:
    with pytest.raises(DataError) as caught:
        opened(name, **fields)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def webdataset(hub: Hub, folder: Path, shards: int, count: int = 12) -> Repository:
    """CLIP_benchmark's layout on the hub, with a train split that nobody asks for."""
    layouts.write_webdataset(folder, NAMES, count=count, shards=shards)
    repository = hub.dataset("org/wds")
    repository.commit_folder(folder)
    repository.commit({"train/0.tar": b"never fetched", "train/nshards.txt": "1", "README.md": "# a card"})
    return repository


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_clip_benchmarks_layout_whatever_the_number_of_shards(hub: Hub, tmp_path: Path, shards: int) -> None:
    repository = webdataset(hub, tmp_path / "local", shards)
    found = opened()
    local = open_data(DataSpec(source="webdataset", path=str(tmp_path / "local")), "pictures")
    assert found.class_names == tuple(NAMES)
    assert found.templates == local.templates
    assert found.sample_ids.tolist() == local.sample_ids.tolist()
    assert found.labels.tolist() == local.labels.tolist()
    assert found.encoded(range(12)) == local.encoded(range(12))
    assert found.origin == f"org/wds@{repository.branches['main']}"
    assert hub.requests("train/") == []


def test_a_moved_branch_is_other_data_and_a_new_card_is_not(hub: Hub, tmp_path: Path) -> None:
    repository = webdataset(hub, tmp_path / "a", 2)
    old, commit = opened(), repository.branches["main"]
    repository.commit({"README.md": "# another card"})
    assert opened().digest == old.digest
    assert opened(options={"revision": commit}).digest == old.digest
    assert opened(options={"revision": commit}).origin == f"org/wds@{commit}"
    layouts.write_webdataset(tmp_path / "b", NAMES, count=14, shards=2)
    repository.commit_folder(tmp_path / "b")
    assert opened().digest != old.digest
    assert len(opened()) == 14
    assert len(opened(options={"revision": commit})) == 12


def test_a_shard_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    webdataset(hub, tmp_path / "local", 2).commit({}, remove=["test/1.tar"])
    refused("1.tar: missing; nshards.txt counts 2 shards")


def test_cuts_end_in_the_same_data(hub: Hub, tmp_path: Path) -> None:
    webdataset(hub, tmp_path / "local", 2)
    digest, random = opened().digest, Random(7)
    for place in range(6):
        with hub.asked_here(tmp_path / f"client-{place}"):
            name = random.choice(["test/0.tar", "test/1.tar", "nshards.txt", "classnames.txt", "templates.txt"])
            hub.cut(f"GET .*{name}", at=random.randrange(5000), times=random.choice([1, None]))
            try:
                told = opened().digest
            except DataError as error:
                told = str(error)
            assert told == digest or "whole files are kept" in told, told
            hub.heal()
            assert opened().digest == digest


def test_each_refusal_has_its_own_advice(hub: Hub, tmp_path: Path) -> None:
    repository = webdataset(hub, tmp_path / "local", 1)
    refused("no such repository on the hub, or it is private", "org/none")
    refused("no such repository", "csv")  # the name of a reader of `datasets`
    refused("no revision 'gone' there", options={"revision": "gone"})
    refused("no shards val/*.tar, but in test, train; name one with 'split:'", split="val")
    refused("a webdataset has no option 'group'", options={"group": "x"})
    hub.dataset("org/csv").commit({"a.csv": "x", "images.zip": b"x"})
    refused("no *.tar and no *.parquet of a data set there (but .csv, .zip)", "org/csv")
    repository.gated = True
    refused(f"gated: accept its terms at {hub.url}/datasets/org/wds; then log in")
    with hub.asked_here(tmp_path / "offline", offline=True):
        refused("HF_HUB_OFFLINE=1 forbids the download; unset it, or download the data elsewhere")
    hub.fail("/api/datasets", 503)
    refused("the hub answers 503", "org/csv", options={"revision": "v2"})


def test_cached_data_need_no_hub(hub: Hub, tmp_path: Path) -> None:
    webdataset(hub, tmp_path / "local", 2)
    digest = opened().digest
    with hub.down():
        hub_client._probe.cache_clear()
        assert opened().digest == digest
        refused("cannot be reached", "org/other")
    with hub.asked_here(tmp_path / "client", offline=True):
        hub.forget()
        assert opened().digest == digest
        assert hub.requests() == []


def table(labels: list[int], typed: bool) -> bytes:
    """A parquet file as on the hub, with its ClassLabel or with plain numbers."""
    images = [{"bytes": sample.encoded, "path": None} for sample in layouts.samples(len(labels), 2)]
    buffer = io.BytesIO()
    if typed:
        kind = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
        datasets.Dataset.from_dict({"image": images, "label": labels}, features=kind).to_parquet(buffer)
    else:
        pq.write_table(pa.table({"image": images, "label": labels}), buffer)
    return buffer.getvalue()


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: all/a-*
  - split: test
    path: [all/b-*, all/c-*]
- config_name: small
  data_files: [{split: test, path: all/c-0.parquet}]
dataset_info:
- config_name: default
  features:
  - {name: image, dtype: image}
  - {name: label, dtype: {class_label: {names: {'0': ant, '1': bee}}}}
- config_name: small
  features:
  - {name: label, dtype: {class_label: {names: {'1': wasp, '0': moth}}}}
---
# Pictures
"""


def test_tables_as_their_card_lists_them(hub: Hub) -> None:
    files = {"all/a-0.parquet": b"never fetched", "all/b-0.parquet": table([0, 1, 0], False)}
    hub.dataset("org/card").commit({**files, "all/c-0.parquet": table([1, 1], False), "README.md": CARD})
    assert opened("org/card").labels.tolist() == [0, 1, 0, 1, 1]
    assert opened("org/card").class_names == ("ant", "bee")
    small = opened("org/card", options={"config": "small"}, allow_empty_classes=True)
    assert (small.labels.tolist(), small.class_names) == ([1, 1], ("moth", "wasp"))
    assert hub.requests("/a-0") == []


def test_tables_by_their_names(hub: Hub) -> None:
    files = {"data/train-00000-of-00001.parquet": b"never fetched"}
    files["data/test-00000-of-00001.parquet"] = table([0, 1, 0], True)
    files["tiny/test-00000-of-00001.parquet"] = table([1, 0], True)
    hub.dataset("org/tables").commit(files)
    assert len(opened("org/tables", options={"config": "tiny"})) == 2
    assert opened("org/tables", options={"config": "data"}).class_names == tuple(NAMES)
    assert hub.requests("train-") == []
    refused("no files of configuration 'huge'", "org/tables", options={"config": "huge"})
    refused("no file of split 'val'", "org/tables", split="val")

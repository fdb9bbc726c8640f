"""Too much of anything is an answer within seconds, or one line; never much memory."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import save_file

from benchmark.data import open_data
from benchmark.errors import DataError, ModelError, SpecError
from benchmark.models import resolve
from benchmark.spec import DataSpec
from benchmark.spec.suite import expand_all, load_suite
from tests.hostile_images import png

SECONDS, MEGABYTES = 20.0, 500
"""Generous for a busy machine; without the bounds each of these takes minutes or all memory."""


@pytest.fixture
def bounded() -> Iterator[None]:
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


BOUNDED = pytest.mark.usefixtures("bounded")


@BOUNDED
@pytest.mark.parametrize("count", ["99999999999", "9" * 5000, "²", "-1", "0", "1e9", "٣"])
def test_shards_without_number(tmp_path: Path, count: str) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "nshards.txt").write_text(count)
    with pytest.raises(DataError, match="nshards"):
        open_data(DataSpec(source="webdataset", path=str(tmp_path)), "mine")


def table(folder: Path, images: int, classes: int, length: int = 4) -> DataSpec:
    """A parquet file of one tiny picture, again and again."""
    names = [f"{label:0{length}d}" for label in range(classes)]
    labels = pa.array([names[row % classes] for row in range(images)])
    pq.write_table(pa.table({"image": pa.array([png(4, 4)] * images), "label": labels}), folder / "test.parquet")
    return DataSpec(source="parquet", path=str(folder))


@BOUNDED
def test_a_hundred_thousand_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"100,000 classes, at most 50,000; keep some by the option 'subset'"):
        open_data(table(tmp_path, 100_000, 100_000, 6), "mine")


@BOUNDED
def test_two_hundred_thousand_images(tmp_path: Path) -> None:
    data = open_data(table(tmp_path, 200_000, 100), "mine")
    assert (len(data), len(data.class_names)) == (200_000, 100)


@BOUNDED
def test_names_without_end(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("x" * 10_000_000)
    spec = table(tmp_path, 4, 1)
    with pytest.raises(DataError, match=r"names.txt: 10,000,000 bytes, a file of names has at most 5,000,000"):
        open_data(spec.model_copy(update={"classes": str(path)}), "mine")
    path.write_text("x" * 4_000_000)
    with pytest.raises(DataError, match=r"class name number 0 \('x{40}...'\) has 4,000,000 letters, at most 1,000"):
        open_data(spec.model_copy(update={"classes": str(path)}), "mine")
    with pytest.raises(DataError, match=r"class name number 0 .* has 10,000,000 letters"):
        open_data(table(tmp_path, 1, 1, 10_000_000), "mine")


@BOUNDED
def test_a_million_quantizations(tmp_path: Path) -> None:
    many = "rtn-w4-g{" + ",".join(map(str, range(1000))) + "}-skip_{" + ",".join(map(str, range(1000))) + "}-vision"
    with pytest.raises(SpecError, match="more than 10000 alternatives"):
        expand_all([many])
    path = tmp_path / "suite.yaml"
    suite = yaml.safe_load((Path(__file__).parents[2] / "benchmark" / "suites" / "demo.yaml").read_text())
    path.write_text(json.dumps({**suite, "quantizations": ["rtn-w4-vision"] * 1_000_000}))
    with pytest.raises(SpecError, match="larger than 1000000 bytes"):
        load_suite(str(path))


@pytest.mark.parametrize("kind", ["rag", "encoder-decoder", "nonsense", None, 7, ["clip"], {}])
@pytest.mark.filterwarnings("ignore")
def test_kinds_of_models_that_are_not_supported(tmp_path: Path, kind: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    processor = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}, "resample": 3}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} | dict.fromkeys(
        ("do_resize", "do_center_crop", "do_normalize", "do_rescale"), True
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        resolve(f"transformers:{tmp_path}").load()
    assert len(str(caught.value).splitlines()) == 1

"""A data set is its bytes: files replaced in place are seen, moved or touched ones are not; names of any encoding."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from benchmark.cli.app import app
from benchmark.data import PixelCache, decode, open_data
from benchmark.errors import DataError, ReliquantError
from benchmark.ledger.records import Ledger
from benchmark.models.base import Preprocess
from benchmark.spec import DataSpec
from tests import layouts

P32 = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3)
RED, BLUE = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))


def keeping_size_and_time(path: Path, content: bytes) -> None:
    """Replace a file in place, as rsync does without checksums: size and time of change stay."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def bmp(image: Image.Image) -> bytes:
    """Uncompressed: every image of one size takes the same bytes."""
    import io

    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def suite(tmp_path: Path, path: Path) -> Path:
    file = tmp_path / "suite.yaml"
    content = {
        "name": "colours",
        "version": 1,
        "models": ["demo"],
        "quantizations": ["fp32"],
        "data": {"colours": {"source": "image_folder", "path": str(path), "templates": ["a {}."]}},
        "tasks": {"zero_shot": {"colours": {"test": "colours"}}},
    }
    file.write_text(yaml.safe_dump(content))
    return file


def run(tmp_path: Path, path: Path, *options: str) -> Result:
    home = str(tmp_path / "home")
    words = [
        "run",
        str(suite(tmp_path, path)),
        "--home",
        home,
        "--tracker",
        "jsonl",
        "--no-speed",
        "--quiet",
        *options,
    ]
    return CliRunner().invoke(app, [*words, *options])


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    for name, image in (("red", RED), ("blue", BLUE)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "data" / name / f"{number}.bmp").write_bytes(bmp(image))
    return tmp_path / "data"


def test_images_replaced_in_place_are_evaluated_anew(tmp_path: Path, colours: Path) -> None:
    assert run(tmp_path, colours).exit_code == 0
    for name, image in (("red", BLUE), ("blue", RED)):
        for file in (colours / name).iterdir():
            keeping_size_and_time(file, bmp(image))
    again = run(tmp_path, colours)
    assert again.exit_code == 0, again.output
    accuracies = [r.metrics["zero_shot/colours/accuracy"] for r in Ledger(tmp_path / "home").records.values()]
    assert len(accuracies) == 2, "not from the ledger"
    assert accuracies[0] == pytest.approx(1 - accuracies[1])


def test_touched_images_are_not(tmp_path: Path, colours: Path) -> None:
    run(tmp_path, colours)
    for file in colours.rglob("*.bmp"):
        os.utime(file, (1, 1))
    run(tmp_path, colours.rename(tmp_path / "moved"))
    assert len(Ledger(tmp_path / "home").records) == 1


def test_a_parquet_file_replaced_in_place_is_converted_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps converted files by path and time."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    spec = DataSpec(source="parquet", path=str(tmp_path / "x.parquet"), classes=("a", "b"))

    def written(labels: list[int]) -> bytes:
        file = tmp_path / "written.parquet"
        pq.write_table(
            pa.table({"image": [bmp(RED)] * 4, "label": labels}),
            file,
            use_dictionary=False,
            compression="none",
            write_statistics=False,
        )
        return file.read_bytes()

    (tmp_path / "x.parquet").write_bytes(written([0, 1, 1, 0]))
    assert open_data(spec, "p").labels.tolist() == [0, 1, 1, 0]
    keeping_size_and_time(tmp_path / "x.parquet", written([1, 0, 0, 1]))
    assert open_data(spec, "p").labels.tolist() == [1, 0, 0, 1]


# Names that are not UTF-8, as archives from old systems have them ---------------------------------------------------


def latin_1(folder: Path, name: str) -> Path:
    return folder / os.fsdecode(name.encode("latin-1"))


def test_a_name_that_is_not_utf_8_is_one_line_with_the_name_escaped(tmp_path: Path, colours: Path) -> None:
    latin_1(colours / "red", "caf\xe9.bmp").write_bytes(bmp(RED))
    result = run(tmp_path, colours)
    assert isinstance(result.exception, ReliquantError) or result.exit_code == 3
    said = str(result.exception) if isinstance(result.exception, ReliquantError) else result.stderr
    [line] = [line for line in said.splitlines() if "caf" in line]
    assert r"image 8 (red/caf\xe9.bmp): its name is not UTF-8" in line
    assert "--skip-broken" in line


def test_skip_broken_counts_it(tmp_path: Path, colours: Path) -> None:
    latin_1(colours / "red", "caf\xe9.bmp").write_bytes(bmp(RED))
    latin_1(colours / "blue", "\xfcber.bmp").write_bytes(bmp(BLUE))
    result = run(tmp_path, colours, "--skip-broken")
    assert result.exit_code == 0, result.output
    [record] = Ledger(tmp_path / "home").records.values()
    assert record.provenance["skipped"] == {
        "colours": {"count": 2, "images": [r"blue/\xfcber.bmp", r"red/caf\xe9.bmp"]}
    }
    assert "2 broken images left out" in result.stderr
    json.dumps(record.provenance).encode("ascii")


def test_a_class_folder_that_is_not_utf_8(tmp_path: Path, colours: Path) -> None:
    (colours / "blue").rename(latin_1(colours, "bl\xe5"))
    data = open_data(DataSpec(source="image_folder", path=str(colours)), "c")
    assert data.class_names == (r"bl\xe5", "red")
    with pytest.raises(DataError, match=r"image 0 \(bl\\xe5/0.bmp\): its name is not UTF-8"):
        PixelCache(tmp_path / "cache", 10**6).open(data, P32)


def test_a_file_whose_name_has_a_backslash_is_read(tmp_path: Path, colours: Path) -> None:
    (colours / "red" / r"caf\xe9.bmp").write_bytes(bmp(RED))
    data = open_data(DataSpec(source="image_folder", path=str(colours)), "c")
    assert len(PixelCache(tmp_path / "cache", 10**6).open(data, P32)) == 9


def test_members_of_a_tar_file_are_read_whatever_their_names(tmp_path: Path) -> None:
    [sample] = layouts.samples(1, 1, only="png")
    (tmp_path / "x.bin").write_bytes(sample.encoded)
    with tarfile.open(tmp_path / "0.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tmp_path / "x.bin", "caf\xe9.png")
    data = open_data(DataSpec(source="webdataset", path=str(tmp_path), text="none"), "t")
    assert data.sample_ids.tolist() == [r"caf\xe9"]
    pixels = PixelCache(tmp_path / "cache", 10**6).open(data, P32)
    assert (pixels.array[0] == decode.pixels(sample.encoded, P32)).all()

"""Untrusted images: seven formats by content, and limits that hold before a pixel is decoded."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data import decode, open_data
from benchmark.data.decode import ImageLimits
from benchmark.errors import DataError
from benchmark.export.serving import read_image
from benchmark.models.base import Preprocess
from benchmark.spec import DataSpec
from benchmark.utils.files import IMAGE_SUFFIXES
from tests import layouts
from tests.hostile_images import eps, gif_canvas, hostile, many_scans, png, saved, tiff_tags, two_frames, webp_canvas

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
NAMES = sorted(hostile())
READ = {"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"}


def preprocess(size: tuple[int, int] = (224, 224), resize: str = "shortest") -> Preprocess:
    return Preprocess(size, (0.5,) * 3, (0.5,) * 3, "bicubic", resize)  # type: ignore[arg-type]


def test_the_formats_are_these() -> None:
    assert set(decode.IMAGE_FORMATS) == READ
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"} <= set(IMAGE_SUFFIXES)


@pytest.mark.parametrize("kind", sorted(READ))
def test_each_format_is_read_by_its_content(kind: str) -> None:
    assert decode.pixels(saved(kind, (40, 30)), preprocess((32, 32))).std() > 10


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "AVIF", "PNG"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    assert np.abs(decode.pixels(two_frames(kind), preprocess((24, 24))).astype(int) - 96).max() <= 3


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "PCX", "ICO", "JPEG2000", "PDF", "SGI", "DDS", "DIB", "MSP"])
def test_no_other_format_is_read(kind: str) -> None:
    out = io.BytesIO()
    layouts.picture(1, (16, 16)).convert("1" if kind == "MSP" else "RGB").save(out, kind)
    with pytest.raises(DataError, match=r"is not read; convert it to PNG$|cannot identify image file") as error:
        decode.decode(out.getvalue())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "named"), [("EPS", "EPS"), ("PPM", "PPM"), ("PDF", "PDF"), ("JPEG2000", "JPEG 2000")])
def test_a_format_that_is_not_read_is_named(kind: str, named: str) -> None:
    out = io.BytesIO()
    layouts.picture(1, (16, 16)).save(out, kind)
    with pytest.raises(DataError, match=rf"^{named} is not read; convert it to PNG$"):
        decode.decode(out.getvalue())


def test_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Ghostscript tells whether it was called."""
    tool = tmp_path / "gs"
    tool.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DataError, match="EPS is not read"):
        decode.decode(eps(tmp_path / "written"))
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("column", ["label", "caption", "id", "image"])
def test_no_column_of_a_table_is_decoded_by_datasets(
    column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parquet file says itself that a column holds images; `datasets` would open them by any plugin of Pillow."""
    import datasets

    names = ("image", "label", "caption", "id")
    picture = {"bytes": saved("PNG", (8, 8)), "path": None}
    rows = {name: [{"bytes": eps(tmp_path), "path": None} if name == column else picture] * 2 for name in names}
    features = datasets.Features({name: datasets.Image() for name in names})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "test.parquet")
    monkeypatch.setattr(Image, "open", lambda *given, **named: pytest.fail("an image was opened"))
    options = (("caption", "caption"), ("id", "id"))
    with contextlib.suppress(DataError):
        open_data(DataSpec(source="parquet", path=str(tmp_path), options=options), "table").dataset[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_image_is_one_line(name: str) -> None:
    for resize in ("shortest", "longest", "squash"):
        refused = (name, resize) != ("PNG of 65,535 x 1", "squash")  # cheap, and what open_clip makes of it
        assert bool(reason(hostile()[name], preprocess(resize=resize))) == refused


def reason(content: bytes, into: Preprocess) -> str:
    """Why it is refused, in one line; empty where it is not."""
    try:
        made = decode.pixels(content, into)
    except DataError as error:
        return str(error) if "\n" not in str(error) and len(str(error)) < 400 else pytest.fail(str(error))
    return "" if made.shape == (3, *into.size) else pytest.fail(str(made.shape))


MEASURE = """
import resource, sys, time
from pathlib import Path
from benchmark.data import decode, open_data
from benchmark.errors import DataError
from tests.hostile_images import hostile, saved
from tests.unit.data.test_image_limits import preprocess
files, p = hostile(), preprocess()
decode.pixels(saved("PNG", (40, 30)), p)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
for name, content in files.items():
    start = time.process_time()
    try:
        decode.pixels(content, p)
    except DataError as error:
        print(name, "refused", error)
    assert time.process_time() - start < 5, name
"""


@pytest.mark.slow
def test_hostile_images_stay_within_400_mb() -> None:
    """In a process that gets no more: a MemoryError, or anything else but a DataError, ends it."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" refused ") == len(NAMES)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ImageLimits(width=39), "40 x 30 pixels, more than 39 x 65535"),
        (ImageLimits(height=29), "40 x 30 pixels, more than 65535 x 29"),
        (ImageLimits(pixels=1199), "40 x 30 pixels, more than 1,199 pixels in all"),
        (ImageLimits(resized_pixels=66_751), "resizing to 298 x 224 would take more than 66,751 pixels"),
        (ImageLimits(file_bytes=99), "bytes, more than 99"),
    ],
)
def test_a_limit_holds_before_a_pixel_is_decoded(
    limits: ImageLimits, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = saved("PNG", (40, 30))
    assert decode.pixels(content, preprocess()).any()
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("a pixel was decoded"))
    with pytest.raises(DataError) as error:
        decode.pixels(content, preprocess(), limits)
    assert message in str(error.value)


def test_limits_that_are_met_exactly_pass() -> None:
    limits = ImageLimits(width=40, height=30, pixels=1200, resized_pixels=298 * 224)
    assert decode.pixels(saved("PNG", (40, 30)), preprocess(), limits).std() > 10


def test_the_scans_of_a_jpeg_are_counted() -> None:
    with pytest.raises(DataError, match=r"^a JPEG of more than 100 scans"):
        decode.decode(many_scans(200))
    assert decode.decode(many_scans(20)).size == (64, 64)


@pytest.mark.parametrize("content", [gif_canvas(), webp_canvas()], ids=["gif", "webp"])
def test_a_canvas_is_checked_whatever_is_on_it(content: bytes) -> None:
    with pytest.raises(DataError, match="pixels"):
        decode.decode(content)


def test_overlapping_tags_are_refused_or_left_out() -> None:
    with pytest.raises(DataError, match="broken image"):
        decode.decode(tiff_tags(2_000, 1_000))


@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 2000)])
def test_narrow_images_within_the_limits_are_made_or_refused(size: tuple[int, int], resize: str) -> None:
    found = reason(png(*size), preprocess((32, 32), resize))
    assert ("too narrow" in found) if resize == "longest" else found == ""


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(DataError, match="not a regular file"):
            decode.read_bytes({"image": {"bytes": None, "path": str(path)}})


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"1,099,511,627,776 bytes, more than"):
        decode.read_bytes({"image": {"bytes": None, "path": str(tmp_path / "sparse.png")}})


def test_16_bit_greyscale_keeps_its_upper_bits_whatever_its_byte_order() -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    for kind in ("PNG", "TIFF"):
        out = io.BytesIO()
        Image.fromarray(values).save(out, kind)
        np.testing.assert_array_equal(np.asarray(decode.decode(out.getvalue()))[..., 0], values >> 8)


def array_file(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (array_file("{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 60000, 3), }"), "pixels in all"),
        (array_file("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 1, 3), }"), "more than"),
        (array_file("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 400, 3), }", bytes(12)), "12 bytes"),
        (array_file("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4, 3), }", bytes(12)), ""),
        (array_file("{'descr': '|O', 'fortran_order': False, 'shape': (1, 4, 3), }"), "Python objects"),
        (array_file("[" * 50), "broken .npy"),
    ],
)
def test_a_served_array_is_checked_by_its_header(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_image(content)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_served_array_is_read(order: str) -> None:
    pixels = np.asarray(layouts.picture(2, (12, 10)))
    out = io.BytesIO()
    np.save(out, np.array(pixels, order=order))  # type: ignore[call-overload]
    np.testing.assert_array_equal(np.asarray(read_image(out.getvalue())), pixels)


def test_served_images_have_the_same_limits() -> None:
    with pytest.raises(DataError, match="too narrow"):
        read_image(png(65_535, 1), preprocess())

"""Decoding and resizing against open_clip's own transform, torchvision's loader and webdataset's conventions."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from benchmark.data import decode
from benchmark.errors import DataError
from benchmark.models.base import Preprocess
from tests import layouts


def preprocess(
    size: tuple[int, int], resize: str = "shortest", interpolation: str = "bicubic", fill: int = 0
) -> Preprocess:
    return Preprocess(size, (0.5,) * 3, (0.5,) * 3, interpolation, resize, fill)  # type: ignore[arg-type]


def open_clip_pixels(image: Image.Image, p: Preprocess) -> np.ndarray:
    """open_clip's whole inference transform with mean 0 and deviation 1, back to whole grey levels."""
    transform = image_transform(
        p.size[0] if p.size[0] == p.size[1] else p.size, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3,
        resize_mode=p.resize, interpolation=p.interpolation, fill_color=p.fill,
    )  # fmt: skip
    return np.rint(transform(image).numpy() * 255).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (30, 45)])
@pytest.mark.parametrize("source", [(48, 40), (40, 56), (33, 80), (300, 299), (224, 224), (32, 500)])
def test_equal_to_open_clip_bit_for_bit(
    source: tuple[int, int], size: tuple[int, int], resize: str, interpolation: str
) -> None:
    image = layouts.picture(3, source)
    p = preprocess(size, resize, interpolation, fill=7)
    ours = np.asarray(decode.resize(image, p)).transpose(2, 0, 1)
    np.testing.assert_array_equal(ours, open_clip_pixels(image, p))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(8, 200), st.integers(8, 200)),
    st.tuples(st.integers(16, 64), st.integers(16, 64)),
    st.sampled_from(["shortest", "longest", "squash"]),
    st.booleans(),
)
def test_equal_to_open_clip_for_any_size(
    source: tuple[int, int], size: tuple[int, int], resize: str, square: bool
) -> None:
    image = layouts.picture(5, source)
    p = preprocess((size[0], size[0]) if square else size, resize)
    ours = np.asarray(decode.resize(image, p)).transpose(2, 0, 1)
    np.testing.assert_array_equal(ours, open_clip_pixels(image, p))


@pytest.mark.parametrize("mode", sorted(layouts.MODES))
def test_every_mode_as_the_peers_decode_it(mode: str) -> None:
    """CLIP_benchmark: Pillow, then RGB, then the transform; nothing is rotated."""
    _, data = layouts.MODES[mode](11, (48, 40))
    p = preprocess((32, 32))
    image = Image.open(io.BytesIO(data))
    if mode == "I;16":  # the one stated difference: Pillow would clip to white
        rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    else:
        image.info.pop("transparency", None)
        rgb = image.convert("RGB")
    np.testing.assert_array_equal(decode.pixels(data, p), open_clip_pixels(rgb, p))
    assert decode.pixels(data, p).std() > 10


def test_exif_orientation_is_not_applied() -> None:
    plain = layouts.encoded(layouts.picture(2, (64, 32)), "jpg")
    turned = layouts.encoded(layouts.picture(2, (64, 32)), "jpg", orientation=6)
    assert Image.open(io.BytesIO(turned)).getexif()[0x0112] == 6
    np.testing.assert_array_equal(
        decode.pixels(turned, preprocess((32, 32))), decode.pixels(plain, preprocess((32, 32)))
    )


def test_16_bit_keeps_the_upper_8_bits() -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    data = layouts.encoded(Image.fromarray(values), "png")
    np.testing.assert_array_equal(np.asarray(decode.decode(data))[..., 0], values >> 8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_refused(suffix: str, share: float) -> None:
    data = layouts.encoded(layouts.picture(1, (90, 70)), suffix)
    with pytest.raises(DataError, match=r"^broken image") as error:
        decode.decode(data[: int(len(data) * share)])
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["jpg", "png", "webp", "tiff"]), st.integers(0, 400))
def test_garbage_never_escapes_as_another_exception(garbage: bytes, suffix: str, place: int) -> None:
    data = layouts.encoded(layouts.picture(1), suffix)
    broken = data[:place] + garbage + data[place + len(garbage) :]
    with contextlib.suppress(DataError):
        assert decode.decode(broken).mode == "RGB"


def test_floats_and_wide_integers_are_refused() -> None:
    for image in (Image.fromarray(np.ones((8, 8), np.float32)), Image.fromarray(np.full((8, 8), 70_000, np.int32))):
        with pytest.raises(DataError, match="mode"):
            decode.decode(layouts.encoded(image, "tiff"))


def test_rows_without_an_image_are_refused() -> None:
    with pytest.raises(DataError, match="null"):
        decode.read_bytes({"image": None})
    with pytest.raises(DataError, match="null"):
        decode.read_bytes({"image": {"bytes": None, "path": None}})

"""From an image file's bytes to uint8 pixels of the model's input size, as CLIP_benchmark and open_clip make them.

CLIP_benchmark, and open_clip's own loaders (torchvision's ImageFolder, webdataset's `pilrgb`), decode with Pillow,
convert to RGB first and then apply open_clip's inference transform; none of them rotates by the EXIF orientation. So
does this module, with two differences, both documented in `to_rgb`: 16-bit greyscale is scaled to 8 bits, and
floating-point images are refused. What becomes of transparency is the model's own choice (`Preprocess.alpha`).

Images are untrusted input: `IMAGE_FORMATS` are the only ones that Pillow may try (its EPS plugin starts Ghostscript),
and `ImageLimits` are checked on the header, before a pixel is decoded.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from benchmark.errors import DataError
from benchmark.utils.files import misnamed
from benchmark.utils.image_formats import IMAGE_FORMATS, UNREAD

if TYPE_CHECKING:
    from benchmark.models.base import Preprocess
    from benchmark.models.preprocess import Alpha

DECODER_VERSION = 2
"""Raise it when a stored pixel can change."""

_KINDS = (
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    *UNREAD,
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"icns", "ICNS"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"SIMPLE", "FITS"),
    (0, b"/* XPM", "XPM"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML (SVG?)"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<html", "HTML"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"\x1f\x8b", "GZIP"),
)
"""Offset, magic bytes and name of other formats: to name a refused file, never to open it."""


@dataclass(frozen=True)
class ImageLimits:
    """Limits of an image; one beyond a limit is refused (a DataError) before a pixel is decoded.

    The decoded image takes at most about 10 bytes a pixel (0.9 GB at the default), in each thread that decodes.

    Attributes:
        file_bytes: encoded size.
        width, height: pixels; JPEG has no more.
        pixels: width times height; the number from which on Pillow warns of a decompression bomb.
        resized_pixels: of the image once resized to the model's input, before the crop, and of the one in between
            (Pillow resizes columns first): 400,000 x 1 with a shortest side of 224 has 20 thousand million.
        scans: passes over the pixels of a progressive JPEG; encoders make about ten.
    """

    file_bytes: int = 1 << 29
    width: int = 65_535
    height: int = 65_535
    pixels: int = 89_478_485
    resized_pixels: int = 89_478_485
    scans: int = 100


LIMITS = ImageLimits()
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def read_bytes(row: Mapping[str, Any], limits: ImageLimits = LIMITS) -> bytes:
    """The encoded image of one row: `image` {"bytes", "path"}, and `offset`, `size` for a member of a tar file.

    Raises:
        OSError: the file cannot be read.
        DataError: the row has neither bytes nor path; the file is too large, or no file (a pipe, a device).
    """
    image = row["image"]
    if image is None or (image["bytes"] is None and image["path"] is None):
        raise DataError("the image is missing (null)")
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    path = Path(image["path"].split("::")[-1])
    if not path.exists() and misnamed(str(path)):
        raise DataError("its name is not UTF-8; rename it, e.g. with convmv")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever, reading a device would never end
        raise DataError("not a regular file")
    offset, size = (0, status.st_size) if row.get("offset") is None else (int(row["offset"]), int(row["size"]))
    if size > limits.file_bytes:
        raise DataError(f"{size:,} bytes, more than {limits.file_bytes:,}; make it smaller")
    with path.open("rb") as file:
        file.seek(offset, os.SEEK_SET)
        return file.read(size)


def to_rgb(image: Image.Image, alpha: Alpha = "dropped") -> Image.Image:
    """Any Pillow mode as RGB.

    Palettes and CMYK are converted by Pillow, as torchvision's and CLIP_benchmark's loaders do. 16-bit greyscale keeps
    its upper 8 bits: Pillow would clip everything above 255 to white.

    Args:
        alpha: `dropped` keeps the colours under transparent pixels, as Pillow's `convert("RGB")` and so open_clip's
            loaders do; `white` lays the image on white, as `transformers.image_transforms.convert_to_rgb` does.

    Raises:
        DataError: a mode without a defined range (F, or 32-bit integers beyond 16 bits).
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"mode {image.mode} with values outside 0 to 65535")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise DataError("floating-point pixels (mode F) have no defined range; convert them to 8 bits first")
    if alpha == "white" and ("A" in image.getbands() or "transparency" in image.info):
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), above).convert("RGB")
    image.info.pop("transparency", None)  # Pillow would only warn about it: the alpha channel is dropped anyway
    return image.convert("RGB")


def decode(encoded: bytes, preprocess: Preprocess | None = None, limits: ImageLimits = LIMITS) -> Image.Image:
    """An RGB image from an encoded file, fully read; EXIF orientation is not applied.

    Args:
        preprocess: the resizing to come, and what becomes of transparency; None where there is none.
        limits: checked before a pixel is decoded.

    Raises:
        DataError: not one of IMAGE_FORMATS, truncated, beyond a limit, or of an unusable mode.
    """
    if len(encoded) > limits.file_bytes:
        raise DataError(f"{len(encoded):,} bytes, more than {limits.file_bytes:,}; make it smaller")
    try:
        with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as image:
            check_size(image.size, preprocess, limits)
            if image.format in ("JPEG", "MPO") and encoded.count(b"\xff\xda") > limits.scans:
                raise DataError(f"a JPEG of more than {limits.scans} scans; save it again, not progressive")
            image.load()
            return to_rgb(image, preprocess.alpha if preprocess else "dropped")
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"too many pixels: {error}") from None
    except UnidentifiedImageError:
        raise DataError(_unknown(encoded)) from None
    except Exception as error:  # Pillow's plugins document no errors; a broken file makes them raise nearly anything
        reason = (str(error) or type(error).__name__).split(" <")[0]
        raise DataError(f"broken image: {' '.join(reason.split())[:200]}") from None


def _unknown(encoded: bytes) -> str:
    if not encoded:
        return "broken image: empty file"
    kind = next((kind for start, mark, kind in _KINDS if encoded.startswith(mark, start)), None)
    if kind is None:
        return f"broken image: cannot identify image file; what is read: {', '.join(IMAGE_FORMATS)}"
    return f"{kind} is not read; convert it to PNG"


def check_size(size: tuple[int, int], preprocess: Preprocess | None = None, limits: ImageLimits = LIMITS) -> None:
    """Refuse an image by the size in its header.

    Args:
        size: (width, height).

    Raises:
        DataError: names the size and the limit.
    """
    width, height = size
    named = f"{width} x {height} pixels"
    if width < 1 or height < 1:
        raise DataError(f"broken image: {named}")
    if width > limits.width or height > limits.height:
        raise DataError(f"{named}, more than {limits.width} x {limits.height}; crop or shrink it")
    if width * height > limits.pixels:
        raise DataError(f"{named}, more than {limits.pixels:,} pixels in all; shrink it")
    if preprocess is None:
        return
    wide, high = resized(size, preprocess)
    if wide < 1 or high < 1:
        raise DataError(f"{named}: too narrow, nothing would be left of it at the model's input size; crop it")
    if wide * max(height, high) > limits.resized_pixels:
        raise DataError(
            f"{named}: too narrow, resizing to {wide} x {high} would take more than {limits.resized_pixels:,} pixels; "
            "crop it"
        )


def resized(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """(width, height) that open_clip's transform resizes an image of `size` to, before it crops or pads."""
    height, width = preprocess.scaled or preprocess.size
    if preprocess.resize == "squash":
        return width, height
    if preprocess.resize == "longest" or height != width:
        choose = max if preprocess.resize == "longest" else min
        ratio = choose(size[1] / height, size[0] / width)
        return round(size[0] / ratio), round(size[1] / ratio)
    short, long = sorted(size)
    long = int(height * long / short)  # torchvision truncates
    return (height, long) if size[0] <= size[1] else (long, height)


def resize(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize and crop or pad to `preprocess.size`, the pixels of open_clip's inference transform bit for bit.

    With `preprocess.scaled` (ALIGN) the image is resized to that size first and its centre is cropped.
    """
    if preprocess.scaled is not None:
        larger = resize(image, replace(preprocess, size=preprocess.scaled, scaled=None))
        return _crop_or_pad(larger, preprocess.size, 0)
    height, width = preprocess.size
    longest = preprocess.resize == "longest"
    fixed = preprocess.resize == "shortest" and height != width  # open_clip leaves the interpolation at bicubic here
    method = Image.Resampling.BICUBIC if fixed else _FILTERS[preprocess.interpolation]
    scaled = resized(image.size, preprocess)
    larger = image if image.size == scaled else image.resize(scaled, method)
    return _crop_or_pad(larger, preprocess.size, preprocess.fill if longest else 0)


def _crop_or_pad(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    """Centred; where the image is smaller than `size` it is padded first."""
    height, width = size
    if image.width < width or image.height < height:
        left, top = max(0, (width - image.width) // 2), max(0, (height - image.height) // 2)
        canvas = Image.new("RGB", (max(width, image.width), max(height, image.height)), (fill, fill, fill))
        canvas.paste(image, (left, top))
        image = canvas
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height)) if image.size != (width, height) else image


def pixels(encoded: bytes, preprocess: Preprocess, limits: ImageLimits = LIMITS) -> NDArray[np.uint8]:
    """Encoded image -> uint8 (3, H, W).

    Raises:
        DataError: as `decode`.
    """
    return np.asarray(resize(decode(encoded, preprocess, limits), preprocess)).transpose(2, 0, 1)

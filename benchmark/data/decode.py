"""From an image file's bytes to uint8 pixels of the model's input size, as CLIP_benchmark and open_clip make them.

CLIP_benchmark decodes with Pillow, converts to RGB first and then applies open_clip's inference transform; it does
not rotate by the EXIF orientation. So does this module, with two differences, both documented in `to_rgb`:
16-bit greyscale is scaled to 8 bits, and floating-point images are refused.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.errors import DataError

if TYPE_CHECKING:
    from benchmark.models.base import Preprocess

DECODER_VERSION = 2
"""Raise it when a stored pixel can change."""

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def read_bytes(row: Mapping[str, Any]) -> bytes:
    """The encoded image of one row: `image` {"bytes", "path"}, and `offset`, `size` for a member of a tar file.

    Raises:
        OSError: the file cannot be read. DataError: the row has neither bytes nor path.
    """
    image = row["image"]
    if image is None or (image["bytes"] is None and image["path"] is None):
        raise DataError("the image is missing (null)")
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    path = image["path"].split("::")[-1]
    if row.get("offset") is None:
        return Path(path).read_bytes()
    with Path(path).open("rb") as file:
        file.seek(row["offset"])
        return file.read(row["size"])


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB.

    Transparency is dropped, palettes and CMYK are converted by Pillow, as torchvision's and CLIP_benchmark's loaders
    do. 16-bit greyscale keeps its upper 8 bits: Pillow would clip everything above 255 to white.

    Raises:
        DataError: a mode without a defined range (F, or 32-bit integers beyond 16 bits).
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"mode {image.mode} with values outside 0 to 65535")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise DataError("floating-point pixels (mode F) have no defined range; convert them to 8 bits first")
    image.info.pop("transparency", None)  # it would only make Pillow warn: the alpha channel is dropped anyway
    return image.convert("RGB")


def decode(encoded: bytes) -> Image.Image:
    """An RGB image from an encoded file, fully read; EXIF orientation is not applied.

    Raises:
        DataError: not an image, truncated, too large, or of an unusable mode.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise DataError(str(error)) from None
    except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:  # what Pillow's decoders raise
        reason = str(error).split(" <")[0]
        raise DataError(f"broken image: {reason}" if encoded else "broken image: empty file") from None


def resize(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize and crop or pad to `preprocess.size`, the pixels of open_clip's inference transform bit for bit.

    With `preprocess.scaled` (ALIGN) the image is resized to that size first and its centre is cropped.
    """
    if preprocess.scaled is not None:
        larger = resize(image, replace(preprocess, size=preprocess.scaled, scaled=None))
        return _crop_or_pad(larger, preprocess.size, 0)
    height, width = preprocess.size
    method = _FILTERS[preprocess.interpolation]
    if preprocess.resize == "squash":
        return image.resize((width, height), method)
    if preprocess.resize == "longest":
        return _crop_or_pad(_scale(image, preprocess.size, max, method), preprocess.size, preprocess.fill)
    if height != width:  # open_clip leaves the interpolation at bicubic here
        return _crop_or_pad(_scale(image, preprocess.size, min, Image.Resampling.BICUBIC), preprocess.size, 0)
    short, long = sorted(image.size)
    long = int(height * long / short)  # torchvision truncates
    scaled = (height, long) if image.width <= image.height else (long, height)
    return _crop_or_pad(image if image.size == scaled else image.resize(scaled, method), preprocess.size, 0)


def _scale(image: Image.Image, size: tuple[int, int], choose: Any, method: Image.Resampling) -> Image.Image:
    ratio = choose(image.height / size[0], image.width / size[1])
    scaled = (round(image.width / ratio), round(image.height / ratio))
    return image if image.size == scaled else image.resize(scaled, method)


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


def pixels(encoded: bytes, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Encoded image -> uint8 (3, H, W)."""
    return np.asarray(resize(decode(encoded), preprocess)).transpose(2, 0, 1)

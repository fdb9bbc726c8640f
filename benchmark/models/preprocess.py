"""How an image becomes pixels: pure data, so that planning needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from benchmark.errors import ModelError
from benchmark.spec import digest

Resize = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes pixels of the size that the model takes; the same meaning as open_clip's PreprocessCfg.

    Decoding, resizing and cropping give uint8 pixels, which are stored; `mean` and `std` (of values in [0, 1]) are
    applied when the model runs. `size` is (height, width).
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    resize: Resize = "shortest"
    fill: int = 0

    def pixel_digest(self) -> str:
        """Content hash of what determines the stored uint8 pixels (mean and std do not)."""
        return digest([list(self.size), self.interpolation, self.resize, self.fill])


def from_open_clip(image_size: Any, config: Mapping[str, Any], where: str) -> Preprocess:
    """open_clip's `preprocess_cfg` (absent fields take OpenAI's values) and the tower's image size -> Preprocess.

    Raises:
        ModelError: a field holds what the suite cannot reproduce; the message names `where` and the field.
    """
    size = _pair(image_size, f"{where}: vision_cfg.image_size")
    mean = _triple(config.get("mean") or OPENAI_MEAN, f"{where}: preprocess_cfg.mean")
    std = _triple(config.get("std") or OPENAI_STD, f"{where}: preprocess_cfg.std")
    interpolation = config.get("interpolation") or "bicubic"
    if interpolation not in ("bicubic", "bilinear"):
        raise ModelError(f"{where}: preprocess_cfg.interpolation must be bicubic or bilinear (got {interpolation!r})")
    resize = config.get("resize_mode") or "shortest"
    if resize not in ("shortest", "longest", "squash"):
        raise ModelError(f"{where}: preprocess_cfg.resize_mode must be shortest, longest or squash (got {resize!r})")
    if min(std) <= 0:
        raise ModelError(f"{where}: preprocess_cfg.std must be positive (got {list(std)})")
    fill = config.get("fill_color") or 0
    return Preprocess(size, mean, std, cast(Interpolation, interpolation), cast(Resize, resize), int(fill))


def _pair(value: Any, where: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ModelError(f"{where} must be a positive integer or two of them (got {value!r})")
    return pair[0], pair[1]


def _triple(value: Any, where: str) -> tuple[float, float, float]:
    numbers = tuple(value) if isinstance(value, list | tuple) else ()
    if len(numbers) != 3 or not all(isinstance(number, int | float) for number in numbers):
        raise ModelError(f"{where} must be three numbers (got {value!r})")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])

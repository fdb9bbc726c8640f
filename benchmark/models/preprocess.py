"""How an image becomes pixels: pure data, so that planning needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from benchmark.errors import ModelError
from benchmark.spec import digest

Resize = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
Alpha = Literal["dropped", "white"]

RGB_ONLY = ("EfficientNetImageProcessor", "ViTImageProcessor", "FlavaImageProcessor")
"""transformers' image processors of dual encoders that convert nothing unless their configuration says so."""

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes pixels of the size that the model takes; the same meaning as open_clip's PreprocessCfg.

    Decoding, resizing and cropping give uint8 pixels, which are stored; `mean` and `std` (of values in [0, 1]) are
    applied when the model runs. `size` is (height, width). `scaled` is the size before the centre crop where that
    differs from `size`: ALIGN resizes to 346 x 346 and crops 289 x 289. `alpha` says what becomes of transparency:
    open_clip's loaders drop it, transformers' image processors lay the image on white.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    resize: Resize = "shortest"
    fill: int = 0
    scaled: tuple[int, int] | None = None
    alpha: Alpha = "dropped"

    def pixel_digest(self) -> str:
        """Content hash of what determines the stored uint8 pixels (mean and std do not)."""
        scaled = list(self.scaled) if self.scaled else None
        return digest([list(self.size), self.interpolation, self.resize, self.fill, scaled, self.alpha])


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


def from_transformers(config: Mapping[str, Any], where: str) -> Preprocess:
    """transformers' image processor configuration -> Preprocess.

    Rescaling (x * rescale_factor, minus 1 with `rescale_offset`) and normalising become one mean and one std.

    Raises:
        ModelError: a step that the suite cannot reproduce; the message names `where` and the field.
    """
    filters: dict[Any, Interpolation] = {2: "bilinear", 3: "bicubic", None: "bicubic"}
    if config.get("resample") not in filters:
        raise ModelError(f"{where}: resample must be 2 (bilinear) or 3 (bicubic) (got {config.get('resample')!r})")
    if config.get("do_resize", True) is False or config.get("include_top") is True:
        raise ModelError(f"{where}: do_resize: false and include_top: true are not supported")
    size = config.get("size")
    size = {"shortest_edge": size} if isinstance(size, int) else size if isinstance(size, dict) else {}
    resize: Resize = "shortest" if "shortest_edge" in size else "squash"
    edges = size.get("shortest_edge") if resize == "shortest" else (size.get("height"), size.get("width"))
    scaled = _pair(edges, f"{where}: size")
    crop = config.get("crop_size") if config.get("do_center_crop") else None
    if isinstance(crop, dict):
        crop = (crop.get("height"), crop.get("width"))
    if crop is None and resize == "shortest":
        raise ModelError(f"{where}: size.shortest_edge needs do_center_crop and crop_size")
    final = scaled if crop is None else _pair(crop, f"{where}: crop_size")
    mean, std = _normalisation(config, where)
    larger = scaled if scaled != final else None
    return Preprocess(final, mean, std, filters[config.get("resample")], resize, 0, larger, _alpha(config))


def _alpha(config: Mapping[str, Any]) -> Alpha:
    """As transformers 5 does: with `do_convert_rgb` the image is laid on white; without, only RGB images are taken."""
    kind = str(config.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")
    return "white" if config.get("do_convert_rgb", kind not in RGB_ONLY) else "dropped"


def _normalisation(
    config: Mapping[str, Any], where: str
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std of values in [0, 1] that equal the processor's rescaling, offset and normalising together."""
    factor = 255 * float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 255.0
    offset = 1.0 if config.get("rescale_offset") else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        mean = _triple(config.get("image_mean"), f"{where}: image_mean")
        std = _triple(config.get("image_std"), f"{where}: image_std")
    if min(std) <= 0 or factor <= 0:
        raise ModelError(f"{where}: image_std and rescale_factor must be positive")
    means = tuple((offset + value) / factor for value in mean)
    spreads = tuple(value / factor for value in std)
    return (means[0], means[1], means[2]), (spreads[0], spreads[1], spreads[2])


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

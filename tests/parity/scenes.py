"""Rendered demo scenes as files of mixed sizes and modes: preprocessing has something to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.demo.scenes import render
from tests.layouts import Sample, encoded

SIZES = ((64, 64), (96, 80), (130, 64), (57, 91), (200, 150), (64, 65), (48, 48), (333, 77))
"""(width, height); the demo model takes 64 x 64: larger, smaller, wide and tall ones."""

ODD_MODES = ("L", "RGBA", "P", "CMYK", "1", "LA", "turned")
SUFFIXES = ("jpg", "png", "webp")


def _encode(pixels: np.ndarray, index: int) -> tuple[str, bytes]:
    """Every fourth image is of an odd mode, the others are RGB; suffixes and sizes go round."""
    image = Image.fromarray(pixels).resize(SIZES[index % len(SIZES)], Image.Resampling.BICUBIC)
    if index % 4 != 3:
        suffix = SUFFIXES[index % len(SUFFIXES)]
        return suffix, encoded(image, suffix)
    mode = ODD_MODES[index // 4 % len(ODD_MODES)]
    if mode == "turned":
        return "jpg", encoded(image, "jpg", orientation=6)
    if mode == "P":
        image = image.quantize(64)
    elif mode in ("RGBA", "LA"):
        alpha = Image.linear_gradient("L").resize(image.size)
        image = image.convert("L" if mode == "LA" else "RGB")
        image.putalpha(alpha)
    else:
        image = image.convert(mode)
    return ("jpg", encoded(image, "jpg")) if mode == "CMYK" else ("png", encoded(image, "png"))


def scene_samples(split: str, count: int) -> list[Sample]:
    """The first `count` images of a demo split, encoded; labels as in the split (-1 out of distribution)."""
    images, labels, _ = render(split, count)
    made = [_encode(pixels, index) for index, pixels in enumerate(images)]
    return [Sample(f"s{i:06d}", *file, int(labels[i])) for i, file in enumerate(made)]


def write_list(root: Path, name: str, made: list[Sample]) -> None:
    """OpenOOD's layout: `<name>.txt` with `path label` lines, images in `images/<name>/`."""
    folder = root / "images" / name
    folder.mkdir(parents=True, exist_ok=True)
    for sample in made:
        (folder / sample.file).write_bytes(sample.encoded)
    (root / f"{name}.txt").write_text("".join(f"{name}/{sample.file} {sample.label}\n" for sample in made))
